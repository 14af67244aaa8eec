//! Stopped, interrupted and killed runs end as one that was left alone. `ci/kill-resume` does the same a hundred times.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;

use crate::common::{
    MAE, Running, TINY, checkpoint, content, done, losses, mask, names, pretrain, rows, same_run, set,
};

const RECIPE: &str = "crates/mask-image/tests/data/resume.yaml";
const STEPS: u64 = 200;

fn train(run: &Path) -> Command {
    let mut command = pretrain(RECIPE, run, &[]);
    command.args(["--steps", &STEPS.to_string()]);
    command
}

fn resume(run: &Path) -> Command {
    let mut command = train(run);
    // Killed before it wrote its recipe, a run has not begun.
    if run.join("recipe.yaml").exists() {
        command.arg("--resume");
    }
    command
}

/// The run that was left alone.
static ALONE: LazyLock<PathBuf> = LazyLock::new(|| {
    let run = Path::new(env!("CARGO_TARGET_TMPDIR")).join("run-left-alone");
    if run.exists() {
        std::fs::remove_dir_all(&run).expect("last time's run can be removed");
    }
    done(&mut train(&run));
    run
});

/// Files that are being written in a folder.
fn half_written(folder: &Path) -> usize {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries.filter(|entry| entry.file_name().to_string_lossy().contains(".tmp-")).count()
}

#[test]
fn ten_kills_change_nothing() {
    let temp = tempfile::tempdir().expect("a folder");
    let run = temp.path().join("run");
    let (metrics, checkpoints) = (run.join("metrics.jsonl"), run.join("checkpoints"));
    let size = || std::fs::metadata(&metrics).map_or(0, |file| file.len());
    let (mut kills, mut inside) = (0, 0);
    while kills < 10 {
        let mut running = Running::start(&mut resume(&run));
        let begin = size();
        // In turn at the first sight of a half-written checkpoint, and after some rows of metrics: 1 to 5 writes.
        let met = match kills % 2 {
            0 => running.until(|| half_written(&checkpoints) > 0),
            _ => running.until(|| size() > begin + 300 * (kills / 2)),
        };
        assert!(met, "it came to its end before the tenth kill: raise STEPS");
        running.signal("KILL");
        assert_eq!(running.end().code, None, "it ended before it was killed");
        kills += 1;
        inside += u64::from(half_written(&checkpoints) > 0);
    }
    done(&mut resume(&run));
    same_run(&run, &ALONE, STEPS);
    assert_eq!(half_written(&checkpoints), 0, "{:?}", names(&checkpoints));
    println!("{kills} kills, {inside} of them inside the writing of a checkpoint");
}

#[test]
fn an_interruption_saves_and_says_so() {
    for signal in ["INT", "TERM"] {
        let temp = tempfile::tempdir().expect("a folder");
        let run = temp.path().join("run");
        let mut running = Running::start(&mut train(&run));
        assert!(running.until(|| run.join("checkpoints").exists()));
        running.signal(signal);
        let line = running.end().error(130);
        let saved = names(&run.join("checkpoints")).into_iter().rfind(|name| name.starts_with("step-"));
        let saved = run.join("checkpoints").join(saved.expect("a checkpoint"));
        let wanted = format!("; the state is saved in {}, go on with --resume", saved.display());
        assert!(line.starts_with("error: interrupted at step ") && line.ends_with(&wanted), "{line}");
        let step: u64 =
            line.split(' ').nth(4).and_then(|step| step.trim_end_matches(';').parse().ok()).expect("a step");
        assert!(step < STEPS && checkpoint(&run, step) == saved, "{line}");
        done(&mut resume(&run));
        same_run(&run, &ALONE, STEPS);
    }
}

#[test]
fn stop_at_and_resume_is_one_run() {
    let temp = tempfile::tempdir().expect("a folder");
    let run = temp.path().join("run");
    // 7 is no multiple of anything in the recipe.
    for stop in [1, 7, 60] {
        let said = done(resume(&run).args(["--stop-at", &stop.to_string()]));
        assert!(said.contains("stopped; go on with --resume"), "{said}");
        assert_eq!(losses(&run).len() as u64, stop);
        assert!(checkpoint(&run, stop).is_file() && !run.join("report.html").exists());
    }
    done(&mut resume(&run));
    same_run(&run, &ALONE, STEPS);
    // A finished run has nothing left to do, and is not harmed by being told to go on.
    let before = content(&run.join("checkpoints"));
    done(&mut resume(&run));
    same_run(&run, &ALONE, STEPS);
    assert!(before == content(&run.join("checkpoints")));
}

/// The losses of a short run of the small recipe.
fn short(temp: &Path, name: &str, sets: &[&str], more: &[&str]) -> Vec<f64> {
    let run = temp.join(name);
    let mut command = pretrain(MAE, &run, &TINY);
    set(&mut command, &["train.steps=8", "data.augment.crop={scale: [0.5, 1.0]}"]);
    set(&mut command, sets);
    done(command.args(more));
    losses(&run)
}

fn close(a: &[f64], b: &[f64]) {
    assert_eq!((a.len(), b.len()), (8, 8));
    let apart = a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
    assert!(apart < 1e-4, "{apart}: {a:?} {b:?}");
    assert!(a[0] != a[7], "nothing was learnt: {a:?}");
}

#[test]
fn any_number_of_threads_gives_the_same_plans_and_close_losses() {
    let temp = tempfile::tempdir().expect("a folder");
    for recipe in [MAE, RECIPE, "experiments/image/simmim.yaml"] {
        let plans = |threads: &str| {
            let out = temp.path().join("masks.safetensors");
            let mut command = mask(["masks", recipe, "--count", "500", "--set", "data.batch.size=64", "--out"]);
            done(command.arg(&out).env("RAYON_NUM_THREADS", threads));
            std::fs::read(out).expect("plans")
        };
        let one = plans("1");
        assert!(["2", "5"].iter().all(|threads| plans(threads) == one), "{recipe}");
    }
    let losses = |threads: &str| short(temp.path(), threads, &[], &["--threads", threads]);
    let one = losses("1");
    close(&one, &losses("2"));
    close(&one, &losses("3"));
}

#[test]
fn accumulation_changes_no_loss() {
    let temp = tempfile::tempdir().expect("a folder");
    // Each sample has a count of its own, so that a mean of means would differ.
    let ragged = "method.mask.ratio={kind: uniform, low: 0.3, high: 0.9, per: sample}";
    let whole = short(temp.path(), "whole", &[ragged], &[]);
    for micro in ["4", "3", "1"] {
        let sets = [ragged, &format!("data.batch.micro={micro}")];
        close(&whole, &short(temp.path(), micro, &sets, &[]));
    }
    let masked = |run: &str| -> Vec<f64> {
        let rows = rows(&temp.path().join(run).join("metrics.jsonl"));
        rows.iter().filter_map(|row| row["masked"].as_f64()).collect()
    };
    assert_eq!(masked("whole"), masked("3"));
    assert_ne!(masked("whole")[0], masked("whole")[1]);
}
