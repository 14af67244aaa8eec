//! `statistics`: counts of labels, or mean and variance of features.

use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor};

use super::shards::Shards;
use super::store::COLUMNS;
use super::{LabelStore, Measured, Mention, StageConfig, Workbench};
use crate::method::Split;
use crate::{Error, Named, Result, store};

/// Recipe keys of `statistics`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StatisticsConfig {
    /// The stage whose labels are counted, or whose features are averaged; over the training samples.
    pub from: String,
}

impl StageConfig for StatisticsConfig {
    const READS_DATA: bool = false;

    fn inputs(&self) -> Vec<Mention> {
        vec![("from".to_owned(), self.from.clone())]
    }

    fn make(&self, at: &Workbench<'_>) -> Result<Measured> {
        let folder = at.input(&self.from)?.file("")?;
        let shards = Shards::open(&folder, Split::Train)?;
        let mut measured = Measured::new();
        measured.insert("rows".to_owned(), shards.rows().into());
        let tensors = if shards.shape.more.contains_key(COLUMNS) {
            let labels = LabelStore::open(&folder)?;
            (0..labels.columns().len())
                .map(|index| {
                    let counts = labels.counts(Split::Train, index)?;
                    let counts: Vec<i64> = counts.into_iter().map(|count| count as i64).collect();
                    Ok((format!("counts.{index}"), Tensor::from_slice(&counts)))
                })
                .collect::<Result<Vec<_>>>()?
        } else {
            moments(&shards)?
        };
        store::write(&at.folder.join("statistics.safetensors"), &tensors, &Named::new())?;
        Ok(measured)
    }
}

/// Mean and variance (over n) of each number of the rows, in float64; two passes, so that nothing cancels.
fn moments(shards: &Shards) -> Result<Vec<(String, Tensor)>> {
    let rows = shards.rows().max(1) as f64;
    let pass = |of: &dyn Fn(Tensor) -> Tensor| -> Result<Tensor> {
        let mut sum: Option<Tensor> = None;
        for (file, rows) in shards.files() {
            let values = file.rows("values", 0..rows)?.to_kind(Kind::Double);
            let part = of(values).sum_dim_intlist(0, false, Kind::Double);
            sum = Some(sum.map_or_else(|| part.shallow_clone(), |sum| sum + &part));
        }
        Ok(sum.ok_or_else(|| Error::value("from", "the stage gave no features"))? / rows)
    };
    let mean = pass(&|values| values)?;
    let variance = pass(&|values| (values - &mean).square())?;
    Ok(vec![("mean".to_owned(), mean), ("variance".to_owned(), variance)])
}
