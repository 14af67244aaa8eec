//! Autocast with a type, for CPU and CUDA.

use std::marker::PhantomData;

use tch::{Device, Kind};

use crate::{Error, Result, ffi};

/// Autocast of this thread, from [`enter`](Autocast::enter) until it is dropped, when the setting before it comes
/// back. Guards are dropped in the reverse order in which they were made; the last one to go clears libtorch's cache
/// of cast weights.
///
/// tch's own `autocast` switches CUDA alone and always to float16.
/// ```
/// use mask_torch::Autocast;
/// use tch::{Device, Kind, Tensor};
/// let a = Tensor::ones([2, 2], (Kind::Float, Device::Cpu));
/// {
///     let _cast = Autocast::enter(Device::Cpu, Some(Kind::BFloat16))?;
///     assert_eq!(a.matmul(&a).kind(), Kind::BFloat16);
/// }
/// assert_eq!(a.matmul(&a).kind(), Kind::Float);
/// # Ok::<(), mask_torch::Error>(())
/// ```
#[derive(Debug)]
#[must_use = "autocast ends when the guard is dropped"]
pub struct Autocast {
    cuda: bool,
    before: [i32; 2],
    /// The setting belongs to the thread: the guard must not leave it.
    _thread: PhantomData<*const ()>,
}

impl Autocast {
    /// Casts what the device's list of operations allows to `kind`, bfloat16 or float16; `None` switches autocast off
    /// until the guard is dropped.
    ///
    /// # Errors
    /// Another type, or a device that is neither CPU nor CUDA.
    pub fn enter(device: Device, kind: Option<Kind>) -> Result<Self> {
        let cuda = match device {
            Device::Cpu => false,
            Device::Cuda(_) => true,
            other => return Err(Error::new(format!("autocast takes the CPU or CUDA, not {other:?}"))),
        };
        let dtype = match kind {
            None => 0,
            Some(Kind::BFloat16) => 1,
            Some(Kind::Half) => 2,
            Some(other) => return Err(Error::new(format!("autocast takes bfloat16 or float16, not {other:?}"))),
        };
        Ok(Self { cuda, before: ffi::autocast_enter(cuda, dtype)?, _thread: PhantomData })
    }
}

impl Drop for Autocast {
    fn drop(&mut self) {
        // Setting back what was set can't fail, and a drop has nobody to tell.
        let _ = ffi::autocast_leave(self.cuda, self.before);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::Tensor;

    fn product() -> Kind {
        let a = Tensor::ones([3, 3], (Kind::Float, Device::Cpu));
        a.matmul(&a).kind()
    }

    #[test]
    fn guards_nest() {
        assert_eq!(product(), Kind::Float);
        {
            let _outer = Autocast::enter(Device::Cpu, Some(Kind::BFloat16)).unwrap();
            assert_eq!(product(), Kind::BFloat16);
            {
                let _off = Autocast::enter(Device::Cpu, None).unwrap();
                assert_eq!(product(), Kind::Float);
                let _half = Autocast::enter(Device::Cpu, Some(Kind::Half)).unwrap();
                assert_eq!(product(), Kind::Half);
            }
            assert_eq!(product(), Kind::BFloat16);
            let _other_device = Autocast::enter(Device::Cuda(0), None).unwrap();
            assert_eq!(product(), Kind::BFloat16);
        }
        assert_eq!(product(), Kind::Float);
    }

    /// The cache holds the cast weight by its identity: an update under way must not be answered from it.
    #[test]
    fn the_cache_is_cleared_at_the_end() {
        let weight = Tensor::ones([2, 2], (Kind::Float, Device::Cpu)).set_requires_grad(true);
        let input = Tensor::ones([2, 2], (Kind::Float, Device::Cpu));
        let sum = || {
            let _cast = Autocast::enter(Device::Cpu, Some(Kind::BFloat16)).unwrap();
            f64::try_from(input.matmul(&weight).sum(Kind::Float)).unwrap()
        };
        assert_eq!(sum(), 8.0);
        let _ = tch::no_grad(|| weight.shallow_clone().fill_(2.0));
        assert_eq!(sum(), 16.0);
    }

    #[test]
    fn gradients_are_float32_and_close() {
        let weight = Tensor::from_slice(&[1.5f32, -0.25, 0.5, 2.0]).view([2, 2]).set_requires_grad(true);
        let input = Tensor::from_slice(&[1f32, 2.0, 3.0, 4.0]).view([2, 2]);
        {
            let _cast = Autocast::enter(Device::Cpu, Some(Kind::BFloat16)).unwrap();
            input.matmul(&weight).sum(Kind::Float).backward();
        }
        let grad = weight.grad();
        assert_eq!(grad.kind(), Kind::Float);
        assert_eq!(grad, Tensor::from_slice(&[4f32, 4.0, 6.0, 6.0]).view([2, 2])); // column sums of the input
    }

    #[test]
    fn other_threads_are_untouched() {
        let _cast = Autocast::enter(Device::Cpu, Some(Kind::BFloat16)).unwrap();
        assert_eq!(std::thread::spawn(product).join().unwrap(), Kind::Float);
    }

    #[test]
    fn odd_requests_are_refused() {
        let refused = |device, kind| Autocast::enter(device, kind).unwrap_err().to_string();
        assert_eq!(refused(Device::Cpu, Some(Kind::Double)), "autocast takes bfloat16 or float16, not Double");
        assert_eq!(refused(Device::Mps, None), "autocast takes the CPU or CUDA, not Mps");
    }
}
