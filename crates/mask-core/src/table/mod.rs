//! Tables: the arms of a claim, run over seeds, with a verdict beside the paper's own figures.
//!
//! A file `experiments/<modality>/tables/<name>.yaml` says, before the runs, what is compared and by which rule. Its
//! runs lie below `runs/tables/<name>`, each a process of its own; what they measured is gathered in
//! `experiments/<modality>/results/<name>.json`, from which page, picture, `list` and quoted figures are made.
//!
//! The rule: the 95 % interval of the difference of two means lies beyond the claim's margin (reproduced), on the other
//! side (not reproduced) or across it (undecided). The standard deviation is pooled over all arms of the table, the
//! quantile is Student's with the degrees of freedom of that. Arms share their seeds, so that what is drawn is the
//! same for all of them where they don't differ.

mod check;
mod config;
mod file;
mod page;
mod progress;
mod results;
mod speed;
mod statistics;
#[cfg(test)]
mod tests;
mod work;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

pub use check::check;
pub use config::{
    ArmConfig, Better, ClaimConfig, MeansConfig, MetricConfig, Names, Scale, ScaleConfig, ScalesConfig, SpeedConfig,
    TableConfig,
};
pub use file::{Arm, Table};
pub use results::{ArmResult, BaselineResult, Claimed, Compared, Results, SpeedResult, Spread};
pub use statistics::Verdict;

use crate::run::{Numbers, Register, RunResult};
use crate::{Error, Named, Result, store};
use work::Run;

/// How a table is run.
#[derive(Clone, Debug)]
pub struct Options {
    /// The seeds; none = those of the table's file.
    pub seeds: Option<Vec<u64>>,
    /// Runs at once.
    pub jobs: usize,
    /// Threads of a run.
    pub threads: usize,
    /// Device of a run, as `pretrain` takes it.
    pub device: String,
    /// Where the results go; none = where `list` and `--check` look for them.
    pub out: Option<PathBuf>,
    /// The command, to stand in the results.
    pub command: String,
}

/// The folder of a modality's recipes.
fn experiments(register: &Register) -> PathBuf {
    Path::new("experiments").join(register.modality)
}

/// Names of files with an ending in a folder, without the ending, sorted.
fn named(folder: &Path, ending: &str) -> Vec<String> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries
        .filter_map(|entry| Some(entry.file_name().to_str()?.strip_suffix(ending)?.to_owned()))
        .filter(|name| !name.is_empty() && !name.starts_with('.'))
        .collect();
    names.sort();
    names
}

/// The names of all tables of a modality, sorted.
#[must_use]
pub fn tables(register: &Register) -> Vec<String> {
    named(&experiments(register).join("tables"), ".yaml")
}

/// The file of a table by its name.
///
/// # Errors
/// There is none of this name.
pub fn find(register: &Register, name: &str) -> Result<PathBuf> {
    let folder = experiments(register).join("tables");
    let all = tables(register);
    if all.iter().any(|there| there == name) {
        return Ok(folder.join(format!("{name}.yaml")));
    }
    let there = if all.is_empty() { "There is none".to_owned() } else { format!("There are {}", all.join(", ")) };
    Err(Error::value("table", format!("there is no '{name}' in {}. {there}", folder.display())))
}

/// A results file's name without ending.
fn stem(table: &str, scale: Scale) -> String {
    match scale {
        Scale::Mini => table.to_owned(),
        Scale::Paper => format!("{table}.paper"),
    }
}

/// The results file of a table.
fn results_path(register: &Register, table: &str, scale: Scale) -> PathBuf {
    experiments(register).join("results").join(format!("{}.json", stem(table, scale)))
}

/// The results of a table, where it was run.
///
/// # Errors
/// A damaged file.
pub fn results(register: &Register, table: &str, scale: Scale) -> Result<Option<Results>> {
    let path = results_path(register, table, scale);
    if path.is_file() { Results::read(&path).map(Some) } else { Ok(None) }
}

/// Runs what isn't finished of a table, and writes its results; gives them with the page's path.
///
/// # Errors
/// A table that doesn't fit, a run that fails, an interruption after which the same call goes on.
pub fn run(register: &Register, table: &Table, scale: Scale, options: &Options) -> Result<(Results, PathBuf)> {
    let arms = table.arms_at(scale)?;
    let seeds = options.seeds.clone().unwrap_or_else(|| (0..u64::from(table.config.seeds)).collect());
    let runs = work::runs(register, table, scale, &seeds)?;
    work::work(table, &arms, &runs, options, scale)?;
    let mut results = gather(table, &arms, &runs, scale, &seeds, options)?;
    results.speed = speed::measure(table, &arms, options, scale)?;
    let results = results.derive(table)?;
    let folder = options.out.clone().unwrap_or_else(|| experiments(register).join("results"));
    let page = write(&results, &folder)?;
    Ok((results, page))
}

/// Makes a table's results anew from the numbers that they hold and the table's file: after a change of its notes, its
/// claims or the paper's figures. Gives the page's path, none where there are no results.
///
/// # Errors
/// As [`Results::read`]; an arm or a metric that wasn't measured.
pub fn rewrite(register: &Register, table: &Table, scale: Scale) -> Result<Option<PathBuf>> {
    let Some(old) = results(register, &table.name, scale)? else { return Ok(None) };
    let path = results_path(register, &table.name, scale);
    if let Some(problem) = check::misfits(&old, table)?.first() {
        return Err(Error::file(&path, problem.clone()));
    }
    write(&old.derive(table)?, &experiments(register).join("results")).map(Some)
}

/// Writes JSON, picture and page.
fn write(results: &Results, folder: &Path) -> Result<PathBuf> {
    std::fs::create_dir_all(folder).map_err(Error::io(folder, "making the folder of the results"))?;
    let path = |ending: &str| folder.join(format!("{}.{ending}", results.stem()));
    store::write_bytes(&path("json"), results.text()?.as_bytes())?;
    store::write_bytes(&path("svg"), results.picture().as_bytes())?;
    store::write_bytes(&path("md"), results.page().as_bytes())?;
    Ok(path("md"))
}

/// Distinct texts in their order.
fn distinct<'a>(texts: impl Iterator<Item = &'a str>) -> String {
    let mut found: Vec<&str> = Vec::new();
    for text in texts {
        if !found.contains(&text) {
            found.push(text);
        }
    }
    found.join("; ")
}

/// The day of a moment, as 2025-11-25.
fn day(moment: SystemTime) -> String {
    time::OffsetDateTime::from(moment).date().to_string()
}

/// That each metric is in some result: an arm of another method may lack one.
fn measured<'a>(table: &Table, results: impl Iterator<Item = &'a RunResult>) -> Result<()> {
    let results: Vec<&RunResult> = results.collect();
    let there: BTreeSet<&str> = results.iter().flat_map(|result| result.metrics.keys()).map(String::as_str).collect();
    for metric in &table.config.metrics {
        if !results.iter().any(|result| result.metric(&metric.name).is_some()) {
            let problem = format!("no run measured '{}'; there are {}", metric.name, Vec::from_iter(there).join(", "));
            return Err(Error::file(&table.file, problem));
        }
    }
    Ok(())
}

/// What the runs measured.
fn gather(
    table: &Table,
    arms: &[Arm],
    runs: &[Run],
    scale: Scale,
    seeds: &[u64],
    options: &Options,
) -> Result<Results> {
    let mut found = Vec::new();
    let mut last = SystemTime::UNIX_EPOCH;
    for run in runs {
        let result = RunResult::read(&run.folder)?;
        let path = RunResult::path(&run.folder);
        let written = std::fs::metadata(&path).and_then(|about| about.modified());
        last = last.max(written.map_err(Error::io(&path, "asking for its age"))?);
        found.push((run, result));
    }
    measured(table, found.iter().map(|(_, result)| result))?;
    let mut of_arms = Vec::new();
    let mut seconds = Vec::new();
    for (number, arm) in arms.iter().enumerate() {
        let mine: Vec<&RunResult> = found.iter().filter(|(run, _)| run.arm == number).map(|(_, r)| r).collect();
        let Some(first) = mine.first() else { return Err(Error::Defect(format!("arm '{}' has no run", arm.name))) };
        let values = table.config.metrics.iter().map(|metric| {
            let value = |result: &&RunResult| result.metric(&metric.name).flatten().map(|value| metric.in_unit(value));
            (metric.name.clone(), mine.iter().map(value).collect())
        });
        of_arms.push(ArmResult {
            name: arm.name.clone(),
            steps: first.steps,
            parameters: first.parameters,
            flops: first.flops,
            values: values.collect(),
            mean: Named::new(),
            sd: Named::new(),
            paper: Vec::new(),
        });
        let mean = mine.iter().map(|r| r.seconds).sum::<f64>() / mine.len() as f64;
        seconds.push((arm.name.clone(), (mean * 1e3).round() / 1e3));
    }
    let firsts: Vec<&RunResult> = found.iter().filter(|(run, _)| run.arm == 0).map(|(_, result)| result).collect();
    let names = firsts.first().map(|result| result.baselines.keys().cloned().collect::<Vec<_>>()).unwrap_or_default();
    let baselines = names.into_iter().map(|name| {
        let nothing = Numbers::new();
        let values = table.config.metrics.iter().filter_map(|metric| {
            let of = |result: &&RunResult| result.baselines.get(&name).unwrap_or(&nothing).get(&metric.name).copied();
            let all: Option<Vec<Option<f64>>> = firsts.iter().map(of).collect();
            let scaled = all?.into_iter().map(|value| value.map(|value| metric.in_unit(value))).collect();
            Some((metric.name.clone(), scaled))
        });
        BaselineResult { values: values.collect(), mean: Named::new(), name }
    });
    let baselines = baselines.collect();
    Ok(Results {
        table: table.name.clone(),
        scale,
        title: String::new(),
        method: String::new(),
        ledger: None,
        command: options.command.clone(),
        date: day(last),
        commit: distinct(found.iter().map(|(_, result)| result.commit.as_deref().unwrap_or("unknown"))),
        machine: distinct(found.iter().map(|(_, result)| result.machine.as_str())),
        seconds,
        threads: options.threads,
        seeds: seeds.to_vec(),
        metrics: Vec::new(),
        arms: of_arms,
        baselines,
        speed: Vec::new(),
        spread: Vec::new(),
        claims: Vec::new(),
        notes: Vec::new(),
    })
}
