//! The linear probe: multinomial logistic regression by L-BFGS.

use tch::{Kind, Tensor};

use super::lbfgs::{Minimum, Point, minimise};
use super::{ClassCount, check, classes, count, places};
use crate::{Error, Result};

/// The penalties that are tried: lambda in mean cross-entropy + lambda / 2 |W|^2. Where others write the penalty as a
/// weight C of the summed cross-entropy, C = 1 / (rows * lambda).
pub const L2: [f64; 5] = [1e-5, 1e-4, 1e-3, 1e-2, 1e-1];

/// What the probe gave.
#[derive(Clone, Debug, PartialEq)]
pub struct ProbeResult {
    /// Share of the test rows that were classified right.
    pub accuracy: f64,
    /// The chosen penalty, one of [`L2`].
    pub l2: f64,
    /// Accuracy on the validation rows under it; NaN where there was nothing to choose by.
    pub validation: f64,
    /// Iterations of the last fit.
    pub iterations: usize,
    /// Whether its gradient vanished within them. Where not, the accuracy is that of early stopping, the same in every
    /// run.
    pub converged: bool,
    /// The accuracy for each class of the test rows, in order.
    pub classes: Vec<ClassCount>,
}

/// Learns `train_labels` from `train` [N, D] and tests on `test` [M, D], in double precision.
///
/// Features are standardised by mean and standard deviation of all training rows; one that is constant there becomes
/// 0. The penalty is the one of [`L2`] with the best accuracy on the `validation` rows of `train` when fitted on the
/// others (of equals the strongest); under it the probe is fitted again on all rows. Without validation rows, or with
/// nothing else, the middle one is taken. The bias is not penalised. A class without training rows is never predicted.
///
/// The same thread count gives the same bits.
///
/// # Errors
/// Shapes that don't fit, features that aren't finite, a validation row that isn't there, a single class.
pub fn linear_probe(
    train: &Tensor,
    train_labels: &[u32],
    test: &Tensor,
    test_labels: &[u32],
    validation: &[usize],
) -> Result<ProbeResult> {
    fit(train, train_labels, test, test_labels, validation).map(|(_, result)| result)
}

/// As [`linear_probe`], with what it says of each test row.
pub(super) fn fit(
    train: &Tensor,
    train_labels: &[u32],
    test: &Tensor,
    test_labels: &[u32],
    validation: &[usize],
) -> Result<(Vec<u32>, ProbeResult)> {
    check((train, train_labels), (test, test_labels))?;
    if let [class] = classes(train_labels)[..] {
        let problem = format!("all training rows are of class {class}; a probe needs at least two classes");
        return Err(Error::value("linear probe", problem));
    }
    let mut held_out = vec![false; train_labels.len()];
    for row in validation {
        let rows = train_labels.len();
        let unknown = || Error::value("validation", format!("row {row} is not among the {rows} training rows"));
        *held_out.get_mut(*row).ok_or_else(unknown)? = true;
    }
    tch::no_grad(|| {
        let (train, test) = standardise(train, &test.f_to_device(train.device())?)?;
        let all = Task::new(&train, train_labels)?;
        let part = |wanted: bool| -> Result<(Tensor, Vec<u32>)> {
            let rows: Vec<usize> = (0..held_out.len()).filter(|row| held_out[*row] == wanted).collect();
            let index = Tensor::from_slice(&rows.iter().map(|row| *row as i64).collect::<Vec<_>>());
            let labels = rows.iter().map(|row| train_labels[*row]).collect();
            Ok((train.f_index_select(0, &index.to_device(train.device()))?, labels))
        };
        let ((fitted, fitted_labels), (held, held_labels)) = (part(false)?, part(true)?);
        let (mut l2, mut validation, mut start) = (L2[2], f64::NAN, all.zeros());
        if !fitted_labels.is_empty() && !held_labels.is_empty() {
            let task = Task::new(&fitted, &fitted_labels)?;
            let mut weights = task.zeros();
            // From the strongest penalty on, each fit starts where the last one ended.
            for candidate in L2.into_iter().rev() {
                weights = task.fit(candidate, weights).at;
                let (accuracy, _) = count(&task.predict(&weights, &held)?, &held_labels);
                if validation.is_nan() || accuracy > validation {
                    (l2, validation) = (candidate, accuracy);
                    if task.classes == all.classes {
                        start = weights.shallow_clone();
                    }
                }
            }
        }
        let fit = all.fit(l2, start);
        let predicted = all.predict(&fit.at, &test)?;
        let (accuracy, classes) = count(&predicted, test_labels);
        let (iterations, converged) = (fit.iterations, fit.converged);
        Ok((predicted, ProbeResult { accuracy, l2, validation, iterations, converged, classes }))
    })
}

/// Both sets by mean and standard deviation of the first, in double precision.
fn standardise(train: &Tensor, test: &Tensor) -> Result<(Tensor, Tensor)> {
    let train = train.f_to_kind(Kind::Double)?;
    // First by the largest number, so that no square overflows or vanishes.
    let largest = train.f_abs()?.f_amax([0], true)?.f_clamp_min(f64::MIN_POSITIVE)?;
    let (train, test) = (train / &largest, test.f_to_kind(Kind::Double)? / &largest);
    let mean = train.f_mean_dim([0].as_slice(), true, Kind::Double)?;
    // The mean of a constant is rounded: it would leave a deviation that is not 0.
    let varies = train.f_amax([0], true)?.f_ne_tensor(&train.f_amin([0], true)?)?;
    let deviation = train.f_std_dim([0].as_slice(), false, true)?;
    let scale = deviation.f_reciprocal()?.f_where_self(&varies, &deviation.f_zeros_like()?)?;
    Ok(((train - &mean) * &scale, (test - &mean) * &scale))
}

/// Rows to fit: features with a last one that is 1 for the bias [D + 1, N], and the places of the classes [1, N].
///
/// Classes and features come before rows here: softmax and matrix products of this shape are then several times faster.
struct Task {
    x: Tensor,
    y: Tensor,
    classes: Vec<u32>,
}

/// Features [N, D] as [D + 1, N].
fn columns(x: &Tensor) -> Result<Tensor> {
    let one = Tensor::f_ones([1, x.size()[0]], (Kind::Double, x.device()))?;
    Ok(Tensor::f_cat(&[x.f_transpose(0, 1)?, one], 0)?.f_contiguous()?)
}

impl Task {
    fn new(x: &Tensor, labels: &[u32]) -> Result<Self> {
        // Only classes that occur: the bias of another would sink for ever.
        let classes = classes(labels);
        Ok(Self { x: columns(x)?, y: places(labels, &classes, x).f_unsqueeze(0)?, classes })
    }

    /// Weights [C, D + 1], the bias last.
    fn zeros(&self) -> Tensor {
        Tensor::zeros([self.classes.len() as i64, self.x.size()[0]], (Kind::Double, self.x.device()))
    }

    /// The classes of features [M, D].
    fn predict(&self, weights: &Tensor, x: &Tensor) -> Result<Vec<u32>> {
        let best = Vec::<i64>::try_from(weights.f_matmul(&columns(x)?)?.f_argmax(0, false)?)?;
        Ok(best.into_iter().map(|place| self.classes[place as usize]).collect())
    }

    /// Mean cross-entropy + lambda / 2 |W|^2 and its gradient.
    fn at(&self, at: Tensor, l2: f64) -> Point {
        let [width, rows] = [self.x.size()[0] - 1, self.x.size()[1]];
        let log_p = at.matmul(&self.x).log_softmax(0, Kind::Double); // [C, N]
        let map = at.narrow(1, 0, width); // without the bias
        let fit = log_p.gather(0, &self.y, false).mean(Kind::Double);
        let loss = map.square().sum(Kind::Double) * (l2 / 2.0) - fit;
        let minus = Tensor::full([1, rows], -1.0, (Kind::Double, self.x.device()));
        let error = log_p.exp().scatter_add(0, &self.y, &minus) / rows as f64; // [C, N]
        let gradient = error.matmul(&self.x.transpose(0, 1));
        let _ = gradient.narrow(1, 0, width).g_add_(&(map * l2));
        Point { loss: loss.double_value(&[]), gradient, at }
    }

    fn fit(&self, l2: f64, start: Tensor) -> Minimum {
        minimise(start, |at| self.at(at, l2))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::Device;

    const DOUBLE: (Kind, Device) = (Kind::Double, Device::Cpu);

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
        Task::new(&x, &labels).unwrap()
    }

    fn values(tensor: &Tensor) -> Vec<f64> {
        Vec::try_from(tensor.contiguous().view([-1])).unwrap()
    }

    /// scikit-learn 1.9.1, `LogisticRegression(C=1 / (90 * lambda), tol=1e-10)` on `data()`: by class coefficients and
    /// intercept; its objective / 90; its accuracy. Its solvers lbfgs and newton-cg agree to 4e-8.
    #[test]
    fn coefficients_are_those_of_scikit_learn() {
        let pins = [
            (
                1e-3,
                0.397_329_567_534_8,
                0.8,
                [
                    [-1.891_151_0, 0.399_281_6, -3.451_544_7, 3.834_566_7],
                    [-0.185_712_5, -0.068_343_6, -1.354_996_3, 2.316_327_0],
                    [2.076_863_5, -0.330_938_0, 4.806_541_0, -6.150_893_7],
                ],
            ),
            (
                1e-1,
                0.697_361_778_088_8,
                70.0 / 90.0,
                [
                    [-0.748_344_4, 0.310_246_0, -0.491_378_8, 1.170_694_2],
                    [0.048_866_3, -0.011_497_5, -0.299_126_8, 0.472_142_5],
                    [0.699_478_2, -0.298_748_5, 0.790_505_6, -1.642_836_6],
                ],
            ),
        ];
        let task = task();
        for (l2, loss, accuracy, weights) in pins {
            let fit = task.fit(l2, task.zeros());
            assert!(fit.converged);
            for (found, expected) in values(&fit.at).into_iter().zip(weights.concat()) {
                assert!((found - expected).abs() < 1e-4, "{found} {expected}");
            }
            let predicted = task.predict(&fit.at, &data().0).unwrap();
            assert_eq!(count(&predicted, &data().1).0, accuracy);
            assert!((task.at(fit.at, l2).loss - loss).abs() < 1e-9);
        }
    }

    #[test]
    fn the_gradient_is_the_slope() {
        let task = task();
        tch::manual_seed(2);
        let at = Tensor::randn([3, 4], DOUBLE);
        let gradient = values(&task.at(at.shallow_clone(), 0.01).gradient);
        for (index, found) in gradient.into_iter().enumerate() {
            let nudge = Tensor::zeros([12], DOUBLE);
            let _ = nudge.get(index as i64).fill_(1e-5);
            let nudge = nudge.view([3, 4]);
            let slope = (task.at(&at + &nudge, 0.01).loss - task.at(&at - &nudge, 0.01).loss) / 2e-5;
            assert!((slope - found).abs() < 1e-8, "{slope} {found}");
        }
    }

    /// Two points at -1 and 1, one of each class: by symmetry W = (-w, w), bias 0, and w solves
    /// sigmoid(-2 w) = lambda w from the derivative of log(1 + e^(-2 w)) + lambda w^2.
    #[test]
    fn two_points_have_a_closed_form() {
        let task = Task::new(&Tensor::from_slice(&[-1.0, 1.0]).view([2, 1]), &[0, 1]).unwrap();
        for l2 in L2 {
            let (mut low, mut high) = (0.0, 100.0);
            for _ in 0..100 {
                let w: f64 = (low + high) / 2.0;
                if 1.0 / (1.0 + (2.0 * w).exp()) > l2 * w { low = w } else { high = w }
            }
            let fit = task.fit(l2, task.zeros());
            assert!(fit.converged);
            let [a, bias, b, other] = values(&fit.at)[..] else { panic!() };
            // The gradient vanishes to 1e-6, over a curvature of at least lambda.
            let near = |found: f64, wanted: f64| (found - wanted).abs() < 1e-6 / l2;
            assert!(near(a, -low) && near(b, low) && near(bias, 0.0) && near(other, 0.0), "{l2} {low} {a} {b} {bias}");
        }
    }

    /// Features that tell nothing leave the shares of the classes: the bias is their logarithm, up to a constant.
    #[test]
    fn without_features_the_bias_is_the_prior() {
        let labels = [0, 0, 0, 0, 0, 0, 1, 1, 1, 2];
        let task = Task::new(&Tensor::zeros([10, 2], DOUBLE), &labels).unwrap();
        let weights = values(&task.fit(1e-3, task.zeros()).at);
        let [a, b, p, c, d, q, e, f, r] = weights[..] else { panic!() };
        assert_eq!([a, b, c, d, e, f], [0.0; 6]);
        assert!((p - q - 2f64.ln()).abs() < 1e-4 && (q - r - 3f64.ln()).abs() < 1e-4);
    }

    /// The optimum is unique up to a constant on the bias: from anywhere to the same loss.
    #[test]
    fn the_start_does_not_count() {
        let task = task();
        let end = |start: f64| {
            let fit = task.fit(1e-3, Tensor::arange(12, DOUBLE).view([3, 4]) * start);
            assert!(fit.converged);
            task.at(fit.at, 1e-3).loss
        };
        assert!((end(0.0) - end(3.0)).abs() < 1e-9 && (end(0.0) - end(-30.0)).abs() < 1e-9);
    }

    #[test]
    fn order_and_names_and_scale_do_not_count() {
        let (x, labels) = data();
        let validation: Vec<usize> = (81..90).collect();
        let result = linear_probe(&x, &labels, &x, &labels, &validation).unwrap();
        assert!(result.accuracy > 0.75 && result.converged && result.validation > 0.7, "{result:?}");
        assert_eq!(
            result.classes.iter().map(|class| (class.class, class.rows)).collect::<Vec<_>>(),
            [(0, 30), (1, 30), (2, 30)]
        );
        assert_eq!(linear_probe(&x, &labels, &x, &labels, &validation).unwrap(), result);
        let same = |other: &ProbeResult| {
            assert_eq!((other.accuracy, other.l2, other.validation), (result.accuracy, result.l2, result.validation));
        };
        // Rows backwards.
        let moved: Vec<u32> = labels.iter().rev().copied().collect();
        let validation_moved: Vec<usize> = (0..9).collect();
        same(&linear_probe(&x.flip([0]), &moved, &x, &labels, &validation_moved).unwrap());
        // Labels that no memory holds a number for.
        let named: Vec<u32> = labels.iter().map(|label| u32::MAX - 5 + label).collect();
        same(&linear_probe(&x, &named, &x, &named, &validation).unwrap());
        // Features far away and tiny, one constant, single precision.
        let far = Tensor::cat(&[x.narrow(1, 0, 1) * 1e-200, x.narrow(1, 1, 2) * 1e200 + 1e200, x.ones_like() * 0.3], 1);
        same(&linear_probe(&far, &labels, &far, &labels, &validation).unwrap());
        let single = x.to_kind(Kind::Float).set_requires_grad(true);
        same(&linear_probe(&single, &labels, &single, &labels, &validation).unwrap());
    }

    /// A feature that is constant in training may be anything later.
    #[test]
    fn constant_features_are_not_seen() {
        let train = Tensor::from_slice(&[-1.0, 0.1, 1.0, 0.1, -1.0, 0.1, 1.0, 0.1]).view([4, 2]);
        let test = Tensor::from_slice(&[-1.0, 1e9, 1.0, -1e9]).view([2, 2]);
        let result = linear_probe(&train, &[3, 8, 3, 8], &test, &[3, 8], &[]).unwrap();
        assert_eq!((result.accuracy, result.l2), (1.0, L2[2]));
        assert!(result.validation.is_nan() && result.converged);
    }

    #[test]
    fn classes_may_be_missing_anywhere() {
        let (x, mut labels) = data();
        // Class 7 only in validation, class 9 only in the test, fewer rows than classes.
        labels[89] = 7;
        let validation: Vec<usize> = (81..90).collect();
        let mut truth = labels.clone();
        truth[0] = 9;
        let result = linear_probe(&x, &labels, &x, &truth, &validation).unwrap();
        assert_eq!(result.classes.last(), Some(&ClassCount { class: 9, rows: 1, right: 0 }));
        assert!(result.accuracy > 0.7 && result.converged);
        let few = linear_probe(&x.narrow(0, 0, 2), &[4, 5], &x, &labels, &[]).unwrap();
        assert_eq!(few.accuracy, 0.0);
        // One class is left to fit, none is left to fit.
        assert!(linear_probe(&x.narrow(0, 0, 3), &[4, 4, 5], &x, &labels, &[2]).is_ok());
        assert!(linear_probe(&x.narrow(0, 0, 3), &[4, 4, 5], &x, &labels, &[0, 1, 2]).unwrap().validation.is_nan());
    }

    #[test]
    fn bad_input_is_named() {
        let (x, labels) = data();
        let said = |x: &Tensor, labels: &[u32], validation: &[usize]| {
            linear_probe(x, labels, x, labels, validation).unwrap_err().to_string()
        };
        assert_eq!(
            said(&x, &[1; 90], &[]),
            "linear probe: all training rows are of class 1; a probe needs at least two classes"
        );
        assert_eq!(said(&x, &labels, &[90]), "validation: row 90 is not among the 90 training rows");
        let holed = x.copy();
        let _ = holed.get(4).get(2).fill_(f64::NAN);
        assert!(said(&holed, &labels, &[]).contains("NaN in row 4, feature 2"));
        assert!(linear_probe(&x, &labels, &x.narrow(1, 0, 1), &labels, &[]).is_err());
    }
}
