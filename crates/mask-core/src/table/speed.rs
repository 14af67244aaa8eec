//! Seconds a step of two arms, measured in turns, apart from training.

use std::path::Path;
use std::process::Stdio;

use serde::{Deserialize, Serialize};

use super::Options;
use super::config::Scale;
use super::file::{Arm, Table};
use super::results::SpeedResult;
use super::work::{folder, program};
use crate::train::interrupted;
use crate::{Error, Result, store};

/// Turns, and steps measured in each.
const TURNS: usize = 5;
const STEPS: usize = 20;
/// A turn in which a processor worked for it less than this share of the time was disturbed: it is run again, at most so
/// many times, and the quietest is kept.
const QUIET: f64 = 0.95;
const TRIES: usize = 3;

/// What is kept beside the runs, so that a table that goes on measures it once.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Kept {
    /// The recipes and changes that were measured, by arm.
    of: Vec<(String, String)>,
    threads: usize,
    measured: Vec<SpeedResult>,
}

/// What `bench --json` says of this.
#[derive(Deserialize)]
struct Bench {
    seconds_a_step: f64,
    step_seconds: Vec<f64>,
    step_processor_seconds: Vec<f64>,
}

/// All comparisons of seconds a step that the claims of a scale ask for.
///
/// # Errors
/// A benchmark that fails, an interruption.
pub(super) fn measure(table: &Table, arms: &[Arm], options: &Options, scale: Scale) -> Result<Vec<SpeedResult>> {
    let mut pairs: Vec<[&Arm; 2]> = Vec::new();
    for speed in table.claims_at(arms).iter().flat_map(|claim| claim.speed()) {
        let arm = |name: &str| arms.iter().find(|arm| arm.name == name);
        if let (Some(fast), Some(slow)) = (arm(&speed.faster), arm(&speed.than))
            && !pairs.iter().any(|[a, b]| a.name == fast.name && b.name == slow.name)
        {
            pairs.push([fast, slow]);
        }
    }
    if pairs.is_empty() {
        return Ok(Vec::new());
    }
    let path = folder(table, scale).join("speed.json");
    let what = |arm: &&Arm| (arm.name.clone(), format!("{} {}", arm.recipe.display(), arm.sets.join(" ")));
    let of: Vec<(String, String)> = pairs.iter().flatten().map(what).collect();
    if let Some(kept) = kept(&path)?.filter(|kept| kept.of == of && kept.threads == options.threads) {
        return Ok(kept.measured);
    }
    let mut measured = Vec::new();
    for pair in pairs {
        tracing::info!(
            "seconds a step of '{}' and '{}', {TURNS} turns; leave the machine alone",
            pair[0].name,
            pair[1].name
        );
        measured.push(race(pair, options)?);
    }
    let kept = Kept { of, threads: options.threads, measured };
    let text = serde_json::to_string(&kept).map_err(|error| Error::Defect(error.to_string()))?;
    store::write_bytes(&path, text.as_bytes())?;
    Ok(kept.measured)
}

fn kept(path: &Path) -> Result<Option<Kept>> {
    match std::fs::read(path) {
        Ok(bytes) => serde_json::from_slice(&bytes)
            .map(Some)
            .map_err(|error| Error::file(path, format!("is no record of a table's speed: {error}; remove it"))),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Error::io(path, "reading the speed")(error)),
    }
}

fn race(pair: [&Arm; 2], options: &Options) -> Result<SpeedResult> {
    let (mut seconds, mut quiet) = (Vec::new(), None::<f64>);
    for _ in 0..TURNS {
        let mut best: Option<([f64; 2], Option<f64>)> = None;
        for _ in 0..TRIES {
            let [fast, slow] = [bench(pair[0], options)?, bench(pair[1], options)?];
            let share = fast.1.zip(slow.1).map(|(a, b)| a.min(b));
            if best.is_none_or(|(_, before)| share > before) {
                best = Some(([fast.0, slow.0], share));
            }
            if share.is_none_or(|share| share >= QUIET) {
                break;
            }
        }
        if let Some((turn, share)) = best {
            seconds.push(turn);
            quiet = share.map(|share| quiet.map_or(share, |least| least.min(share))).or(quiet);
        }
    }
    let name = |arm: &Arm| arm.name.clone();
    Ok(SpeedResult { faster: name(pair[0]), than: name(pair[1]), seconds, quiet })
}

/// Seconds a step, and the share of them in which a processor worked for it.
fn bench(arm: &Arm, options: &Options) -> Result<(f64, Option<f64>)> {
    let mut command = program()?;
    command.arg("bench").arg(&arm.recipe).args(["--json", "--measure", &STEPS.to_string()]);
    command.args(["--threads", &options.threads.to_string(), "--device", &options.device]);
    for set in &arm.sets {
        command.args(["--set", set]);
    }
    let output = command.stdin(Stdio::null()).output().map_err(Error::io(&arm.recipe, "starting the benchmark"))?;
    if interrupted() {
        return Err(Error::Halted(
            "all runs are done, their speed isn't measured; the same command goes on".to_owned(),
        ));
    }
    let refuse = |problem: String| Error::value(format!("the benchmark of arm '{}'", arm.name), problem);
    if !output.status.success() {
        let err = String::from_utf8_lossy(&output.stderr);
        let line = err.lines().rev().find_map(|line| line.strip_prefix("error: "));
        return Err(refuse(line.map_or_else(|| format!("ended with {}", output.status), str::to_owned)));
    }
    let bench: Bench = serde_json::from_slice(&output.stdout).map_err(|error| refuse(error.to_string()))?;
    let (all, worked): (f64, f64) = (bench.step_seconds.iter().sum(), bench.step_processor_seconds.iter().sum());
    let share = (worked > 0.0 && all > 0.0).then(|| (worked / all / options.threads as f64).min(1.0));
    Ok((bench.seconds_a_step, share))
}
