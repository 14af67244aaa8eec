//! Safetensors files as tensors, and files that are complete or not there.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use safetensors::{Dtype, SafeTensors};
use tch::{Kind, Tensor};

use crate::{Error, Named, Result};

/// What a safetensors file holds.
#[derive(Debug, Default)]
pub struct Stored {
    /// The tensors, on the CPU, each with its own memory.
    pub tensors: Named<Tensor>,
    /// The file's `__metadata__`.
    pub metadata: Named<String>,
}

/// A longer header is a lie or a mistake.
const LONGEST_HEADER: u64 = 100 << 20;

fn kind_of(dtype: Dtype) -> Option<Kind> {
    Some(match dtype {
        Dtype::F64 => Kind::Double,
        Dtype::F32 => Kind::Float,
        Dtype::F16 => Kind::Half,
        Dtype::BF16 => Kind::BFloat16,
        Dtype::I64 => Kind::Int64,
        Dtype::I32 => Kind::Int,
        Dtype::I16 => Kind::Int16,
        Dtype::I8 => Kind::Int8,
        Dtype::U8 => Kind::Uint8,
        Dtype::BOOL => Kind::Bool,
        _ => return None,
    })
}

fn name_of(kind: Kind) -> Option<&'static str> {
    Some(match kind {
        Kind::Double => "F64",
        Kind::Float => "F32",
        Kind::Half => "F16",
        Kind::BFloat16 => "BF16",
        Kind::Int64 => "I64",
        Kind::Int => "I32",
        Kind::Int16 => "I16",
        Kind::Int8 => "I8",
        Kind::Uint8 => "U8",
        Kind::Bool => "BOOL",
        _ => return None,
    })
}

/// What a file is that isn't safetensors, as far as its first bytes tell.
fn instead(bytes: &[u8]) -> &'static str {
    if bytes.is_empty() {
        "is empty"
    } else if bytes.starts_with(b"version https://git-lfs") {
        "is a Git LFS pointer, not the file itself; fetch it with `git lfs pull`"
    } else if bytes.starts_with(b"PK\x03\x04") || bytes.starts_with(b"\x80\x02") || bytes.starts_with(b"\x80\x03") {
        "is a Python pickle (.pth or .bin), which is never read here; save it as safetensors first"
    } else if bytes.trim_ascii_start().starts_with(b"<") {
        "is a web page, not the file itself; fetch it again"
    } else {
        "is no safetensors file"
    }
}

/// Reads a file. Nothing that its header claims is believed before it was compared with the file's size.
///
/// # Errors
/// A file that is missing, truncated, lying or something else.
pub fn read(path: &Path) -> Result<Stored> {
    if path.is_dir() {
        return Err(Error::file(path, "is a folder, expected a safetensors file"));
    }
    let mut file = File::open(path).map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => Error::file(path, "does not exist"),
        _ => Error::io(path, "reading")(error),
    })?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes).map_err(Error::io(path, "reading"))?;
    let header = bytes.first_chunk::<8>().map(|length| u64::from_le_bytes(*length));
    let begins = bytes.get(8) == Some(&b'{');
    match header {
        Some(length) if begins && length > LONGEST_HEADER => {
            return Err(Error::file(path, format!("claims a header of {length} bytes: it is damaged")));
        }
        Some(length) if begins && length + 8 > bytes.len() as u64 => {
            return Err(Error::file(path, "ends inside its header: it is truncated; fetch or write it again"));
        }
        Some(_) if begins => {}
        _ => return Err(Error::file(path, instead(&bytes))),
    }
    let damaged = |error: &dyn std::fmt::Display| {
        Error::file(path, format!("is damaged or truncated ({error}); fetch or write it again"))
    };
    let (_, metadata) = SafeTensors::read_metadata(&bytes).map_err(|error| damaged(&error))?;
    let parsed = SafeTensors::deserialize(&bytes).map_err(|error| damaged(&error))?;
    let mut stored = Stored::default();
    for (key, value) in metadata.metadata().iter().flatten() {
        stored.metadata.insert(key.clone(), value.clone());
    }
    for (name, view) in parsed.tensors() {
        let kind = kind_of(view.dtype());
        let kind = kind
            .ok_or_else(|| Error::file(path, format!("{name}: numbers of type {} are not read here", view.dtype())))?;
        let size: Option<Vec<i64>> = view.shape().iter().map(|side| i64::try_from(*side).ok()).collect();
        let size = size.ok_or_else(|| damaged(&format!("{name} has an impossible shape")))?;
        stored.tensors.insert(name, Tensor::f_from_data_size(view.data(), &size, kind)?);
    }
    Ok(stored)
}

/// Writes a file beside its place, makes sure that it is on the disk, and moves it there: whoever looks sees the old
/// file or the whole new one.
fn replace(path: &Path, fill: impl FnOnce(&mut BufWriter<File>) -> std::io::Result<()>) -> Result<()> {
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    let name = path.file_name().ok_or_else(|| Error::file(path, "is no file name"))?;
    let fresh = folder.join(format!(".{}.tmp-{}", name.to_string_lossy(), std::process::id()));
    let attempt = || -> std::io::Result<()> {
        let mut writer = BufWriter::with_capacity(1 << 20, File::create(&fresh)?);
        fill(&mut writer)?;
        let file = writer.into_inner().map_err(std::io::IntoInnerError::into_error)?;
        file.sync_all()?;
        std::fs::rename(&fresh, path)?;
        File::open(folder)?.sync_all()
    };
    attempt().map_err(|error| {
        // The old file is untouched; what was begun is taken away.
        let _ = std::fs::remove_file(&fresh);
        Error::io(path, "writing")(error)
    })
}

/// Writes bytes, complete or not at all.
///
/// # Errors
/// The disk is full or refuses; an older file is untouched then.
pub fn write_bytes(path: &Path, bytes: &[u8]) -> Result<()> {
    replace(path, |writer| writer.write_all(bytes))
}

/// Writes tensors, complete or not at all. The same content gives the same bytes.
///
/// # Errors
/// A name twice, a type that the format lacks, or a disk that is full or refuses; an older file is untouched then.
pub fn write(path: &Path, tensors: &[(String, Tensor)], metadata: &Named<String>) -> Result<()> {
    let mut sorted: BTreeMap<&str, &Tensor> = BTreeMap::new();
    let mut header = serde_json::Map::new();
    if !metadata.is_empty() {
        header.insert("__metadata__".to_owned(), serde_json::json!(metadata));
    }
    for (name, tensor) in tensors {
        if sorted.insert(name, tensor).is_some() || name == "__metadata__" {
            return Err(Error::Defect(format!("the tensor {name} is written twice")));
        }
    }
    let mut start = 0usize;
    for (name, tensor) in &sorted {
        let kind = tensor.kind();
        let dtype = name_of(kind).ok_or_else(|| Error::value(*name, format!("the format has no type for {kind:?}")))?;
        let end = start + tensor.numel() * kind.elt_size_in_bytes();
        header.insert(
            (*name).to_owned(),
            serde_json::json!({"dtype": dtype, "shape": tensor.size(), "data_offsets": [start, end]}),
        );
        start = end;
    }
    let mut text = serde_json::to_vec(&header).map_err(|error| Error::Defect(error.to_string()))?;
    // Readers expect the data at a multiple of eight.
    text.resize(text.len().next_multiple_of(8), b' ');
    replace(path, |writer| {
        writer.write_all(&(text.len() as u64).to_le_bytes())?;
        writer.write_all(&text)?;
        let mut bytes = Vec::new();
        for tensor in sorted.values() {
            let tensor = tensor.detach().to_device(tch::Device::Cpu).contiguous();
            bytes.resize(tensor.numel() * tensor.kind().elt_size_in_bytes(), 0u8);
            tensor.f_copy_data_u8(&mut bytes, tensor.numel()).map_err(std::io::Error::other)?;
            writer.write_all(&bytes)?;
        }
        Ok(())
    })
}

/// Removes what a killed program left half-written in a folder.
///
/// # Errors
/// The folder can't be read.
pub fn sweep(folder: &Path) -> Result<()> {
    let entries = std::fs::read_dir(folder).map_err(Error::io(folder, "reading the folder"))?;
    for entry in entries.flatten() {
        let name = entry.file_name();
        let Some((hidden, pid)) = name.to_str().and_then(|name| name.rsplit_once(".tmp-")) else { continue };
        let alive = |pid: &str| PathBuf::from("/proc").join(pid).exists();
        if hidden.starts_with('.') && pid.parse::<u32>().is_ok() && !alive(pid) {
            // Another process may be sweeping as well.
            let _ = std::fs::remove_file(entry.path());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use tch::Device;

    fn sample() -> Vec<(String, Tensor)> {
        let kinds = [
            Kind::Double,
            Kind::Float,
            Kind::Half,
            Kind::BFloat16,
            Kind::Int64,
            Kind::Int,
            Kind::Int16,
            Kind::Int8,
            Kind::Uint8,
            Kind::Bool,
        ];
        let of = |kind: Kind| Tensor::arange(6, (Kind::Float, Device::Cpu)).view([2, 3]).to_kind(kind);
        let mut all: Vec<_> = kinds.iter().map(|kind| (format!("{kind:?}"), of(*kind))).collect();
        all.push(("empty".to_owned(), Tensor::zeros([0, 4], (Kind::Float, Device::Cpu))));
        all.push(("scalar".to_owned(), Tensor::from(1.5f32)));
        all
    }

    #[test]
    fn every_type_comes_back() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.safetensors");
        let metadata = Named::from([("a".to_owned(), "b \"c\"".to_owned())]);
        write(&path, &sample(), &metadata).unwrap();
        let first = std::fs::read(&path).unwrap();
        let stored = read(&path).unwrap();
        assert_eq!(stored.metadata, metadata);
        for (name, tensor) in sample() {
            assert_eq!((stored.tensors[&name].kind(), &stored.tensors[&name]), (tensor.kind(), &tensor), "{name}");
        }
        let mut reversed = sample();
        reversed.reverse();
        write(&path, &reversed, &metadata).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), first);
    }

    #[test]
    fn what_is_no_safetensors_file_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x");
        let header = |text: &str| [&(text.len() as u64).to_le_bytes()[..], text.as_bytes()].concat();
        let overlap = r#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"b":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}"#;
        let cases: [(Vec<u8>, &str); 9] = [
            (vec![], "is empty"),
            (b"version https://git-lfs.github.com/spec/v1".to_vec(), "Git LFS pointer"),
            (b"PK\x03\x04 and so on".to_vec(), "Python pickle"),
            (b"<!DOCTYPE html><html>".to_vec(), "web page"),
            (b"just some text, nothing else".to_vec(), "no safetensors file"),
            ([&(1u64 << 40).to_le_bytes()[..], b"{}"].concat(), "claims a header"),
            ([&100u64.to_le_bytes()[..], b"{}"].concat(), "truncated"),
            (header(r#"{"a":{"dtype":"F32","shape":[1099511627776],"data_offsets":[0,4]}}"#), "damaged"),
            ([header(overlap), vec![0; 4]].concat(), "damaged"),
        ];
        for (bytes, word) in cases {
            std::fs::write(&path, &bytes).unwrap();
            let error = read(&path).unwrap_err();
            assert!(error.to_string().contains(word), "{error}");
            assert_eq!(error.exit_code(), 2);
        }
        assert!(read(&folder.path().join("gone")).unwrap_err().to_string().contains("does not exist"));
        assert!(read(folder.path()).unwrap_err().to_string().contains("folder"));
    }

    /// A write that fails leaves the old file and nothing else.
    #[test]
    fn a_failed_write_loses_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x");
        write_bytes(&path, b"old").unwrap();
        let full = replace(&path, |writer| {
            writer.write_all(b"half")?;
            Err(std::io::Error::from_raw_os_error(libc::ENOSPC))
        });
        let error = full.unwrap_err();
        assert!(error.to_string().contains("No space left"), "{error}");
        assert_eq!(std::fs::read(&path).unwrap(), b"old");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn leftovers_of_the_dead_are_swept() {
        let folder = tempfile::tempdir().unwrap();
        let own = format!(".a.tmp-{}", std::process::id());
        for name in [own.as_str(), ".b.tmp-4194999", "c.tmp-4194999", ".d.tmp-x"] {
            std::fs::write(folder.path().join(name), b"").unwrap();
        }
        sweep(folder.path()).unwrap();
        assert!(folder.path().join(own).exists() && !folder.path().join(".b.tmp-4194999").exists());
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 3);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]
        #[test]
        fn a_damaged_file_never_panics(at in 0usize..2000, byte: u8, cut in 0usize..2000) {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("x");
            write(&path, &sample(), &Named::new()).unwrap();
            let mut bytes = std::fs::read(&path).unwrap();
            let at = at % bytes.len();
            bytes[at] = byte;
            bytes.truncate(bytes.len().saturating_sub(cut % 700));
            std::fs::write(&path, &bytes).unwrap();
            if let Err(error) = read(&path) {
                prop_assert_eq!(error.exit_code(), 2);
            }
        }
    }
}
