//! Safetensors files as tensors, and files that are complete or not there.

mod atomic;
mod header;
#[cfg(test)]
mod refused;
mod rows;
#[cfg(test)]
mod tests;

use std::fs::File;
use std::io::{BufReader, ErrorKind, Read, Write};
use std::path::Path;

use tch::{Device, Kind, Tensor};

use crate::{Error, Named, Result};

pub use atomic::{sweep, write_bytes};
pub use rows::RowFile;

/// What a safetensors file holds.
#[derive(Debug, Default)]
pub struct Stored {
    /// The tensors, on the CPU, each with its own memory.
    pub tensors: Named<Tensor>,
    /// The file's `__metadata__`.
    pub metadata: Named<String>,
}

/// What a safetensors file says of its tensors.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Header {
    /// The tensors' types and shapes.
    pub tensors: Named<Entry>,
    /// The file's `__metadata__`.
    pub metadata: Named<String>,
}

/// Type and shape of a tensor in a file.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// The numbers' type.
    pub kind: Kind,
    /// The sides; none for a single number.
    pub shape: Vec<i64>,
}

/// Bytes that are copied at once between a tensor and a file.
const CHUNK: usize = 16 << 20;

/// Reads a file. Nothing that its header claims is believed before it was compared with the file's size.
///
/// Read are the types that libtorch computes with: F64, F32, F16, BF16, I64, I32, I16, I8, U8 and BOOL.
///
/// # Errors
/// A file that is missing, cut off, lying, of another format, or with another type of numbers: [`Error::File`].
pub fn read(path: &Path) -> Result<Stored> {
    let (mut file, size) = open(path)?;
    load(path, &mut file, size)
}

/// Reads only names, types, shapes and metadata, with the same checks as [`read`].
///
/// # Errors
/// As [`read`].
pub fn read_header(path: &Path) -> Result<Header> {
    let (mut file, size) = open(path)?;
    let (places, metadata) = header::read(path, &mut file, size)?;
    let entries = places.into_iter().map(|place| (place.name, Entry { kind: place.kind, shape: place.shape }));
    Ok(Header { tensors: entries.collect(), metadata })
}

fn open(path: &Path) -> Result<(BufReader<File>, u64)> {
    let (file, size) = open_plain(path, "safetensors file")?;
    Ok((BufReader::with_capacity(1 << 16, file), size))
}

/// Opens a plain file; gives its size. `what` is what it should be, for messages.
pub(crate) fn open_plain(path: &Path, what: &str) -> Result<(File, u64)> {
    // Asked before it is opened: opening a pipe waits for a writer.
    let about = std::fs::metadata(path).map_err(|error| match error.kind() {
        ErrorKind::NotFound => Error::file(path, "does not exist; check the path"),
        _ => Error::io(path, "reading")(error),
    })?;
    if about.is_dir() {
        return Err(Error::file(path, format!("is a folder; give the {what} inside it")));
    }
    if !about.is_file() {
        return Err(Error::file(path, format!("is no plain file; give a {what}")));
    }
    let file = File::open(path).map_err(Error::io(path, "reading"))?;
    let size = file.metadata().map_err(Error::io(path, "reading"))?.len();
    Ok((file, size))
}

/// Reads `size` bytes as a safetensors file; `path` is only for messages.
fn load(path: &Path, source: &mut impl Read, size: u64) -> Result<Stored> {
    let (places, metadata) = header::read(path, source, size)?;
    let mut stored = Stored { tensors: Named::new(), metadata };
    let mut bytes = Vec::new();
    for place in places {
        let refused = |why: String| Error::file(path, format!("tensor {} {why}", header::quoted(&place.name)));
        bytes.clear();
        bytes
            .try_reserve_exact(place.bytes)
            .map_err(|_| refused(format!("takes {} bytes; there is not so much memory", place.bytes)))?;
        source.take(place.bytes as u64).read_to_end(&mut bytes).map_err(Error::io(path, "reading"))?;
        if bytes.len() < place.bytes {
            return Err(Error::file(path, "became shorter while it was read; read it again when it is complete"));
        }
        // libtorch takes any other byte for both true and false.
        if let Some(byte) = bytes.iter().find(|byte| place.kind == Kind::Bool && **byte > 1) {
            return Err(refused(format!("is BOOL and holds the byte {byte}, not 0 or 1; {}", header::AGAIN)));
        }
        let tensor = Tensor::f_from_data_size(&bytes, &place.shape, place.kind);
        let tensor = tensor.map_err(|error| refused(format!("is refused: {}", Error::from(error))))?;
        stored.tensors.insert(place.name, tensor);
    }
    Ok(stored)
}

/// Writes tensors from any device, complete or not at all: a reader sees the old file or the whole new one. The same
/// content gives the same bytes, whatever the order of `tensors`; they are those of the `safetensors` library, which
/// places wide types first.
///
/// # Errors
/// A name that comes twice or is `__metadata__`, a type that the format lacks ([`Error::Value`]), a disk that is full
/// or refuses ([`Error::Io`]); an older file is untouched then and nothing half-written is left.
pub fn write(path: &Path, tensors: &[(String, Tensor)], metadata: &Named<String>) -> Result<()> {
    let (head, tensors) = header::make(tensors, metadata)?;
    atomic::replace(path, |file| {
        file.write_all(&head).map_err(Error::io(path, "writing"))?;
        tensors.iter().try_for_each(|tensor| stream(path, file, tensor))
    })
}

/// Writes the numbers of one tensor, piece by piece.
fn stream(path: &Path, file: &mut dyn Write, tensor: &Tensor) -> Result<()> {
    let numel = tensor.numel();
    let flat = tensor.f_detach()?.f_to_device(Device::Cpu)?.f_resolve_neg()?.f_contiguous()?.f_view([numel as i64])?;
    let width = flat.f_kind()?.elt_size_in_bytes();
    let piece = CHUNK / width;
    let mut bytes = vec![0u8; numel.min(piece) * width];
    for start in (0..numel).step_by(piece) {
        let count = piece.min(numel - start);
        flat.f_narrow(0, start as i64, count as i64)?.f_copy_data_u8(&mut bytes, count)?;
        file.write_all(&bytes[..count * width]).map_err(Error::io(path, "writing"))?;
    }
    Ok(())
}
