//! The files of models that are named by a path.

use std::path::{Path, PathBuf};

use crate::train::Checkpoints;
use crate::{Error, Result};

/// What a run's model hangs on: its recipe and its last checkpoint, or the checkpoint that is named.
pub(super) fn of_run(run: &Path) -> Result<Vec<PathBuf>> {
    if !run.is_dir() {
        return Ok(vec![run.to_owned()]);
    }
    let checkpoints = Checkpoints::of(run);
    let last = checkpoints.steps()?.last().map(|step| checkpoints.path(*step));
    let last = last.ok_or_else(|| Error::file(run, "holds no checkpoint of a run"))?;
    Ok(vec![run.join("recipe.yaml"), last])
}

/// What a Hugging Face folder's model hangs on: its JSON and safetensors files.
pub(super) fn of_hf(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries = std::fs::read_dir(folder).map_err(Error::io(folder, "reading the folder"))?;
    let read = |path: &PathBuf| path.extension().is_some_and(|ending| ending == "json" || ending == "safetensors");
    let mut files: Vec<PathBuf> =
        entries.filter_map(|entry| entry.ok().map(|entry| entry.path())).filter(read).collect();
    files.sort();
    match files.is_empty() {
        true => Err(Error::file(folder, "holds no config.json: it is no Hugging Face folder")),
        false => Ok(files),
    }
}
