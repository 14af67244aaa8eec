//! The keys of a table's file.

use std::fmt;
use std::path::PathBuf;

use serde::de::{Deserializer, SeqAccess, Visitor};
use serde::{Deserialize, Serialize};

use crate::Result;
use crate::recipe::Mapping;

/// Which of a table's two sizes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Scale {
    /// Two cores, minutes.
    Mini,
    /// The paper's own.
    Paper,
}

impl Scale {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Mini, Self::Paper];

    /// As table files and the command line write it.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Mini => "mini",
            Self::Paper => "paper",
        }
    }
}

/// Which direction of a metric is better.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Better {
    /// Accuracies and their like.
    Higher,
    /// Losses, distances.
    Lower,
}

/// One number of a run's `result.json` that the table shows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MetricConfig {
    /// Its name there; `knn@250` is what was measured after step 250.
    pub name: String,
    /// Which direction is better; none = higher.
    pub better: Option<Better>,
    /// Whether it is a share that is shown in percent; none = no. Margins are in the unit that is shown.
    pub percent: Option<bool>,
}

impl MetricConfig {
    pub(super) fn percent(&self) -> bool {
        self.percent == Some(true)
    }

    /// From the unit of `result.json` to the one that is shown.
    pub(super) fn in_unit(&self, value: f64) -> f64 {
        // Without the last bits, so that 57 of 100 is 57 and not 56.99999999999999.
        if self.percent() { (value * 1e11).round() / 1e9 } else { value }
    }
}

/// What a table stands on at a scale.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ScaleConfig {
    /// The recipe under the arms, named relative to the table's file.
    pub recipe: PathBuf,
    /// Keys laid over it.
    pub changes: Option<Mapping>,
    /// The same as `--set` takes them, after `changes`.
    pub set: Option<Vec<String>>,
}

/// The scales that a table has.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ScalesConfig {
    /// Two cores, minutes.
    pub mini: Option<ScaleConfig>,
    /// The paper's own.
    pub paper: Option<ScaleConfig>,
}

/// One row of a table: a recipe that differs from the others in what is compared.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ArmConfig {
    /// Its name.
    pub name: String,
    /// Another recipe than the scale's.
    pub recipe: Option<PathBuf>,
    /// Keys laid over the scale's.
    pub changes: Option<Mapping>,
    /// The same as `--set` takes them, after `changes`.
    pub set: Option<Vec<String>>,
    /// The scales that have it; none = all. Arms of different scales may share a name.
    pub scales: Option<Vec<Scale>>,
    /// The paper's own figures, by column.
    pub paper: Option<Mapping>,
}

/// One arm, or several of which the best by its mean counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Names(pub Vec<String>);

impl<'de> Deserialize<'de> for Names {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;
        impl<'de> Visitor<'de> for Either {
            type Value = Names;
            fn expecting(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
                formatter.write_str("the name of an arm or a list of names")
            }
            fn visit_str<E: serde::de::Error>(self, name: &str) -> Result<Names, E> {
                Ok(Names(vec![name.to_owned()]))
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Names, A::Error> {
                let mut names = Vec::new();
                while let Some(name) = list.next_element()? {
                    names.push(name);
                }
                Ok(Names(names))
            }
        }
        deserializer.deserialize_any(Either)
    }
}

/// That the mean of one arm is better than that of another, or than a number, by more than a margin.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MeansConfig {
    /// The arm that should be better; of several the best one.
    pub better: Names,
    /// The arm, or the baseline, that it should beat; of several the best one.
    pub than: Option<Names>,
    /// Instead of `than` a number, in the unit that is shown.
    pub limit: Option<f64>,
    /// The metric.
    pub metric: String,
    /// By how much, in the unit that is shown; none = 0. Below 0 it says 'not worse by as much'.
    pub margin: Option<f64>,
    /// Another direction than the metric's.
    pub direction: Option<Better>,
}

/// That a step of one arm takes less time than that of another.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SpeedConfig {
    /// The arm that should be faster.
    pub faster: String,
    /// The arm that should be slower.
    pub than: String,
    /// How many times as long the slower one's step has to take.
    pub ratio: f64,
}

/// A claim: reproduced when all its comparisons are, not when one is refuted.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClaimConfig {
    /// What is claimed, in a few words.
    pub name: String,
    /// Comparisons of means.
    pub means: Option<Vec<MeansConfig>>,
    /// Comparisons of seconds a step.
    pub speed: Option<Vec<SpeedConfig>>,
}

impl ClaimConfig {
    pub(super) fn means(&self) -> &[MeansConfig] {
        self.means.as_deref().unwrap_or_default()
    }

    pub(super) fn speed(&self) -> &[SpeedConfig] {
        self.speed.as_deref().unwrap_or_default()
    }

    /// All arms that it names.
    pub(super) fn arms(&self) -> impl Iterator<Item = &str> {
        let means = self.means().iter().flat_map(|c| c.better.0.iter().chain(c.than.iter().flat_map(|than| &than.0)));
        means.chain(self.speed().iter().flat_map(|c| [&c.faster, &c.than])).map(String::as_str)
    }
}

/// The keys of a table's file.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TableConfig {
    /// What is compared.
    pub title: String,
    /// The method whose claims these are, as `list` names it.
    pub method: String,
    /// The number of its ledger.
    pub ledger: Option<u32>,
    /// The recipes that it stands on.
    pub scales: ScalesConfig,
    /// Seeds 0, 1, ... of every arm.
    pub seeds: u32,
    /// What is shown; the first one is drawn.
    pub metrics: Vec<MetricConfig>,
    /// The arms.
    pub arms: Vec<ArmConfig>,
    /// The claims; the first is the main one.
    pub claims: Vec<ClaimConfig>,
    /// What a reader must know: deviations, what isn't shown.
    pub notes: Option<Vec<String>>,
}
