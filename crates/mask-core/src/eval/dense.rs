//! The dense probe: a linear map from each token of a frozen encoder to the class of its position.

use serde::{Deserialize, Serialize};
use tch::Tensor;

use super::logistic::{ProbeResult, fit};
use crate::{Error, Result};

/// Recipe keys of the dense probe.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DenseConfig {
    /// Training samples, at most.
    pub train: u64,
    /// Held-out samples, at most.
    pub test: u64,
}

impl Default for DenseConfig {
    fn default() -> Self {
        Self { train: 2000, test: 1000 }
    }
}

/// What the probe gave.
#[derive(Clone, Debug, PartialEq)]
pub struct DenseResult {
    /// Mean over the classes of the test positions of intersection over union.
    pub mean_iou: f64,
    /// Share of the test positions that were classified right.
    pub accuracy: f64,
    /// Each class of the test positions with its intersection over union, in order.
    pub classes: Vec<(u32, f64)>,
    /// The fit.
    pub probe: ProbeResult,
}

/// Learns the classes of positions from their tokens and tests on others: [`linear_probe`](super::linear_probe) with a
/// row a position, whose penalty is chosen on the positions of the last tenth of the training samples.
///
/// `train` [N, T, D] and `test` [M, T', D] are the tokens, `train_labels` and `test_labels` the classes of all their
/// positions, sample by sample.
///
/// # Errors
/// As for [`linear_probe`](super::linear_probe).
pub fn dense_probe(train: &Tensor, train_labels: &[u32], test: &Tensor, test_labels: &[u32]) -> Result<DenseResult> {
    let (samples, length, width) = train.size3()?;
    if test.dim() != 3 {
        return Err(Error::shape("the test tokens", "[samples, positions, width]", &test.size()));
    }
    let (rows, held) = ((samples * length) as usize, (samples / 10 * length) as usize);
    let validation: Vec<usize> = (rows - held..rows).collect();
    let flat = [train.f_reshape([-1, width])?, test.f_reshape([-1, width])?];
    let (predicted, probe) = fit(&flat[0], train_labels, &flat[1], test_labels, &validation)?;
    let classes: Vec<(u32, f64)> = probe
        .classes
        .iter()
        .map(|class| {
            let told = predicted.iter().filter(|one| **one == class.class).count();
            (class.class, class.right as f64 / (class.rows + told - class.right) as f64)
        })
        .collect();
    let mean_iou = classes.iter().map(|(_, iou)| iou).sum::<f64>() / classes.len().max(1) as f64;
    Ok(DenseResult { mean_iou, accuracy: probe.accuracy, classes, probe })
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::{Device, Kind};

    /// Samples of 5 positions whose class is written into the token, or not.
    fn data(samples: i64, signal: bool) -> (Tensor, Vec<u32>) {
        let noise = Tensor::randn([samples, 5, 4], (Kind::Float, Device::Cpu));
        let labels: Vec<u32> = (0..samples * 5).map(|at| [0, 0, 2, 7, 0, 2, 0][(at * 3 % 7) as usize]).collect();
        for (at, label) in labels.iter().enumerate().filter(|_| signal) {
            let token = noise.view([-1, 4]).get(at as i64);
            let _ = token.get(i64::from(label % 4)).fill_(30.0);
        }
        (noise, labels)
    }

    fn probe(signal: bool) -> DenseResult {
        tch::manual_seed(2);
        let ((train, labels), (test, test_labels)) = (data(200, signal), data(80, signal));
        dense_probe(&train, &labels, &test, &test_labels).unwrap()
    }

    #[test]
    fn what_is_written_is_read() {
        let found = probe(true);
        assert_eq!((found.mean_iou, found.accuracy), (1.0, 1.0));
        assert_eq!(found.classes, [(0, 1.0), (2, 1.0), (7, 1.0)]);
        assert_eq!(found, probe(true));
    }

    /// Of noise the commonest class is told, 4 of 7: its union is everything, the others' intersection nothing.
    #[test]
    fn noise_is_the_background() {
        let found = probe(false);
        assert!((found.accuracy - 4.0 / 7.0).abs() < 0.05, "{}", found.accuracy);
        assert!((found.mean_iou - 4.0 / 21.0).abs() < 0.05, "{}", found.mean_iou);
    }

    /// By hand: one token tells 0 from 1; a third class is in no training row. Truth 0 0 1 2, told 0 0 1 1: unions
    /// 2, 2 and 1.
    #[test]
    fn unions_are_counted() {
        let tokens = |values: &[f32]| Tensor::from_slice(values).view([-1, 2, 1]);
        let train = tokens(&[-1.0, 1.0, -1.0, 1.0]);
        let found = dense_probe(&train, &[0, 1, 0, 1], &tokens(&[-1.0, -1.0, 1.0, 1.0]), &[0, 0, 1, 2]).unwrap();
        assert_eq!(found.classes, [(0, 1.0), (1, 0.5), (2, 0.0)]);
        assert_eq!((found.mean_iou, found.accuracy), (0.5, 0.75));
        assert!(dense_probe(&train, &[0, 1], &train, &[0, 1, 0, 1]).is_err());
        assert!(dense_probe(&train, &[0, 1, 0, 1], &train.view([-1, 1]), &[0, 1, 0, 1]).is_err());
    }
}
