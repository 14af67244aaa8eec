//! `doctor`: what is found, and what to do about what is not.

use std::path::Path;
use std::process::{Command, Stdio};

use super::say;
use crate::Result;
use crate::run::Register;

pub(super) fn doctor(register: &Register, cuda: &mask_torch::CudaLibrary) -> Result<()> {
    let line = |what: &str, found: &str| say(format_args!("{what:12} {found}"));
    line(register.name, env!("CARGO_PKG_VERSION"));
    line("libtorch", mask_torch::libtorch_version());
    let found = match cuda {
        mask_torch::CudaLibrary::Loaded => match tch::Cuda::device_count() {
            0 => "libtorch's CUDA library is there, but no device: is the driver installed?".to_owned(),
            count => format!("{count} device(s), cuDNN {}", if tch::Cuda::cudnn_is_available() { "yes" } else { "no" }),
        },
        mask_torch::CudaLibrary::Absent => {
            "not there: this libtorch is the CPU set; run ci/setup --cuda on a machine with a GPU".to_owned()
        }
        mask_torch::CudaLibrary::Failed(reason) => format!("could not be loaded: {reason}"),
    };
    line("CUDA", &found);
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    line("threads", &format!("{cores} cores, libtorch uses {}", tch::get_num_threads()));
    let version = Command::new("ffmpeg").arg("-version").stdin(Stdio::null()).stderr(Stdio::null()).output();
    let ffmpeg = version.ok().and_then(|out| String::from_utf8(out.stdout).ok()?.lines().next().map(str::to_owned));
    line("FFmpeg", ffmpeg.as_deref().unwrap_or("not there: only video files need it (on Debian: the package ffmpeg)"));
    let samples = Path::new("datasets/samples");
    if samples.is_dir() {
        line("samples", &samples.display().to_string());
    } else {
        line("samples", "datasets/samples is not below this folder: run from the root of the repository");
    }
    let full = Path::new("datasets/full");
    let sets = std::fs::read_dir(full).into_iter().flatten().filter_map(|e| e.ok()?.file_name().into_string().ok());
    let mut sets: Vec<String> = sets.filter(|name| !name.starts_with('.')).collect();
    sets.sort();
    let none = "none fetched; datasets/fetch --list shows what there is".to_owned();
    line("data", &if sets.is_empty() { none } else { sets.join(", ") });
    line("memory", &memory());
    Ok(())
}

fn memory() -> String {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let kilobytes = |key: &str| {
        let line = text.lines().find(|line| line.starts_with(key))?;
        line.split_whitespace().nth(1)?.parse::<u64>().ok()
    };
    match (kilobytes("MemTotal:"), kilobytes("MemAvailable:")) {
        (Some(total), Some(free)) => format!("{} MB, {} MB free", total / 1024, free / 1024),
        _ => "unknown".to_owned(),
    }
}
