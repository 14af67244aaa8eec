//! The linear probe: multinomial logistic regression by L-BFGS.

use std::collections::VecDeque;

use tch::{Kind, Tensor};

use super::{check, classes, ids};
use crate::{Error, Result};

/// The penalties that are tried: lambda in lambda / 2 |W|^2 beside the mean cross-entropy.
pub const L2: [f64; 5] = [1e-5, 1e-4, 1e-3, 1e-2, 1e-1];

/// Iterations of L-BFGS at most, and its memory.
const ITERATIONS: usize = 200;
const HISTORY: usize = 10;

/// What the probe gave.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ProbeResult {
    /// Share of the test rows that were classified right.
    pub accuracy: f64,
    /// The chosen penalty.
    pub l2: f64,
    /// Accuracy on the validation rows under it.
    pub validation: f64,
    /// Iterations of the last fit.
    pub iterations: usize,
    /// Whether its gradient became small.
    pub converged: bool,
}

/// Features [N, D] and labels [N] in double precision.
struct Task {
    x: Tensor,
    y: Tensor,
    classes: i64,
}

/// Weights [D + 1, C], the bias in the last row.
struct Fit {
    weights: Tensor,
    iterations: usize,
    converged: bool,
}

impl Task {
    /// Mean cross-entropy + lambda / 2 |W|^2 at flat weights, and its gradient.
    fn at(&self, flat: &Tensor, l2: f64) -> (f64, Tensor) {
        let (rows, width) = (self.x.size()[0], self.x.size()[1]);
        let weights = flat.view([width + 1, self.classes]);
        let (map, bias) = (weights.narrow(0, 0, width), weights.narrow(0, width, 1));
        let log_p = (self.x.matmul(&map) + bias).log_softmax(1, Kind::Double);
        let truth = self.y.unsqueeze(1);
        let loss = -log_p.gather(1, &truth, false).mean(Kind::Double) + map.square().sum(Kind::Double) * (l2 / 2.0);
        let ones = truth.ones_like().to_kind(Kind::Double);
        let error = log_p.exp().scatter_add(1, &truth, &-ones) / rows as f64;
        let gradient = self.x.transpose(0, 1).matmul(&error) + map * l2;
        let bias_gradient = error.sum_dim_intlist(0, true, Kind::Double);
        (loss.double_value(&[]), Tensor::cat(&[gradient, bias_gradient], 0).view([-1]))
    }

    /// Minimises by L-BFGS with backtracking to Armijo's rule, from `start`.
    fn fit(&self, l2: f64, start: &Tensor) -> Result<Fit> {
        let dot = |a: &Tensor, b: &Tensor| a.dot(b).double_value(&[]);
        let mut at = start.shallow_clone();
        let (mut loss, mut gradient) = self.at(&at, l2);
        let mut history: VecDeque<(Tensor, Tensor, f64)> = VecDeque::new();
        for iteration in 0..ITERATIONS {
            if gradient.abs().max().double_value(&[]) < 1e-6 {
                return Ok(Fit { weights: at, iterations: iteration, converged: true });
            }
            let mut direction = -gradient.shallow_clone();
            let mut shares = Vec::with_capacity(history.len());
            for (step, change, inverse) in history.iter().rev() {
                let share = inverse * dot(step, &direction);
                direction -= change * share;
                shares.push(share);
            }
            if let Some((step, change, _)) = history.back() {
                direction *= dot(step, change) / dot(change, change);
            } else {
                direction *= 1.0 / dot(&gradient, &gradient).sqrt().max(1.0);
            }
            for ((step, change, inverse), share) in history.iter().zip(shares.into_iter().rev()) {
                let back = inverse * dot(change, &direction);
                direction += step * (share - back);
            }
            let slope = dot(&gradient, &direction);
            let mut length = 1.0;
            let moved = loop {
                let next = &at + &direction * length;
                let (next_loss, next_gradient) = self.at(&next, l2);
                if next_loss <= loss + 1e-4 * length * slope {
                    break Some((next, next_loss, next_gradient));
                }
                length /= 2.0;
                if length < 1e-12 {
                    break None; // no descent left in double precision
                }
            };
            let Some((next, next_loss, next_gradient)) = moved else {
                return Ok(Fit { weights: at, iterations: iteration, converged: true });
            };
            if !next_loss.is_finite() {
                return Err(Error::value("linear probe", "the loss is not finite; the features are too large"));
            }
            let (step, change) = (&next - &at, &next_gradient - &gradient);
            let curvature = dot(&step, &change);
            if curvature > 1e-12 * dot(&change, &change) {
                if history.len() == HISTORY {
                    history.pop_front();
                }
                history.push_back((step, change, 1.0 / curvature));
            }
            (at, loss, gradient) = (next, next_loss, next_gradient);
        }
        Ok(Fit { weights: at, iterations: ITERATIONS, converged: false })
    }

    fn rows(&self, rows: &[i64]) -> Self {
        let rows = Tensor::from_slice(rows).to_device(self.x.device());
        Self { x: self.x.index_select(0, &rows), y: self.y.index_select(0, &rows), classes: self.classes }
    }

    fn accuracy(&self, fit: &Fit) -> Result<f64> {
        let width = self.x.size()[1];
        let weights = fit.weights.view([width + 1, self.classes]);
        let logits = self.x.matmul(&weights.narrow(0, 0, width)) + weights.narrow(0, width, 1);
        Ok(f64::try_from(logits.argmax(1, false).eq_tensor(&self.y).to_kind(Kind::Double).mean(Kind::Double))?)
    }
}

/// Learns `train_labels` from standardised `train` [N, D] and tests on `test` [M, D]. The penalty is the one of [`L2`]
/// that is best on the `validation` rows of `train` when fitted on the others (the stronger of equals); with it the
/// probe is fitted again on all rows. The bias is not penalised.
///
/// # Errors
/// Shapes that don't fit, features that aren't finite, a single class.
pub fn linear_probe(
    train: &Tensor,
    train_labels: &[u32],
    test: &Tensor,
    test_labels: &[u32],
    validation: &[usize],
) -> Result<ProbeResult> {
    check("training", train, train_labels)?;
    check("test", test, test_labels)?;
    if train_labels.iter().all(|label| *label == train_labels[0]) {
        return Err(Error::value("linear probe", "all training samples are of one class; there is nothing to learn"));
    }
    let train = train.to_kind(Kind::Double);
    let mean = train.mean_dim(0, true, Kind::Double);
    let sd = train.std_dim(0, false, true);
    // A constant feature becomes 0, not noise divided by nothing.
    let scale = sd.where_self(&sd.gt(1e-12), &sd.full_like(f64::INFINITY)).reciprocal();
    let classes = classes(train_labels).max(classes(test_labels));
    let task =
        |x: &Tensor, labels: &[u32]| Task { x: (x.to_kind(Kind::Double) - &mean) * &scale, y: ids(labels, x), classes };
    let (all, held) = (task(&train, train_labels), task(test, test_labels));
    let mut chosen = vec![false; train_labels.len()];
    for row in validation {
        *chosen.get_mut(*row).ok_or_else(|| Error::value("validation", format!("there is no row {row}")))? = true;
    }
    let pick = |wanted: bool| -> Vec<i64> {
        (0..chosen.len()).filter(|row| chosen[*row] == wanted).map(|row| row as i64).collect()
    };
    let (fitted, tested) = (pick(false), pick(true));
    let zeros = Tensor::zeros([(train.size()[1] + 1) * classes], (Kind::Double, train.device()));
    let (mut best, mut start) = ((L2[2], f64::NAN), zeros.shallow_clone());
    if !fitted.is_empty() && !tested.is_empty() {
        let (part, checked) = (all.rows(&fitted), all.rows(&tested));
        // From the strongest, each fit starting where the last one ended.
        for l2 in L2.into_iter().rev() {
            let fit = part.fit(l2, &start)?;
            let accuracy = checked.accuracy(&fit)?;
            if best.1.is_nan() || accuracy > best.1 {
                best = (l2, accuracy);
            }
            start = fit.weights;
        }
    }
    let fit = all.fit(best.0, &zeros)?;
    Ok(ProbeResult {
        accuracy: held.accuracy(&fit)?,
        l2: best.0,
        validation: best.1,
        iterations: fit.iterations,
        converged: fit.converged,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::Device;

    /// 90 rows of three overlapping classes, by a formula.
    fn data() -> (Tensor, Vec<u32>) {
        let labels: Vec<u32> = (0..90).map(|i| i % 3).collect();
        let row = |i: u32| {
            let (i, c) = (f64::from(i), f64::from(i % 3));
            [(i * 0.7).sin() + c, (i * 1.3).cos() * 2.0 - c, (i * 0.31).sin() * 0.5 + c * c * 0.3]
        };
        (Tensor::from_slice(&(0..90).flat_map(row).collect::<Vec<_>>()).view([90, 3]), labels)
    }

    fn task() -> Task {
        let (x, labels) = data();
        Task { y: ids(&labels, &x), x, classes: 3 }
    }

    #[test]
    fn the_gradient_is_the_slope() {
        let task = task();
        tch::manual_seed(2);
        let at = Tensor::randn([12], (Kind::Double, Device::Cpu));
        let (_, gradient) = task.at(&at, 0.01);
        for index in 0..12 {
            let nudge = Tensor::zeros([12], (Kind::Double, Device::Cpu));
            let _ = nudge.get(index).fill_(1e-6);
            let slope = (task.at(&(&at + &nudge), 0.01).0 - task.at(&(&at - &nudge), 0.01).0) / 2e-6;
            assert!((slope - gradient.get(index).double_value(&[])).abs() < 1e-7);
        }
    }

    /// The optimum is unique up to a constant on the bias: another start ends at the same loss, with no slope left.
    #[test]
    fn the_optimum_hangs_on_nothing() {
        let task = task();
        let ends: Vec<f64> = [0.0, 3.0]
            .map(|start| {
                let fit = task.fit(1e-3, &Tensor::full([12], start, (Kind::Double, Device::Cpu))).unwrap();
                assert!(fit.converged);
                task.at(&fit.weights, 1e-3).0
            })
            .to_vec();
        assert!((ends[0] - ends[1]).abs() < 1e-9, "{ends:?}");
    }

    #[test]
    fn separable_classes_are_learnt_and_rows_may_move() {
        let (x, labels) = data();
        let validation: Vec<usize> = (80..90).collect();
        let result = linear_probe(&x, &labels, &x, &labels, &validation).unwrap();
        assert!(result.accuracy > 0.75 && result.converged, "{result:?}");
        let order = Tensor::arange_start_step(89, -1, -1, (Kind::Int64, Device::Cpu));
        let moved: Vec<u32> = labels.iter().rev().copied().collect();
        let validation: Vec<usize> = (0..10).collect();
        let other = linear_probe(&x.index_select(0, &order), &moved, &x, &labels, &validation).unwrap();
        assert_eq!((result.accuracy, result.l2), (other.accuracy, other.l2));
        assert!(linear_probe(&x, &[1; 90], &x, &labels, &[]).is_err());
    }
}
