//! Every file of `tests/data/bad` is refused with the line that its index says.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::Value;

use crate::common::{MAE, mask, names, pretrain, root, say};

const BAD: &str = "crates/mask-image/tests/data/bad";
const GOLDEN: &str = "crates/mask-image/tests/golden/vit_mae";

/// The index: file, and the line that it must print, where `TEMP` is the test's own folder and a last ` ...` stands for
/// a list of keys that grows.
fn index() -> Vec<(String, String)> {
    let text = fs::read_to_string(root().join(BAD).join("index.json")).expect("the index");
    let index: Vec<Value> = serde_json::from_str(&text).expect("a list");
    let text = |row: &Value, key: &str| row[key].as_str().unwrap_or_else(|| panic!("{row}: no {key}")).to_owned();
    index.iter().map(|row| (text(row, "file"), text(row, "line"))).collect()
}

/// The command that reads a bad file of a kind; what it would write is `temp/out`.
fn command(file: &str, temp: &Path) -> Command {
    let (kind, name) = file.split_once('/').expect("a file in a folder that says its kind");
    let path = format!("{BAD}/{file}");
    let out = temp.join("out");
    let text = |path: &Path| path.to_str().expect("UTF-8").to_owned();
    let put = |from: &str, folder: &str, name: &str| {
        let folder = temp.join(folder);
        fs::create_dir_all(&folder).expect("a folder");
        fs::copy(root().join(from), folder.join(name)).expect("a copy");
        text(&folder)
    };
    let forward = |hf: &str, inputs: &str| mask(["forward", "--hf", hf, "--inputs", inputs, "--out", &text(&out)]);
    let (config, weights) = (format!("{GOLDEN}/config.json"), format!("{GOLDEN}/model.safetensors"));
    let inputs = format!("{GOLDEN}/io.safetensors");
    match kind {
        "recipe" => pretrain(&path, &out, &[]),
        "config" => {
            put(&weights, "hf", "model.safetensors");
            forward(&put(&path, "hf", "config.json"), &inputs)
        }
        "weights" => {
            put(&config, "hf", "config.json");
            forward(&put(&path, "hf", "model.safetensors"), &inputs)
        }
        "inputs" => forward(GOLDEN, &path),
        "pth" => mask(["convert", &path, "--hf", &text(&out), "--set", "num_attention_heads=2"]),
        "checkpoint" => mask(["eval", &path]),
        "table" | "results" => {
            let image = "experiments/image";
            for recipe in ["mae.yaml", "tiny-28.yaml", "mae.paper.yaml", "imagenet.yaml"] {
                put(&format!("{image}/{recipe}"), image, recipe);
            }
            let table = if kind == "table" { path.clone() } else { format!("{image}/tables/mae-mask-ratio.yaml") };
            put(
                &table,
                &format!("{image}/tables"),
                Path::new(&table).file_name().and_then(|n| n.to_str()).expect("a name"),
            );
            if kind == "results" {
                put(&path, &format!("{image}/results"), "mae-mask-ratio.json");
            }
            let stem = Path::new(&table).file_stem().and_then(|stem| stem.to_str()).expect("a name");
            let mut command = mask(["table", stem, "--check"]);
            command.current_dir(temp);
            command
        }
        "image" => {
            let folder = put(&path, "images", name);
            pretrain(MAE, &out, &[&format!("data.source={{kind: folder, path: {folder}}}")])
        }
        "idx" => pretrain(MAE, &out, &[&format!("data.source.images={path}"), "data.source.labels=null"]),
        other => panic!("no command for files of the kind {other}"),
    }
}

fn check(file: &str, wanted: &str) -> Result<(), String> {
    let folder = tempfile::tempdir().expect("a folder");
    let said = say(&mut command(file, folder.path()));
    let err = said.err.replace(folder.path().to_str().expect("UTF-8"), "TEMP").replace(&format!("{BAD}/"), "");
    // Nothing is logged before bad input is found, and nothing is written.
    let fits = match wanted.strip_suffix("...") {
        Some(begin) => err.starts_with(begin) && err.lines().count() == 1,
        None => err == format!("{wanted}\n"),
    };
    if said.code != Some(2) || !fits {
        return Err(format!("{file}: exit code {:?}\n  wanted {wanted}\n  found  {}", said.code, err.trim_end()));
    }
    if folder.path().join("out").exists() {
        return Err(format!("{file}: something was written"));
    }
    Ok(())
}

#[test]
fn each_bad_file_has_its_line() {
    let index = index();
    let (next, tried) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let work = || {
        let mut wrong = Vec::new();
        while let Some((file, line)) = index.get(next.fetch_add(1, Ordering::SeqCst)) {
            wrong.extend(check(file, line).err());
            tried.fetch_add(1, Ordering::SeqCst);
        }
        wrong
    };
    let wrong: Vec<String> = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..2).map(|_| scope.spawn(work)).collect();
        workers.into_iter().flat_map(|worker| worker.join().expect("no panic")).collect()
    });
    assert!(wrong.is_empty(), "{} of {} files:\n{}", wrong.len(), index.len(), wrong.join("\n"));
    assert_eq!(tried.into_inner(), index.len());
    assert!(index.len() >= 163, "the index has lost files: {}", index.len());
}

#[test]
fn index_and_folder_agree() {
    let listed: BTreeSet<String> = index().into_iter().map(|(file, _)| file).collect();
    let folder = root().join(BAD);
    let kinds = names(&folder).into_iter().filter(|kind| folder.join(kind).is_dir());
    let found: BTreeSet<String> = kinds
        .flat_map(|kind| names(&folder.join(&kind)).into_iter().map(move |name| format!("{kind}/{name}")))
        .collect();
    assert_eq!(listed, found);
}
