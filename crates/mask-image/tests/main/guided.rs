//! Masks that a model's scores choose, through threads, accumulation and a stop.

use std::path::Path;

use crate::common::{done, losses, mask, pretrain, refused, rows, same_run};

const HPM: &str = "experiments/image/hpm.yaml";
const ATTMASK: &str = "experiments/image/attmask.yaml";

const SHORT: [&str; 6] = [
    "train.steps=8",
    "data.batch.size=8",
    "train.schedule.warmup_steps=1",
    "train.log_every=1",
    "method.encoder.depth=1",
    "evaluate=[{kind: guidance, every: 4, samples: 32}]",
];

fn train(recipe: &str, run: &Path, sets: &[&str], more: &[&str]) {
    let mut command = pretrain(recipe, run, &SHORT);
    done(command.args(sets.iter().flat_map(|set| ["--set", set])).args(more));
}

#[test]
fn stopped_and_resumed_is_never_stopped() {
    let temp = tempfile::tempdir().expect("a folder");
    for (recipe, name) in [(HPM, "hpm"), (ATTMASK, "attmask")] {
        let (alone, stopped) = (temp.path().join(name), temp.path().join(format!("{name}-stopped")));
        train(recipe, &alone, &[], &[]);
        train(recipe, &stopped, &[], &["--stop-at", "3"]);
        train(recipe, &stopped, &[], &["--stop-at", "5", "--resume"]);
        train(recipe, &stopped, &[], &["--resume"]);
        // Student, teacher and centres lie in the checkpoint.
        same_run(&alone, &stopped, 8);
        let told = |key: &str| rows(&alone.join("metrics.jsonl")).iter().filter(|row| row.get(key).is_some()).count();
        assert_eq!((told("momentum"), told("guidance")), (8, 2), "{name}");
    }
}

#[test]
fn the_scores_choose_the_same_masks_on_any_number_of_threads() {
    let temp = tempfile::tempdir().expect("a folder");
    for (recipe, name, share) in [(HPM, "hpm", 0.75), (ATTMASK, "attmask", 0.15)] {
        let run = temp.path().join(name);
        train(recipe, &run, &[], &[]);
        let plans = |threads: &str| {
            let out = temp.path().join(format!("{name}-{threads}.safetensors"));
            let mut command = mask(["masks", run.to_str().expect("UTF-8"), "--count", "64", "--out"]);
            let said = done(command.arg(&out).env("OMP_NUM_THREADS", threads).env("RAYON_NUM_THREADS", threads));
            let hidden: f64 =
                said.split(' ').find_map(|word| word.parse().ok().filter(|n: &f64| *n != 64.0)).expect("a share");
            assert!((hidden / 100.0 - share).abs() < 0.08, "{said}");
            std::fs::read(out).expect("plans")
        };
        assert!(plans("1") == plans("2"), "{name}");
    }
    let line = refused(mask(["masks", HPM, "--count", "4", "--out"]).arg(temp.path().join("x.safetensors")));
    assert!(line.contains("give a run instead of a recipe"), "{line}");
}

#[test]
fn accumulation_changes_no_loss() {
    let temp = tempfile::tempdir().expect("a folder");
    let run = |name: &str, sets: &[&str]| {
        let run = temp.path().join(name);
        train(ATTMASK, &run, sets, &[]);
        losses(&run)
    };
    let whole = run("whole", &[]);
    for micro in ["4", "3"] {
        let parts = run(micro, &[&format!("data.batch.micro={micro}")]);
        let apart = whole.iter().zip(&parts).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
        assert!(whole.len() == 8 && apart < 1e-4, "{apart}: {whole:?} {parts:?}");
    }
}
