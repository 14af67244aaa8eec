//! Convolutions over one to three dimensions, and the stacks of them that halve and double a grid.

use serde::{Deserialize, Serialize};
use tch::Tensor;

use super::scope::{Init, Scope};
use crate::{Error, Result};

/// A convolution of any number of dimensions; zeros are added around.
#[derive(Debug)]
pub struct Conv {
    weight: Tensor,
    bias: Tensor,
    stride: Vec<i64>,
    padding: Vec<i64>,
    transposed: bool,
}

impl Conv {
    fn new(
        at: &Scope,
        [from, to]: [i64; 2],
        (side, axes): (i64, usize),
        stride: i64,
        transposed: bool,
    ) -> Result<Self> {
        let kernel = vec![side; axes];
        let mut shape = if transposed { vec![from, to] } else { vec![to, from] };
        shape.extend(&kernel);
        // PyTorch's law for convolutions; of a transposed one it counts the inputs by the second dimension.
        let fan_in = shape[1] * kernel.iter().product::<i64>();
        let init = Init::Uniform(1.0 / (fan_in as f64).sqrt());
        Ok(Self {
            weight: at.weight("weight", &shape, init)?,
            bias: at.plain("bias", &[to], init)?,
            stride: vec![stride; axes],
            // A kernel of 3 keeps a side, one of 4 with stride 2 halves or doubles it exactly.
            padding: vec![(side - 1) / 2; axes],
            transposed,
        })
    }

    /// `from` channels to `to` by a kernel of `side` (odd) along each of `axes`; sides stay as they are.
    ///
    /// # Errors
    /// The name is taken.
    pub fn same(at: &Scope, from: i64, to: i64, side: i64, axes: usize) -> Result<Self> {
        Self::new(at, [from, to], (side, axes), 1, false)
    }

    /// Halves each side by a kernel of 4.
    ///
    /// # Errors
    /// The name is taken.
    pub fn halving(at: &Scope, from: i64, to: i64, axes: usize) -> Result<Self> {
        Self::new(at, [from, to], (4, axes), 2, false)
    }

    /// Doubles each side by a transposed kernel of 4.
    ///
    /// # Errors
    /// The name is taken.
    pub fn doubling(at: &Scope, from: i64, to: i64, axes: usize) -> Result<Self> {
        Self::new(at, [from, to], (4, axes), 2, true)
    }

    /// [B, from, spatial..] to [B, to, spatial..].
    ///
    /// # Errors
    /// Another number of channels or dimensions.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let ones = vec![1i64; self.stride.len()];
        let none = vec![0i64; self.stride.len()];
        Ok(x.f_convolution(
            &self.weight,
            Some(&self.bias),
            &self.stride,
            &self.padding,
            &ones,
            self.transposed,
            &none,
            1,
        )?)
    }
}

/// x plus two convolutions, each behind a ReLU: kernels of 3 and 1 (van den Oord et al. 2017, section 4.1).
#[derive(Debug)]
struct Residual {
    wide: Conv,
    point: Conv,
}

impl Residual {
    fn new(at: &Scope, width: i64, axes: usize) -> Result<Self> {
        Ok(Self {
            wide: Conv::same(&at.enter("wide"), width, width, 3, axes)?,
            point: Conv::same(&at.enter("point"), width, width, 1, axes)?,
        })
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let inner = self.wide.forward(&x.relu())?;
        Ok(x + self.point.forward(&inner.relu())?)
    }
}

/// Recipe keys of [`ConvEncoder`] and [`ConvDecoder`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ConvConfig {
    /// Channels inside.
    pub width: i64,
    /// Residual blocks after each halving, and before each doubling.
    pub blocks: usize,
}

impl Default for ConvConfig {
    /// That of VQ-VAE on small images, with half of its channels.
    fn default() -> Self {
        Self { width: 128, blocks: 1 }
    }
}

impl ConvConfig {
    /// # Errors
    /// The first key that is out of range.
    pub fn check(&self) -> Result<()> {
        if !(1..=1 << 16).contains(&self.width) {
            return Err(Error::value("width", format!("{} is not a number from 1 to 65536", self.width)));
        }
        if self.blocks > 100 {
            return Err(Error::value("blocks", format!("{} is more than 100", self.blocks)));
        }
        Ok(())
    }
}

/// Halves a grid several times: a convolution, a ReLU and residual blocks each time, then a map to the output.
#[derive(Debug)]
pub struct ConvEncoder {
    levels: Vec<(Conv, Vec<Residual>)>,
    out: Conv,
}

/// The mirror of [`ConvEncoder`].
#[derive(Debug)]
pub struct ConvDecoder {
    into: Conv,
    levels: Vec<(Vec<Residual>, Conv)>,
    out: Conv,
}

fn residuals(at: &Scope, config: &ConvConfig, axes: usize) -> Result<Vec<Residual>> {
    (0..config.blocks).map(|block| Residual::new(&at.enter("block").enter(block), config.width, axes)).collect()
}

impl ConvEncoder {
    /// `from` channels to `to` on a grid that is 2^`levels` times as coarse along each of `axes`.
    ///
    /// # Errors
    /// Numbers out of range, or the name is taken.
    pub fn new(at: &Scope, config: &ConvConfig, levels: usize, [from, to]: [i64; 2], axes: usize) -> Result<Self> {
        config.check()?;
        let level = |level: usize| {
            let at = at.enter("level").enter(level);
            let from = if level == 0 { from } else { config.width };
            Ok((Conv::halving(&at.enter("down"), from, config.width, axes)?, residuals(&at, config, axes)?))
        };
        let first = if levels == 0 { from } else { config.width };
        Ok(Self {
            levels: (0..levels).map(level).collect::<Result<_>>()?,
            out: Conv::same(&at.enter("out"), first, to, 1, axes)?,
        })
    }

    /// [B, from, spatial..] to [B, to, grid..].
    ///
    /// # Errors
    /// Another number of channels.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let mut x = x.shallow_clone();
        for (down, blocks) in &self.levels {
            x = down.forward(&x)?.relu();
            for block in blocks {
                x = block.forward(&x)?;
            }
        }
        self.out.forward(&x.relu())
    }
}

impl ConvDecoder {
    /// `from` channels to `to` on a grid that is 2^`levels` times as fine along each of `axes`.
    ///
    /// # Errors
    /// Numbers out of range, or the name is taken.
    pub fn new(at: &Scope, config: &ConvConfig, levels: usize, [from, to]: [i64; 2], axes: usize) -> Result<Self> {
        config.check()?;
        let width = config.width;
        let level = |level: usize| {
            let at = at.enter("level").enter(level);
            Ok((residuals(&at, config, axes)?, Conv::doubling(&at.enter("up"), width, width, axes)?))
        };
        Ok(Self {
            into: Conv::same(&at.enter("into"), from, width, 3, axes)?,
            levels: (0..levels).map(level).collect::<Result<_>>()?,
            out: Conv::same(&at.enter("out"), width, to, 1, axes)?,
        })
    }

    /// [B, from, grid..] to [B, to, spatial..].
    ///
    /// # Errors
    /// Another number of channels.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let mut x = self.into.forward(x)?;
        for (blocks, up) in &self.levels {
            for block in blocks {
                x = block.forward(&x)?;
            }
            x = up.forward(&x.relu())?;
        }
        self.out.forward(&x.relu())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::Parameters;
    use tch::{Device, Kind};

    #[test]
    fn grids_are_halved_and_doubled_in_any_number_of_dimensions() {
        let config = ConvConfig { width: 6, blocks: 1 };
        for (axes, sides) in [(1, vec![16]), (2, vec![8, 12]), (3, vec![4, 8, 4])] {
            let root = Parameters::new(Device::Cpu, 0).root();
            let encoder = ConvEncoder::new(&root.enter("e"), &config, 2, [3, 5], axes).unwrap();
            let decoder = ConvDecoder::new(&root.enter("d"), &config, 2, [5, 3], axes).unwrap();
            let mut shape = vec![2, 3];
            shape.extend(&sides);
            let x = Tensor::rand(&shape, (Kind::Float, Device::Cpu));
            let coarse = encoder.forward(&x).unwrap();
            let expected: Vec<i64> = [2, 5].into_iter().chain(sides.iter().map(|side| side / 4)).collect();
            assert_eq!(coarse.size(), expected);
            assert_eq!(decoder.forward(&coarse).unwrap().size(), shape);
            assert!(encoder.forward(&x.narrow(1, 0, 2)).is_err());
        }
    }

    /// PyTorch's default law: uniform with variance 1 / (3 fan_in).
    #[test]
    fn weights_follow_pytorchs_law() {
        let parameters = Parameters::new(Device::Cpu, 1);
        let _ = Conv::halving(&parameters.root(), 32, 64, 2).unwrap();
        let weight = &parameters.named()[0].1;
        let variance = weight.square().mean(Kind::Double).double_value(&[]);
        assert!((variance * 3.0 * (32.0 * 16.0) - 1.0).abs() < 0.03, "{variance}");
    }
}
