//! `codes`: a trained tokenizer's ids of every sample.

use serde::{Deserialize, Serialize};

use super::labels::told;
use super::shards::{SPLITS, Shape, write_rows};
use super::store::{Column, metadata, narrow};
use super::{Measured, Mention, StageConfig, Workbench};
use crate::{Error, Result};

/// Recipe keys of `codes`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CodesConfig {
    /// The `train` stage of the tokenizer.
    pub from: String,
}

impl StageConfig for CodesConfig {
    const READS_DATA: bool = true;

    fn inputs(&self) -> Vec<Mention> {
        vec![("from".to_owned(), self.from.clone())]
    }

    fn make(&self, at: &Workbench<'_>) -> Result<Measured> {
        let model = at.input(&self.from)?.model(at.device)?;
        let tokenizer = model.method.tokenizer().ok_or_else(|| {
            let name = model.resolved.entry.card.name;
            Error::value("from", format!("stage {} trains {name}, which is no tokenizer", self.from))
        })?;
        let columns: Vec<Column> = tokenizer
            .sizes()
            .into_iter()
            .enumerate()
            .map(|(index, ids)| Column { name: index.to_string(), ids })
            .collect();
        for split in SPLITS {
            let front = model.front(at.data, split)?;
            let shape = Shape::of(&*front, columns.len(), metadata(&columns))?;
            write_rows(at, &*front, split, &shape, &mut |view, _| {
                let ids = tokenizer.ids(view)?; // [B, Q, L]
                let of = |(index, column): (usize, &Column)| {
                    (column.name.clone(), narrow(&ids.select(1, index as i64), column.ids))
                };
                Ok((columns.iter().enumerate().map(of).collect(), None))
            })?;
        }
        told(at, &columns)
    }
}
