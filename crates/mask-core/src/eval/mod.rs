//! Probes of frozen features: fixed once, for all tables.
//!
//! | probe | what it is |
//! | --- | --- |
//! | [`linear_probe`] | multinomial logistic regression on standardised features, its penalty the best of five |
//! | [`attentive_probe`] | a learned query looks at all tokens, then a linear map; the best of a few rates |
//! | [`dense_probe`] | the linear probe with a row a position: mean intersection over union |
//! | [`knn()`] | vote of the nearest rows in cosine similarity, weighted exp(similarity / temperature) |

mod attentive;
mod dense;
mod knn;
mod lbfgs;
mod logistic;

use tch::{Kind, Tensor};

pub use attentive::{AttentiveConfig, AttentiveResult, Tokens, attentive_probe};
pub use dense::{DenseConfig, DenseResult, dense_probe};
pub use knn::{KnnResult, knn};
pub use logistic::{L2, ProbeResult, linear_probe};

use crate::{Error, Result};

/// How one class of the test rows fared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClassCount {
    /// The label.
    pub class: u32,
    /// Test rows with that label.
    pub rows: usize,
    /// Those of them that were classified right.
    pub right: usize,
}

/// What a probe may work on: one row a label, at least one feature, the same ones in both sets, all of them finite.
fn check(train: (&Tensor, &[u32]), test: (&Tensor, &[u32])) -> Result<()> {
    let width = train.0.size().get(1).copied().unwrap_or(0);
    for (what, (features, labels)) in [("set of training features", train), ("set of test features", test)] {
        let size = features.size();
        if size != [labels.len() as i64, width] || labels.is_empty() || width == 0 {
            let expected = match width {
                1.. => format!("[{}, {width}], at least one row", labels.len()),
                _ => format!("[{}, D], at least one row and feature", labels.len()),
            };
            return Err(Error::shape(what, expected, &size));
        }
        let bad = features.f_isfinite()?.f_logical_not()?.f_view([-1])?.to_kind(Kind::Uint8);
        if i64::try_from(bad.f_max()?)? != 0 {
            let at = i64::try_from(bad.f_argmax(0, false)?)?;
            let value = features.f_get(at / width)?.f_double_value(&[at % width])?;
            let place = format!("{value} in row {}, feature {}", at / width, at % width);
            return Err(Error::value(what, format!("holds {place}; the encoder or its input is not finite")));
        }
    }
    Ok(())
}

/// The classes that occur, in order. Probes number classes by their place here, so that no memory depends on a label.
fn classes(labels: &[u32]) -> Vec<u32> {
    let mut classes = labels.to_vec();
    classes.sort_unstable();
    classes.dedup();
    classes
}

/// Labels `[N]` as places in `classes`, on the device of `like`; -1 for a class that isn't there.
fn places(labels: &[u32], classes: &[u32], like: &Tensor) -> Tensor {
    let place = |label| classes.binary_search(label).map_or(-1, |place| place as i64);
    Tensor::from_slice(&labels.iter().map(place).collect::<Vec<_>>()).to_device(like.device())
}

/// Compares predictions with labels.
fn count(predicted: &[u32], labels: &[u32]) -> (f64, Vec<ClassCount>) {
    let mut counts: Vec<_> = classes(labels).into_iter().map(|class| ClassCount { class, rows: 0, right: 0 }).collect();
    for (predicted, label) in predicted.iter().zip(labels) {
        if let Ok(place) = counts.binary_search_by_key(label, |count| count.class) {
            counts[place].rows += 1;
            counts[place].right += usize::from(predicted == label);
        }
    }
    let right: usize = counts.iter().map(|count| count.right).sum();
    (right as f64 / labels.len().max(1) as f64, counts)
}
