//! Patches of any number of dimensions, and their linear embedding.

use tch::Tensor;

use super::scope::{Init, InitRule, Scope};
use crate::plan::Ids;
use crate::{Error, Result};

/// Cuts `x` [B, C, spatial..] into patches: [B, L, C * p] with the channel slowest (`channel_last` false) or fastest
/// (`channel_last` true, MAE's target order).
///
/// # Errors
/// A side that its patch doesn't divide.
pub fn patches(x: &Tensor, patch: &[i64], channel_last: bool) -> Result<Tensor> {
    let size = x.size();
    let axes = patch.len() as i64;
    let fits = size.len() == patch.len() + 2 && size[2..].iter().zip(patch).all(|(side, p)| *p > 0 && side % p == 0);
    if !fits {
        return Err(Error::shape(
            "input",
            format!("[batch, channels, sides..] with sides in patches of {patch:?}"),
            &size,
        ));
    }
    let mut split = vec![size[0], size[1]];
    split.extend(size[2..].iter().zip(patch).flat_map(|(side, p)| [side / p, *p]));
    let grid = (0..axes).map(|axis| 2 + 2 * axis);
    let inner = (0..axes).map(|axis| 3 + 2 * axis);
    let order: Vec<i64> = if channel_last {
        std::iter::once(0).chain(grid).chain(inner).chain([1]).collect()
    } else {
        std::iter::once(0).chain(grid).chain([1]).chain(inner).collect()
    };
    let length: i64 = size[2..].iter().zip(patch).map(|(side, p)| side / p).product();
    let numbers = size[1] * patch.iter().product::<i64>();
    Ok(x.view(split.as_slice()).permute(order).reshape([size[0], length, numbers]))
}

/// The inverse of [`patches`]: [B, L, C * p] to [B, C, spatial..] on a grid of `grid` patches.
///
/// # Errors
/// A number of tokens or of values that doesn't fit.
pub fn unpatch(tokens: &Tensor, grid: &[i64], patch: &[i64], channel_last: bool) -> Result<Tensor> {
    let size = tokens.size();
    let inner: i64 = patch.iter().product();
    if size.len() != 3 || size[1] != grid.iter().product::<i64>() || size[2] % inner != 0 || grid.len() != patch.len() {
        return Err(Error::shape("tokens", format!("[batch, {grid:?}, channels * {patch:?}]"), &size));
    }
    let channels = size[2] / inner;
    let axes = patch.len() as i64;
    let mut split = vec![size[0]];
    split.extend(grid);
    let (channel, first_inner) = if channel_last { (1 + 2 * axes, 1 + axes) } else { (1 + axes, 2 + axes) };
    if channel_last {
        split.extend(patch);
        split.push(channels);
    } else {
        split.push(channels);
        split.extend(patch);
    }
    let mut order = vec![0, channel];
    order.extend((0..axes).flat_map(|axis| [1 + axis, first_inner + axis]));
    let mut shape = vec![size[0], channels];
    shape.extend(grid.iter().zip(patch).map(|(count, p)| count * p));
    Ok(tokens.view(split.as_slice()).permute(order).reshape(shape))
}

/// One linear map for every patch (a convolution whose stride is its kernel, as a product, so that hidden patches
/// cost nothing).
#[derive(Debug)]
pub struct PatchEmbed {
    weight: Tensor,
    bias: Tensor,
    patch: Vec<i64>,
}

impl PatchEmbed {
    /// Patches of `channels` channels to `width` numbers. The bias keeps a convolution's default law under Xavier
    /// (as MAE's does) and starts at 0 otherwise.
    ///
    /// # Errors
    /// The name is taken.
    pub fn new(at: &Scope, channels: i64, patch: &[i64], width: i64, init: InitRule) -> Result<Self> {
        let numbers = channels * patch.iter().product::<i64>();
        let mut shape = vec![width, channels];
        shape.extend(patch);
        let bias = match init {
            InitRule::Xavier => Init::Uniform(1.0 / (numbers as f64).sqrt()),
            _ => Init::ZEROS,
        };
        Ok(Self {
            weight: at.weight("weight", &shape, init.linear(numbers, width))?,
            bias: at.plain("bias", &[width], bias)?,
            patch: patch.to_vec(),
        })
    }

    /// Sides of a patch.
    #[must_use]
    pub fn patch(&self) -> &[i64] {
        &self.patch
    }

    /// Channels of the input.
    #[must_use]
    pub fn channels(&self) -> i64 {
        self.weight.size()[1]
    }

    /// Embeds `x` [B, C, spatial..]: all patches [B, L, D], or those of `seen` only [B, K, D].
    ///
    /// # Errors
    /// Another number of channels, or sides that don't fit.
    pub fn forward(&self, x: &Tensor, seen: Option<&Ids>) -> Result<Tensor> {
        if x.size().get(1) != Some(&self.channels()) {
            return Err(Error::shape("input", format!("{} channels in dimension 1", self.channels()), &x.size()));
        }
        let mut tokens = patches(x, &self.patch, false)?;
        if let Some(seen) = seen {
            tokens = seen.take(&tokens);
        }
        let weight = self.weight.view([self.weight.size()[0], -1]);
        Ok(mask_torch::linear(&tokens, &weight, Some(&self.bias))?)
    }
}

#[cfg(test)]
mod pins {
    use super::*;
    use crate::nn::Parameters;
    use proptest::prelude::*;
    use tch::{Device, Kind};

    /// Ledger 081: patchify of arange(48) as [1, 3, 4, 4], p = 2.
    #[test]
    fn maes_order() {
        let x = Tensor::arange(48, (Kind::Float, Device::Cpu)).view([1, 3, 4, 4]);
        let cut = patches(&x, &[2, 2], true).unwrap();
        let patch = |index| Vec::<f32>::try_from(cut.get(0).get(index)).unwrap();
        assert_eq!(patch(0), [0., 16., 32., 1., 17., 33., 4., 20., 36., 5., 21., 37.]);
        assert_eq!(patch(1), [2., 18., 34., 3., 19., 35., 6., 22., 38., 7., 23., 39.]);
        assert_eq!(unpatch(&cut, &[2, 2], &[2, 2], true).unwrap(), x);
    }

    #[test]
    fn the_product_is_the_convolution() {
        let parameters = Parameters::new(Device::Cpu, 0);
        let embed = PatchEmbed::new(&parameters.root(), 3, &[2, 4], 8, InitRule::Xavier).unwrap();
        let x = Tensor::randn([2, 3, 6, 8], (Kind::Float, Device::Cpu));
        let convolved = x.conv2d(&embed.weight, Some(&embed.bias), [2, 4], [0, 0], [1, 1], 1);
        let ours = embed.forward(&x, None).unwrap();
        assert!((ours - convolved.flatten(2, 3).transpose(1, 2)).abs().max().double_value(&[]) < 1e-5);
        assert!(embed.forward(&x.slice(1, 0, 2, 1), None).is_err());
        assert!(patches(&x, &[4, 4], false).is_err());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(40))]
        #[test]
        fn unpatch_inverts(axes in prop::collection::vec((1i64..4, 1i64..4), 1..4), channels in 1i64..4, last: bool) {
            let (grid, patch): (Vec<i64>, Vec<i64>) = axes.into_iter().unzip();
            let mut shape = vec![2, channels];
            shape.extend(grid.iter().zip(&patch).map(|(g, p)| g * p));
            let x = Tensor::rand(&shape, (Kind::Float, Device::Cpu));
            prop_assert_eq!(unpatch(&patches(&x, &patch, last).unwrap(), &grid, &patch, last).unwrap(), x);
        }
    }
}
