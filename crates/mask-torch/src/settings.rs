//! Settings of libtorch as a whole, and facts for reports.

use crate::{Result, ffi};

/// Asks libtorch for repeatable operations everywhere, cuDNN included. Where an operation has none, libtorch warns
/// and goes on. Fresh memory is not filled with NaN, which libtorch would do otherwise at the cost of a pass over
/// every output.
///
/// On CUDA, matrix products also want `CUBLAS_WORKSPACE_CONFIG=:4096:8` in the environment before the program starts.
///
/// # Errors
/// libtorch refuses.
pub fn set_deterministic(on: bool) -> Result<()> {
    ffi::set_deterministic(on)
}

/// Whether repeatable operations are asked for.
#[must_use]
pub fn deterministic() -> bool {
    ffi::deterministic()
}

/// The version of libtorch that this program was built for, for example `2.13.0`.
#[must_use]
pub fn libtorch_version() -> &'static str {
    ffi::version()
}

/// Threads that one libtorch operation uses on the CPU.
#[must_use]
pub fn num_threads() -> usize {
    usize::try_from(tch::get_num_threads()).unwrap_or(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repeatable_operations_are_switched() {
        assert!(!deterministic());
        set_deterministic(true).unwrap();
        assert!(deterministic());
        let fresh = tch::Tensor::empty([1000], (tch::Kind::Float, tch::Device::Cpu));
        assert!(!bool::try_from(fresh.isnan().all()).unwrap(), "fresh memory is filled");
        set_deterministic(false).unwrap();
        assert!(!deterministic());
    }

    #[test]
    fn the_version_is_three_numbers() {
        let parts: Vec<_> = libtorch_version().split('.').map(str::parse::<u32>).collect();
        assert!(parts.len() == 3 && parts.iter().all(|part| part.is_ok()), "{}", libtorch_version());
    }

    #[test]
    fn threads_are_counted() {
        assert!(num_threads() >= 1);
    }
}
