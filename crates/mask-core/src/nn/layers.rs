//! Linear maps, norms, activations and the two kinds of dropout.

use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor};

use super::scope::{Init, Scope};
use crate::Result;

/// `x` [.., in] times the transpose of `weight` [out, in], plus `bias` `[out]`, by the faster of libtorch's two libraries.
pub(super) fn linear(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Tensor {
    // What is refused is refused once more by libtorch's own, whose panic is tch's way to say it.
    mask_torch::linear(x, weight, bias).unwrap_or_else(|_| x.linear(weight, bias))
}

/// `y = x W^T + b`.
#[derive(Debug)]
pub struct Linear {
    /// [out, in].
    pub weight: Tensor,
    /// `[out]`.
    pub bias: Option<Tensor>,
}

impl Linear {
    /// A map of `width` numbers to `out`, with a bias that starts at 0.
    ///
    /// # Errors
    /// The name is taken.
    pub fn new(at: &Scope, width: i64, out: i64, init: Init) -> Result<Self> {
        let bias = Some(at.plain("bias", &[out], Init::ZEROS)?);
        Ok(Self { weight: at.weight("weight", &[out, width], init)?, bias })
    }

    /// [.., in] to [.., out].
    #[must_use]
    pub fn forward(&self, x: &Tensor) -> Tensor {
        linear(x, &self.weight, self.bias.as_ref())
    }
}

/// Layer norm over the last dimension, with gain and offset.
#[derive(Debug)]
pub struct LayerNorm {
    gain: Tensor,
    offset: Tensor,
    eps: f64,
}

impl LayerNorm {
    /// A norm over `width` numbers, at first the identity on standardised input.
    ///
    /// # Errors
    /// The name is taken.
    pub fn new(at: &Scope, width: i64, eps: f64) -> Result<Self> {
        Ok(Self {
            gain: at.plain("weight", &[width], Init::ONES)?,
            offset: at.plain("bias", &[width], Init::ZEROS)?,
            eps,
        })
    }

    /// [.., width] to the same.
    #[must_use]
    pub fn forward(&self, x: &Tensor) -> Tensor {
        x.layer_norm(self.gain.size(), Some(&self.gain), Some(&self.offset), self.eps, true)
    }
}

/// The non-linearity of a feed-forward branch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Activation {
    /// Exact GELU (error function).
    Gelu,
    /// GELU in its tanh form.
    GeluTanh,
    /// max(x, 0).
    Relu,
    /// x times its sigmoid.
    Silu,
}

impl Activation {
    /// Elementwise.
    #[must_use]
    pub fn forward(self, x: &Tensor) -> Tensor {
        match self {
            Self::Gelu => x.gelu("none"),
            Self::GeluTanh => x.gelu("tanh"),
            Self::Relu => x.relu(),
            Self::Silu => x.silu(),
        }
    }
}

/// Two linear maps with an activation between.
#[derive(Debug)]
pub struct Mlp {
    up: Linear,
    down: Linear,
    activation: Activation,
}

impl Mlp {
    /// `width` to `hidden` and back; `init` are the laws of the two maps.
    ///
    /// # Errors
    /// The name is taken.
    pub fn new(at: &Scope, width: i64, hidden: i64, activation: Activation, init: [Init; 2]) -> Result<Self> {
        Ok(Self {
            up: Linear::new(&at.enter("up"), width, hidden, init[0])?,
            down: Linear::new(&at.enter("down"), hidden, width, init[1])?,
            activation,
        })
    }

    /// [.., width] to the same.
    #[must_use]
    pub fn forward(&self, x: &Tensor) -> Tensor {
        self.down.forward(&self.activation.forward(&self.up.forward(x)))
    }
}

/// Zeroes numbers with probability `rate` and scales the others up; the identity when `rate` is 0 or not training.
#[must_use]
pub fn dropout(x: &Tensor, rate: f64, train: bool) -> Tensor {
    if rate > 0.0 && train { x.dropout(rate, true) } else { x.shallow_clone() }
}

/// Drops the whole branch of a sample with probability `rate` and scales the others up (stochastic depth). `x` is
/// [B, ..].
#[must_use]
pub fn drop_path(x: &Tensor, rate: f64, train: bool) -> Tensor {
    if rate <= 0.0 || !train {
        return x.shallow_clone();
    }
    let mut shape = vec![1; x.dim()];
    shape[0] = x.size()[0];
    let keep = 1.0 - rate;
    let alive = Tensor::rand(&shape, (Kind::Float, x.device())).lt(keep).to_kind(x.kind());
    // The factor stays a scalar, which a bf16 branch does not round.
    x * alive * (1.0 / keep)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::Device;

    #[test]
    fn drop_path_drops_whole_rows_and_keeps_the_mean() {
        tch::manual_seed(1);
        let x = Tensor::ones([4000, 3], (Kind::Float, Device::Cpu));
        let y = drop_path(&x, 0.25, true);
        let rows: Vec<f32> = Vec::try_from(y.mean_dim(1, false, Kind::Float)).unwrap();
        assert!(rows.iter().all(|row| *row == 0.0 || (row - 1.0 / 0.75).abs() < 1e-6));
        assert!((rows.iter().sum::<f32>() / 4000.0 - 1.0).abs() < 0.04);
        assert_eq!(drop_path(&x, 0.25, false), x);
    }
}
