//! What the tests share: the program, run as its users run it, in the root of the repository.

pub mod pth;

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, Output, Stdio};
use std::sync::LazyLock;

use serde_json::Value;

/// The small recipe that most tests run.
pub const MAE: &str = "experiments/image/mae.yaml";

/// Keys that make a recipe one of seconds.
pub const TINY: [&str; 6] = [
    "train.steps=4",
    "data.batch.size=8",
    "method.encoder.depth=1",
    "method.predictor.depth=1",
    "train.schedule.warmup_steps=1",
    "evaluate=[]",
];

/// The root of the repository.
pub fn root() -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    root.canonicalize().expect("the crate lies two folders below the root")
}

/// The program itself.
pub fn program() -> &'static str {
    env!("CARGO_BIN_EXE_mask-image")
}

/// Another program in the root of the repository, in the same surroundings as ours.
pub fn other(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(program);
    command.current_dir(root()).env_remove("RUST_LOG").env_remove("RUST_BACKTRACE");
    command
}

/// The program with arguments.
pub fn mask<S: AsRef<OsStr>>(arguments: impl IntoIterator<Item = S>) -> Command {
    let mut command = other(program());
    command.args(arguments);
    command
}

/// `pretrain` of a recipe into a folder with changed keys.
pub fn pretrain(recipe: impl AsRef<OsStr>, out: &Path, sets: &[&str]) -> Command {
    let mut command = mask([OsStr::new("pretrain"), recipe.as_ref(), OsStr::new("--out"), out.as_os_str()]);
    set(&mut command, sets);
    command
}

/// Adds `--set`s.
pub fn set(command: &mut Command, sets: &[&str]) {
    command.args(sets.iter().flat_map(|set| ["--set", set]));
}

/// What a program said.
pub struct Said {
    pub code: Option<i32>,
    pub out: String,
    pub err: String,
}

impl From<Output> for Said {
    fn from(output: Output) -> Self {
        let text = |bytes| String::from_utf8(bytes).expect("the program writes UTF-8");
        Self { code: output.status.code(), out: text(output.stdout), err: text(output.stderr) }
    }
}

/// Runs a command to its end.
pub fn say(command: &mut Command) -> Said {
    command.output().expect("the program starts").into()
}

/// Runs a command that succeeds; gives its standard output.
pub fn done(command: &mut Command) -> String {
    let said = say(command);
    assert_eq!(said.code, Some(0), "{command:?}\n{}", said.err);
    said.out
}

/// Runs a command that succeeds with JSON.
pub fn json(command: &mut Command) -> Value {
    serde_json::from_str(&done(command)).expect("JSON on standard output")
}

/// Runs a command that is refused; gives the one line.
pub fn refused(command: &mut Command) -> String {
    say(command).error(2)
}

impl Said {
    /// The one line of an error with an exit code: the last one, logs before it, no panic.
    pub fn error(&self, code: i32) -> String {
        assert_eq!(self.code, Some(code), "{}\n{}", self.out, self.err);
        assert!(!self.err.contains("panicked") && !self.err.contains("stack backtrace"), "{}", self.err);
        assert_eq!(self.err.lines().filter(|line| line.starts_with("error: ")).count(), 1, "{}", self.err);
        let last = self.err.lines().last().unwrap_or_default();
        assert!(last.starts_with("error: "), "something follows the error: {}", self.err);
        last.to_owned()
    }
}

/// The rows of a file of metrics.
pub fn rows(path: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    text.lines().map(|line| serde_json::from_str(line).expect("a row is JSON")).collect()
}

/// The training losses of a run, by step.
pub fn losses(run: &Path) -> Vec<f64> {
    let rows = rows(&run.join("metrics.jsonl"));
    rows.iter().filter_map(|row| row.get("loss")).map(|loss| loss.as_f64().unwrap_or(f64::NAN)).collect()
}

/// File names in a folder, sorted.
pub fn names(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut names: Vec<String> =
        entries.map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

/// The checkpoint of a step.
pub fn checkpoint(run: &Path, step: u64) -> PathBuf {
    run.join(format!("checkpoints/step-{step:08}.safetensors"))
}

/// A finished run of a small model that takes pictures of any size, made once for all tests that only read it.
pub static RUN: LazyLock<PathBuf> = LazyLock::new(|| {
    let run = Path::new(env!("CARGO_TARGET_TMPDIR")).join("run-of-the-tests");
    if run.exists() {
        std::fs::remove_dir_all(&run).expect("last time's run can be removed");
    }
    let evaluate = "evaluate=[{kind: held_out, every: 2, samples: 16}, {kind: knn, every: 2, train: 60, test: 20}, \
                    {kind: linear, train: 60, test: 20}]";
    let mut command = pretrain(MAE, &run, &TINY);
    set(&mut command, &["data.augment.centre=0.875", "train.checkpoint_every=2", evaluate]);
    done(&mut command);
    run
});

/// A training process that is watched; killed where a test ends before it does.
pub struct Running {
    child: Child,
    err: BufReader<ChildStderr>,
    said: String,
}

impl Running {
    /// Starts a command and waits until it has its folder and trains.
    pub fn start(command: &mut Command) -> Self {
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("the program starts");
        let err = BufReader::new(child.stderr.take().expect("a pipe"));
        let mut running = Self { child, err, said: String::new() };
        while !running.said.contains("run folder") {
            let read = running.err.read_line(&mut running.said).expect("UTF-8");
            assert!(read > 0, "it ended before it trained: {}", running.said);
        }
        running
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Waits until `met` says so, or until it ended: then false.
    pub fn until(&mut self, mut met: impl FnMut() -> bool) -> bool {
        loop {
            if met() {
                return true;
            }
            if self.child.try_wait().expect("a child").is_some() {
                return false;
            }
            std::thread::yield_now();
        }
    }

    /// Sends a signal by its name.
    pub fn signal(&self, name: &str) {
        let kill = Command::new("kill").args([format!("-{name}"), self.id().to_string()]).status();
        assert!(kill.expect("kill").success());
    }

    /// Waits for its end. The code is none where a signal ended it.
    pub fn end(mut self) -> Said {
        self.err.read_to_string(&mut self.said).expect("UTF-8");
        let code = self.child.wait().expect("a child").code();
        Said { code, out: String::new(), err: std::mem::take(&mut self.said) }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Fails only where it has ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Name and content of every file in a folder, links as what they point to.
pub fn content(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let read = |name: String| std::fs::read(folder.join(&name)).ok().map(|bytes| (name, bytes));
    names(folder).into_iter().filter_map(read).collect()
}

/// Whether two finished runs have the same metrics and the same last checkpoint, bit for bit.
pub fn same_run(a: &Path, b: &Path, steps: u64) {
    let lines = |run: &Path| std::fs::read_to_string(run.join("metrics.jsonl")).expect("metrics");
    assert_eq!(lines(a), lines(b));
    let last = |run: &Path| std::fs::read(checkpoint(run, steps)).expect("the last checkpoint");
    assert!(last(a) == last(b), "the checkpoints of step {steps} differ");
}
