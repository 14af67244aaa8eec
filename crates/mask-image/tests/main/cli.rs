//! The verbs as users type them, on the bundled data.

use std::path::Path;

use mask_core::run::RunResult;
use mask_core::store;
use serde_json::Value;
use tch::Kind;

use crate::common::{MAE, RUN, TINY, done, json, losses, mask, names, other, pretrain, program, root, rows, say, set};

fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

#[test]
fn list_names_each_method_with_its_recipes() {
    let lines = done(&mut mask(["list"]));
    for word in ["mae: Masked Autoencoders", "arXiv 2111.06377", "simmim: ", "experiments/image/simmim.paper.yaml"] {
        assert!(lines.contains(word), "{lines}");
    }
    let list = json(&mut mask(["list", "--json"]));
    let methods = list.as_array().expect("an array");
    let names: Vec<&str> = methods.iter().filter_map(|method| method["name"].as_str()).collect();
    assert_eq!(names, mask_image::REGISTER.methods.iter().map(|entry| entry.card.name).collect::<Vec<_>>());
    for method in methods {
        let name = method["name"].as_str().expect("a name");
        let keys: Vec<&String> = method.as_object().expect("an object").keys().collect();
        assert_eq!(keys, ["name", "title", "arxiv", "ledger", "recipes", "state", "claims"]);
        assert!(method["title"].is_string() && method["arxiv"].is_string() && method["claims"].is_object());
        assert!(
            method["ledger"].as_array().is_some_and(|ledger| ledger.iter().all(Value::is_u64) && !ledger.is_empty())
        );
        let recipes: Vec<&str> =
            method["recipes"].as_array().expect("a list").iter().filter_map(Value::as_str).collect();
        let folder = "experiments/image";
        for scale in ["paper.yaml", "yaml"] {
            assert!(recipes.contains(&format!("{folder}/{name}.{scale}").as_str()), "{recipes:?}");
        }
        assert!(recipes.iter().all(|recipe| root().join(recipe).is_file()));
        let state = &method["state"];
        assert_eq!(state["golden"], ["beit", "mae", "simmim"].contains(&name), "{name}");
        assert!(state["trained"].is_boolean(), "{state}");
        let claims = ["reproduced", "not-reproduced", "undecided", "untested"];
        assert!(state["claim"].as_str().is_some_and(|claim| claims.contains(&claim)), "{state}");
    }
}

#[test]
fn pretrain_writes_all_that_it_promises() {
    let run = &*RUN;
    let files = ["metrics.jsonl", "recipe.yaml", "report.html", "result.json", "timing.jsonl"];
    assert_eq!(names(run), [&[".lock", "checkpoints", "events"], &files[..]].concat());
    let result = RunResult::read(run).expect("the result");
    assert_eq!((result.method.as_str(), result.seed, result.steps), ("mae", 0, 4));
    for name in ["linear", "knn", "held_out", "loss"] {
        assert!(result.metric(name).flatten().is_some(), "{name}: {result:?}");
    }
    assert_eq!(result.history["knn"].len(), 2);
    assert_eq!(result.baselines.keys().collect::<Vec<_>>(), ["random-initialised encoder", "raw pixels"]);
    assert!(result.seconds > 0.0 && result.flops.is_some_and(|flops| flops > 0.0), "{result:?}");
    let steps = ["best.safetensors", "last.safetensors", "step-00000002.safetensors", "step-00000004.safetensors"];
    assert_eq!(names(&run.join("checkpoints")), steps);
    assert_eq!(names(&run.join("events")).len(), 1);

    let losses = losses(run);
    assert!(losses.len() == 4 && losses.iter().all(|loss| loss.is_finite()), "{losses:?}");
    let metrics = rows(&run.join("metrics.jsonl"));
    let at = |step: u64, key: &str| metrics.iter().find(|row| row["step"] == step && row.get(key).is_some());
    for key in ["loss", "grad_norm", "rate", "masked"] {
        assert!((1..=4).all(|step| at(step, key).is_some()), "{key}");
    }
    for key in ["held_out", "knn"] {
        assert!(at(2, key).is_some() && at(4, key).is_some() && at(3, key).is_none(), "{key}");
    }
    // 37 of 49 patches: 75 %, rounded as the paper's code does.
    assert_eq!(at(1, "masked").map(|row| row["masked"].as_f64()), Some(Some(37.0 / 49.0)));
    for row in rows(&run.join("timing.jsonl")) {
        for key in ["seconds", "samples_per_second", "data_wait"] {
            assert!(row[key].as_f64().is_some_and(|value| value >= 0.0), "{row}");
        }
    }
    // The resolved recipe is a recipe: every key is there, and it gives the same run.
    let recipe = std::fs::read_to_string(run.join("recipe.yaml")).expect("the recipe");
    assert!(!recipe.contains("base:") && recipe.contains("drop_path: 0.0"), "{recipe}");
    let temp = tempfile::tempdir().expect("a folder");
    let again = temp.path().join("again");
    done(&mut pretrain(run.join("recipe.yaml"), &again, &[]));
    let read = |run: &Path, file: &str| std::fs::read(run.join(file)).expect("a file");
    for file in ["metrics.jsonl", "recipe.yaml", "checkpoints/step-00000004.safetensors"] {
        assert!(read(run, file) == read(&again, file), "{file} differs");
    }
}

/// What a browser would fetch: nothing but what lies in the page itself.
#[test]
fn the_report_stands_alone() {
    let page = std::fs::read_to_string(RUN.join("report.html")).expect("the report");
    let lower = page.to_lowercase();
    assert!(lower.contains("<svg") && lower.contains("data:image/png;base64,") && lower.contains("linear"));
    for loading in ["<link", "<script src", "<iframe", "@import", "<object", "<embed", "srcset="] {
        assert!(!lower.contains(loading), "{loading}");
    }
    for attribute in ["src=", "url(", "xlink:href="] {
        for (at, _) in lower.match_indices(attribute) {
            let value = lower[at + attribute.len()..].trim_start_matches(['"', '\'', ' ']);
            assert!(value.starts_with("data:") || value.starts_with('#'), "{}", &value[..value.len().min(60)]);
        }
    }
}

#[test]
fn dry_runs_give_the_papers_parameter_counts() {
    let counts = [
        ("mae", "267408 (261808 trained)"),
        ("simmim", "153440 (153440 trained)"),
        // The frozen sine tables of encoder and decoder are counted, as the official code's parameters are.
        ("mae.paper", "111907840 ("),
        ("simmim.paper", "86256720 ("),
        // ViT-B without its own last norm, with a fresh one and a map to 1000 classes: all of it is trained.
        ("mae.finetune.paper", "86567656 (86567656 trained)"),
        // Ledger BEiT: that of the official log.
        ("beit.paper", "91965776 ("),
    ];
    for (recipe, count) in counts {
        let path = format!("experiments/image/{recipe}.yaml");
        let lines = done(&mut mask(["pretrain", &path, "--dry-run"]));
        let line = |key: &str| lines.lines().find(|line| line.starts_with(key)).unwrap_or_else(|| panic!("{lines}"));
        assert!(line("parameters").contains(&format!(" {count}")), "{lines}");
        for key in ["tokens a sample", "batch", "peak rate", "steps", "operations a step", "memory"] {
            line(key);
        }
    }
}

#[test]
fn probe_eval_and_show_read_a_run() {
    let run = text(&RUN);
    let scores = json(&mut mask(["probe", run, "--json", "--baselines"]));
    let names: Vec<&str> = scores.as_array().expect("a list").iter().filter_map(|s| s["encoder"].as_str()).collect();
    assert_eq!(names, ["pre-trained encoder", "random-initialised encoder", "raw pixels"]);
    for score in scores[0]["scores"].as_array().expect("a list") {
        assert!(score["accuracy"].as_f64().is_some_and(|share| (0.0..=1.0).contains(&share)), "{score}");
        assert_eq!((&score["train"], &score["test"]), (&Value::from(60), &Value::from(20)));
    }
    let one = done(&mut mask(["probe", run, "--kind", "knn"]));
    assert!(one.contains("kNN") && !one.contains("linear"), "{one}");

    // The held-out loss is that of training's own last row, and a checkpoint file stands for its run.
    let eval = |path: &str| json(&mut mask(["eval", path, "--samples", "16", "--json"]));
    let last = rows(&RUN.join("metrics.jsonl")).into_iter().rfind(|row| row.get("held_out").is_some());
    let last = last.expect("a held-out row");
    assert_eq!((&eval(run)["held_out"], &eval(run)["step"]), (&last["held_out"], &Value::from(4)));
    assert_eq!(eval(&format!("{run}/checkpoints/step-00000002.safetensors"))["step"], 2);

    let temp = tempfile::tempdir().expect("a folder");
    for (recipe, out) in [(run, "run.png"), (MAE, "recipe.png"), ("experiments/image/simmim.yaml", "simmim.png")] {
        let out = temp.path().join(out);
        let said = done(&mut mask(["show", recipe, "--count", "2", "--out", text(&out)]));
        assert!(std::fs::read(&out).expect("a picture").starts_with(b"\x89PNG\r\n\x1a\n"), "{said}");
    }
}

#[test]
fn embed_gives_a_row_a_file() {
    let temp = tempfile::tempdir().expect("a folder");
    let data = "datasets/samples/photographs";
    let (ours, hosted) = (temp.path().join("ours.safetensors"), temp.path().join("hosted.safetensors"));
    done(&mut mask(["embed", text(&RUN), "--data", data, "--out", text(&ours)]));
    let golden = "crates/mask-image/tests/golden/vit_mae";
    done(&mut mask(["embed", "--hf", golden, "--data", data, "--out", text(&hosted)]));
    let files = names(&root().join(data)).into_iter().filter(|name| name.ends_with(".jpg")).collect::<Vec<_>>();
    for (path, width) in [(ours, 64), (hosted, 48)] {
        let stored = store::read(&path).expect("safetensors");
        let features = &stored.tensors["features"];
        assert_eq!(features.size(), [files.len() as i64, width]);
        assert!(bool::try_from(features.isfinite().all()).expect("a flag"));
        let names: Vec<String> = serde_json::from_str(&stored.metadata["names"]).expect("a list");
        assert_eq!(names, files);
    }
}

#[test]
fn masks_hold_their_shares_and_shapes() {
    let temp = tempfile::tempdir().expect("a folder");
    let out = temp.path().join("masks.safetensors");
    let read = |recipe: &str, more: &[&str]| {
        let mut command = mask(["masks", recipe, "--count", "200", "--out", text(&out)]);
        done(command.args(more));
        store::read(&out).expect("safetensors").tensors
    };
    // MAE keeps floor(L / 4); SimMIM hides ceil(0.6 * cells) of cells of 2 x 2.
    for (recipe, more, shape, hidden) in [
        (MAE, &[][..], vec![200, 7, 7], 37),
        (text(&RUN), &["--grid", "14,14"], vec![200, 14, 14], 147),
        (MAE, &["--grid", "10"], vec![200, 10], 8),
        (MAE, &["--grid", "2,4,4"], vec![200, 2, 4, 4], 24),
        ("experiments/image/mae.paper.yaml", &[], vec![200, 14, 14], 147),
        ("experiments/image/simmim.yaml", &[], vec![200, 8, 8], 40),
    ] {
        let tensors = read(recipe, more);
        assert_eq!(tensors.keys().collect::<Vec<_>>(), ["hidden", "queried", "scored", "valid"]);
        for (name, tensor) in &tensors {
            assert_eq!((tensor.size(), tensor.kind()), (shape.clone(), Kind::Bool), "{recipe} {name}");
        }
        let counts = tensors["hidden"].reshape([200, -1]).sum_dim_intlist(1, false, Kind::Int64);
        assert_eq!(Vec::<i64>::try_from(counts).expect("counts"), [hidden; 200], "{recipe}");
        assert_eq!(tensors["hidden"], tensors["scored"]);
        // Every position is hidden in some plan and visible in some.
        let seen = tensors["hidden"].to_kind(Kind::Float).mean_dim([0i64].as_slice(), false, Kind::Float);
        let [low, high] = [seen.min(), seen.max()].map(|t| f64::try_from(t).expect("a share"));
        assert!(low > 0.0 && high < 1.0, "{recipe}: {low} {high}");
    }
    assert_eq!(read(MAE, &[])["hidden"], read(MAE, &["--seed", "0"])["hidden"]);
    assert_ne!(read(MAE, &[])["hidden"], read(MAE, &["--seed", "1"])["hidden"]);
}

#[test]
fn forward_writes_the_golden_names() {
    let temp = tempfile::tempdir().expect("a folder");
    let out = temp.path().join("out.safetensors");
    for (family, given) in
        [("vit_mae", &["noise", "pixel_values"][..]), ("simmim_vit", &["bool_masked_pos", "pixel_values"])]
    {
        let folder = format!("crates/mask-image/tests/golden/{family}");
        let inputs = format!("{folder}/io.safetensors");
        let said = done(&mut mask(["forward", "--hf", &folder, "--inputs", &inputs, "--out", text(&out)]));
        let golden = store::read(&root().join(&inputs)).expect("safetensors").tensors;
        let outputs = store::read(&out).expect("safetensors").tensors;
        for (name, theirs) in golden.iter().filter(|(name, _)| !given.contains(&name.as_str())) {
            let ours = outputs.get(name).unwrap_or_else(|| panic!("{family} lacks {name}: {said}"));
            assert!(said.contains(&format!("{name} {:?}", theirs.size())), "{said}");
            let apart = (ours.to_kind(Kind::Double) - theirs.to_kind(Kind::Double)).abs().max();
            let apart = f64::try_from(apart).expect("a number");
            assert!(apart < 1e-4, "{family} {name}: {apart}");
        }
    }
}

#[test]
fn bench_and_doctor_say_what_is_there() {
    let mut command = mask(["bench", MAE, "--measure", "2", "--json"]);
    set(&mut command, &TINY);
    let bench = json(&mut command);
    let keys = ["seconds_a_step", "samples_per_second", "flops_a_step", "matrix_product_peak", "share_of_peak"];
    for key in keys.iter().chain(&["peak_memory_mb", "plans_per_second", "loader_samples_per_second"]) {
        assert!(bench[key].as_f64().is_some_and(|value| value > 0.0 && value.is_finite()), "{key}: {bench}");
    }
    let doctor = done(&mut mask(["doctor"]));
    for what in ["mask-image", "libtorch", "CUDA", "threads", "FFmpeg", "samples", "data", "memory"] {
        assert!(doctor.lines().any(|line| line.starts_with(what)), "{what}: {doctor}");
    }
    // From elsewhere it says where to go.
    let temp = tempfile::tempdir().expect("a folder");
    assert!(done(mask(["doctor"]).current_dir(temp.path())).contains("run from the root of the repository"));
}

#[test]
fn a_folder_of_photographs_trains() {
    let temp = tempfile::tempdir().expect("a folder");
    let run = temp.path().join("run");
    let mut command = pretrain("crates/mask-image/tests/data/resume.yaml", &run, &["data.batch.size=4"]);
    let said = done(command.args(["--steps", "2", "--threads", "1", "--device", "cpu", "--seed", "7"]));
    assert!(said.contains("report: "), "{said}");
    assert_eq!(losses(&run).len(), 2);
}

/// Runs go below `runs` when no folder is named, each into one of its own; `--resume` finds the newest.
#[test]
fn without_out_a_free_folder_is_taken() {
    let temp = tempfile::tempdir().expect("a folder");
    for folder in ["datasets", "experiments"] {
        std::os::unix::fs::symlink(root().join(folder), temp.path().join(folder)).expect("a link");
    }
    let command = |stop_at: &str| {
        let mut command = mask(["pretrain", MAE, "--stop-at", stop_at]);
        set(&mut command, &TINY);
        command.current_dir(temp.path());
        command
    };
    for _ in 0..2 {
        let said = done(&mut command("2"));
        assert!(said.contains("stopped; go on with --resume"), "{said}");
    }
    assert_eq!(names(&temp.path().join("runs")), ["mae", "mae-2"]);
    done(command("3").args(["--resume", "--threads=1"]));
    assert_eq!(losses(&temp.path().join("runs/mae")).len(), 2);
    assert_eq!(losses(&temp.path().join("runs/mae-2")).len(), 3);
}

#[test]
fn help_and_version_are_no_errors() {
    let version = done(&mut mask(["--version"]));
    assert_eq!(version.trim(), format!("mask-image {}", env!("CARGO_PKG_VERSION")));
    let help = done(&mut mask(["--help"]));
    for verb in [
        "list", "pretrain", "probe", "eval", "embed", "show", "masks", "forward", "export", "convert", "table",
        "doctor", "bench",
    ] {
        assert!(help.contains(verb), "{help}");
        assert!(done(&mut mask([verb, "--help"])).contains("Usage: "));
    }
    assert_eq!(say(&mut mask::<&str>([])).code, Some(2));
    // A closed pipe is no error either.
    let piped = other("bash").args(["-c", "set -o pipefail; \"$0\" list | head -n 1", program()]).output();
    assert_eq!(piped.expect("bash").status.code(), Some(0));
}
