//! `kmeans`: cluster centres of features.

use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor};

use super::cluster::Kmeans;
use super::shards::Shards;
use super::{Measured, Mention, StageConfig, Workbench};
use crate::method::Split;
use crate::stream::{Purpose, Stream};
use crate::{Error, Named, Result, store};

/// Recipe keys of `kmeans`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KmeansConfig {
    /// The stage whose features are clustered.
    pub from: String,
    /// Centres of a level.
    pub clusters: usize,
    /// Levels: each further one clusters what the nearest centres of those before leave over.
    pub levels: usize,
    /// Rows of the training samples that are looked at, drawn by the seed.
    pub rows: u64,
    /// Passes at most; Lloyd's steps end earlier where nothing moves.
    pub rounds: u64,
    /// Rows of a mini-batch; null = Lloyd's steps over all rows.
    pub batch: Option<u64>,
    /// Starts by k-means++, of which the best is kept.
    pub tries: u64,
    /// Keys the drawing of rows and starts. Runs of all seeds share what it gives.
    pub seed: u64,
}

impl Default for KmeansConfig {
    fn default() -> Self {
        Self {
            from: String::new(),
            clusters: 100,
            levels: 1,
            rows: 100_000,
            rounds: 30,
            batch: None,
            tries: 1,
            seed: 0,
        }
    }
}

impl StageConfig for KmeansConfig {
    const READS_DATA: bool = false;

    fn check(&self) -> Result<()> {
        let ranges = [
            ("clusters", self.clusters as u64, 1..=1 << 20),
            ("levels", self.levels as u64, 1..=64),
            ("rows", self.rows, 1..=1 << 32),
            ("rounds", self.rounds, 1..=100_000),
            ("batch", self.batch.unwrap_or(1), 1..=1 << 32),
            ("tries", self.tries, 1..=1000),
        ];
        match ranges.into_iter().find(|(_, number, range)| !range.contains(number)) {
            Some((key, number, range)) => {
                Err(Error::value(key, format!("{number} is not a number from {} to {}", range.start(), range.end())))
            }
            None => Ok(()),
        }
    }

    fn inputs(&self) -> Vec<Mention> {
        vec![("from".to_owned(), self.from.clone())]
    }

    fn make(&self, at: &Workbench<'_>) -> Result<Measured> {
        let folder = at.input(&self.from)?.file("")?;
        let shards = Shards::open(&folder, Split::Train)?;
        let stream = Stream::keyed(self.seed, Purpose::Stage, 0, 0);
        let mut left = sample(&shards, self.rows, &mut stream.branch(0))?; // [N, D]
        let mut measured = Measured::new();
        measured.insert("rows".to_owned(), left.size()[0].into());
        let (mut centres, mut reseeded) = (Vec::new(), 0);
        for level in 0..self.levels {
            let plan = Kmeans {
                clusters: self.clusters,
                rounds: self.rounds,
                batch: self.batch.map(|batch| batch as usize),
                tries: self.tries,
            };
            let seeds = Stream::keyed(self.seed, Purpose::Stage, 1, level as u64);
            let rows = left.size()[0] as f64;
            let fitted = plan.fit(&left, &seeds, &mut |round, inertia| {
                tracing::info!("stage {}: level {level}, pass {round}: inertia {:.6} a row", at.name, inertia / rows);
            })?;
            let (ids, _) = fitted.clusters.nearest(&left)?;
            left -= fitted.clusters.centres.index_select(0, &ids);
            reseeded += fitted.reseeded;
            let name = if self.levels == 1 { String::new() } else { format!("_{level}") };
            measured.insert(format!("inertia{name}"), (fitted.inertia / rows).into());
            measured.insert(format!("perplexity{name}"), super::usage(&fitted.counts).0.into());
            centres.push(fitted.clusters.centres);
        }
        measured.insert("reseeded".to_owned(), reseeded.into());
        let centres = vec![("centres".to_owned(), Tensor::f_stack(&centres, 0)?)]; // [Q, K, D]
        store::write(&at.folder.join("clusters.safetensors"), &centres, &Named::new())?;
        Ok(measured)
    }
}

/// `count` rows of all, in order, each set of rows with the same probability; all where there are no more.
fn sample(shards: &Shards, count: u64, stream: &mut Stream) -> Result<Tensor> {
    let mut left = shards.rows();
    let mut wanted = count.min(left);
    let mut parts = Vec::new();
    for (file, rows) in shards.files() {
        let mut chosen = Vec::new();
        for row in 0..rows {
            // Knuth's selection sampling: this row is one of the `wanted` among the `left`.
            if stream.below(left) < wanted {
                chosen.push(row as i64);
                wanted -= 1;
            }
            left -= 1;
        }
        if !chosen.is_empty() {
            let all = file.rows("values", 0..rows)?.to_kind(Kind::Float);
            parts.push(all.index_select(0, &Tensor::from_slice(&chosen)));
        }
    }
    if parts.is_empty() {
        return Err(Error::value("from", "the stage gave no features"));
    }
    Ok(Tensor::f_cat(&parts, 0)?)
}
