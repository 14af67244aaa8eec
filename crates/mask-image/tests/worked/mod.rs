//! Follows the worked example of `CONTRIBUTING.md` to the letter: its code is this folder's, it compiles and trains.

mod shutters;

use std::path::Path;

use mask_core::run::{Options, Overrides, Register, pretrain};
use tch::Device;

const REGISTER: Register =
    Register { methods: mask_core::methods! { shutters: shutters::ShuttersConfig }, ..mask_image::REGISTER };

fn root() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."))
}

/// Code blocks of a Markdown text in one language.
fn blocks(text: &str, language: &str) -> Vec<String> {
    let fence = format!("```{language}\n");
    text.split(&fence).skip(1).filter_map(|rest| Some(rest.split("```").next()?.to_owned())).collect()
}

#[test]
fn the_document_is_the_code() {
    let text = std::fs::read_to_string(root().join("CONTRIBUTING.md")).unwrap();
    assert!(blocks(&text, "rust").contains(&include_str!("shutters.rs").to_owned()), "the method's file differs");
    let recipe = include_str!("shutters.yaml").replace("experiments/image/", "");
    assert!(blocks(&text, "yaml").contains(&recipe), "the recipe differs");
}

#[test]
fn the_example_trains() {
    let folder = tempfile::tempdir().unwrap();
    let samples = root().join("datasets/samples/fashion-mnist");
    let file = |name: &str| samples.join(name).display().to_string();
    // The recipe as it stands, with paths that don't hang on where the test runs.
    let base = root().join("experiments/image/tiny-28.yaml").display().to_string();
    let recipe = folder.path().join("shutters.yaml");
    std::fs::write(&recipe, include_str!("shutters.yaml").replace("experiments/image/tiny-28.yaml", &base)).unwrap();
    let set = |key: &str, name: &str| format!("data.{key}={:?}", file(name));
    let sets = vec![
        set("source.images", "train-images-idx3-ubyte.gz"),
        set("source.labels", "train-labels-idx1-ubyte.gz"),
        set("held_out.images", "t10k-images-idx3-ubyte.gz"),
        set("held_out.labels", "t10k-labels-idx1-ubyte.gz"),
        "data.batch.size=16".to_owned(),
        "evaluate=[]".to_owned(),
    ];
    let options = Options {
        overrides: Overrides { sets, seed: None, steps: Some(20) },
        out: Some(folder.path().join("run")),
        resume: false,
        stop_at: None,
        device: Device::Cpu,
        threads: 1,
    };
    let run = pretrain(&REGISTER, &recipe, &options).unwrap();
    let metrics = std::fs::read_to_string(run.folder.join("metrics.jsonl")).unwrap();
    let losses: Vec<f64> = metrics
        .lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok()?.get("loss")?.as_f64())
        .collect();
    assert_eq!(losses.len(), 20);
    assert!(losses[19] < losses[0], "{losses:?}");
}

/// Every method of the register has its line in the README, between the two marks, and no other line stands there.
#[test]
fn the_readme_lists_the_register() {
    let text = std::fs::read_to_string(root().join("README.md")).unwrap();
    let table =
        text.split("<!-- methods:").nth(1).and_then(|rest| rest.split("<!-- end of methods -->").next()).unwrap();
    let rows: Vec<&str> = table.lines().filter(|line| line.starts_with("| `")).collect();
    let expected: Vec<String> = mask_image::REGISTER
        .methods
        .iter()
        .map(|entry| {
            let card = entry.card;
            let paper = card.arxiv.map_or_else(|| "-".to_owned(), |n| format!("[{n}](https://arxiv.org/abs/{n})"));
            format!("| `{}` | {} | {paper} | {} |", card.name, mask_image::REGISTER.name, card.summary)
        })
        .collect();
    assert_eq!(rows, expected);
}

/// What the cards of image sets say about reading them is what a recipe's `data` takes.
#[test]
fn the_cards_speak_of_real_keys() {
    let mut read = 0;
    for entry in std::fs::read_dir(root().join("datasets")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "yaml") {
            continue;
        }
        let card: mask_core::recipe::Value = serde_yaml::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
        if card["modality"].as_str() == Some("image") {
            let keys = serde_yaml::from_str(card["layout"]["recipe"].as_str().unwrap()).unwrap();
            let data = mask_core::recipe::typed_over::<mask_image::data::ImageData>(&keys);
            assert!(data.is_ok(), "{}: {}", path.display(), data.unwrap_err());
            read += 1;
        }
    }
    assert!(read >= 3, "only {read} cards of image sets");
}
