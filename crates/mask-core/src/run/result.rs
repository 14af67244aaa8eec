//! `result.json`: what a finished run measured.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::evaluate::Scores;
use super::session::Session;
use super::summary::{commit, machine};
use crate::data::{Ask, Item};
use crate::report::Metrics;
use crate::schedule::Clock;
use crate::{Error, Named, Result, store};

/// What probes call an encoder that was never trained.
pub const RANDOM: &str = "random-initialised encoder";

/// Numbers by name; one that isn't finite is none.
pub type Numbers = Named<Option<f64>>;

/// Steps and numbers by name.
pub type History = Named<Vec<(u64, Option<f64>)>>;

/// The file `result.json` of a run's folder. It is written last: a run that has it is finished.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct RunResult {
    /// The method's name.
    pub method: String,
    /// The run's seed.
    pub seed: u64,
    /// Steps done.
    pub steps: u64,
    /// The commit of the source, where it is known.
    pub commit: Option<String>,
    /// Processor or device.
    pub machine: String,
    /// Threads of libtorch and of the loader.
    pub threads: usize,
    /// Seconds of training, evaluation not counted.
    pub seconds: f64,
    /// Numbers of the model.
    pub parameters: u64,
    /// Operations of the whole training, where the method counts them.
    pub flops: Option<f64>,
    /// All that was measured at the end: of the last step's rows of `metrics.jsonl`, and the scores of the pre-trained
    /// encoder by their kinds.
    pub metrics: Numbers,
    /// The same scores of what it is seen against, by name.
    pub baselines: Named<Numbers>,
    /// What was measured on the way, by name: steps and values.
    pub history: History,
}

impl RunResult {
    /// The file in a run's folder.
    #[must_use]
    pub fn path(run: &Path) -> PathBuf {
        run.join("result.json")
    }

    /// Reads the file of a run's folder.
    ///
    /// # Errors
    /// A file that is missing or damaged.
    pub fn read(run: &Path) -> Result<Self> {
        let path = Self::path(run);
        let text = std::fs::read(&path).map_err(Error::io(&path, "reading the result"))?;
        serde_json::from_slice(&text)
            .map_err(|error| Error::file(&path, format!("is no result of a run: {error}; remove it and --resume")))
    }

    /// A metric by its name; `name@step` is what was measured on the way. The outer none: there is no such metric.
    #[must_use]
    pub fn metric(&self, name: &str) -> Option<Option<f64>> {
        if let Some(value) = self.metrics.get(name) {
            return Some(*value);
        }
        let (name, step) = name.rsplit_once('@')?;
        let step: u64 = step.parse().ok()?;
        self.history.get(name)?.iter().find(|(at, _)| *at == step).map(|(_, value)| *value)
    }
}

/// Numbers of scores by kind; a kind that comes again is numbered.
fn numbers(scores: &Scores) -> Numbers {
    let mut numbers = Numbers::new();
    for score in &scores.scores {
        let mut name = score.kind.to_owned();
        for again in 2.. {
            if !numbers.contains_key(&name) {
                break;
            }
            name = format!("{}-{again}", score.kind);
        }
        numbers.insert(name, Some(score.accuracy).filter(|value| value.is_finite()));
    }
    numbers
}

/// Writes the file.
///
/// # Errors
/// Metrics that can't be read, a disk that refuses.
pub(super) fn write(session: &Session, folder: &Path, scores: &[Scores], threads: usize) -> Result<()> {
    let config = &session.resolved.config;
    let steps = config.train.steps;
    let (mut metrics, history) = measured(&folder.join("metrics.jsonl"), steps)?;
    if let Some(first) = scores.first() {
        metrics.extend(numbers(first));
    }
    let result = RunResult {
        method: session.resolved.entry.card.name.to_owned(),
        seed: config.seed,
        steps,
        commit: commit(),
        machine: machine(session.device),
        threads,
        seconds: seconds(&folder.join("timing.jsonl"))?,
        parameters: session.parameters.count().0,
        flops: flops(session),
        metrics,
        baselines: scores.iter().skip(1).map(|scores| (scores.encoder.clone(), numbers(scores))).collect(),
        history,
    };
    let text = serde_json::to_string_pretty(&result).map_err(|error| Error::Defect(error.to_string()))?;
    store::write_bytes(&RunResult::path(folder), (text + "\n").as_bytes())
}

/// The last step's numbers, and those of rows that hold no loss: what was measured on the way.
fn measured(path: &Path, steps: u64) -> Result<(Numbers, History)> {
    let text = std::fs::read_to_string(path).map_err(Error::io(path, "reading the metrics"))?;
    let (mut metrics, mut history) = (Numbers::new(), History::new());
    for (number, line) in text.lines().enumerate() {
        let damaged = |_| Error::file(path, format!("line {} is no row of metrics; mend or remove it", number + 1));
        let row: Map<String, Value> = serde_json::from_str(line).map_err(damaged)?;
        let step = row.get("step").and_then(Value::as_u64).unwrap_or(0);
        let trained = row.contains_key("loss");
        for (name, value) in row.iter().filter(|(name, _)| *name != "step") {
            if step == steps && name != "rate" {
                metrics.insert(name.clone(), value.as_f64());
            }
            if !trained {
                history.entry(name.clone()).or_default().push((step, value.as_f64()));
            }
        }
    }
    Ok((metrics, history))
}

/// Seconds of training: each row of the timing gives those of a step since the row before.
fn seconds(path: &Path) -> Result<f64> {
    let timing = Metrics::read(path)?;
    let mut before = 0.0;
    Ok(timing.series("seconds").iter().fold(0.0, |sum, [step, seconds]| {
        let steps = step - before;
        before = *step;
        sum + steps * seconds
    }))
}

/// Moments of training whose plans are counted, and samples of a batch that stand for it.
const MOMENTS: u64 = 8;
const ROWS: u64 = 64;

/// Operations of the whole training, from plans over its length.
fn flops(session: &Session) -> Option<f64> {
    let config = &session.resolved.config;
    let (steps, size) = (config.train.steps, session.resolved.batch.size);
    let ids: Vec<u64> = (0..size.min(ROWS)).map(|id| id % session.train.len().max(1)).collect();
    let state = Named::new();
    let mut sum = 0.0;
    let moments = MOMENTS.min(steps);
    for moment in 0..moments {
        let clock = Clock::at(moment * steps / moments, steps, (session.train.len() / size).max(1));
        let ask = Ask { seed: config.seed, clock: &clock, train: true, masked: true, state: &state, grid: None };
        match session.train.plan(&ids, &ask) {
            Ok(items) => sum += operations(session, &items)?,
            // The run itself is done: a plan that hangs on its state is no reason to lose what it measured.
            Err(error) => {
                tracing::warn!("the operations could not be counted: {error}");
                return None;
            }
        }
    }
    Some(sum / moments as f64 / ids.len() as f64 * size as f64 * steps as f64)
}

/// Operations of forward and backward of samples by their plans; none where the method or an open plan doesn't say.
pub(crate) fn operations(session: &Session, items: &[Item]) -> Option<f64> {
    let of = |item: &Item| {
        let sum = |which: usize| item.views.iter().map(|view| view.tokens()[which]).sum::<f64>();
        session.method.flops(sum(0), sum(1))
    };
    items.iter().map(of).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run::Score;

    #[test]
    fn metrics_are_those_of_the_last_step() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("metrics.jsonl");
        let rows = "{\"step\":1,\"loss\":2.0,\"rate\":1.0}\n{\"step\":1,\"knn\":0.1}\n{\"step\":2,\"loss\":1.0,\"rate\":0.5}\n\
                    {\"step\":2,\"knn\":0.4,\"held_out\":null}\n";
        std::fs::write(&path, rows).unwrap();
        let (metrics, history) = measured(&path, 2).unwrap();
        let wanted = [("held_out", None), ("knn", Some(0.4)), ("loss", Some(1.0))];
        assert_eq!(metrics.iter().map(|(name, value)| (name.as_str(), *value)).collect::<Vec<_>>(), wanted);
        assert_eq!(history["knn"], [(1, Some(0.1)), (2, Some(0.4))]);
        let result = RunResult { metrics, history, ..RunResult::default() };
        assert_eq!(result.metric("knn@1"), Some(Some(0.1)));
        assert_eq!(
            (result.metric("held_out"), result.metric("knn@3"), result.metric("lniear")),
            (Some(None), None, None)
        );
        std::fs::write(&path, "{\"step\":1}\nrubbish\n").unwrap();
        assert!(measured(&path, 1).unwrap_err().to_string().contains("line 2"));
    }

    #[test]
    fn a_damaged_file_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        assert!(matches!(RunResult::read(folder.path()), Err(Error::Io { .. })));
        let good = serde_json::to_string(&RunResult::default()).unwrap();
        for damaged in ["", "[]", &good[..good.len() / 2], &good.replace("\"steps\":0", "\"steps\":-1")] {
            std::fs::write(RunResult::path(folder.path()), damaged).unwrap();
            let error = RunResult::read(folder.path()).unwrap_err().to_string();
            assert!(error.contains("result.json: is no result of a run: "), "{error}");
        }
        std::fs::write(RunResult::path(folder.path()), good).unwrap();
        assert_eq!(RunResult::read(folder.path()).unwrap(), RunResult::default());
    }

    #[test]
    fn seconds_are_those_of_all_steps() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("timing.jsonl");
        std::fs::write(&path, "{\"step\":10,\"seconds\":0.5}\n{\"step\":14,\"seconds\":2.0}\n").unwrap();
        assert_eq!(seconds(&path).unwrap(), 13.0);
    }

    #[test]
    fn a_kind_that_comes_again_is_numbered() {
        let score = |accuracy| Score { kind: "knn", accuracy, train: 1, test: 1 };
        let scores = Scores { encoder: "x".into(), scores: vec![score(0.1), score(0.2), score(f64::NAN)] };
        let found: Vec<_> = numbers(&scores).into_iter().collect();
        assert_eq!(found, [("knn".into(), Some(0.1)), ("knn-2".into(), Some(0.2)), ("knn-3".into(), None)]);
    }
}
