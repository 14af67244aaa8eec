//! What a table found: the measured numbers, and what follows from them and the table's file.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::config::{Better, MeansConfig, MetricConfig, Scale, SpeedConfig};
use super::file::Table;
use super::statistics::{Pooled, Verdict, deviation, mean, paired};
use crate::{Error, Named, Result};

/// Runs of one arm.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ArmResult {
    /// Its name.
    pub name: String,
    /// Steps of a run.
    pub steps: u64,
    /// Numbers of its model.
    pub parameters: u64,
    /// Operations of a run's training, where the method counts them.
    pub flops: Option<f64>,
    /// A value a seed, by metric, in the unit that is shown; null where a run's wasn't finite.
    pub values: Named<Vec<Option<f64>>>,
    /// Mean over the seeds.
    pub mean: Named<Option<f64>>,
    /// Standard deviation over the seeds.
    pub sd: Named<Option<f64>>,
    /// The paper's own figures, by column.
    pub paper: Vec<(String, String)>,
}

/// What the arms are seen against: of the first arm's runs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BaselineResult {
    /// Its name.
    pub name: String,
    /// A value a seed, by metric.
    pub values: Named<Vec<Option<f64>>>,
    /// Mean over the seeds.
    pub mean: Named<Option<f64>>,
}

/// The spread of a metric.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Spread {
    /// The metric.
    pub metric: String,
    /// The standard deviation pooled over all arms; none where no arm has two runs.
    pub sd: Option<f64>,
    /// Its degrees of freedom.
    pub degrees: usize,
    /// The smallest difference of two arms that could have been told from none.
    pub smallest: Option<f64>,
}

/// Turns of interleaved benchmarks of two arms.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SpeedResult {
    /// The arm that should be faster.
    pub faster: String,
    /// The arm that should be slower.
    pub than: String,
    /// Seconds a step (median) of both, a pair a turn.
    pub seconds: Vec<[f64; 2]>,
    /// The least share of a turn's seconds in which a processor worked for it: below 1, other programs disturbed it.
    pub quiet: Option<f64>,
}

/// One comparison and what came of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Compared {
    /// In words.
    pub text: String,
    /// The metric, or `seconds a step`.
    pub metric: String,
    /// Difference of the means, such that above 0 speaks for the claim; or the ratio of the seconds.
    pub found: Option<f64>,
    /// Its 95 % interval.
    pub interval: Option<[f64; 2]>,
    /// What it has to exceed.
    pub margin: f64,
    /// Where the interval lies about the margin.
    pub verdict: Verdict,
}

/// One claim and what came of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Claimed {
    /// What is claimed.
    pub name: String,
    /// The verdict.
    pub verdict: Verdict,
    /// Its comparisons.
    pub comparisons: Vec<Compared>,
}

/// A results file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Results {
    /// The table's name.
    pub table: String,
    /// The scale.
    pub scale: Scale,
    /// What is compared.
    pub title: String,
    /// The method whose claims these are.
    pub method: String,
    /// Its ledger.
    pub ledger: Option<u32>,
    /// The command that made it.
    pub command: String,
    /// The day of the last run.
    pub date: String,
    /// Commits that the runs were made with.
    pub commit: String,
    /// Machines that they were made on.
    pub machine: String,
    /// Seconds of training a run, by arm, mean over the seeds.
    pub seconds: Vec<(String, f64)>,
    /// Threads of a run.
    pub threads: usize,
    /// The seeds.
    pub seeds: Vec<u64>,
    /// The metrics.
    pub metrics: Vec<MetricConfig>,
    /// The arms.
    pub arms: Vec<ArmResult>,
    /// What they are seen against.
    pub baselines: Vec<BaselineResult>,
    /// Measured apart from training.
    pub speed: Vec<SpeedResult>,
    /// The spread of each metric.
    pub spread: Vec<Spread>,
    /// The claims; the first is the main one.
    pub claims: Vec<Claimed>,
    /// What a reader must know.
    pub notes: Vec<String>,
}

/// The finite values of a metric.
fn finite(values: &Named<Vec<Option<f64>>>, metric: &str) -> Vec<f64> {
    values.get(metric).into_iter().flatten().filter_map(|value| *value).collect()
}

impl Results {
    /// Everything that follows from the measured numbers and the table's file, made anew.
    ///
    /// # Errors
    /// The table hasn't got the scale any more.
    pub fn derive(mut self, table: &Table) -> Result<Self> {
        let config = &table.config;
        let arms = table.arms_at(self.scale)?;
        (self.title, self.method, self.ledger) = (config.title.clone(), config.method.clone(), config.ledger);
        self.metrics.clone_from(&config.metrics);
        self.notes = config.notes.clone().unwrap_or_default();
        let names: Vec<String> = self.metrics.iter().map(|metric| metric.name.clone()).collect();
        let means = |values: &Named<Vec<Option<f64>>>| -> Named<Option<f64>> {
            names.iter().map(|metric| (metric.clone(), mean(&finite(values, metric)))).collect()
        };
        for arm in &mut self.arms {
            arm.mean = means(&arm.values);
            arm.sd = names.iter().map(|metric| (metric.clone(), deviation(&finite(&arm.values, metric)))).collect();
            arm.paper = arms.iter().find(|a| a.name == arm.name).map(|a| a.paper.clone()).unwrap_or_default();
        }
        for baseline in &mut self.baselines {
            baseline.mean = means(&baseline.values);
        }
        self.spread = names.iter().map(|metric| self.spread_of(metric)).collect();
        let claims = table.claims_at(&arms);
        self.claims = claims
            .into_iter()
            .map(|claim| {
                let means = claim.means().iter().map(|comparison| self.compare(comparison));
                let comparisons: Vec<Compared> =
                    claim.speed().iter().map(|comparison| self.race(comparison)).chain(means).collect();
                let verdict = Verdict::all(comparisons.iter().map(|compared| compared.verdict));
                Claimed { name: claim.name.clone(), verdict, comparisons }
            })
            .collect();
        Ok(self)
    }

    pub(super) fn pooled(&self, metric: &str) -> Option<Pooled> {
        let groups: Vec<Vec<f64>> = self.arms.iter().map(|arm| finite(&arm.values, metric)).collect();
        Pooled::of(groups.iter().map(Vec::as_slice))
    }

    fn spread_of(&self, metric: &str) -> Spread {
        let pooled = self.pooled(metric);
        let n = self.seeds.len();
        Spread {
            metric: metric.to_owned(),
            sd: pooled.map(|pooled| pooled.sd),
            degrees: pooled.map_or(0, |pooled| pooled.degrees),
            smallest: pooled.map(|pooled| pooled.between(n, n)),
        }
    }

    /// The values of an arm or a baseline.
    pub(super) fn values(&self, name: &str, metric: &str) -> Vec<f64> {
        let arms = self.arms.iter().map(|arm| (&arm.name, &arm.values));
        let baselines = self.baselines.iter().map(|baseline| (&baseline.name, &baseline.values));
        let found = arms.chain(baselines).find(|(there, _)| *there == name);
        found.map(|(_, values)| finite(values, metric)).unwrap_or_default()
    }

    /// The verdict about two means. Of several arms the best by its mean is taken.
    fn compare(&self, wanted: &MeansConfig) -> Compared {
        let metric = self.metrics.iter().find(|metric| metric.name == wanted.metric);
        let better = wanted.direction.or(metric.and_then(|metric| metric.better)).unwrap_or(Better::Higher);
        let sign = if better == Better::Higher { 1.0 } else { -1.0 };
        let best = |names: &[String]| {
            let known = names.iter().filter_map(|name| {
                let values = self.values(name, &wanted.metric);
                Some((name.clone(), sign * mean(&values)?, values.len()))
            });
            known.max_by(|a, b| a.1.total_cmp(&b.1))
        };
        let one = best(&wanted.better.0);
        // A number has no spread of its own.
        let (than, other) = match (&wanted.than, wanted.limit) {
            (Some(names), _) => (names.0.join(" or "), best(&names.0)),
            (None, limit) => {
                let limit = limit.unwrap_or_default();
                (limit.to_string(), Some((limit.to_string(), sign * limit, 0)))
            }
        };
        let name = |chosen: &Option<(String, f64, usize)>, names: String| {
            chosen.as_ref().map_or(names, |(name, ..)| name.clone())
        };
        let (first, second) = (name(&one, wanted.better.0.join(" or ")), name(&other, than));
        let margin = wanted.margin.unwrap_or(0.0);
        let word = match (margin < 0.0, better) {
            (true, _) => "is not worse than",
            (false, Better::Higher) => "is above",
            (false, Better::Lower) => "is below",
        };
        let (mut found, mut interval, mut verdict) = (None, None, Verdict::Untested);
        if let (Some((_, a, n)), Some((_, b, m))) = (one, other) {
            found = Some(a - b);
            verdict = Verdict::Undecided;
            if let Some(pooled) = self.pooled(&wanted.metric) {
                let half = if m == 0 { pooled.about(n) } else { pooled.between(n, m) };
                let ends = [a - b - half, a - b + half];
                interval = Some(ends);
                verdict = Verdict::of(ends, margin);
            }
        }
        let text = format!("{first} {word} {second}");
        Compared { text, metric: wanted.metric.clone(), found, interval, margin, verdict }
    }

    /// The verdict about seconds a step: the interval of the ratio over turns, on a logarithmic scale.
    fn race(&self, wanted: &SpeedConfig) -> Compared {
        let turns = self.speed.iter().find(|speed| speed.faster == wanted.faster && speed.than == wanted.than);
        let logs: Vec<f64> =
            turns.into_iter().flat_map(|turns| &turns.seconds).map(|[fast, slow]| (slow / fast).ln()).collect();
        let known = paired(&logs);
        let interval = known.map(|(_, ends)| ends.map(f64::exp));
        Compared {
            text: format!("{} is {} times as fast as {}", wanted.faster, wanted.ratio, wanted.than),
            metric: "seconds a step".to_owned(),
            found: mean(&logs).map(f64::exp),
            interval,
            margin: wanted.ratio,
            verdict: match (interval, logs.is_empty()) {
                (Some(ends), _) => Verdict::of(ends, wanted.ratio),
                (None, false) => Verdict::Undecided,
                (None, true) => Verdict::Untested,
            },
        }
    }

    /// The file: a key a line, of lists an entry a line, so that what hangs on the clock or the machine stays in lines
    /// of its own.
    ///
    /// # Errors
    /// None that is known: every number here is one that JSON has.
    pub fn text(&self) -> Result<String> {
        let defect = |error: serde_json::Error| Error::Defect(error.to_string());
        let Value::Object(keys) = serde_json::to_value(self).map_err(defect)? else {
            return Err(Error::Defect("results are a mapping".to_owned()));
        };
        let mut lines = Vec::new();
        for (key, value) in keys {
            let entries = value.as_array().filter(|list| list.iter().any(Value::is_object));
            let text = match entries {
                Some(list) => {
                    let rows: Vec<String> = list.iter().map(|entry| format!("    {entry}")).collect();
                    format!("[\n{}\n  ]", rows.join(",\n"))
                }
                None => value.to_string(),
            };
            lines.push(format!("  {}: {text}", Value::from(key)));
        }
        Ok(format!("{{\n{}\n}}\n", lines.join(",\n")))
    }

    /// Reads a file.
    ///
    /// # Errors
    /// A file that is missing or damaged.
    pub fn read(path: &std::path::Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).map_err(Error::io(path, "reading the results"))?;
        let results: Self = serde_json::from_str(&text)
            .map_err(|error| Error::file(path, format!("is no file of results: {error}; write it anew by `table`")))?;
        for arm in &results.arms {
            let fits = |values: &Vec<Option<f64>>| values.len() == results.seeds.len();
            if !arm.values.values().all(fits) {
                return Err(Error::file(path, format!("arm '{}' has not a value for each seed", arm.name)));
            }
        }
        Ok(results)
    }
}
