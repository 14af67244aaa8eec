//! The projection head of self-distillation: from features to logits over prototypes.

use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor};

use super::layers::{Activation, Linear, linear};
use super::scope::{Init, InitRule, Scope};
use crate::{Error, Result};

/// Recipe keys of [`Projection`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProjectionConfig {
    /// Numbers in the two hidden layers.
    pub hidden: i64,
    /// Numbers of the normalised bottleneck.
    pub bottleneck: i64,
    /// Prototypes: the logits that come out.
    pub prototypes: i64,
}

impl Default for ProjectionConfig {
    /// iBOT: 2048, 256, 8192.
    fn default() -> Self {
        Self { hidden: 2048, bottleneck: 256, prototypes: 8192 }
    }
}

/// DINO's and iBOT's head: two hidden layers with GELU, a bottleneck on the unit sphere, and the cosine to each
/// prototype, times its gain (a weight-normalised map without bias). Class token and patches share it.
#[derive(Debug)]
pub struct Projection {
    layers: [Linear; 3],
    directions: Tensor,
    gains: Tensor,
}

impl Projection {
    /// The name of the last layer below the head's scope, which is held in the first epoch.
    pub const LAST: &'static str = "last";

    /// From features of `width` numbers.
    ///
    /// # Errors
    /// A size of 0, or the name is taken.
    pub fn new(at: &Scope, config: &ProjectionConfig, width: i64, init: InitRule) -> Result<Self> {
        let ProjectionConfig { hidden, bottleneck, prototypes } = *config;
        for (key, size) in [("hidden", hidden), ("bottleneck", bottleneck), ("prototypes", prototypes)] {
            if !(1..=1 << 24).contains(&size) {
                return Err(Error::value(key, format!("{size} is not a size from 1 to 16777216")));
            }
        }
        let layer = |index: usize, from: i64, to: i64| {
            Linear::new(&at.enter("layer").enter(index), from, to, init.linear(from, to))
        };
        let last = at.enter(Self::LAST);
        Ok(Self {
            layers: [layer(0, width, hidden)?, layer(1, hidden, hidden)?, layer(2, hidden, bottleneck)?],
            // A linear map that nobody initialises; its gains are set to 1 and decay with it.
            directions: last.weight(
                "directions",
                &[prototypes, bottleneck],
                Init::Uniform(1.0 / (bottleneck as f64).sqrt()),
            )?,
            gains: last.weight("gains", &[prototypes, 1], Init::ONES)?,
        })
    }

    /// Features [N, D] to logits [N, prototypes].
    #[must_use]
    pub fn forward(&self, x: &Tensor) -> Tensor {
        let [first, second, third] = &self.layers;
        let x = Activation::Gelu.forward(&first.forward(x));
        let x = Activation::Gelu.forward(&second.forward(&x));
        let x = unit(&third.forward(&x));
        linear(&x, &(unit(&self.directions) * &self.gains), None)
    }
}

/// Rows divided by their Euclidean norm, which counts as 1e-12 at least.
fn unit(x: &Tensor) -> Tensor {
    let x = x.to_kind(Kind::Float);
    let norm = x.norm_scalaropt_dim(2.0, [-1i64].as_slice(), true).clamp_min(1e-12);
    x / norm
}

#[cfg(test)]
mod pins {
    use super::*;
    use crate::nn::Parameters;
    use tch::Device;

    /// Ledger 070: 7,614,720 parameters from 384 numbers, the gains counted.
    #[test]
    fn attmasks_head() {
        let parameters = Parameters::new(Device::Cpu, 0);
        let config = ProjectionConfig::default();
        let head = Projection::new(&parameters.root(), &config, 384, InitRule::Normal).unwrap();
        assert_eq!(parameters.count(), (7_614_720, 7_614_720));
        let logits = head.forward(&Tensor::randn([3, 384], (Kind::Float, Device::Cpu)));
        assert_eq!(logits.size(), [3, 8192]);
        // Cosines, at gains of 1.
        assert!(logits.abs().max().double_value(&[]) <= 1.0 + 1e-5);
        assert!(
            Projection::new(&parameters.root(), &ProjectionConfig { hidden: 0, ..config }, 4, InitRule::Normal)
                .is_err()
        );
    }
}
