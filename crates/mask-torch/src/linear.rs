//! Linear maps by the faster of libtorch's two libraries.

use tch::Tensor;

use crate::{Result, ffi};

/// `x` [.., K] times the transpose of `weight` [N, K], plus `bias` `[N]`: [.., N]; with its derivatives.
///
/// The same as libtorch's own `linear` up to rounding. On AMD processors with AVX-512, large float32 maps go through
/// oneDNN, which makes a training step there about 1.6 times as fast: libtorch takes MKL, which keeps to AVX2 on them.
/// The choice hangs on the processor and the sizes alone, so a run repeats its bits.
///
/// # Errors
/// libtorch refuses: shapes or types that don't fit.
/// ```
/// use mask_torch::linear;
/// use tch::Tensor;
/// let [x, weight, bias] = [[1f32, 2.0], [3.0, 4.0], [5.0, 6.0]].map(|pair| Tensor::from_slice(&pair));
/// let y = linear(&x.view([1, 2]), &weight.view([1, 2]), Some(&bias.slice(0, 0, 1, 1)))?;
/// assert_eq!(f64::try_from(&y).unwrap(), 16.0);
/// # Ok::<(), mask_torch::Error>(())
/// ```
pub fn linear(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
    ffi::linear(x, weight, bias, Engine::Faster)
}

/// Who multiplies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i32)]
pub(crate) enum Engine {
    /// What is faster on this processor.
    Faster = 0,
    /// libtorch's own `linear`.
    #[cfg(test)]
    Libtorch = 1,
    /// oneDNN wherever it can.
    #[cfg(test)]
    OneDnn = 2,
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::{Device, Kind};

    fn random(size: &[i64], seed: i64) -> Tensor {
        let count: i64 = size.iter().product();
        let angles = Tensor::arange(count, (Kind::Double, Device::Cpu)) * (1.7 + seed as f64);
        angles.sin().to_kind(Kind::Float).view(size)
    }

    /// The answer and the gradients of all that is trained, by one engine.
    fn answers(engine: Engine, x: &Tensor, trained: bool, bias: bool) -> Vec<Tensor> {
        let x = x.detach().set_requires_grad(trained);
        let weight = random(&[192, 128], 1).set_requires_grad(true);
        let bias = bias.then(|| random(&[192], 2).set_requires_grad(true));
        let mut y = ffi::linear(&x, &weight, bias.as_ref(), engine).unwrap();
        y *= random(&y.size(), 9); // changed in place, as models do
        (&y * random(&y.size(), 3)).sum(Kind::Float).backward();
        let mut all = vec![y.detach(), weight.grad()];
        all.extend(bias.map(|bias| bias.grad()));
        if trained {
            all.push(x.grad());
        }
        all
    }

    /// Also where the input is turned in memory, has more dimensions, or takes no gradient.
    #[test]
    fn both_engines_agree() {
        let flat = random(&[128, 96], 4);
        for x in [flat.tr(), flat.tr().contiguous().view([3, 32, 128]), flat.tr().contiguous()] {
            for (trained, bias) in [(true, true), (true, false), (false, true)] {
                let [ours, theirs] = [Engine::OneDnn, Engine::Libtorch].map(|e| answers(e, &x, trained, bias));
                assert_eq!(ours.len(), theirs.len());
                for (a, b) in ours.iter().zip(&theirs) {
                    assert_eq!(a.size(), b.size());
                    let largest = f64::try_from(b.abs().max()).unwrap();
                    let gap = f64::try_from((a - b).abs().max()).unwrap();
                    assert!(gap < 2e-6 * largest.max(1.0) * 8.0, "{gap} of {largest}");
                }
            }
        }
    }

    /// The sum of the squares of a map's gradient, derived once more.
    #[test]
    fn derivatives_can_be_derived() {
        let second = [Engine::OneDnn, Engine::Libtorch].map(|engine| {
            let x = random(&[96, 128], 5).set_requires_grad(true);
            let weight = random(&[192, 128], 6).set_requires_grad(true);
            let y = ffi::linear(&x, &weight, None, engine).unwrap().square().sum(Kind::Float);
            let first = Tensor::run_backward(&[y], &[&x], true, true);
            first[0].square().mean(Kind::Float).backward();
            weight.grad()
        });
        let gap = f64::try_from((&second[0] - &second[1]).abs().max()).unwrap();
        let largest = f64::try_from(second[1].abs().max()).unwrap();
        assert!(largest > 0.0 && gap < 1e-5 * largest, "{gap} of {largest}");
    }

    #[test]
    fn autocast_still_narrows() {
        let [x, weight] = [random(&[96, 128], 7), random(&[192, 128], 8)];
        let _cast = crate::Autocast::enter(Device::Cpu, Some(Kind::BFloat16)).unwrap();
        assert_eq!(ffi::linear(&x, &weight, None, Engine::OneDnn).unwrap().kind(), Kind::BFloat16);
    }

    #[test]
    fn what_does_not_fit_is_libtorchs_error() {
        let [x, weight] = [random(&[96, 128], 7), random(&[192, 64], 8)];
        assert!(linear(&x, &weight, None).is_err());
        assert_eq!(linear(&x.slice(0, 0, 0, 1), &random(&[192, 128], 9), None).unwrap().size(), [0, 192]);
    }
}
