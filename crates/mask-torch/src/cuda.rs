//! CUDA found at run time.

use std::sync::OnceLock;

use crate::ffi;

/// What came of looking for libtorch's CUDA library.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CudaLibrary {
    /// It is loaded. Whether there is a GPU, `tch::Cuda` says.
    Loaded,
    /// This libtorch has none: the CPU set.
    Absent,
    /// It is there and can't be loaded, for this reason; the CPU goes on.
    Failed(String),
}

/// Loads `libtorch_cuda.so` from beside the `libtorch_cpu.so` that is in use, so that a program that was linked
/// without CUDA sees the GPUs. It takes about a second where the library is there.
///
/// Call it before any question about CUDA (`tch::Cuda`, [`peak_memory`](crate::peak_memory) of a GPU): libtorch keeps
/// the first answer. Only the first call loads; later ones return its result.
pub fn load_cuda() -> CudaLibrary {
    static FOUND: OnceLock<CudaLibrary> = OnceLock::new();
    FOUND.get_or_init(load).clone()
}

fn load() -> CudaLibrary {
    let Some(folder) = ffi::folder() else {
        return CudaLibrary::Failed("the folder of libtorch is not known".to_owned());
    };
    let library = folder.join("libtorch_cuda.so");
    if !library.exists() {
        return CudaLibrary::Absent;
    }
    ffi::load(&library).map_or_else(|error| CudaLibrary::Failed(error.to_string()), |()| CudaLibrary::Loaded)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_folder_is_libtorchs() {
        let folder = ffi::folder().unwrap();
        assert!(folder.join("libtorch_cpu.so").is_file() && folder.join("libc10.so").is_file(), "{}", folder.display());
    }

    #[test]
    fn what_is_there_is_loaded() {
        let there = ffi::folder().unwrap().join("libtorch_cuda.so").exists();
        let expected = if there { CudaLibrary::Loaded } else { CudaLibrary::Absent };
        assert_eq!(load_cuda(), expected);
        assert_eq!(load_cuda(), expected);
        if !there {
            assert_eq!(tch::Cuda::device_count(), 0);
        }
    }

    #[test]
    fn a_failure_names_the_file() {
        let text = ffi::load("/nowhere/libtorch_cuda.so".as_ref()).unwrap_err().to_string();
        assert!(text.starts_with("/nowhere/libtorch_cuda.so: "), "{text}");
    }
}
