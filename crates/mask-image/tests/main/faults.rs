//! What can go wrong outside a file: options, folders, disks, data that isn't finite. Each ends in one line, and
//! nothing that was there is lost.

use std::fs;
use std::path::Path;
use std::process::Command;

use image::{GrayImage, Luma};

use crate::common::{
    MAE, RUN, Running, TINY, checkpoint, content, done, losses, mask, names, other, pretrain, program, refused, rows,
    same_run, say, set,
};

/// A refused command and a part of its line.
fn line(mut command: Command, wanted: &str) {
    let line = refused(&mut command);
    assert!(line.contains(wanted), "{command:?}\nwanted {wanted}\nfound  {line}");
}

fn tiny(run: &Path, more: &[&str]) -> Command {
    let mut command = pretrain(MAE, run, &TINY);
    set(&mut command, more);
    command
}

#[test]
fn options_that_can_not_be_used() {
    let temp = tempfile::tempdir().expect("a folder");
    let out = temp.path().join("out");
    let text = out.to_str().expect("UTF-8");
    for (arguments, wanted) in [
        (vec!["pretrian"], "unrecognized subcommand 'pretrian'"),
        (vec!["pretrain"], "required arguments were not provided: <RECIPE>"),
        (vec!["pretrain", "nowhere.yaml"], "error: nowhere.yaml: there is no such recipe file"),
        (vec!["pretrain", "datasets"], "error: datasets: is a folder without recipe.yaml"),
        (vec!["pretrain", MAE, "--device", "gpu"], "--device <DEVICE>': expected auto, cpu, cuda or cuda:N"),
        (vec!["pretrain", MAE, "--device", "cuda:7"], "invalid value 'cuda:7' for '--device <DEVICE>': "),
        (vec!["pretrain", MAE, "--threads", "0"], "0 is not in 1..=4096"),
        (vec!["pretrain", MAE, "--threads", "many"], "invalid value 'many' for '--threads <THREADS>'"),
        (vec!["pretrain", MAE, "--stpes", "3"], "unexpected argument '--stpes'"),
        (vec!["pretrain", MAE, "--set", "seed"], "error: --set seed: expected key.path=value"),
        (vec!["pretrain", MAE, "--set", "seed=x"], "--set seed=x: seed: expected a whole number (0 or more)"),
        (vec!["pretrain", MAE, "--set", "train.stpes=3"], "train has no key 'stpes', did you mean 'steps'?"),
        (vec!["pretrain", MAE, "--steps", "0"], "--set train.steps=0: train.steps: 0 is too small"),
        (vec!["masks", MAE, "--out", text, "--count", "0"], "0 is not in 1..="),
        (vec!["masks", MAE, "--out", text, "--grid", "0,14"], "--grid: takes one to three sizes of at least 1"),
        (vec!["masks", MAE, "--out", text, "--grid", "100000,100000"], "--grid: takes one to three sizes"),
        (
            vec!["masks", "experiments/image/simmim.yaml", "--out", text, "--grid", "7,7"],
            "method.mask.cell: a cell of 2 tokens doesn't divide the grid [7, 7]",
        ),
        (vec!["probe"], "required arguments were not provided"),
        (vec!["probe", "datasets"], "error: datasets/checkpoints: holds no checkpoint of a run"),
        (vec!["probe", "nowhere", "--kind", "lniear"], "invalid value 'lniear' for '--kind <KIND>'"),
        (vec!["eval", "nowhere"], "error: nowhere: does not exist"),
        (vec!["eval", MAE], "error: experiments/image/mae.yaml: claims a header of"),
        (vec!["eval", "nowhere", "--samples", "0"], "0 is not in 1.."),
        (vec!["embed", "--hf", "nowhere", "--data", "datasets", "--out", text], "error: nowhere: is no folder"),
        (vec!["forward", "--hf", "datasets", "--inputs", "x", "--out", text], "config.json: is missing"),
        (vec!["bench", MAE, "--measure", "0"], "0 is not in 1..=10000"),
    ] {
        line(mask(&arguments), wanted);
    }
    assert!(!out.exists());
}

#[test]
fn hugging_face_folders_that_lack_a_file() {
    let temp = tempfile::tempdir().expect("a folder");
    let golden = crate::common::root().join("crates/mask-image/tests/golden/vit_mae");
    let hf = temp.path().to_str().expect("UTF-8");
    let forward = |inputs: &str, out: &str| mask(["forward", "--hf", hf, "--inputs", inputs, "--out", out]);
    fs::copy(golden.join("config.json"), temp.path().join("config.json")).expect("a copy");
    line(forward("x", "y"), "model.safetensors: does not exist");
    fs::copy(golden.join("model.safetensors"), temp.path().join("model.safetensors")).expect("a copy");
    line(forward("nowhere", "y"), "error: nowhere: does not exist");
    let inputs = golden.join("io.safetensors");
    let inputs = inputs.to_str().expect("UTF-8");
    line(forward(inputs, "nowhere/y"), "error: nowhere/y: writing failed: No such file");
    // Weights that were cut anywhere, as an interrupted download leaves them.
    let whole = fs::read(golden.join("model.safetensors")).expect("weights");
    for share in [1, 30, 99] {
        fs::write(temp.path().join("model.safetensors"), &whole[..whole.len() * share / 100]).expect("a cut file");
        line(forward(inputs, "y"), "is cut off");
    }
}

#[test]
fn folders_of_runs_are_not_overwritten() {
    let temp = tempfile::tempdir().expect("a folder");
    let run = temp.path().join("run");
    let resume = |more: &[&str]| {
        let mut command = tiny(&run, more);
        command.arg("--resume");
        command
    };
    line(resume(&[]), "run: holds no run to resume; start it without --resume");
    assert!(!run.exists());
    let file = temp.path().join("file");
    fs::write(&file, "mine").expect("a file");
    line(tiny(&file, &[]), "file: is a file, --out takes a folder");
    line(tiny(&file.join("below"), &[]), "making the run's folder failed: Not a directory");
    assert_eq!(fs::read_to_string(&file).expect("a file"), "mine");

    done(tiny(&run, &["train.checkpoint_every=1"]).args(["--stop-at", "2"]));
    let before = (content(&run), content(&run.join("checkpoints")));
    let unchanged = || assert!(before == (content(&run), content(&run.join("checkpoints"))));
    line(tiny(&run, &[]), "run: holds a run already; go on with --resume, or choose another folder with --out");
    let other = ["train.optimiser.rate=1e-4", "seed=3", "method.encoder.dropout=0.2", "train.keep=7"];
    let wanted = "was begun with another recipe: seed, method.encoder.dropout, train.optimiser.rate differ";
    line(resume(&other), wanted);
    unchanged();
    // What changes no number may change.
    let free = ["train.keep=7", "train.keep_every=2", "train.log_every=1", "train.checkpoint_every=3"];
    done(&mut resume(&free));
    assert_eq!(losses(&run).len(), 4);
    assert!(fs::read_to_string(run.join("recipe.yaml")).expect("the recipe").contains("keep: 7"));
}

#[test]
fn a_second_run_in_the_same_folder_is_refused() {
    let temp = tempfile::tempdir().expect("a folder");
    let run = temp.path().join("run");
    let steps = ["train.steps=1000000", "train.checkpoint_every=1000000"];
    let mut first = Running::start(&mut tiny(&run, &steps));
    line(tiny(&run, &steps), "holds a run already");
    let mut second = tiny(&run, &steps);
    second.args(["--resume", "--stop-at", "1"]);
    line(second, "run: another run is using this folder; wait for it or choose another with --out");
    assert!(first.until(|| true), "the first run went on all the while");
    first.signal("KILL");
    assert_eq!(first.end().code, None);
    // The lock went with the process.
    done(tiny(&run, &steps).args(["--resume", "--stop-at", "1"]));
}

/// The program with files of at most so many kilobytes: what a full disk or a quota does to it.
fn limited(kilobytes: u32, command: &Command) -> Command {
    let mut bash = other("bash");
    let script = format!("trap '' XFSZ; ulimit -f {kilobytes}; exec \"$0\" \"$@\"");
    bash.arg("-c").arg(script).arg(program()).args(command.get_args());
    bash
}

#[test]
fn a_full_disk_leaves_the_older_checkpoints() {
    let temp = tempfile::tempdir().expect("a folder");
    let (run, alone) = (temp.path().join("run"), temp.path().join("alone"));
    let every = ["train.checkpoint_every=1"];
    done(&mut tiny(&alone, &every));
    done(tiny(&run, &every).args(["--stop-at", "2"]));
    let folder = run.join("checkpoints");
    let before = content(&folder);
    let mut resume = tiny(&run, &every);
    resume.arg("--resume");
    // A checkpoint has about a megabyte, the other files a few kilobytes.
    line(limited(500, &resume), "checkpoints/step-00000003.safetensors: writing failed: File too large");
    assert!(content(&folder) == before, "{:?}", names(&folder));
    line(limited(0, &resume), "recipe.yaml: writing failed: File too large");
    assert!(content(&folder) == before && !names(&run).iter().any(|name| name.contains("tmp")));
    done(mask(["eval"]).arg(&run));
    done(&mut resume);
    same_run(&run, &alone, 4);
    // Other files are whole or not there, too.
    let out = temp.path().join("masks.safetensors");
    let mut masks = mask(["masks", MAE, "--count", "10000", "--out"]);
    line(limited(100, masks.arg(&out)), "masks.safetensors: writing failed: File too large");
    assert!(!names(temp.path()).iter().any(|name| name.contains("masks")));
}

#[test]
fn a_damaged_last_checkpoint_is_named_with_the_way_on() {
    let temp = tempfile::tempdir().expect("a folder");
    let (run, alone) = (temp.path().join("run"), temp.path().join("alone"));
    let every = ["train.checkpoint_every=2"];
    for run in [&run, &alone] {
        done(&mut tiny(run, &every));
    }
    let last = checkpoint(&run, 4);
    let whole = fs::read(&last).expect("a checkpoint");
    let mut resume = tiny(&run, &every);
    resume.arg("--resume");
    for damaged in [&whole[..whole.len() / 2], b"", b"PK\x03\x04 pickled"] {
        fs::write(&last, damaged).expect("a damaged file");
        let said = refused(&mut resume);
        assert!(
            said.contains("step-00000004.safetensors: is ") && said.ends_with("remove it to go on from step 2"),
            "{said}"
        );
        assert_eq!(fs::read(&last).expect("the file"), damaged);
    }
    fs::remove_file(&last).expect("the advice");
    done(&mut resume);
    same_run(&run, &alone, 4);
}

/// Squares of 8 x 8 pixels of one grey, 0.png, 1.png and so on.
fn squares(folder: &Path, greys: &[u8]) {
    fs::create_dir_all(folder).expect("a folder");
    for (number, grey) in greys.iter().enumerate() {
        let path = folder.join(format!("{number}.png"));
        GrayImage::from_pixel(8, 8, Luma([*grey])).save(path).expect("a picture");
    }
}

/// A recipe over squares, all of them trained on.
fn over(folder: &Path, run: &Path, more: &[&str]) -> Command {
    let source = format!("{{kind: folder, path: {}}}", folder.display());
    let mut command = tiny(run, &["method.encoder.image=[8, 8]", "data.batch.size=2", "train.steps=6"]);
    set(&mut command, &[&format!("data.source={source}"), &format!("data.held_out={source}")]);
    set(&mut command, more);
    command
}

#[test]
fn a_loss_that_is_not_finite_stops_or_is_skipped() {
    let temp = tempfile::tempdir().expect("a folder");
    let (data, skip, stop) = (temp.path().join("data"), temp.path().join("skip"), temp.path().join("stop"));
    squares(&data, &[0, 0, 0, 255, 0, 0]);
    // Black is 0 whatever the deviation; white becomes infinite.
    let odd = ["data.augment.mean=[0.0]", "data.augment.std=[1e-39]", "train.checkpoint_every=1", "seed=4"];
    let skipping = [&odd[..], &["train.nonfinite=skip"]].concat();
    let said = say(&mut over(&data, &skip, &skipping));
    assert_eq!(said.code, Some(0), "{}", said.err);
    let metrics = rows(&skip.join("metrics.jsonl"));
    let dropped: Vec<u64> =
        metrics.iter().filter(|row| row.get("dropped").is_some()).filter_map(|row| row["step"].as_u64()).collect();
    // Two epochs of three steps, the white square once in each.
    assert!(dropped.len() == 2 && dropped[0] > 1, "choose another seed: {dropped:?}");
    assert!(said.err.contains(&format!("step {}: the loss or the gradient is not finite", dropped[0])));
    let finite = losses(&skip).iter().filter(|loss| loss.is_finite()).count();
    assert_eq!(finite, 4);

    let line = refused(&mut over(&data, &stop, &odd));
    assert!(line.starts_with(&format!("error: step {}: the loss or the gradient is not finite (samples ", dropped[0])));
    let samples = line.split("(samples ").nth(1).and_then(|rest| rest.split(')').next()).expect("the samples");
    assert!(samples.split(", ").any(|id| id == "3"), "{line}");
    let last = checkpoint(&stop, dropped[0] - 1);
    assert!(line.contains(&format!("the last good checkpoint is {}", last.display())) && last.is_file(), "{line}");
    // The line's own advice.
    done(over(&data, &stop, &skipping).arg("--resume"));
    same_run(&stop, &skip, 6);
}

#[test]
fn pictures_that_can_not_be_read_are_skipped_and_named() {
    let temp = tempfile::tempdir().expect("a folder");
    let data = temp.path().join("data");
    squares(&data, &[0, 50, 100, 150, 200]);
    fs::write(data.join("bad.png"), "no picture").expect("a file");
    let run = temp.path().join("run");
    let said = say(&mut over(&data, &run, &["train.steps=3"]));
    assert_eq!(said.code, Some(0), "{}", said.err);
    assert_eq!(said.err.matches("bad.png: ").count(), 1, "{}", said.err);
    assert!(said.out.contains("1 samples could not be read and were skipped"), "{}", said.out);
    let metrics = rows(&run.join("metrics.jsonl"));
    assert_eq!(metrics.iter().filter(|row| row["skipped"] == 1.0).count(), 1);

    let strict = temp.path().join("strict");
    line(over(&data, &strict, &["train.steps=3", "data.strict=true"]), "data/bad.png: is no JPEG, PNG or WebP image");

    let out = temp.path().join("features.safetensors");
    let golden = "crates/mask-image/tests/golden/simmim_vit";
    let mut embed = mask(["embed", "--hf", golden, "--data"]);
    embed.arg(&data).arg("--out").arg(&out);
    let said = say(&mut embed);
    assert!(said.code == Some(0) && said.out.contains("; 1 skipped") && said.err.contains("bad.png"), "{}", said.err);

    for name in names(&data) {
        fs::write(data.join(name), "no picture").expect("a file");
    }
    line(over(&data, &temp.path().join("none"), &[]), "data.source: none of the 6 images can be read: ");
    let empty = temp.path().join("empty");
    fs::create_dir(&empty).expect("a folder");
    line(over(&empty, &temp.path().join("none"), &[]), "empty: holds no jpg, jpeg, jpe, jfif, png, webp file");
    assert!(!temp.path().join("none").exists());
}

/// A run is read, never written, by the verbs that look at it.
#[test]
fn looking_changes_nothing() {
    let before = (content(&RUN), content(&RUN.join("checkpoints")));
    let run = RUN.to_str().expect("UTF-8");
    line(mask(["probe", run, "--set", "method.encoder.width=32"]), "expected");
    line(mask(["show", run, "--out", "nowhere/x.png"]), "nowhere/x.png: writing failed");
    line(mask(["embed", run, "--data", "nowhere", "--out", "x"]), "nowhere: does not exist");
    assert!(before == (content(&RUN), content(&RUN.join("checkpoints"))));
}
