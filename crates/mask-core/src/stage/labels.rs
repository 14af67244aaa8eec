//! `labels`: the nearest centre of every position of every sample.

use serde::{Deserialize, Serialize};
use tch::Tensor;

use super::cluster::Residual;
use super::shards::{SPLITS, Shards, split_name};
use super::store::{Column, metadata, narrow};
use super::{LabelStore, Measured, Mention, StageConfig, Workbench};
use crate::method::Split;
use crate::train::{Progress, interrupted};
use crate::{Error, Result, store};

/// One clustering of a label store: features, and the centres that they are compared with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ColumnConfig {
    /// The stage whose features are labelled.
    pub features: String,
    /// The stage whose centres label them; each of its levels is a column.
    pub clusters: String,
}

/// Recipe keys of `labels`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LabelsConfig {
    /// The clusterings.
    pub columns: Vec<ColumnConfig>,
}

impl StageConfig for LabelsConfig {
    const READS_DATA: bool = false;

    fn check(&self) -> Result<()> {
        if self.columns.is_empty() {
            return Err(Error::value("columns", "is empty: give at least one mapping of features and clusters"));
        }
        Ok(())
    }

    fn inputs(&self) -> Vec<Mention> {
        let of = |(index, column): (usize, &ColumnConfig)| {
            [
                (format!("columns.{index}.features"), column.features.clone()),
                (format!("columns.{index}.clusters"), column.clusters.clone()),
            ]
        };
        self.columns.iter().enumerate().flat_map(of).collect()
    }

    fn make(&self, at: &Workbench<'_>) -> Result<Measured> {
        let mut sources = Vec::new();
        for column in &self.columns {
            let centres = store::read(&at.input(&column.clusters)?.file("clusters.safetensors")?)?;
            let centres = centres.tensors.get("centres");
            let centres = centres.ok_or_else(|| Error::value("clusters", "the stage made no centres"))?;
            sources.push((at.input(&column.features)?.file("")?, Residual::new(centres)?));
        }
        // Each clustering and each of its levels is a column, `0`, `1`, ...
        let sizes = sources.iter().flat_map(|(_, centres)| centres.sizes());
        let columns: Vec<Column> =
            sizes.enumerate().map(|(at, ids)| Column { name: at.to_string(), ids: ids as u32 }).collect();
        store::sweep(at.folder)?;
        for split in SPLITS {
            label(at, split, &sources, &columns)?;
        }
        told(at, &columns)
    }
}

/// Writes the labels of a split, a file for each file of the features.
fn label(
    at: &Workbench<'_>,
    split: Split,
    sources: &[(std::path::PathBuf, Residual)],
    columns: &[Column],
) -> Result<()> {
    let shards: Vec<Shards> = sources.iter().map(|(folder, _)| Shards::open(folder, split)).collect::<Result<_>>()?;
    let shape = shards[0].shape.clone();
    let files = shards[0].files().count();
    let mut progress = Progress::new(&format!("stage {}, {}", at.name, split_name(split)), 0, files as u64);
    for number in 0..files {
        let path = at.folder.join(format!("{}-{number:05}.safetensors", split_name(split)));
        if path.is_file() {
            continue;
        }
        let offsets = shards[0].offsets(number);
        let mut tensors = vec![("offsets".to_owned(), Tensor::from_slice(offsets))];
        for ((_, centres), shards) in sources.iter().zip(&shards) {
            let other = &shards.shape;
            if (other.samples, other.per_shard, &other.names) != (shape.samples, shape.per_shard, &shape.names)
                || shards.offsets(number) != offsets
            {
                let problem = "the features of several columns have other samples or positions: label them apart";
                return Err(Error::value("columns", problem));
            }
            let (file, rows) =
                shards.files().nth(number).ok_or_else(|| Error::Defect("a file of features left".to_owned()))?;
            for ids in centres.nearest(&file.rows("values", 0..rows)?)? {
                let column = &columns[tensors.len() - 1];
                tensors.push((column.name.clone(), narrow(&ids, column.ids)));
            }
        }
        let mut own = shape.clone();
        own.more = metadata(columns);
        own.save(&path, number as u64 * shape.per_shard, &tensors)?;
        progress.at(number as u64 + 1, "");
        if interrupted() {
            return Err(Error::Interrupted { step: number as u64 + 1, checkpoint: String::new() });
        }
    }
    progress.finish();
    Ok(())
}

/// What a finished label store holds, over the training samples.
pub(super) fn told(at: &Workbench<'_>, columns: &[Column]) -> Result<Measured> {
    let labels = LabelStore::open(at.folder)?;
    let mut measured = Measured::new();
    for (index, column) in columns.iter().enumerate() {
        let (perplexity, used) = super::usage(&labels.counts(Split::Train, index)?);
        let tail = if columns.len() == 1 { String::new() } else { format!("_{}", column.name) };
        measured.insert(format!("ids{tail}"), column.ids.into());
        measured.insert(format!("perplexity{tail}"), perplexity.into());
        measured.insert(format!("used{tail}"), used.into());
    }
    Ok(measured)
}
