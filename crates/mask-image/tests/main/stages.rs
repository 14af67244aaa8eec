//! Stages and artefacts as users meet them: made once, shared, checked, resumed, refused.

use std::path::{Path, PathBuf};
use std::process::Command;

use mask_core::recipe::{Tree, Value};
use mask_core::run::{Overrides, Resolved};
use mask_core::stage::{Depot, Keyed, LabelStore};
use mask_core::{Split, store};
use mask_image::REGISTER;
use proptest::prelude::*;

use crate::common::{Running, done, losses, names, pretrain, refused, root, rows, say, set};

const BEIT: &str = "experiments/image/beit.yaml";
const CLUSTERS: &str = "experiments/image/beit.clusters.yaml";

/// Keys that make the recipes ones of seconds.
const TINY: [&str; 6] = [
    "train.steps=3",
    "train.schedule.warmup_steps=1",
    "data.batch.size=8",
    "method.encoder.depth=1",
    "evaluate=[]",
    "data.source.labels=null",
];

const TOKENIZER: [&str; 5] = [
    "stages.tokenizer.train.steps=30",
    "stages.tokenizer.train.checkpoint_every=2",
    "stages.tokenizer.method.convolutions.width=8",
    "stages.tokenizer.data.batch.size=8",
    "stages.tokenizer.evaluate=[]",
];

/// The first `count` bundled garments as an IDX file, shifted by `shift` pictures.
fn garments(folder: &Path, name: &str, count: usize, shift: usize) -> PathBuf {
    use std::io::Read;
    let packed =
        std::fs::read(root().join("datasets/samples/fashion-mnist/t10k-images-idx3-ubyte.gz")).expect("images");
    let mut all = Vec::new();
    flate2::read::GzDecoder::new(&packed[..]).read_to_end(&mut all).expect("gzip");
    let mut bytes = all[..16].to_vec();
    bytes[4..8].copy_from_slice(&(count as u32).to_be_bytes());
    bytes.extend_from_slice(&all[16 + shift * 784..16 + (shift + count) * 784]);
    let path = folder.join(name);
    std::fs::write(&path, bytes).expect("written");
    path
}

/// A command over 40 garments of a folder of its own, with artefacts there.
fn command(temp: &Path, recipe: &str, out: &str, sets: &[&str]) -> Command {
    let mut command = pretrain(recipe, &temp.join(out), &TINY);
    let images = temp.join("images");
    if !images.exists() {
        garments(temp, "images", 40, 0);
    }
    set(&mut command, &[&format!("data.source.images={}", images.display()), "data.held_out=null"]);
    set(&mut command, sets);
    command.args(["--threads", "1"]).env("MASK_ARTEFACTS", temp.join("artefacts"));
    command
}

/// Names of finished artefacts.
fn artefacts(temp: &Path) -> Vec<String> {
    let all = names(&temp.join("artefacts"));
    all.into_iter().filter(|name| temp.join("artefacts").join(name).join("artefact.json").is_file()).collect()
}

fn one(temp: &Path, kind: &str) -> PathBuf {
    let found: Vec<String> = artefacts(temp).into_iter().filter(|name| name.starts_with(kind)).collect();
    assert_eq!(found.len(), 1, "{found:?}");
    temp.join("artefacts").join(&found[0])
}

#[test]
fn clusters_are_made_once_shared_checked_and_made_again() {
    let temp = tempfile::tempdir().expect("a folder");
    let temp = temp.path();
    let few = ["stages.clusters.clusters=9", "method.target.ids=9", "stages.clusters.rounds=4"];
    let run = |out: &str, more: &[&str]| command(temp, CLUSTERS, out, &[&few[..], more].concat());
    // Nothing is made by a dry run, which says what would be.
    let said = done(run("dry", &[]).arg("--dry-run"));
    assert_eq!(said.matches(" would be made").count(), 3, "{said}");
    let first = say(&mut run("first", &[]));
    assert_eq!(first.code, Some(0), "{}", first.err);
    assert_eq!(losses(&temp.join("first")).len(), 3);
    let kinds: Vec<String> =
        artefacts(temp).iter().map(|name| name.split('-').next().unwrap_or("").to_owned()).collect();
    assert_eq!(kinds, ["kmeans", "labels", "patches"]);
    assert!(done(run("dry", &[]).arg("--dry-run")).matches(" is there").count() == 3);

    // The labels are those of the nearest centres of the raw patches, for every sample of both splits.
    let store = LabelStore::open(&one(temp, "labels")).expect("labels");
    let centres = store::read(&one(temp, "kmeans").join("clusters.safetensors")).expect("centres").tensors;
    let clusters = mask_core::stage::Clusters::new(&centres["centres"].get(0)).expect("clusters");
    for (split, name, samples) in [(Split::Train, "train", 36u64), (Split::HeldOut, "held_out", 4)] {
        let file = one(temp, "patches").join(format!("{name}-00000.safetensors"));
        let (ids, _) = clusters.nearest(&store::read(&file).expect("patches").tensors["values"]).expect("ids");
        let ids = Vec::<i64>::try_from(ids).expect("numbers");
        for sample in 0..samples {
            let found = store.labels(split, sample, 0).expect("labels");
            assert_eq!(found, ids[sample as usize * 49..(sample as usize + 1) * 49], "{name} {sample}");
        }
    }

    // Another seed and other training keys share them; the losses differ, the artefacts don't.
    let before = artefacts(temp);
    let second = say(run("second", &["method.encoder.width=32"]).args(["--seed", "7"]));
    assert!(second.code == Some(0) && !second.err.contains("making"), "{}", second.err);
    assert_eq!(artefacts(temp), before);

    // A run finds its artefacts again, and encodes without them.
    let show = |out: &str| {
        let mut command = crate::common::mask(["eval", &temp.join("first").display().to_string(), "--samples", out]);
        command.env_remove("MASK_ARTEFACTS");
        command
    };
    done(&mut show("2"));

    // A changed byte is refused by name, with what to do.
    let file = one(temp, "kmeans").join("clusters.safetensors");
    let whole = std::fs::read(&file).expect("bytes");
    let mut other = whole.clone();
    let last = other.len() - 1;
    other[last] ^= 1;
    std::fs::write(&file, &other).expect("written");
    // The labels are there, so that the centres aren't looked at: nothing of them is used.
    done(&mut run("third", &[]));
    let labels = one(temp, "labels").join("train-00000.safetensors");
    let good = std::fs::read(&labels).expect("bytes");
    let mut bad = good.clone();
    let last = bad.len() - 1;
    bad[last] ^= 1;
    std::fs::write(&labels, &bad).expect("written");
    let line = refused(&mut run("fourth", &[]));
    let again = format!("remove the folder {} to have it made again", one(temp, "labels").display());
    assert_eq!(line, format!("error: {}: has changed since it was made; {again}", labels.display()));
    assert!(!temp.join("fourth").exists());
    let line = refused(&mut show("2"));
    assert!(line.contains("has changed since it was made"), "{line}");
    // Done as told, the next stage looks at its inputs, and refuses the centres, too.
    std::fs::remove_dir_all(one(temp, "labels")).expect("removed");
    let line = refused(&mut run("fourth", &[]));
    assert!(line.contains(&file.display().to_string()) && line.contains("has changed"), "{line}");
    std::fs::remove_dir_all(one(temp, "kmeans")).expect("removed");
    done(&mut run("fourth", &[]));
    assert_eq!(artefacts(temp), before);
    assert_eq!(std::fs::read(&labels).expect("bytes"), good);
    assert_eq!(std::fs::read(one(temp, "kmeans").join("clusters.safetensors")).expect("bytes"), whole);

    // Changed data are another key: everything is made anew beside the old, and an old run isn't resumed over it.
    garments(temp, "images", 40, 40);
    let line = refused(run("first", &[]).arg("--resume"));
    assert!(line.contains("was begun over the artefact") && line.contains("of stage"), "{line}");
    assert_eq!(artefacts(temp), before);
    done(&mut run("fifth", &[]));
    assert_eq!(artefacts(temp).len(), 6);

    // Labels don't follow flips.
    let line = refused(&mut run("flip", &["data.augment.flip=0.5"]));
    assert!(line.contains("data.augment: stage tokenizer labelled pictures as they are"), "{line}");
    let line = refused(&mut run("ids", &["method.target.ids=8"]));
    assert!(line.contains("method.target.ids: 8 is not the number of ids of stage tokenizer, 9"), "{line}");
}

#[test]
fn a_killed_tokenizer_goes_on_and_ends_the_same() {
    let [alone, killed] = [(); 2].map(|()| tempfile::tempdir().expect("a folder"));
    done(&mut command(alone.path(), BEIT, "run", &TOKENIZER));
    // Data of the same name, so that the keys are the same.
    let temp = killed.path();
    let start = || {
        let mut command = command(temp, BEIT, "run", &TOKENIZER);
        let images = format!("data.source.images={}", alone.path().join("images").display());
        set(&mut command, &[&images]);
        command
    };
    let mut kills = 0;
    while kills < 3 {
        let mut running = Running::start(&mut start());
        let checkpoints = || {
            let folder = std::fs::read_dir(temp.join("artefacts")).expect("artefacts").flatten();
            let part = folder.map(|entry| entry.path()).find(|path| path.to_string_lossy().ends_with(".part"));
            part.map_or(usize::MAX, |part| rows_of(&part.join("metrics.jsonl")))
        };
        let begin = checkpoints();
        assert!(running.until(|| checkpoints() != begin), "it came to its end before kill {kills}");
        running.signal("KILL");
        assert_eq!(running.end().code, None);
        kills += 1;
    }
    let last = say(&mut start());
    assert!(last.code == Some(0) && last.err.contains("stage tokenizer: going on with"), "{}", last.err);
    let [a, b] = [alone.path(), temp].map(|temp| one(temp, "train"));
    assert_eq!(a.file_name(), b.file_name());
    for file in ["metrics.jsonl", "checkpoints/step-00000030.safetensors", "recipe.yaml"] {
        let [a, b] = [&a, &b].map(|folder| std::fs::read(folder.join(file)).expect("a file"));
        assert!(a == b, "{file}");
    }
    let [a, b] = [alone.path(), temp].map(|temp| std::fs::read(temp.join("run/metrics.jsonl")).expect("metrics"));
    assert!(a == b);
    // Its recipe stands alone, and what is measured of it stands in its record.
    let run = one(temp, "train").display().to_string();
    done(&mut crate::common::mask(["eval", &run, "--samples", "2"]));
    let record = std::fs::read_to_string(one(temp, "train").join("artefact.json")).expect("a record");
    let record: serde_json::Value = serde_json::from_str(&record).expect("JSON");
    assert!(record["measured"]["perplexity"].as_f64().is_some_and(|p| p > 1.0), "{record}");
}

/// Whole lines of a file; none where it isn't there.
fn rows_of(path: &Path) -> usize {
    std::fs::read(path).map_or(0, |bytes| bytes.iter().filter(|byte| **byte == b'\n').count())
}

#[test]
fn of_two_processes_one_makes_and_the_other_waits() {
    let temp = tempfile::tempdir().expect("a folder");
    let temp = temp.path();
    garments(temp, "images", 40, 0);
    let mut first = Running::start(&mut command(temp, BEIT, "a", &TOKENIZER));
    // The first trains its tokenizer: a second one comes.
    let second = say(&mut command(temp, BEIT, "b", &TOKENIZER));
    assert!(!first.until(|| false));
    let first = first.end();
    assert_eq!((first.code, second.code), (Some(0), Some(0)), "{}\n{}", first.err, second.err);
    assert!(second.err.contains("another process is making") || second.err.contains("is there"), "{}", second.err);
    assert!(!second.err.contains("stage tokenizer: making"), "{}", second.err);
    assert_eq!(artefacts(temp).len(), 1);
    assert_eq!(rows(&temp.join("a/metrics.jsonl")), rows(&temp.join("b/metrics.jsonl")));
}

#[test]
fn codes_features_and_statistics_of_a_trained_model() {
    let temp = tempfile::tempdir().expect("a folder");
    let recipe = temp.path().join("chain.yaml");
    let base = root().join(BEIT);
    // A second iteration in one recipe: features of the tokenizer, clusters, labels, a model of them, its features.
    let text = format!(
        "base: {}\nstages:\n  encoded: {{ kind: features, from: tokenizer }}\n  centres: {{ kind: kmeans, from: encoded, \
         clusters: 5 }}\n  first: {{ kind: labels, columns: [{{ features: encoded, clusters: centres }}] }}\n  model:\n    \
         kind: train\n    evaluate: []\n    train: {{ steps: 2 }}\n    method:\n      kind: beit\n      encoder: {{ image: \
         [28, 28], channels: 1, patch: [4, 4], width: 16, depth: 2, heads: 2, mlp: 32, drop_path: 0 }}\n      mask: {{ \
         kind: block, ratio: {{ kind: count, hidden: 20 }}, least: 4 }}\n      target: {{ codes: first, ids: 5 }}\n  \
         block: {{ kind: features, from: model, layer: 1 }}\n  again: {{ kind: kmeans, from: block, clusters: 6, levels: \
         2 }}\n  second: {{ kind: labels, columns: [{{ features: block, clusters: again }}] }}\nmethod: {{ target: {{ \
         codes: second, ids: 6 }} }}\ndata: {{ augment: {{ flip: 0 }} }}\n",
        base.display()
    );
    std::fs::write(&recipe, text).expect("written");
    let said = say(&mut command(temp.path(), recipe.to_str().expect("UTF-8"), "run", &TOKENIZER));
    assert_eq!(said.code, Some(0), "{}", said.err);
    assert_eq!(artefacts(temp.path()).len(), 8, "{:?}", artefacts(temp.path()));
    assert_eq!(losses(&temp.path().join("run")).len(), 3);
    let stores: Vec<LabelStore> = artefacts(temp.path())
        .iter()
        .filter(|name| name.starts_with("labels"))
        .map(|name| LabelStore::open(&temp.path().join("artefacts").join(name)).expect("labels"))
        .collect();
    let mut columns: Vec<Vec<u32>> =
        stores.iter().map(|store| store.columns().iter().map(|column| column.ids).collect()).collect();
    columns.sort();
    assert_eq!(columns, [vec![5], vec![6, 6]]);
    assert_eq!(stores[0].grid(), Some(&[7, 7][..]));

    // A store of the tokenizer's own ids trains like the tokenizer that is asked, as long as pictures stay as they are.
    let more = ["data.augment.flip=0", "stages.codes={kind: codes, from: tokenizer}", "method.target.codes=codes"];
    let stored = done(&mut command(temp.path(), BEIT, "stored", &[&TOKENIZER[..], &more].concat()));
    let asked = done(&mut command(temp.path(), BEIT, "asked", &[&TOKENIZER[..], &more[..1]].concat()));
    assert!(stored.contains("report") && asked.contains("report"));
    assert_eq!(rows(&temp.path().join("stored/metrics.jsonl")), rows(&temp.path().join("asked/metrics.jsonl")));
}

/// A Hugging Face folder and a run as teachers of clusters; their weights belong to the keys.
#[test]
fn features_of_a_folder_and_of_a_run() {
    let temp = tempfile::tempdir().expect("a folder");
    let temp = temp.path();
    let hf = temp.join("hf");
    std::fs::create_dir(&hf).expect("a folder");
    for file in ["config.json", "model.safetensors"] {
        let golden = root().join("crates/mask-image/tests/golden/vit_mae").join(file);
        std::fs::copy(golden, hf.join(file)).expect("a copy");
    }
    let recipe = temp.join("recipe.yaml");
    let text = |from: &str| {
        format!(
            "data:\n  source: {{ kind: folder, path: datasets/samples/photographs }}\n  augment: {{ crop: null, flip: 0 \
             }}\n  batch: {{ size: 4 }}\nstages:\n  teacher: {{ kind: features, {from} }}\n  clusters: {{ kind: kmeans, \
             from: teacher, clusters: 4, batch: 32 }}\n  codes: {{ kind: labels, columns: [{{ features: teacher, clusters: \
             clusters }}] }}\nmethod:\n  kind: beit\n  encoder: {{ image: [32, 32], patch: [8, 8], width: 16, depth: 1, \
             heads: 2, mlp: 32 }}\n  mask: {{ kind: block, ratio: {{ kind: count, hidden: 6 }}, least: 2 }}\n  target: {{ \
             codes: codes, ids: 4 }}\ntrain: {{ steps: 2 }}\nevaluate: []\n"
        )
    };
    let run = |out: &str, from: &str| {
        std::fs::write(&recipe, text(from)).expect("written");
        let mut command = pretrain(&recipe, &temp.join(out), &[]);
        command.args(["--threads", "1"]).env("MASK_ARTEFACTS", temp.join("artefacts"));
        done(&mut command);
        assert_eq!(losses(&temp.join(out)).len(), 2, "{out}");
        artefacts(temp).len()
    };
    let folder = format!("hf: {}, layer: 1", hf.display());
    assert_eq!(run("of-folder", &folder), 3);
    // Other weights in the same folder are another key.
    let weights = hf.join("model.safetensors");
    let mut bytes = std::fs::read(&weights).expect("weights");
    let last = bytes.len() - 1;
    bytes[last - 1] ^= 1;
    std::fs::write(&weights, bytes).expect("written");
    assert_eq!(run("of-other-weights", &folder), 6);
    // A run is a teacher, too, and a model of clusters teaches the next.
    assert_eq!(run("of-run", &format!("run: {}", temp.join("of-folder").display())), 9);
}

/// Keys of every stage of a recipe that was changed by `--set`s.
fn keys(recipe: &Path, depot: &Depot, sets: &[String]) -> Vec<Keyed> {
    let overrides = Overrides { sets: sets.to_vec(), ..Overrides::default() };
    let resolved = Resolved::read(&REGISTER, recipe, &overrides).unwrap_or_else(|error| panic!("{sets:?}: {error}"));
    depot.keys(&resolved.stages).expect("keys")
}

/// A recipe with three stages, one upon the other, and a tokenizer beside them.
fn recipe(folder: &Path) -> PathBuf {
    let images = garments(folder, "images", 12, 0);
    let path = folder.join("recipe.yaml");
    let text = format!(
        "base: {}\nstages:\n  tokenizer: {{ kind: labels, columns: [{{ features: patches, clusters: clusters }}] }}\n  \
         clusters: {{ kind: kmeans, from: patches, clusters: 128, rounds: 20 }}\n  patches: {{ kind: patches, image: [28, 28], \
         patch: [4, 4] }}\ndata: \
         {{ source: {{ kind: idx, images: {}, labels: null }}, held_out: null, augment: {{ flip: 0 }} }}\n",
        root().join(CLUSTERS).display(),
        images.display()
    );
    std::fs::write(&path, text).expect("written");
    path
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    /// A key changes with what the artefact hangs on, and with nothing else. `which` says from which stage on: 0 patches,
    /// 1 clusters, 2 labels, 3 none.
    #[test]
    fn keys_change_when_they_must_and_only_then(pick in prop::collection::vec((0usize..22, 2u64..40), 1..4)) {
        let folder = tempfile::tempdir().expect("a folder");
        let (path, depot) = (recipe(folder.path()), Depot::at(folder.path().join("artefacts")));
        let before = keys(&path, &depot, &[]);
        let (mut sets, mut from) = (Vec::new(), 3);
        for (which, number) in pick {
            let (first, key, value) = match which {
                0 => (0, "stages.patches.patch".to_owned(), "[7, 7]".to_owned()),
                1 => (0, "stages.patches.image".to_owned(), "[56, 56]".to_owned()),
                2 => (0, "data.augment.pad".to_owned(), number.to_string()),
                3 => (0, "data.augment.mean".to_owned(), format!("[0.{number}1]")),
                4 => (0, "data.strict".to_owned(), "true".to_owned()),
                5 => (1, "stages.clusters.clusters".to_owned(), (number + 200).to_string()),
                6 => (1, "stages.clusters.seed".to_owned(), number.to_string()),
                7 => (1, "stages.clusters.rows".to_owned(), (number + 77).to_string()),
                8 => (1, "stages.clusters.levels".to_owned(), number.to_string()),
                9 => (1, "stages.clusters.batch".to_owned(), number.to_string()),
                10 => (2, "stages.tokenizer.columns".to_owned(),
                       "[{features: patches, clusters: clusters}, {features: patches, clusters: clusters}]".to_owned()),
                11 => (3, "seed".to_owned(), number.to_string()),
                12 => (3, "train.steps".to_owned(), number.to_string()),
                13 => (3, "data.batch.size".to_owned(), number.to_string()),
                14 => (3, "data.augment.flip".to_owned(), format!("0.{number}")),
                15 => (3, "data.augment.crop".to_owned(), "{scale: [0.5, 1.0]}".to_owned()),
                16 => (3, "method.encoder.depth".to_owned(), number.to_string()),
                17 => (3, "evaluate".to_owned(), "[]".to_owned()),
                18 => (3, "method.target.ids".to_owned(), number.to_string()),
                19 => (3, "stages.clusters.rounds".to_owned(), "20".to_owned()), // as it is
                20 => (3, "train.clip".to_owned(), number.to_string()),
                _ => (3, "stages.patches.patch".to_owned(), "[4, 4]".to_owned()), // as it is
            };
            if sets.iter().any(|set: &String| set.starts_with(&format!("{key}="))) {
                continue;
            }
            sets.push(format!("{key}={value}"));
            from = from.min(first);
        }
        let after = keys(&path, &depot, &sets);
        for keyed in &before {
            let place = ["patches", "clusters", "tokenizer"].iter().position(|name| *name == keyed.name);
            let now = after.iter().find(|other| other.name == keyed.name).map(|other| &other.key);
            prop_assert_eq!(now != Some(&keyed.key), place >= Some(from), "{} {:?}", &keyed.name, &sets);
        }
    }
}

/// Names, order and layout of the text are nothing; the bytes of the data are something, and so is the tokenizer's own
/// training, but for when it writes and what it measures.
#[test]
fn names_and_layout_are_nothing_and_bytes_are_something() {
    let folder = tempfile::tempdir().expect("a folder");
    let (path, depot) = (recipe(folder.path()), Depot::at(folder.path().join("artefacts")));
    let sorted = |keyed: Vec<Keyed>| {
        let mut keys: Vec<String> = keyed.into_iter().map(|keyed| keyed.key).collect();
        keys.sort();
        keys
    };
    let before = sorted(keys(&path, &depot, &[]));
    let text = std::fs::read_to_string(&path).expect("text");
    let renamed =
        text.replace("  patches: {", "  # the same\n  cells: {").replace("features: patches", "features: cells");
    let renamed = renamed
        .replace("from: patches", "from: cells")
        .replace("kind: patches, image: [28, 28],", "image: [28,\n    28], kind: patches,");
    assert_ne!(renamed, text);
    std::fs::write(&path, &renamed).expect("written");
    // What the base calls `patches` would be a stage that nothing uses.
    let base = std::fs::read_to_string(root().join(CLUSTERS)).expect("the base");
    assert!(base.contains("patches:"));
    let line = Resolved::read(&REGISTER, &path, &Overrides::default()).err().map(|error| error.to_string());
    assert!(line.is_some_and(|line| line.contains("stages.patches: nothing uses this stage")));
    let alone = renamed.replace(&root().join(CLUSTERS).display().to_string(), &root().join(BEIT).display().to_string());
    std::fs::write(&path, alone).expect("written");
    assert_eq!(sorted(keys(&path, &depot, &[])), before);
    std::fs::write(&path, &text).expect("written");
    garments(folder.path(), "images", 12, 1);
    let after = sorted(keys(&path, &depot, &[]));
    assert!(after.iter().all(|key| !before.contains(key)));
    garments(folder.path(), "images", 12, 0);
    assert_eq!(sorted(keys(&path, &depot, &[])), before);

    let tokenizer = |sets: &[&str]| {
        let images = folder.path().join("images");
        let mut all = vec![format!("data.source.images={}", images.display())];
        all.extend(["data.source.labels=null", "data.held_out=null"].iter().chain(sets).map(|set| (*set).to_owned()));
        keys(&root().join(BEIT), &depot, &all)[0].key.clone()
    };
    let own = tokenizer(&[]);
    for same in ["train.log_every=3", "train.checkpoint_every=7", "train.keep=9", "evaluate=[]"] {
        assert_eq!(tokenizer(&[&format!("stages.tokenizer.{same}")]), own, "{same}");
    }
    for other in ["train.steps=7", "seed=1", "method.codebook.codes=7", "data.batch.size=7", "train.clip=1"] {
        assert_ne!(tokenizer(&[&format!("stages.tokenizer.{other}")]), own, "{other}");
    }
    // Its data are the recipe's: training reads flips and batches, too.
    assert_ne!(tokenizer(&["data.augment.flip=0.25"]), own);
    assert_eq!(tokenizer(&["seed=4"]), own);
}

/// A resolved recipe reads back as itself, stages and all.
#[test]
fn resolved_stages_read_back() {
    for recipe in [BEIT, CLUSTERS, "experiments/image/beit.paper.yaml"] {
        let resolved = Resolved::read(&REGISTER, &root().join(recipe), &Overrides::default()).expect("a recipe");
        let again: Value = serde_yaml::from_str(&resolved.text()).expect("YAML");
        let again = Resolved::of(&REGISTER, Tree::from_value(again, "text"), &Overrides::default()).expect("again");
        assert_eq!(again.value, resolved.value, "{recipe}");
    }
}
