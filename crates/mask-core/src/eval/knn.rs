//! Weighted nearest neighbours.

use tch::{Kind, Tensor};

use super::{check, classes, ids};
use crate::{Error, Result};

/// What kNN gave.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct KnnResult {
    /// Share of the test rows that were classified right.
    pub accuracy: f64,
    /// Neighbours that voted: as asked, or all of a smaller bank.
    pub k: usize,
}

/// Classifies `test` [M, D] by its `k` nearest rows of `train` [N, D] in cosine similarity; each votes with weight
/// exp(similarity / temperature). Equal votes go to the lowest class.
///
/// # Errors
/// Shapes that don't fit, features that aren't finite, a temperature that isn't positive.
pub fn knn(
    train: &Tensor,
    train_labels: &[u32],
    test: &Tensor,
    test_labels: &[u32],
    k: usize,
    temperature: f64,
) -> Result<KnnResult> {
    check("training", train, train_labels)?;
    check("test", test, test_labels)?;
    if k == 0 || !(temperature > 0.0 && temperature.is_finite()) {
        return Err(Error::value("knn", format!("k {k} and temperature {temperature} must be positive")));
    }
    let k = k.min(train_labels.len());
    let unit = |x: &Tensor| {
        let x = x.to_kind(Kind::Float);
        let norm = x.square().sum_dim_intlist(1, true, Kind::Float).sqrt().clamp_min(1e-12);
        x / norm
    };
    let (bank, labels) = (unit(train), ids(train_labels, train));
    let mut right = 0;
    // So many rows at once keep the similarities below about 64 MB.
    let chunk = (16_000_000 / train_labels.len()).clamp(1, 4096);
    for (part, truth) in unit(test).split(chunk as i64, 0).iter().zip(test_labels.chunks(chunk)) {
        let (similar, nearest) = part.f_matmul(&bank.transpose(0, 1))?.topk(k as i64, 1, true, true);
        let weights = (similar / temperature).exp();
        let votes = Tensor::zeros([truth.len() as i64, classes(train_labels)], (Kind::Float, train.device()));
        let of = labels.index_select(0, &nearest.view([-1])).view_as(&nearest);
        let best = Vec::<i64>::try_from(votes.scatter_add(1, &of, &weights).argmax(1, false))?;
        right += best.iter().zip(truth).filter(|(best, truth)| **best == i64::from(**truth)).count();
    }
    Ok(KnnResult { accuracy: right as f64 / test_labels.len() as f64, k })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(rows: &[[f32; 2]]) -> Tensor {
        Tensor::from_slice(&rows.concat()).view([-1, 2])
    }

    /// By hand: the test row (1, 0) has similarities 1 (class 1), 0.8 and 0.8 (class 0); at temperature 1 class 0 has
    /// 2 e^0.8 = 4.45 against e = 2.72; at 0.1 it is 2 e^8 against e^10, and class 1 wins.
    #[test]
    fn votes_are_weighted() {
        let train = rows(&[[2.0, 0.0], [0.8, 0.6], [0.8, -0.6]]);
        let test = rows(&[[1.0, 0.0]]);
        let vote = |k, temperature, truth| knn(&train, &[1, 0, 0], &test, &[truth], k, temperature).unwrap();
        assert_eq!(vote(3, 1.0, 0).accuracy, 1.0);
        assert_eq!(vote(3, 0.1, 1).accuracy, 1.0);
        assert_eq!(vote(50, 1.0, 0), KnnResult { accuracy: 1.0, k: 3 });
        assert_eq!(vote(1, 1.0, 1).accuracy, 1.0);
    }

    #[test]
    fn bad_features_are_named() {
        let bad = rows(&[[f32::NAN, 0.0], [0.0, 0.0]]);
        let good = rows(&[[1.0, 0.0], [0.0, 1.0]]);
        assert!(knn(&good, &[0, 1], &bad, &[0, 1], 1, 0.07).unwrap_err().to_string().contains("row 0"));
        assert!(knn(&good, &[0], &good, &[0, 1], 1, 0.07).is_err());
        assert_eq!(knn(&good, &[0, 1], &rows(&[[0.0, 0.0]]), &[0], 2, 0.07).unwrap().accuracy, 1.0);
    }
}
