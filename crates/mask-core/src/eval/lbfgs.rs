//! L-BFGS in double precision (Nocedal and Wright, "Numerical optimization", algorithms 7.4 and 7.5).

use std::collections::VecDeque;

use tch::Tensor;

/// Iterations of L-BFGS at most.
const ITERATIONS: usize = 200;
/// Pairs of steps and changes of the gradient that it remembers.
const HISTORY: usize = 10;
/// It ends where no derivative is larger.
const TOLERANCE: f64 = 1e-6;
/// Points that one line search may try.
const TRIALS: usize = 40;

/// A point of the descent.
pub(super) struct Point {
    pub at: Tensor,
    pub loss: f64,
    pub gradient: Tensor,
}

/// Where the descent ended.
pub(super) struct Minimum {
    pub at: Tensor,
    pub iterations: usize,
    /// No derivative is larger than the tolerance.
    pub converged: bool,
}

/// Steps, the changes of the gradient along them, and 1 / their product, oldest first.
type History = VecDeque<(Tensor, Tensor, f64)>;

fn dot(a: &Tensor, b: &Tensor) -> f64 {
    a.view([-1]).dot(&b.view([-1])).double_value(&[])
}

fn steepest(point: &Point) -> f64 {
    point.gradient.abs().max().double_value(&[])
}

/// Minimises from `start` a function that tells its value and its gradient. Nothing is random, and nothing is asked of
/// the function beyond a slope.
pub(super) fn minimise(start: Tensor, function: impl Fn(Tensor) -> Point) -> Minimum {
    let mut point = function(start);
    let mut history = History::with_capacity(HISTORY);
    let mut iterations = 0;
    while iterations < ITERATIONS && steepest(&point) > TOLERANCE {
        iterations += 1;
        let Some(next) = search(&point, &direction(&point.gradient, &history), &function) else {
            // Rounding hides any descent that is left; once more along the gradient itself, then it is the end.
            if history.is_empty() {
                break;
            }
            history.clear();
            continue;
        };
        let (step, change) = (&next.at - &point.at, &next.gradient - &point.gradient);
        let curvature = dot(&step, &change);
        if curvature > f64::EPSILON * dot(&change, &change) {
            if history.len() == HISTORY {
                history.pop_front();
            }
            history.push_back((step, change, 1.0 / curvature));
        }
        point = next;
    }
    Minimum { converged: steepest(&point) <= TOLERANCE, at: point.at, iterations }
}

/// A point along `direction` with the weak Wolfe conditions, by doubling and bisection; where rounding keeps the second
/// from being met, the best point with the first.
fn search(from: &Point, direction: &Tensor, function: &impl Fn(Tensor) -> Point) -> Option<Point> {
    let slope = dot(&from.gradient, direction);
    let (mut low, mut high, mut length) = (0.0, f64::INFINITY, 1.0);
    let mut best: Option<Point> = None;
    for _ in 0..TRIALS {
        let next = function(&from.at + direction * length);
        // Written so that NaN fails.
        if next.loss < from.loss && next.loss <= from.loss + 1e-4 * length * slope {
            let steep = dot(&next.gradient, direction) < 0.9 * slope;
            if best.as_ref().is_none_or(|best| next.loss < best.loss) {
                best = Some(next);
            }
            if !steep {
                break;
            }
            low = length;
        } else {
            high = length;
        }
        length = if high.is_finite() { (low + high) / 2.0 } else { 2.0 * low };
    }
    best
}

/// Where to go: minus the gradient, times the inverse curvature that the history tells.
fn direction(gradient: &Tensor, history: &History) -> Tensor {
    let mut direction = -gradient;
    let Some((step, change, _)) = history.back() else {
        // Nothing is known of the curvature: a step of length 1 at most.
        return direction / dot(gradient, gradient).sqrt().max(1.0);
    };
    let scale = dot(step, change) / dot(change, change);
    let mut shares = Vec::with_capacity(history.len());
    for (step, change, inverse) in history.iter().rev() {
        let share = inverse * dot(step, &direction);
        direction -= change * share;
        shares.push(share);
    }
    direction *= scale;
    for ((step, change, inverse), share) in history.iter().zip(shares.into_iter().rev()) {
        direction += step * (share - inverse * dot(change, &direction));
    }
    direction
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Rosenbrock's valley, f = (1 - x)^2 + 100 (y - x^2)^2: curved, not convex, its minimum at (1, 1).
    #[test]
    fn a_curved_valley_is_followed_to_its_end() {
        let valley = |at: Tensor| {
            let (x, y) = (at.double_value(&[0]), at.double_value(&[1]));
            let gradient = [-2.0 * (1.0 - x) - 400.0 * x * (y - x * x), 200.0 * (y - x * x)];
            let loss = (1.0 - x).powi(2) + 100.0 * (y - x * x).powi(2);
            Point { at, loss, gradient: Tensor::from_slice(&gradient) }
        };
        let end = minimise(Tensor::from_slice(&[-1.2, 1.0]), valley);
        assert!(end.converged && end.iterations < 60, "{}", end.iterations);
        assert!((end.at.double_value(&[0]) - 1.0).abs() < 1e-5 && (end.at.double_value(&[1]) - 1.0).abs() < 1e-5);
    }

    /// On a quadratic with four curvatures of 1 to 1000, far fewer steps than the gradient alone would take.
    #[test]
    fn the_history_tells_the_curvature() {
        let scale = Tensor::from_slice(&[1.0, 10.0, 100.0, 1000.0]);
        let bowl = |at: Tensor| {
            let gradient = &at * &scale;
            Point { loss: dot(&at, &gradient) / 2.0, gradient, at }
        };
        let end = minimise(Tensor::ones([4], (tch::Kind::Double, tch::Device::Cpu)), bowl);
        assert!(end.converged && end.iterations < 30, "{}", end.iterations);
    }

    /// A function that has no value further on, and one without a minimum.
    #[test]
    fn cliffs_and_slopes_without_end_stop() {
        // -log(1 - x) - x has its minimum at 0 and no value from 1 on.
        let cliff = |at: Tensor| {
            let x = at.double_value(&[0]);
            Point { loss: -(1.0 - x).ln() - x, gradient: Tensor::from_slice(&[1.0 / (1.0 - x) - 1.0]), at }
        };
        let end = minimise(Tensor::from_slice(&[0.999_999]), cliff);
        assert!(end.converged && end.at.double_value(&[0]).abs() < 1e-5);
        let slope = |at: Tensor| Point { loss: -at.double_value(&[0]), gradient: Tensor::from_slice(&[-1.0]), at };
        assert!(!minimise(Tensor::from_slice(&[0.0]), slope).converged);
        let nothing = |at: Tensor| Point { loss: f64::NAN, gradient: Tensor::from_slice(&[1.0]), at };
        assert!(!minimise(Tensor::from_slice(&[0.0]), nothing).converged);
    }
}
