//! Losses: from predictions and targets to a number a position; a [`Term`](crate::method::Term) is their sum and a
//! count. Everything here is float32, whatever autocast made of the model.

use tch::{Kind, Tensor};

use crate::{Error, Result};

/// Both as float32, after a look at their shapes.
fn pair(answers: &Tensor, targets: &Tensor) -> Result<[Tensor; 2]> {
    if answers.size() != targets.size() || answers.dim() != 2 {
        return Err(Error::shape("targets", format!("that of the answers, {:?}", answers.size()), &targets.size()));
    }
    Ok([answers, targets].map(|tensor| tensor.to_kind(Kind::Float)))
}

/// Mean over the values of the squared difference: [N, P] and [N, P] to `[N]`.
///
/// # Errors
/// Different shapes.
pub fn squared_error(answers: &Tensor, targets: &Tensor) -> Result<Tensor> {
    let [a, t] = pair(answers, targets)?;
    Ok((a - t).square().mean_dim(-1, false, Kind::Float))
}

/// Mean over the values of the absolute difference: [N, P] and [N, P] to `[N]`.
///
/// # Errors
/// Different shapes.
pub fn absolute_error(answers: &Tensor, targets: &Tensor) -> Result<Tensor> {
    let [a, t] = pair(answers, targets)?;
    Ok((a - t).abs().mean_dim(-1, false, Kind::Float))
}

/// Mean over the values of the smooth absolute difference with beta 1: d^2 / 2 below 1, d - 1/2 above; [N, P] and
/// [N, P] to `[N]`.
///
/// # Errors
/// Different shapes.
pub fn smooth_l1(answers: &Tensor, targets: &Tensor) -> Result<Tensor> {
    let [a, t] = pair(answers, targets)?;
    Ok(a.smooth_l1_loss(&t, tch::Reduction::None, 1.0).mean_dim(-1, false, Kind::Float))
}

/// Cross-entropy of logits [N, V] with ids `[N]`, with label smoothing: `[N]`.
///
/// # Errors
/// Shapes that don't fit.
pub fn cross_entropy(logits: &Tensor, ids: &Tensor, smoothing: f64) -> Result<Tensor> {
    if logits.dim() != 2 || ids.size() != logits.size()[..1] {
        return Err(Error::shape("ids", format!("one for each row of the logits {:?}", logits.size()), &ids.size()));
    }
    let logits = logits.to_kind(Kind::Float);
    Ok(logits.f_cross_entropy_loss(ids, None::<&Tensor>, tch::Reduction::None, -100, smoothing)?)
}

/// Cross-entropy of logits [N, V], divided by `temperature`, with target shares [N, V] that sum to 1: `[N]`.
///
/// # Errors
/// Different shapes.
pub fn soft_cross_entropy(logits: &Tensor, targets: &Tensor, temperature: f64) -> Result<Tensor> {
    let [a, t] = pair(logits, targets)?;
    Ok(-(t * (a / temperature).log_softmax(-1, Kind::Float)).sum_dim_intlist(-1, false, Kind::Float))
}

/// How well scores [B, M] order the positions of each row as `errors` [B, M] do: the pairwise logistic loss over all
/// ordered pairs of a row whose errors differ, its sum and their number, scalars on the device; and the share of those
/// pairs that are ordered right. Entries that `valid` [B, M] doesn't mark are in no pair. No gradient reaches `errors`
/// (HPM, arXiv 2304.05919, section 3.2; 1e-6 inside the logarithm as in the official code).
///
/// # Errors
/// Different shapes.
pub fn ranking(scores: &Tensor, errors: &Tensor, valid: Option<&Tensor>) -> Result<Ranking> {
    let [q, l] = pair(scores, &errors.detach())?;
    let difference = |x: &Tensor| x.unsqueeze(1) - x.unsqueeze(2); // [B, i, j]: x_j - x_i
    let (q, l) = (difference(&q), difference(&l));
    let real = valid.map(|valid| valid.unsqueeze(1).logical_and(&valid.unsqueeze(2)));
    let pairs =
        |of: Tensor| real.as_ref().map_or_else(|| of.shallow_clone(), |real| of.logical_and(real)).to_kind(Kind::Float);
    let (above, below) = (pairs(l.greater(0.0)), pairs(l.less(0.0)));
    let p = q.sigmoid();
    let cost = -((&p + 1e-6).log() * &above + (p.neg() + 1.0 + 1e-6).log() * &below);
    let count = (&above + &below).sum(Kind::Float);
    let right =
        (q.greater(0.0).to_kind(Kind::Float) * above + q.less(0.0).to_kind(Kind::Float) * below).sum(Kind::Float);
    // Rows without a pair cost nothing and count nothing.
    let count = count.clamp_min(1.0);
    Ok(Ranking { sum: cost.sum(Kind::Float), right: (right / &count).detach(), count })
}

/// What [`ranking`] gives.
#[derive(Debug)]
pub struct Ranking {
    /// The loss, summed over pairs.
    pub sum: Tensor,
    /// The number of pairs, 1 at least.
    pub count: Tensor,
    /// The share of pairs that are ordered right.
    pub right: Tensor,
}

/// Rows [B, M] standardised by their own mean and unbiased variance over the entries that `valid` [B, M] marks, 1e-6
/// inside the root; 0 elsewhere.
#[must_use]
pub fn standardised(rows: &Tensor, valid: Option<&Tensor>) -> Tensor {
    let rows = rows.to_kind(Kind::Float);
    let real = valid.map_or_else(|| rows.ones_like(), |valid| valid.to_kind(Kind::Float));
    let sum = |x: Tensor| (x * &real).sum_dim_intlist([-1i64].as_slice(), true, Kind::Float);
    let count = sum(rows.ones_like());
    let centred = (&rows - sum(rows.shallow_clone()) / count.clamp_min(1.0)) * &real;
    let variance = sum(centred.square()) / (count - 1.0).clamp_min(1.0);
    centred / (variance + 1e-6).sqrt()
}

#[cfg(test)]
mod pins {
    use super::*;

    fn one(x: f32) -> Tensor {
        Tensor::from_slice(&[x]).view([1, 1])
    }

    /// Ledger I-JEPA: d 0.5 -> 0.125; 1 -> 0.5; 2 -> 1.5.
    #[test]
    fn smooth_l1_of_ijepa() {
        for (d, loss) in [(0.5, 0.125), (1.0, 0.5), (2.0, 1.5)] {
            assert_eq!(smooth_l1(&one(d), &one(0.0)).unwrap().double_value(&[0]), loss);
        }
    }

    /// Ledger 130: K = 4, smoothing 0.1, p = (.7, .1, .1, .1): 0.50262; uniform logits give ln V whatever it is.
    #[test]
    fn smoothing_of_maskgit() {
        let logits = Tensor::from_slice(&[0.7f32, 0.1, 0.1, 0.1]).log().view([1, 4]);
        let id = Tensor::from_slice(&[0i64]);
        assert!((cross_entropy(&logits, &id, 0.1).unwrap().double_value(&[0]) - 0.50262).abs() < 1e-5);
        let flat = Tensor::zeros([1, 2025], (Kind::Float, tch::Device::Cpu));
        assert!((cross_entropy(&flat, &id, 0.1).unwrap().double_value(&[0]) - 7.6133).abs() < 1e-4);
    }

    /// Ledger 070: logits [.2, .1, 0] at temperature 0.07 are the target [.77096, .18476, .04428]; against student
    /// logits [.1, .3, 0] at 0.1 they cost 1.84460.
    #[test]
    fn attmasks_cross_entropy() {
        let teacher = (Tensor::from_slice(&[0.2f32, 0.1, 0.0]) / 0.07).softmax(-1, Kind::Float).view([1, 3]);
        let pins = [0.77096, 0.18476, 0.04428];
        assert!((0..3).all(|i| (teacher.double_value(&[0, i]) - pins[i as usize]).abs() < 1e-5));
        let student = Tensor::from_slice(&[0.1f32, 0.3, 0.0]).view([1, 3]);
        assert!((soft_cross_entropy(&student, &teacher, 0.1).unwrap().double_value(&[0]) - 1.84460).abs() < 1e-5);
    }

    fn ranked(scores: &[f32], errors: &[f32], rows: i64) -> (f64, f64) {
        let row = |values: &[f32]| Tensor::from_slice(values).view([rows, -1]);
        let Ranking { sum, count, .. } = ranking(&row(scores), &row(errors), None).unwrap();
        ((sum / &count).double_value(&[]), count.double_value(&[]))
    }

    /// Ledger 021: the relative loss.
    #[test]
    fn hpms_ranking() {
        type Case = (&'static [f32], &'static [f32], i64, f64, f64);
        let cases: [Case; 6] = [
            (&[0.5; 3], &[0.1, 0.2, 0.3], 1, 0.693_145, 6.0),
            (&[0.0, 1.0, 2.0], &[0.1, 0.2, 0.3], 1, 0.251_149, 6.0),
            (&[2.0, 1.0, 0.0], &[0.1, 0.2, 0.3], 1, 1.584_479, 6.0),
            (&[0.0, 1.0, 2.0], &[0.1, 0.1, 0.3], 1, 0.220_094, 4.0),
            (&[0.0, 1.0, 2.0, 0.0, 0.0, 0.0], &[0.1, 0.2, 0.3, 0.1, 0.1, 0.3], 2, 0.427_948, 10.0),
            (&[-20.0, 20.0], &[1.0, 0.0], 1, 13.8155, 2.0),
        ];
        for (scores, errors, rows, cost, pairs) in cases {
            let (found, count) = ranked(scores, errors, rows);
            assert!((found - cost).abs() < 1e-5 * cost.max(1.0) && count == pairs, "{scores:?}: {found} {count}");
        }
        // Equal errors: nothing to order, no cost, no NaN.
        assert_eq!(ranked(&[1.0, 2.0], &[0.5, 0.5], 1), (0.0, 1.0));
        // A constant added to the scores, an increasing map of the errors: the same.
        let (a, b) = (ranked(&[0.3, 1.0, 2.5], &[0.1, 0.2, 0.3], 1), ranked(&[7.3, 8.0, 9.5], &[1.0, 8.0, 27.0], 1));
        assert!((a.0 - b.0).abs() < 1e-6);
    }

    /// Padding is in no pair and no mean.
    #[test]
    fn padding_counts_for_nothing() {
        let row = |values: &[f32], rows: i64| Tensor::from_slice(values).view([rows, -1]);
        let valid = Tensor::from_slice(&[true, true, true, true, true, false]).view([2, 3]);
        let (scores, errors) = (row(&[0.0, 1.0, 2.0, 0.0, 1.0, 9.0], 2), row(&[0.1, 0.2, 0.3, 0.1, 0.2, -5.0], 2));
        let padded = ranking(&scores, &errors, Some(&valid)).unwrap();
        let (first, second) = (ranked(&[0.0, 1.0, 2.0], &[0.1, 0.2, 0.3], 1), ranked(&[0.0, 1.0], &[0.1, 0.2], 1));
        assert_eq!(padded.count.double_value(&[]), 8.0);
        assert!((padded.sum.double_value(&[]) - (first.0 * first.1 + second.0 * second.1)).abs() < 1e-5);
        let standard = standardised(&errors, Some(&valid));
        let alone = standardised(&row(&[0.1, 0.2], 1), None);
        assert_eq!(standard.double_value(&[1, 2]), 0.0);
        assert!((standard.double_value(&[1, 0]) - alone.double_value(&[0, 0])).abs() < 1e-6);
    }

    /// Ledger 021: the gradient reaches the scores alone.
    #[test]
    fn no_gradient_reaches_the_errors() {
        let [q, l] = [[1f32, 2.0], [0.3, 0.1]].map(|v| Tensor::from_slice(&v).view([1, 2]).set_requires_grad(true));
        ranking(&q, &l, None).unwrap().sum.backward();
        assert!(q.grad().defined() && !l.grad().defined());
    }

    /// Ledger 021: the absolute loss's target; a zero prediction costs (M - 1) / M.
    #[test]
    fn hpms_absolute_target() {
        let target = standardised(&Tensor::from_slice(&[1f32, 2.0, 3.0, 4.0]).view([1, 4]), None);
        for (at, pin) in [-1.161_895, -0.387_298, 0.387_298, 1.161_895].into_iter().enumerate() {
            assert!((target.double_value(&[0, at as i64]) - pin).abs() < 1e-5);
        }
        assert!((target.square().mean(Kind::Double).double_value(&[]) - 0.75).abs() < 1e-5);
    }

    #[test]
    fn shapes_are_checked() {
        assert!(squared_error(&one(1.0), &Tensor::from_slice(&[1f32, 2.0]).view([1, 2])).is_err());
        assert!(cross_entropy(&one(1.0), &Tensor::from_slice(&[0i64, 1]), 0.0).is_err());
    }
}
