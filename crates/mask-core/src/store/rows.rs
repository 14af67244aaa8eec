//! Rows of tensors, read where they lie: for files that are larger than what is wanted of them.

use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use tch::{Kind, Tensor};

use super::{Entry, header, open};
use crate::{Error, Named, Result};

/// A safetensors file of which single rows are read, by several threads at once.
#[derive(Debug)]
pub struct RowFile {
    path: PathBuf,
    file: File,
    /// Where the tensors begin, and what they are.
    places: Named<(u64, Entry)>,
    /// The file's `__metadata__`.
    pub metadata: Named<String>,
}

impl RowFile {
    /// Opens a file with the checks of [`read`](super::read).
    ///
    /// # Errors
    /// As there.
    pub fn open(path: &Path) -> Result<Self> {
        let (mut source, size) = open(path)?;
        let (tensors, metadata) = header::read(path, &mut source, size)?;
        // The data end with the file, and one tensor follows on the other.
        let mut at = size - tensors.iter().map(|tensor| tensor.bytes as u64).sum::<u64>();
        let mut places = Named::new();
        for tensor in tensors {
            places.insert(tensor.name, (at, Entry { kind: tensor.kind, shape: tensor.shape }));
            at += tensor.bytes as u64;
        }
        Ok(Self { path: path.to_owned(), file: source.into_inner(), places, metadata })
    }

    /// The error that this file isn't what it should be.
    #[must_use]
    pub fn refuse(&self, problem: impl Into<String>) -> Error {
        Error::file(&self.path, problem)
    }

    /// Type and shape of a tensor.
    ///
    /// # Errors
    /// There is none of that name, or it has no rows.
    pub fn entry(&self, name: &str) -> Result<&Entry> {
        let entry = self.places.get(name).map(|(_, entry)| entry).filter(|entry| !entry.shape.is_empty());
        entry.ok_or_else(|| self.refuse(format!("has no tensor '{name}' with rows")))
    }

    /// The bytes of some rows.
    ///
    /// # Errors
    /// No such tensor, rows beyond its end, a disk that refuses.
    pub fn bytes(&self, name: &str, rows: Range<u64>) -> Result<Vec<u8>> {
        let entry = self.entry(name)?;
        let start = self.places[name].0;
        let width = entry.shape[1..].iter().product::<i64>() as u64 * entry.kind.elt_size_in_bytes() as u64;
        if rows.start > rows.end || rows.end > entry.shape[0] as u64 {
            return Err(self.refuse(format!("'{name}' has {} rows, {rows:?} were asked for", entry.shape[0])));
        }
        let mut bytes = vec![0; ((rows.end - rows.start) * width) as usize];
        self.file.read_exact_at(&mut bytes, start + rows.start * width).map_err(Error::io(&self.path, "reading"))?;
        Ok(bytes)
    }

    /// Some rows as a tensor.
    ///
    /// # Errors
    /// As [`RowFile::bytes`].
    pub fn rows(&self, name: &str, rows: Range<u64>) -> Result<Tensor> {
        let count = rows.end.saturating_sub(rows.start) as i64;
        let bytes = self.bytes(name, rows)?;
        let entry = self.entry(name)?;
        let mut shape = entry.shape.clone();
        shape[0] = count;
        Ok(Tensor::f_from_data_size(&bytes, &shape, entry.kind)?)
    }

    /// Some rows of whole numbers.
    ///
    /// # Errors
    /// As [`RowFile::bytes`]; numbers of another type.
    pub fn integers(&self, name: &str, rows: Range<u64>) -> Result<Vec<i64>> {
        let kind = self.entry(name)?.kind;
        let bytes = self.bytes(name, rows)?;
        Ok(match kind {
            Kind::Uint8 => bytes.into_iter().map(i64::from).collect(),
            Kind::Int16 => bytes.chunks_exact(2).map(|b| i64::from(i16::from_le_bytes([b[0], b[1]]))).collect(),
            Kind::Int => {
                bytes.chunks_exact(4).map(|b| i64::from(i32::from_le_bytes([b[0], b[1], b[2], b[3]]))).collect()
            }
            Kind::Int64 => {
                let word = |b: &[u8]| i64::from_le_bytes([b[0], b[1], b[2], b[3], b[4], b[5], b[6], b[7]]);
                bytes.chunks_exact(8).map(word).collect()
            }
            other => return Err(self.refuse(format!("'{name}' holds {other:?}, not whole numbers"))),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_those_of_the_whole() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.safetensors");
        let whole = Tensor::arange(24, (Kind::Float, tch::Device::Cpu)).view([6, 4]);
        let ids = Tensor::from_slice(&[1i16, -2, 3, 4]);
        let bytes = Tensor::from_slice(&[7u8, 8, 255]);
        let all = [("w", &whole), ("ids", &ids), ("bytes", &bytes)];
        let all: Vec<_> = all.iter().map(|(name, tensor)| ((*name).to_owned(), tensor.shallow_clone())).collect();
        super::super::write(&path, &all, &Named::from([("a".to_owned(), "b".to_owned())])).unwrap();
        let file = RowFile::open(&path).unwrap();
        assert_eq!(file.rows("w", 1..3).unwrap(), whole.narrow(0, 1, 2));
        assert_eq!(file.rows("w", 6..6).unwrap().size(), [0, 4]);
        assert_eq!(file.integers("ids", 1..4).unwrap(), [-2, 3, 4]);
        assert_eq!(file.integers("bytes", 0..3).unwrap(), [7, 8, 255]);
        assert_eq!(file.metadata["a"], "b");
        assert!(file.rows("w", 5..7).is_err() && file.rows("v", 0..1).is_err() && file.integers("w", 0..1).is_err());
    }
}
