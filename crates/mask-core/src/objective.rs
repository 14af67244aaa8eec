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

    #[test]
    fn shapes_are_checked() {
        assert!(squared_error(&one(1.0), &Tensor::from_slice(&[1f32, 2.0]).view([1, 2])).is_err());
        assert!(cross_entropy(&one(1.0), &Tensor::from_slice(&[0i64, 1]), 0.0).is_err());
    }
}
