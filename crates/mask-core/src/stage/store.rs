//! Labels of every position of every sample, found by the sample's number.

use std::path::Path;

use tch::{Kind, Tensor};

use super::shards::{SPLITS, Shards};
use crate::data::Front;
use crate::method::Split;
use crate::{Error, Named, Result};

/// One clustering or codebook of a label store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Column {
    /// Its name.
    pub name: String,
    /// Ids run from 0 to below this.
    pub ids: u32,
}

/// The key of the columns in the files' metadata.
pub(super) const COLUMNS: &str = "columns";

/// The columns as metadata.
pub(super) fn metadata(columns: &[Column]) -> Named<String> {
    let text = columns.iter().map(|column| format!("{}:{}", column.name, column.ids)).collect::<Vec<_>>().join(",");
    Named::from([(COLUMNS.to_owned(), text)])
}

/// Ids in the smallest type that holds them all.
pub(super) fn narrow(ids: &Tensor, most: u32) -> Tensor {
    ids.to_kind(match most {
        0..=256 => Kind::Uint8,
        257..=32_768 => Kind::Int16,
        _ => Kind::Int,
    })
}

/// Labels of every position of every sample, in columns; read where they lie, by several threads at once.
#[derive(Debug)]
pub struct LabelStore {
    columns: Vec<Column>,
    splits: Vec<Shards>,
}

impl LabelStore {
    /// The store that a stage wrote.
    ///
    /// # Errors
    /// Files that are missing, damaged, or no labels.
    pub fn open(folder: &Path) -> Result<Self> {
        let splits = SPLITS.map(|split| Shards::open(folder, split));
        let splits = splits.into_iter().collect::<Result<Vec<_>>>()?;
        let refuse = |problem: &str| Error::file(folder, problem);
        let column = |text: &str| {
            let (name, ids) = text.rsplit_once(':')?;
            Some(Column { name: name.to_owned(), ids: ids.parse().ok().filter(|ids| *ids > 0)? })
        };
        let text = splits[0].shape.more.get(COLUMNS).ok_or_else(|| refuse("holds no labels, but other rows"))?;
        let columns: Option<Vec<Column>> = text.split(',').map(column).collect();
        let columns = columns.ok_or_else(|| refuse("says nothing readable of its columns"))?;
        if splits[1].shape.more.get(COLUMNS) != Some(text) {
            return Err(refuse("has other columns held out than in training"));
        }
        for (file, rows) in splits.iter().flat_map(Shards::files) {
            for column in &columns {
                let shape = &file.entry(&column.name)?.shape;
                if *shape != [rows as i64] {
                    return Err(file.refuse(format!("has {shape:?} labels in '{}' for {rows} rows", column.name)));
                }
            }
        }
        Ok(Self { columns, splits })
    }

    /// Its columns.
    #[must_use]
    pub fn columns(&self) -> &[Column] {
        &self.columns
    }

    /// The grid of a sample's labels, where all have the same.
    #[must_use]
    pub fn grid(&self) -> Option<&[usize]> {
        self.splits[0].shape.grid.as_deref()
    }

    /// Labels a second, where samples have a duration.
    #[must_use]
    pub fn rate(&self) -> Option<f64> {
        self.splits[0].shape.rate
    }

    /// The rows of a split.
    ///
    /// # Errors
    /// A split that stages don't go through.
    pub fn split(&self, split: Split) -> Result<&Shards> {
        let at = SPLITS.iter().position(|other| *other == split);
        at.map(|at| &self.splits[at]).ok_or_else(|| Error::Defect("there are no labels of noise".to_owned()))
    }

    /// The labels of a sample in a column, in the order of its positions.
    ///
    /// # Errors
    /// No such sample or column; a sample that could not be read when the labels were made; a label that can't be.
    pub fn labels(&self, split: Split, id: u64, column: usize) -> Result<Vec<i64>> {
        let Column { name, ids } = self.columns.get(column).ok_or_else(|| {
            Error::value("column", format!("{column} lies beyond the {} that there are", self.columns.len()))
        })?;
        let (file, rows) = self.split(split)?.of(id)?;
        if rows.is_empty() {
            return Err(Error::value("data", format!("sample {id} could not be read when its labels were made")));
        }
        let labels = file.integers(name, rows)?;
        match labels.iter().find(|label| !(0..i64::from(*ids)).contains(label)) {
            None => Ok(labels),
            Some(label) => Err(file.refuse(format!("holds the label {label} in '{name}', which ends before {ids}"))),
        }
    }

    /// How often each label of a column stands in a split.
    ///
    /// # Errors
    /// As [`LabelStore::labels`].
    pub fn counts(&self, split: Split, column: usize) -> Result<Vec<u64>> {
        let shards = self.split(split)?;
        let mut counts = vec![0u64; self.columns.get(column).map_or(0, |column| column.ids as usize)];
        for (file, rows) in shards.files() {
            for label in file.integers(&self.columns[column].name, 0..rows)? {
                let slot = usize::try_from(label).ok().and_then(|label| counts.get_mut(label));
                *slot.ok_or_else(|| file.refuse(format!("holds the label {label}, which can't be")))? += 1;
            }
        }
        Ok(counts)
    }

    /// Compares the samples with a front's.
    ///
    /// # Errors
    /// They are others.
    pub fn check(&self, split: Split, front: &dyn Front) -> Result<()> {
        self.split(split)?.check(front)
    }
}

/// exp of the entropy of counts: how many labels are used, in effect; and the share of labels that are used at all.
/// ```
/// let (perplexity, used) = mask_core::stage::usage(&[2, 2, 0, 4]);
/// assert!((perplexity - 2f64.powf(1.5)).abs() < 1e-12 && used == 0.75);
/// ```
#[must_use]
pub fn usage(counts: &[u64]) -> (f64, f64) {
    let total = counts.iter().sum::<u64>().max(1) as f64;
    let shares = counts.iter().filter(|count| **count > 0).map(|count| *count as f64 / total);
    let entropy: f64 = shares.map(|share| -share * share.ln()).sum();
    let used = counts.iter().filter(|count| **count > 0).count() as f64 / counts.len().max(1) as f64;
    (entropy.exp(), used)
}
