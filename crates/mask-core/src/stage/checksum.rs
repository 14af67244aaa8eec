//! Content hashes of files, remembered by size and time of change.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::{Error, Result, store};

/// Bytes as hexadecimal digits.
fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// SHA-256 of a text, 64 hexadecimal digits.
#[must_use]
pub fn hash_text(text: &str) -> String {
    hex(&Sha256::digest(text.as_bytes()))
}

/// SHA-256 of a file's bytes, 64 hexadecimal digits.
///
/// # Errors
/// It can't be read.
pub fn hash_file(path: &Path) -> Result<String> {
    let mut file = File::open(path).map_err(Error::io(path, "reading"))?;
    let mut hash = Sha256::new();
    let mut bytes = vec![0u8; 1 << 18];
    loop {
        let read = file.read(&mut bytes).map_err(Error::io(path, "reading"))?;
        if read == 0 {
            return Ok(hex(&hash.finalize()));
        }
        hash.update(&bytes[..read]);
    }
}

/// What was known of a file when it was hashed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Known {
    size: u64,
    /// Nanoseconds since 1970.
    changed: i128,
    sha256: String,
}

impl Known {
    fn fits(&self, size: u64, changed: i128) -> bool {
        self.size == size && self.changed == changed
    }
}

fn about(path: &Path) -> Result<(u64, i128)> {
    let about = std::fs::metadata(path).map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => Error::file(path, "does not exist; check the path"),
        _ => Error::io(path, "reading")(error),
    })?;
    Ok((about.len(), i128::from(about.mtime()) * 1_000_000_000 + i128::from(about.mtime_nsec())))
}

/// Hashes of data files, kept in one file of a folder so that a data set is read once and not at every start.
pub struct Checksums {
    path: PathBuf,
    known: BTreeMap<PathBuf, Known>,
}

impl Checksums {
    /// Those that a folder keeps. A memory that can't be read is an empty one: hashing again is all that it costs.
    #[must_use]
    pub fn of(folder: &Path) -> Self {
        let path = folder.join("checksums.json");
        let known = std::fs::read(&path).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok());
        Self { path, known: known.unwrap_or_default() }
    }

    /// One hash over names, sizes and contents of files, in the order given.
    ///
    /// # Errors
    /// A file that can't be read.
    pub fn over(&mut self, files: &[PathBuf]) -> Result<String> {
        let absolute = |path: &PathBuf| std::path::absolute(path).unwrap_or_else(|_| path.clone());
        let found: Vec<(PathBuf, Known, bool)> = files
            .par_iter()
            .map(|path| {
                let (size, changed) = about(path)?;
                let key = absolute(path);
                match self.known.get(&key).filter(|known| known.fits(size, changed)) {
                    Some(known) => Ok((key, known.clone(), false)),
                    None => Ok((key, Known { size, changed, sha256: hash_file(path)? }, true)),
                }
            })
            .collect::<Result<_>>()?;
        let mut text = String::new();
        let mut fresh = false;
        for (path, (key, known, new)) in files.iter().zip(found) {
            text.push_str(&format!("{}\n{}\n{}\n", path.display(), known.size, known.sha256));
            fresh |= new;
            self.known.insert(key, known);
        }
        if fresh {
            self.keep()?;
        }
        Ok(hash_text(&text))
    }

    /// Writes what is known, with what other processes have learnt meanwhile.
    fn keep(&mut self) -> Result<()> {
        let folder = self.path.parent().unwrap_or(Path::new("."));
        std::fs::create_dir_all(folder).map_err(Error::io(folder, "making the folder"))?;
        let others = Self::of(folder).known;
        for (path, known) in others {
            self.known.entry(path).or_insert(known);
        }
        let text = serde_json::to_vec(&self.known).map_err(|error| Error::Defect(error.to_string()))?;
        store::write_bytes(&self.path, &text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_are_sha_256() {
        // FIPS 180-2, appendix B.1.
        let abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(hash_text("abc"), abc);
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x");
        std::fs::write(&path, "abc").unwrap();
        assert_eq!(hash_file(&path).unwrap(), abc);
        assert!(hash_file(&folder.path().join("gone")).is_err());
    }

    #[test]
    fn a_changed_file_changes_the_sum_and_a_kept_one_is_not_read_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x");
        let files = [path.clone()];
        std::fs::write(&path, "one").unwrap();
        let first = Checksums::of(folder.path()).over(&files).unwrap();
        assert_eq!(Checksums::of(folder.path()).over(&files).unwrap(), first);
        // What is remembered is believed where size and time fit: the bytes aren't looked at.
        let text = std::fs::read_to_string(folder.path().join("checksums.json")).unwrap();
        let one = hash_text("one");
        assert!(text.contains(&one), "{text}");
        std::fs::write(folder.path().join("checksums.json"), text.replace(&one, &hash_text("two"))).unwrap();
        assert_ne!(Checksums::of(folder.path()).over(&files).unwrap(), first);
        std::fs::write(&path, "three").unwrap();
        let third = Checksums::of(folder.path()).over(&files).unwrap();
        assert_ne!(third, first);
        // A damaged memory costs reading, nothing else.
        std::fs::write(folder.path().join("checksums.json"), "{").unwrap();
        assert_eq!(Checksums::of(folder.path()).over(&files).unwrap(), third);
    }
}
