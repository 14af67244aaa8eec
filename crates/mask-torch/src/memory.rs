//! Peak memory, for the log and for advice when memory runs out.

use std::fs;

use tch::Device;

use crate::{Error, Result, ffi};

/// The most memory in use so far, in bytes: on the CPU what the system counts as resident for this process
/// (`VmHWM`), on CUDA what the caching allocator handed out. `None` where nobody counts.
///
/// # Errors
/// libtorch refuses: no such GPU.
pub fn peak_memory(device: Device) -> Result<Option<u64>> {
    match device {
        Device::Cpu => Ok(fs::read_to_string("/proc/self/status").ok().and_then(|status| resident_peak(&status))),
        Device::Cuda(index) => ffi::cuda_peak(small(index)?),
        _ => Ok(None),
    }
}

/// Starts [`peak_memory`] anew from what is in use now. Where the system or the device doesn't let it, nothing
/// happens.
///
/// # Errors
/// libtorch refuses: no such GPU.
pub fn reset_peak(device: Device) -> Result<()> {
    match device {
        Device::Cpu => {
            // 5 resets the peak of the resident set, see proc(5). Some containers forbid it: the peak then stays.
            let _ = fs::write("/proc/self/clear_refs", "5");
            Ok(())
        }
        Device::Cuda(index) => ffi::cuda_reset_peak(small(index)?),
        _ => Ok(()),
    }
}

/// Gives memory that libtorch's CUDA allocator keeps for later back to the GPUs; nothing on other devices.
///
/// # Errors
/// libtorch refuses.
pub fn empty_cache(device: Device) -> Result<()> {
    match device {
        Device::Cuda(_) => ffi::cuda_empty_cache(),
        _ => Ok(()),
    }
}

/// libtorch counts devices in 8 bits.
fn small(index: usize) -> Result<i32> {
    i8::try_from(index).map(i32::from).map_err(|_| Error::new(format!("there is no GPU {index}")))
}

/// `VmHWM` of `/proc/self/status`, which is in KiB.
fn resident_peak(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().strip_suffix(" kB")?.parse::<u64>().ok()?.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::{Kind, Tensor};

    #[test]
    fn the_status_file_is_read() {
        assert_eq!(resident_peak("Name:\tmask\nVmPeak:\t  9 kB\nVmHWM:\t   123 kB\nVmRSS:\t 7 kB\n"), Some(123 * 1024));
        assert_eq!(resident_peak("Name:\tVmHWM: 3 kB\n"), None);
        assert_eq!(resident_peak("VmHWM:\t3 MB\n"), None);
    }

    #[test]
    fn the_cpus_peak_grows() {
        let before = peak_memory(Device::Cpu).unwrap().unwrap();
        let held = Tensor::ones([64 << 20], (Kind::Float, Device::Cpu)); // 256 MiB
        let after = peak_memory(Device::Cpu).unwrap().unwrap();
        assert!(before > 16 << 20 && after >= before.max(256 << 20), "{before} {after}");
        drop(held);
        reset_peak(Device::Cpu).unwrap();
        empty_cache(Device::Cpu).unwrap();
    }

    /// Without a GPU nobody counts; with one nothing may fail.
    #[test]
    fn cuda_answers_or_says_none() {
        crate::load_cuda();
        let peak = peak_memory(Device::Cuda(0)).unwrap();
        assert!(tch::Cuda::is_available() || peak.is_none());
        reset_peak(Device::Cuda(0)).unwrap();
        empty_cache(Device::Cuda(0)).unwrap();
        assert_eq!(peak_memory(Device::Cuda(1000)).unwrap_err().to_string(), "there is no GPU 1000");
        assert_eq!(peak_memory(Device::Mps).unwrap(), None);
    }
}
