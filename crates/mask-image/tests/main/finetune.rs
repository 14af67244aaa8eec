//! Fine-tuning and the probes of tokens as users type them, on the bundled data.

use std::path::Path;

use mask_core::train::Checkpoints;
use serde_json::Value;
use tch::Tensor;

use crate::common::{RUN, TINY, checkpoint, done, json, mask, names, pretrain, refused, rows, same_run, set};

const RECIPE: &str = "experiments/image/finetune.yaml";

/// Keys that make fine-tuning one of seconds, with everything random in it turned on.
const SMALL: [&str; 8] = [
    "train.steps=6",
    "train.schedule.warmup_steps=1",
    "train.checkpoint_every=3",
    "data.batch.size=8",
    "data.augment.erase=0.5",
    "method.mix={mixup: 0.8, cutmix: 1}",
    "method.encoder.drop_path=0.2",
    "evaluate=[{kind: held_out, every: 2, samples: 16}, {kind: top1, every: 2, samples: 20}]",
];

fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

fn finetune(run: &Path, out: &Path, sets: &[&str]) -> std::process::Command {
    let mut command = mask(["finetune", text(run), RECIPE, "--out", text(out)]);
    set(&mut command, &["data.augment.centre=0.875"]);
    set(&mut command, sets);
    command
}

fn weights(file: &Path) -> Vec<(String, Tensor)> {
    Checkpoints::read(file).expect("a checkpoint").model.into_iter().collect()
}

/// One step at a rate of nothing leaves the encoder that of the run; its own last norm is gone, the head is new, the
/// decoder was left behind.
#[test]
fn a_run_gives_its_encoder() {
    let temp = tempfile::tempdir().expect("a folder");
    let out = temp.path().join("run");
    let still = ["train.steps=1", "train.optimiser.rate=1e-30", "train.optimiser.weight_decay=0", "evaluate=[]"];
    let said = json(finetune(&RUN, &out, &still).arg("--json"));
    assert_eq!((&said["step"], &said["finished"]), (&Value::from(1), &Value::from(true)));
    let (before, after) = (weights(&checkpoint(&RUN, 4)), weights(&checkpoint(&out, 1)));
    let mut own = Vec::new();
    for (name, tensor) in &after {
        match before.iter().find(|(known, _)| known == name) {
            Some((_, known)) => assert_eq!(known, tensor, "{name}"),
            None => own.push(name.as_str()),
        }
    }
    assert_eq!(own, ["head.bias", "head.weight", "norm.bias", "norm.weight"]);
    let left: Vec<&str> = before.iter().map(|(name, _)| name.as_str()).filter(|n| n.starts_with("encoder.")).collect();
    assert_eq!(left.len(), after.len() - own.len() + 2, "all but the last norm's two");
    // What was resolved is a whole recipe, and the sine table is trained.
    let recipe = std::fs::read_to_string(out.join("recipe.yaml")).expect("the recipe");
    assert!(recipe.contains("kind: classify") && recipe.contains(text(&RUN)), "{recipe}");
    let known = |name: &str| after.iter().any(|(own, _)| own == name);
    assert!(known("encoder.positions") && !known("encoder.norm.weight"));
}

#[test]
fn interrupted_and_resumed_it_ends_the_same() {
    let temp = tempfile::tempdir().expect("a folder");
    let [alone, parts, micro] = ["alone", "parts", "micro"].map(|name| temp.path().join(name));
    done(&mut finetune(&RUN, &alone, &SMALL));
    done(finetune(&RUN, &parts, &SMALL).args(["--stop-at", "3"]));
    done(finetune(&RUN, &parts, &SMALL).arg("--resume"));
    same_run(&alone, &parts, 6);
    let metrics = rows(&alone.join("metrics.jsonl"));
    let accuracy = |row: &&Value| row.get("top1").is_some();
    let steps: Vec<&Value> = metrics.iter().filter(accuracy).map(|row| &row["step"]).collect();
    assert_eq!(steps, [&Value::from(2), &Value::from(4), &Value::from(6)]);
    assert!(metrics.iter().filter(accuracy).all(|row| row["top1"].as_f64().is_some_and(|x| (0.0..=1.0).contains(&x))));
    assert!(names(&alone).contains(&"report.html".to_owned()));
    // In two micro-batches the samples are mixed with the same partners. Stochastic depth is drawn a micro-batch.
    let still = ["method.encoder.drop_path=0", "evaluate=[]"];
    for (out, more) in [(&micro, "data.batch.micro=5"), (&temp.path().join("whole"), "data.batch.micro=null")] {
        done(&mut finetune(&RUN, out, &[&SMALL[..], &still, &[more]].concat()));
    }
    let losses = |run: &Path| crate::common::losses(run);
    let pairs = losses(&micro).into_iter().zip(losses(&temp.path().join("whole")));
    for (a, b) in pairs {
        assert!((a - b).abs() < 1e-4, "{a} {b}");
    }
}

/// Few labels are the same samples for every seed.
#[test]
fn few_labels_are_counted() {
    let line = done(finetune(&RUN, Path::new("nowhere"), &["method.labels=3"]).arg("--dry-run"));
    assert!(line.contains("30 to train on, 2000 held out"), "{line}");
    let line =
        done(finetune(&RUN, Path::new("nowhere"), &["method.labels={kind: share, share: 0.01}"]).arg("--dry-run"));
    assert!(line.contains("60 to train on"), "{line}");
    assert!(!crate::common::root().join("nowhere").exists());
}

#[test]
fn a_hugging_face_folder_gives_its_encoder() {
    let temp = tempfile::tempdir().expect("a folder");
    let out = temp.path().join("run");
    let folder = "crates/mask-image/tests/golden/vit_mae";
    let mut command = mask(["finetune", "--hf", folder, RECIPE, "--out", text(&out)]);
    let colours = ["data.augment={centre: 0.875, mean: [0.5, 0.5, 0.5], std: [0.5, 0.5, 0.5]}", "train.steps=2"];
    set(&mut command, &colours);
    set(&mut command, &["data.batch.size=4", "evaluate=[{kind: top1, samples: 8}]"]);
    done(&mut command);
    let numbers: i64 = weights(&checkpoint(&out, 2)).iter().map(|(_, tensor)| tensor.numel() as i64).sum();
    // 67,104 of the golden encoder, its norm exchanged for another, and a map of 48 numbers to 10 classes.
    let width =
        weights(&checkpoint(&out, 2)).iter().find(|(name, _)| name == "norm.weight").map_or(0, |(_, t)| t.numel());
    assert_eq!(numbers, 67_104 + 10 * (width as i64 + 1));
}

/// What a run is measured by at its end, beside an encoder that was never trained.
#[test]
fn tokens_are_probed_where_positions_have_classes() {
    let temp = tempfile::tempdir().expect("a folder");
    let run = temp.path().join("run");
    let evaluate = "evaluate=[{kind: attentive, train: 60, test: 20, epochs: 1, rates: [1e-3]}, {kind: dense, train: 20, \
                    test: 10}, {kind: finetune, labels: 2, test: 20, train: {steps: 2}, batch: {size: 4}}]";
    let mut command = pretrain("experiments/image/mae.composed.yaml", &run, &TINY);
    set(&mut command, &[evaluate]);
    let said = done(&mut command);
    for word in ["attentive", "dense, mIoU", "fine-tuned", "random-initialised encoder"] {
        assert!(said.contains(word), "{said}");
    }
    let result: Value = serde_json::from_slice(&std::fs::read(run.join("result.json")).expect("a file")).expect("JSON");
    for kind in ["attentive", "dense", "dense_accuracy", "finetune"] {
        for of in [&result["metrics"], &result["baselines"]["random-initialised encoder"]] {
            assert!(of[kind].as_f64().is_some_and(|value| (0.0..=1.0).contains(&value)), "{kind}: {of}");
        }
    }
    let page = std::fs::read_to_string(run.join("report.html")).expect("the report");
    assert!(page.contains("dense, mIoU") && page.contains("fine-tuned"));
    // The same by itself, twice the same, and a run is left as it was.
    let before = names(&run);
    let probe = || json(&mut mask(["probe", text(&run), "--kind", "dense,attentive", "--json"]));
    let scores = probe();
    assert_eq!(scores, probe());
    let own = scores[0]["scores"].as_array().expect("a list").iter().find(|score| score["kind"] == "dense");
    assert_eq!(own.and_then(|score| score["accuracy"].as_f64()), result["metrics"]["dense"].as_f64());
    assert_eq!(names(&run), before);
    // Garments alone: their patches have no classes.
    let line = refused(&mut mask(["probe", text(&RUN), "--kind", "dense"]));
    assert_eq!(line, "error: probe: the data has no classes that these probes learn");
}

#[test]
fn what_does_not_fit_is_told() {
    let nowhere = Path::new("nowhere");
    let tell = |run: &Path, recipe: &str, sets: &[&str]| {
        let mut command = mask(["finetune", text(run), recipe, "--out", text(nowhere)]);
        set(&mut command, sets);
        refused(&mut command)
    };
    let line = tell(&RUN, "experiments/image/mae.yaml", &[]);
    assert!(line.contains("is a recipe of kind mae; finetune takes one of kind classify"), "{line}");
    let line = tell(nowhere, RECIPE, &[]);
    assert!(line.starts_with("error: nowhere"), "{line}");
    let line = tell(&RUN, RECIPE, &["method.encoder.width=32"]);
    assert!(line.contains("has shape") && line.contains("encoder."), "{line}");
    let line = tell(&RUN, RECIPE, &["method.classes=5"]);
    assert!(line.contains("method.classes: the model has 5, the data has 10"), "{line}");
    let line = tell(&RUN, RECIPE, &["data.source.labels=null"]);
    assert!(line.contains("has no classes"), "{line}");
    let line = refused(&mut mask(["probe", "--hf", "x", "--train", "y", "--test", "z", "--kind", "finetune"]));
    assert!(line.contains("trains the encoder of a run"), "{line}");
}
