//! Weighted nearest neighbours.

use tch::{Kind, Tensor};

use super::{ClassCount, check, classes, count, places};
use crate::{Error, Result};

/// What kNN gave.
#[derive(Clone, Debug, PartialEq)]
pub struct KnnResult {
    /// Share of the test rows that were classified right.
    pub accuracy: f64,
    /// Neighbours that voted: as asked, or all of a smaller bank.
    pub k: usize,
    /// The same for each class of the test rows, in order.
    pub classes: Vec<ClassCount>,
}

/// Similarities that are held at once: 64 MB of them.
const AT_ONCE: usize = 16_000_000;

/// Classifies `test` [M, D] by its `k` nearest rows of `train` [N, D] in cosine similarity; each votes with weight
/// exp(similarity / temperature). Equal votes go to the lowest class; a row of zeros has similarity 0 to all. Which of
/// several equally near rows is the k-th is libtorch's choice.
///
/// A `k` beyond the bank is cut to it, see [`KnnResult::k`]. A class that the bank lacks is never right.
///
/// Source: Wu et al., "Unsupervised feature learning via non-parametric instance discrimination", section 3.4, with
/// their temperature 0.07; 20 neighbours as in DINO (Caron et al. 2021).
///
/// # Errors
/// Shapes that don't fit, features that aren't finite, a `k` of 0, a temperature that isn't positive.
pub fn knn(
    train: &Tensor,
    train_labels: &[u32],
    test: &Tensor,
    test_labels: &[u32],
    k: usize,
    temperature: f64,
) -> Result<KnnResult> {
    check((train, train_labels), (test, test_labels))?;
    if k == 0 {
        return Err(Error::value("k", "is 0; at least one neighbour must vote"));
    }
    if !(temperature > 0.0 && temperature.is_finite()) {
        return Err(Error::value("temperature", format!("is {temperature}; it must be above 0")));
    }
    let k = k.min(train_labels.len());
    let known = classes(train_labels);
    let predicted = tch::no_grad(|| -> Result<Vec<u32>> {
        let bank = unit(train)?.f_transpose(0, 1)?; // [D, N]
        let labels = places(train_labels, &known, train);
        let test = test.f_to_device(train.device())?;
        let chunk = (AT_ONCE / train_labels.len()).clamp(1, 4096) as i64;
        let mut predicted = Vec::with_capacity(test_labels.len());
        for rows in test.f_split(chunk, 0)? {
            let (similarity, nearest) = unit(&rows)?.f_matmul(&bank)?.f_topk(k as i64, 1, true, true)?; // [m, k]
            // Less the nearest one's, the exponent can't overflow and the votes compare alike.
            let weights = ((&similarity - similarity.narrow(1, 0, 1)).to_kind(Kind::Double) / temperature).exp();
            let of = labels.f_index_select(0, &nearest.f_reshape([-1])?)?.view_as(&nearest);
            let votes = Tensor::f_zeros([nearest.size()[0], known.len() as i64], (Kind::Double, train.device()))?;
            // Of equals argmax takes the first, the lowest class.
            let best = Vec::<i64>::try_from(votes.f_scatter_add(1, &of, &weights)?.f_argmax(1, false)?)?;
            predicted.extend(best.into_iter().map(|place| known[place as usize]));
        }
        Ok(predicted)
    })?;
    let (accuracy, classes) = count(&predicted, test_labels);
    Ok(KnnResult { accuracy, k, classes })
}

/// Rows of length 1 in single precision; zeros stay.
fn unit(rows: &Tensor) -> Result<Tensor> {
    let rows = if rows.kind() == Kind::Double { rows.shallow_clone() } else { rows.f_to_kind(Kind::Float)? };
    // First by the largest number, so that no square overflows or vanishes.
    let largest = rows.f_abs()?.f_amax([1], true)?.f_clamp_min(f64::from(f32::MIN_POSITIVE))?;
    let rows = (rows / largest).f_to_kind(Kind::Float)?;
    let length = rows.f_square()?.f_sum_dim_intlist([1].as_slice(), true, Kind::Float)?.f_sqrt()?;
    Ok(rows / length.f_clamp_min(1e-12)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows<const D: usize>(rows: &[[f32; D]]) -> Tensor {
        Tensor::from_slice(&rows.concat()).view([-1, D as i64])
    }

    /// By hand: the test row (1, 0) has similarities 1 (class 1), 0.8 and 0.8 (class 0); at temperature 1 class 0 has
    /// 2 e^0.8 = 4.45 against e = 2.72; at 0.1 it is 2 e^8 = 5962 against e^10 = 22026, and class 1 wins. They are
    /// equal at t = 0.2 / ln 2 = 0.28854.
    #[test]
    fn votes_are_weighted() {
        let train = rows(&[[2.0, 0.0], [0.8, 0.6], [0.8, -0.6]]);
        let test = rows(&[[1.0, 0.0]]);
        let vote = |k, temperature, truth| knn(&train, &[1, 0, 0], &test, &[truth], k, temperature).unwrap();
        for (k, temperature, class) in
            [(3, 1.0, 0), (3, 0.1, 1), (3, 0.289, 0), (3, 0.288, 1), (1, 1.0, 1), (2, 1.0, 1)]
        {
            assert_eq!(vote(k, temperature, class).accuracy, 1.0, "{k} {temperature}");
            assert_eq!(vote(k, temperature, 1 - class).accuracy, 0.0, "{k} {temperature}");
        }
        // e^(1 / 0.001) is beyond every float.
        assert_eq!(vote(3, 0.001, 1).accuracy, 1.0);
        let cut = vote(50, 1.0, 0);
        assert_eq!((cut.accuracy, cut.k), (1.0, 3));
    }

    /// Two classes at the same angle on either side: the lower one, whatever the order of rows.
    #[test]
    fn equal_votes_go_to_the_lowest_class() {
        let test = rows(&[[1.0, 0.0]]);
        let train = rows(&[[0.6, 0.8], [0.6, -0.8]]);
        for labels in [[9, 4], [4, 9]] {
            assert_eq!(knn(&train, &labels, &test, &[4], 2, 0.07).unwrap().accuracy, 1.0);
        }
    }

    #[test]
    fn lengths_do_not_count_and_zeros_are_no_trouble() {
        let train = rows(&[[1e-30, 0.0, 0.0], [0.0, 1e30, 0.0], [0.0, 0.0, 0.0]]);
        let test = rows(&[[3e38, 1e37, 0.0], [1e-37, 2e-37, 0.0], [0.0, -1.0, 0.0]]);
        let result = knn(&train, &[5, 6, 7], &test, &[5, 6, 7], 1, 0.07).unwrap();
        assert_eq!(result.accuracy, 2.0 / 3.0 + f64::from(u8::from(result.classes[2].right == 1)) / 3.0);
        assert_eq!((result.classes[0].right, result.classes[1].right), (1, 1));
        let zero = rows(&[[0.0, 0.0, 0.0]]);
        assert_eq!(knn(&train, &[5, 6, 7], &zero, &[5], 3, 0.07).unwrap().accuracy, 1.0);
    }

    /// More test rows than one chunk: each row keeps its own label. Rows at the angles of 0 to 89 degrees, classes of
    /// ten degrees; a test row lies a tenth of a degree beside one of the bank.
    #[test]
    fn chunks_keep_their_rows_and_classes_are_counted() {
        let at = |degrees: f64| [degrees.to_radians().cos() as f32, degrees.to_radians().sin() as f32];
        let train: Vec<_> = (0..90).map(|i| at(f64::from(i))).collect();
        let labels: Vec<u32> = (0..90).map(|i| i / 10 * 400_000_000).collect();
        let pick = |i: u32| (i * 37) % 90;
        let test: Vec<_> = (0..9000).map(|i| at(f64::from(pick(i)) + 0.1)).collect();
        let mut truth: Vec<u32> = (0..9000).map(|i| labels[pick(i) as usize]).collect();
        let result = knn(&rows(&train), &labels, &rows(&test), &truth, 1, 0.07).unwrap();
        assert_eq!(result.accuracy, 1.0);
        assert!(result.classes.iter().all(|class| class.rows == 1000 && class.right == 1000));
        // A class that the bank lacks.
        truth[0] = u32::MAX;
        let result = knn(&rows(&train), &labels, &rows(&test), &truth, 1, 0.07).unwrap();
        assert_eq!(result.accuracy, 8999.0 / 9000.0);
        assert_eq!(result.classes.last(), Some(&ClassCount { class: u32::MAX, rows: 1, right: 0 }));
    }

    #[test]
    fn the_order_of_rows_does_not_count() {
        tch::manual_seed(3);
        let of = |n: i64| Tensor::randn([n, 8], (Kind::Float, tch::Device::Cpu));
        let (train, test) = (of(200), of(100));
        let (labels, truth): (Vec<u32>, Vec<u32>) =
            ((0..200).map(|i| i % 5).collect(), (0..100).map(|i| i % 5).collect());
        let result = knn(&train, &labels, &test, &truth, 20, 0.07).unwrap();
        assert!(result.accuracy > 0.05 && result.accuracy < 0.5);
        let moved: Vec<u32> = labels.iter().rev().copied().collect();
        assert_eq!(knn(&train.flip([0]), &moved, &test, &truth, 20, 0.07).unwrap(), result);
        let backwards: Vec<u32> = truth.iter().rev().copied().collect();
        assert_eq!(knn(&train, &labels, &test.flip([0]), &backwards, 20, 0.07).unwrap(), result);
    }

    #[test]
    fn bad_input_is_named() {
        let good = rows(&[[1.0, 0.0], [0.0, 1.0]]);
        let said = |train: &Tensor, labels: &[u32], test: &Tensor, truth: &[u32], k, temperature| {
            knn(train, labels, test, truth, k, temperature).unwrap_err().to_string()
        };
        assert_eq!(
            said(&good, &[0, 1], &rows(&[[0.0, 1.0], [0.0, f32::NAN]]), &[0, 1], 1, 0.07),
            "set of test features: holds NaN in row 1, feature 1; the encoder or its input is not finite"
        );
        assert_eq!(
            said(&rows(&[[f32::INFINITY, 0.0], [0.0, 0.0]]), &[0, 1], &good, &[0, 1], 1, 0.07),
            "set of training features: holds inf in row 0, feature 0; the encoder or its input is not finite"
        );
        assert_eq!(
            said(&good, &[0], &good, &[0, 1], 1, 0.07),
            "set of training features has shape [2, 2], expected [1, 2], at least one row"
        );
        assert_eq!(
            said(&good, &[0, 1], &rows(&[[1.0]]), &[0], 1, 0.07),
            "set of test features has shape [1, 1], expected [1, 2], at least one row"
        );
        let none = Tensor::zeros([0, 2], (Kind::Float, tch::Device::Cpu));
        assert!(said(&none, &[], &good, &[0, 1], 1, 0.07).contains("at least one row"));
        assert!(said(&good.narrow(1, 0, 0), &[0, 1], &good, &[0, 1], 1, 0.07).contains("at least one row and feature"));
        assert!(
            said(&good.view([4]), &[0, 1], &good, &[0, 1], 1, 0.07)
                .starts_with("set of training features has shape [4]")
        );
        assert_eq!(said(&good, &[0, 1], &good, &[0, 1], 0, 0.07), "k: is 0; at least one neighbour must vote");
        assert!(said(&good, &[0, 1], &good, &[0, 1], 1, f64::NAN).starts_with("temperature: is NaN"));
    }
}
