//! `artefact.json`: what an artefact is, and what its files hold.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::Measured;
use super::checksum::hash_file;
use crate::{Error, Named, Result, store};

/// The version of what stages write. Another one is another key, so that old artefacts are made again.
pub(super) const FORMAT: u32 = 1;

/// The file's name.
pub(super) const FILE: &str = "artefact.json";

/// One of an artefact's files.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Content {
    size: u64,
    sha256: String,
}

/// What stands in `artefact.json`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Record {
    /// [`FORMAT`].
    pub format: u32,
    /// The stage's kind.
    pub kind: String,
    /// The artefact's key.
    pub key: String,
    /// The stage's keys.
    pub stage: serde_json::Value,
    /// Keys of what it stood on, by the names that they had.
    pub inputs: Named<String>,
    /// The hash over the files that it read, where it read any.
    pub data: Option<String>,
    /// What it measured of what it made.
    pub measured: Measured,
    /// Its files, by their paths inside the folder.
    pub files: BTreeMap<String, Content>,
    /// What it was made on.
    pub machine: String,
    /// The commit that it was made by, where that is known.
    pub commit: Option<String>,
    /// How long it took, with what lay there from earlier attempts.
    pub seconds: f64,
}

/// What to do about an artefact that isn't what it was.
fn again(folder: &Path) -> String {
    format!("remove the folder {} to have it made again", folder.display())
}

/// All plain files below a folder, relative to it; hidden ones and those half-written aside.
fn files_below(folder: &Path, inner: &Path, found: &mut Vec<PathBuf>) -> Result<()> {
    let here = folder.join(inner);
    for entry in std::fs::read_dir(&here).map_err(Error::io(&here, "reading the folder"))? {
        let entry = entry.map_err(Error::io(&here, "reading the folder"))?;
        let (name, kind) = (entry.file_name(), entry.file_type().map_err(Error::io(entry.path(), "reading"))?);
        let path = inner.join(&name);
        if name.to_string_lossy().starts_with('.') || path == Path::new(FILE) {
            continue;
        }
        if kind.is_dir() {
            files_below(folder, &path, found)?;
        } else if kind.is_file() {
            found.push(path);
        }
    }
    Ok(())
}

fn content(path: &Path) -> Result<Content> {
    let size = std::fs::metadata(path).map_err(Error::io(path, "reading"))?.len();
    Ok(Content { size, sha256: hash_file(path)? })
}

impl Record {
    /// Writes the record of a folder's files into it.
    pub(super) fn write(mut self, folder: &Path) -> Result<Self> {
        let mut found = Vec::new();
        files_below(folder, Path::new(""), &mut found)?;
        let contents: Vec<(String, Content)> = found
            .par_iter()
            .map(|inner| Ok((inner.to_string_lossy().into_owned(), content(&folder.join(inner))?)))
            .collect::<Result<_>>()?;
        self.files = contents.into_iter().collect();
        let text = serde_json::to_vec_pretty(&self).map_err(|error| Error::Defect(error.to_string()))?;
        store::write_bytes(&folder.join(FILE), &text)?;
        Ok(self)
    }

    /// Reads a folder's record and compares the folder with it, byte for byte.
    pub(super) fn check(folder: &Path, kind: &str, key: &str) -> Result<Self> {
        let path = folder.join(FILE);
        let bytes = std::fs::read(&path).map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound => Error::file(&path, format!("does not exist; {}", again(folder))),
            _ => Error::io(&path, "reading")(error),
        })?;
        let record: Self = serde_json::from_slice(&bytes)
            .map_err(|error| Error::file(&path, format!("is no record of an artefact ({error}); {}", again(folder))))?;
        if (record.format, record.kind.as_str(), record.key.as_str()) != (FORMAT, kind, key) {
            return Err(Error::file(&path, format!("is the record of another artefact; {}", again(folder))));
        }
        let inner: Vec<(&String, &Content)> = record.files.iter().collect();
        inner.par_iter().try_for_each(|(inner, wanted)| {
            let path = folder.join(inner);
            let changed = |what: &str| Error::file(&path, format!("{what} since it was made; {}", again(folder)));
            match std::fs::metadata(&path) {
                Ok(about) if about.is_file() && about.len() == wanted.size => {}
                Ok(_) => return Err(changed("has changed")),
                Err(_) => return Err(changed("has gone")),
            }
            if hash_file(&path)? == wanted.sha256 { Ok(()) } else { Err(changed("has changed")) }
        })?;
        Ok(record)
    }
}
