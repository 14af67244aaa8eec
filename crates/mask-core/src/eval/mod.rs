//! Probes of frozen features: fixed once, for all tables.

mod knn;
mod logistic;

use tch::{Kind, Tensor};

pub use knn::{KnnResult, knn};
pub use logistic::{L2, ProbeResult, linear_probe};

use crate::{Error, Result};

/// Features that a probe can work on: one row a label, all finite.
fn check(what: &str, features: &Tensor, labels: &[u32]) -> Result<()> {
    if features.dim() != 2 || features.size()[0] != labels.len() as i64 || labels.is_empty() {
        return Err(Error::shape(format!("{what} features"), format!("[{}, D]", labels.len()), &features.size()));
    }
    let finite = features.isfinite().all_dim(1, false);
    if !bool::try_from(finite.all())? {
        let row = i64::try_from(finite.to_kind(Kind::Int64).argmin(0, false))?;
        return Err(Error::value(format!("{what} features"), format!("row {row} is not finite; the encoder gave NaN")));
    }
    Ok(())
}

/// Labels as a tensor beside the features.
fn ids(labels: &[u32], like: &Tensor) -> Tensor {
    let labels: Vec<i64> = labels.iter().map(|label| i64::from(*label)).collect();
    Tensor::from_slice(&labels).to_device(like.device())
}

/// Number of classes, the largest label + 1.
fn classes(labels: &[u32]) -> i64 {
    labels.iter().max().map_or(0, |label| i64::from(*label) + 1)
}
