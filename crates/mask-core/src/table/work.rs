//! Runs the arms: each run is a process of its own, several at once, resumed where it stopped.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::Options;
use super::config::Scale;
use super::file::{Arm, Table};
use super::progress::Lines;
use crate::run::{Lock, Register, RunResult, changed_keys};
use crate::train::interrupted;
use crate::{Error, Result};

/// One run of one arm.
#[derive(Clone, Debug)]
pub(super) struct Run {
    /// The arm's number in the scale's list.
    pub arm: usize,
    pub seed: u64,
    pub folder: PathBuf,
    /// Steps of the whole run.
    pub steps: u64,
}

impl Run {
    /// Whether it is finished.
    pub fn done(&self) -> bool {
        RunResult::path(&self.folder).is_file()
    }

    /// Steps that it has done, as its record of seconds tells.
    pub fn step(&self) -> u64 {
        let text = std::fs::read_to_string(self.folder.join("timing.jsonl")).unwrap_or_default();
        let step = |line: &str| serde_json::from_str::<serde_json::Value>(line).ok()?.get("step")?.as_u64();
        text.lines().rev().find_map(step).unwrap_or(0)
    }

    fn begun(&self) -> bool {
        let checkpoints = self.folder.join("checkpoints");
        self.folder.join("recipe.yaml").is_file()
            || std::fs::read_dir(checkpoints).is_ok_and(|mut all| all.next().is_some())
    }

    fn log(&self) -> PathBuf {
        self.folder.join("log.txt")
    }
}

/// Where the runs of a table lie.
pub(super) fn folder(table: &Table, scale: Scale) -> PathBuf {
    Path::new("runs/tables").join(&table.name).join(scale.word())
}

/// All runs of a table at a scale, seed by seed, so that a table that was stopped has as many arms as may be.
///
/// # Errors
/// A recipe that can't be resolved; a folder that holds a run of another recipe.
pub(super) fn runs(register: &Register, table: &Table, scale: Scale, seeds: &[u64]) -> Result<Vec<Run>> {
    let arms = table.arms_at(scale)?;
    let mut runs = Vec::new();
    for seed in seeds {
        for (number, arm) in arms.iter().enumerate() {
            let resolved = table.resolve(register, arm, *seed)?;
            let folder = folder(table, scale).join(&arm.folder).join(seed.to_string());
            if folder.join("recipe.yaml").is_file() {
                let changed = changed_keys(&folder, register, &resolved)?;
                if !changed.is_empty() {
                    let problem = format!(
                        "holds a run of another recipe than arm '{}' has now: {} differ; remove it (or all of {}) to run it anew",
                        arm.name,
                        changed.join(", "),
                        self::folder(table, scale).display()
                    );
                    return Err(Error::file(&folder, problem));
                }
            }
            runs.push(Run { arm: number, seed: *seed, folder, steps: resolved.config.train.steps });
        }
    }
    Ok(runs)
}

/// This program with arguments.
pub(super) fn program() -> Result<Command> {
    let path = std::env::current_exe().map_err(Error::io("this program", "finding it"))?;
    Ok(Command::new(path))
}

/// A process that runs, and who it is.
struct Working {
    run: usize,
    id: Pid,
}

/// Runs all that isn't finished.
///
/// # Errors
/// The first run that fails, with its own last line; an interruption, after the runs saved their state.
pub(super) fn work(table: &Table, arms: &[Arm], runs: &[Run], options: &Options, scale: Scale) -> Result<()> {
    let root = folder(table, scale);
    std::fs::create_dir_all(&root).map_err(Error::io(&root, "making the folder of the runs"))?;
    let _lock = Lock::take(&root)?;
    let mut waiting: Vec<usize> = (0..runs.len()).rev().filter(|run| !runs[*run].done()).collect();
    let left: u64 = waiting.iter().map(|run| runs[*run].steps.saturating_sub(runs[*run].step())).sum();
    tracing::info!(
        "{}, {}: {} of {} runs to do, {left} steps, {} at once, run folder {}",
        table.name,
        scale.word(),
        waiting.len(),
        runs.len(),
        options.jobs,
        root.display()
    );
    let mut lines = Lines::new(arms, runs);
    let (send, ended) = channel();
    let mut working: Vec<Working> = Vec::new();
    let mut failed: Option<Error> = None;
    let mut stopped = false;
    loop {
        while failed.is_none() && !interrupted() && working.len() < options.jobs {
            let Some(number) = waiting.pop() else { break };
            match start(&arms[runs[number].arm], &runs[number], options, number, send.clone()) {
                Ok(id) => working.push(Working { run: number, id }),
                Err(error) => failed = Some(error),
            }
        }
        if working.is_empty() {
            break;
        }
        if (failed.is_some() || interrupted()) && !stopped {
            stopped = true;
            for child in &working {
                // Fails only where it has just ended.
                let _ = kill(child.id, Signal::SIGINT);
            }
        }
        match ended.recv_timeout(Duration::from_millis(200)) {
            Ok((number, status)) => {
                working.retain(|child| child.run != number);
                let run = &runs[number];
                if let Err(error) = check(&arms[run.arm], run, status) {
                    failed = failed.or(if stopped { None } else { Some(error) });
                } else {
                    lines.done(run);
                    failed = failed.or(early(table, arms, runs).err());
                }
            }
            Err(RecvTimeoutError::Timeout) => drop(lines.show(runs)),
            Err(RecvTimeoutError::Disconnected) => break,
        }
    }
    lines.finish();
    if let Some(error) = failed {
        return Err(error);
    }
    let done = runs.iter().filter(|run| run.done()).count();
    if done < runs.len() {
        return Err(Error::Halted(format!(
            "{done} of {} runs are done and the others saved their state; the same command goes on",
            runs.len()
        )));
    }
    Ok(())
}

/// Once every arm has a finished run: a metric that none of them measured is no reason to run the others.
fn early(table: &Table, arms: &[Arm], runs: &[Run]) -> Result<()> {
    let done: Vec<&Run> = runs.iter().filter(|run| run.done()).collect();
    if !(0..arms.len()).all(|arm| done.iter().any(|run| run.arm == arm)) {
        return Ok(());
    }
    let results = done.iter().map(|run| RunResult::read(&run.folder)).collect::<Result<Vec<_>>>()?;
    super::measured(table, results.iter())
}

/// Starts a run; its end is sent with its number.
fn start(arm: &Arm, run: &Run, options: &Options, number: usize, ended: Sender<(usize, ExitStatus)>) -> Result<Pid> {
    use std::os::unix::process::CommandExt;
    std::fs::create_dir_all(&run.folder).map_err(Error::io(&run.folder, "making the run's folder"))?;
    let path = run.log();
    let log = File::options().create(true).append(true).open(&path).map_err(Error::io(&path, "opening the log"))?;
    let mut command = program()?;
    command.arg("pretrain").arg(&arm.recipe).arg("--out").arg(&run.folder).args(["--seed", &run.seed.to_string()]);
    command.args(["--threads", &options.threads.to_string(), "--device", &options.device]);
    for set in &arm.sets {
        command.args(["--set", set]);
    }
    if run.begun() {
        command.arg("--resume");
    }
    // In a group of its own, so that Ctrl-C reaches it once, through us.
    command.process_group(0).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
    let mut child: Child = command.spawn().map_err(Error::io(&run.folder, "starting the run"))?;
    let id = Pid::from_raw(i32::try_from(child.id()).unwrap_or(i32::MAX));
    let waited = std::thread::Builder::new().name("run".to_owned()).spawn(move || {
        if let Ok(status) = child.wait() {
            // Nobody listens any more where this program ends first.
            let _ = ended.send((number, status));
        }
    });
    waited.map(|_| id).map_err(Error::io(&run.folder, "waiting for the run"))
}

/// A run that ended well has its result.
fn check(arm: &Arm, run: &Run, status: ExitStatus) -> Result<()> {
    if status.success() && run.done() {
        return Ok(());
    }
    let log = std::fs::read_to_string(run.log()).unwrap_or_default();
    let line = log.lines().rev().find_map(|line| line.strip_prefix("error: "));
    let line = line.map_or_else(|| format!("it ended with {status}"), str::to_owned);
    Err(Error::value(format!("arm '{}', seed {}", arm.name, run.seed), format!("{line} (see {})", run.log().display())))
}
