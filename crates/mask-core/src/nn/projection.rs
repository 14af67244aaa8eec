//! Self-distillation over prototypes (DINO, iBOT and what builds on them): head, centred targets, and the loss between
//! crops.

use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor};

use super::layers::{Activation, Linear, linear};
use super::scope::{Init, InitRule, Scope};
use crate::objective::soft_cross_entropy;
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

/// The running mean of a teacher's logits, which keeps one prototype from taking all.
#[derive(Debug)]
pub struct Centre {
    value: Tensor,
    stays: f64,
}

impl Centre {
    /// Zeros at first, kept with the weights as `name`; `stays` is how much of it stays at each step.
    ///
    /// # Errors
    /// The name is taken.
    pub fn new(at: &Scope, name: &str, prototypes: i64, stays: f64) -> Result<Self> {
        let zeros = Tensor::zeros([1, prototypes], (Kind::Float, at.device()));
        Ok(Self { value: at.table(name, zeros)?, stays })
    }

    /// The teacher's distribution [.., V]: logits, centred and divided by a temperature.
    #[must_use]
    pub fn shares(&self, logits: &Tensor, temperature: f64) -> Tensor {
        ((logits.to_kind(Kind::Float) - &self.value) / temperature).softmax(-1, Kind::Float)
    }

    /// What a step adds up for the centre: the rows' means over their positions, [B, .., V] to a sum [1, V].
    #[must_use]
    pub fn rows(logits: &Tensor) -> Tensor {
        let logits = logits.to_kind(Kind::Float);
        let size = logits.size();
        let each = logits.view([size[0], -1, size[size.len() - 1]]).mean_dim(1, false, Kind::Float);
        each.sum_dim_intlist(0, true, Kind::Float)
    }

    /// Follows the mean [1, V] of a global batch.
    pub fn follow(&mut self, mean: &Tensor) {
        let _ = self.value.lerp_(mean, 1.0 - self.stays);
    }
}

/// Cross-entropy of the logits [B, V] of each crop of a student with the shares [B, V] of every other crop of the teacher,
/// the teacher's crops being the first of the student's: the sum over samples and pairs, and the number of pairs.
///
/// # Errors
/// Different shapes.
pub fn across_crops(students: &[Tensor], teachers: &[Tensor], temperature: f64) -> Result<(Tensor, f64)> {
    let (mut sum, mut pairs) = (None, 0.0);
    for (own, target) in teachers.iter().enumerate() {
        for (_, logits) in students.iter().enumerate().filter(|(other, _)| *other != own) {
            let cost = soft_cross_entropy(logits, target, temperature)?.sum(Kind::Float);
            sum = Some(match sum {
                Some(sum) => sum + cost,
                None => cost,
            });
            pairs += 1.0;
        }
    }
    let sum = sum.ok_or_else(|| Error::Defect("no two crops to compare".to_owned()))?;
    Ok((sum, pairs))
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

    /// Ledger 070: pairs of class terms for 0, 6 and 10 local crops; a centre moves by a tenth.
    #[test]
    fn pairs_and_centres() {
        let logits =
            |n: usize| -> Vec<Tensor> { (0..n).map(|_| Tensor::zeros([3, 4], (Kind::Float, Device::Cpu))).collect() };
        for (locals, pairs) in [(0, 2.0), (6, 14.0), (10, 22.0)] {
            let targets: Vec<Tensor> = logits(2).iter().map(|logits| logits.softmax(-1, Kind::Float)).collect();
            let (sum, found) = across_crops(&logits(2 + locals), &targets, 0.1).unwrap();
            assert_eq!(found, pairs);
            assert!((sum.double_value(&[]) - 3.0 * pairs * 4f64.ln()).abs() < 1e-4);
        }
        let parameters = Parameters::new(Device::Cpu, 0);
        let mut centre = Centre::new(&parameters.root(), "centre", 2, 0.9).unwrap();
        let logits = Tensor::from_slice(&[1f32, 2.0, 3.0, 6.0]).view([1, 2, 2]);
        centre.follow(&Centre::rows(&logits));
        assert!((centre.value.double_value(&[0, 0]) - 0.2).abs() < 1e-6);
        assert!((centre.value.double_value(&[0, 1]) - 0.4).abs() < 1e-6);
        let shares = centre.shares(&Tensor::from_slice(&[0.2f32, 0.4]).view([1, 2]), 0.04);
        assert!((shares.double_value(&[0, 0]) - 0.5).abs() < 1e-6);
        assert!(across_crops(&[], &[], 0.1).is_err());
    }

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
