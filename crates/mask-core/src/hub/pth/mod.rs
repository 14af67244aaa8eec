//! PyTorch's files (`.pth`, `.pt`, `.bin`), read without executing anything.
//!
//! Both forms are read: the zip archive of PyTorch 1.6 and later, and the older stream of pickles. A pickle is run by a
//! small machine that knows the instructions and names of checkpoints and refuses all others by name; optimisers,
//! schedulers and the like are passed over, and numbers are read when they are asked for.

mod globals;
mod heap;
mod machine;
#[cfg(test)]
mod tests;
mod walk;
mod zip;

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use serde_json::Value;
use tch::{Kind, Tensor};

use crate::{Error, Named, Result};
use heap::{Heap, Id, Node, Storage, View};

/// The longest pickle, in bytes; that of a large model with its optimiser has some hundred thousand.
const LONGEST: u64 = 16 << 20;

/// The older form begins with a pickle of this number, little end first, and one of the protocol.
const MAGIC: [u8; 10] = [0x6c, 0xfc, 0x9c, 0x46, 0xf9, 0x20, 0x6a, 0xa8, 0x50, 0x19];
const PROTOCOL: i64 = 1001;

/// A tensor of the file: its view, and where its storage lies.
#[derive(Clone, Debug)]
struct Described {
    kind: Kind,
    view: View,
    /// First byte of the numbers that the view's offset counts from.
    start: u64,
}

/// A checkpoint of PyTorch. Tensors in nested dictionaries have their keys joined by dots.
#[derive(Debug)]
pub struct Pth {
    path: PathBuf,
    file: File,
    tensors: Named<Described>,
    facts: Named<Value>,
}

impl Pth {
    /// Reads what there is, but not the numbers.
    ///
    /// # Errors
    /// A file that is missing, cut off, no checkpoint, or one that names something else than tensors and plain values.
    pub fn open(path: &Path) -> Result<Self> {
        let (file, size) = crate::store::open_plain(path, "checkpoint")?;
        let mut begin = [0; 4];
        let short = file.read_at(&mut begin, 0).map_err(Error::io(path, "reading"))?;
        let source = Source { path, file: &file, size };
        let (tensors, facts) = match &begin[..short] {
            [b'P', b'K', 3, 4] => source.archive()?,
            [0x80, 2..=5, ..] => source.stream()?,
            [] => return Err(Error::file(path, "is empty; copy or download it again")),
            _ => return Err(Error::file(path, "is no checkpoint of PyTorch: neither a zip archive nor a pickle")),
        };
        if tensors.is_empty() {
            return Err(Error::file(path, "holds no tensor"));
        }
        Ok(Self { path: path.to_owned(), file, tensors, facts })
    }

    /// Names and shapes of the tensors.
    pub fn shapes(&self) -> impl Iterator<Item = (&str, Vec<i64>)> {
        self.tensors.iter().map(|(name, of)| (name.as_str(), of.view.shape.iter().map(|side| *side as i64).collect()))
    }

    /// Numbers, flags and texts beside the tensors, by the keys that lead to them: `epoch`, `args.model`.
    #[must_use]
    pub fn facts(&self) -> &Named<Value> {
        &self.facts
    }

    /// Reads one tensor, with its own memory and in its usual order.
    ///
    /// # Errors
    /// No tensor of that name, or the disk refuses.
    pub fn tensor(&self, name: &str) -> Result<Tensor> {
        let refused = |why: String| Error::file(&self.path, format!("tensor {name:?} {why}"));
        let of = self.tensors.get(name).ok_or_else(|| refused("is not there".to_owned()))?;
        let signed = |numbers: &[u64]| numbers.iter().map(|n| *n as i64).collect::<Vec<_>>();
        let (shape, stride) = (signed(&of.view.shape), signed(&of.view.stride));
        let width = of.kind.elt_size_in_bytes() as u64;
        let end = extent(&of.view).unwrap_or(of.view.offset);
        let count = end.saturating_sub(of.view.offset);
        let mut bytes = Vec::new();
        let length = (count * width) as usize;
        bytes.try_reserve_exact(length).map_err(|_| refused("doesn't fit into memory".to_owned()))?;
        bytes.resize(length, 0);
        let start = of.start + of.view.offset * width;
        self.file.read_exact_at(&mut bytes, start).map_err(Error::io(&self.path, "reading"))?;
        // libtorch takes any other byte for both true and false.
        if of.kind == Kind::Bool && bytes.iter().any(|byte| *byte > 1) {
            return Err(refused("is of true and false and holds other bytes; the file is damaged".to_owned()));
        }
        let flat = Tensor::f_from_data_size(&bytes, &[count as i64], of.kind)?;
        Ok(flat.f_as_strided(&shape, &stride, 0)?.f_contiguous()?)
    }
}

/// One past the last number of its storage that a view sees; its offset where it sees none.
fn extent(view: &View) -> Option<u64> {
    if view.shape.contains(&0) {
        return Some(view.offset);
    }
    let mut steps = view.shape.iter().zip(&view.stride);
    let last = steps.try_fold(view.offset, |at, (side, stride)| at.checked_add((side - 1).checked_mul(*stride)?))?;
    last.checked_add(1)
}

/// What [`walk`] found, with the places of the storages filled in.
type Found = (Named<Described>, Named<Value>);

/// A file that is being opened.
struct Source<'a> {
    path: &'a Path,
    file: &'a File,
    size: u64,
}

impl Source<'_> {
    fn refused(&self, why: impl Into<String>) -> Error {
        Error::file(self.path, why)
    }

    fn bytes(&self, start: u64, length: u64) -> Result<Vec<u8>> {
        if length > LONGEST {
            return Err(self.refused(format!("has a pickle of {length} bytes, which no checkpoint does")));
        }
        let mut bytes = vec![0; length as usize];
        self.file.read_exact_at(&mut bytes, start).map_err(Error::io(self.path, "reading"))?;
        Ok(bytes)
    }

    /// The zip form: `NAME/data.pkl`, and a record `NAME/data/KEY` for each storage.
    fn archive(&self) -> Result<Found> {
        let records = zip::records(self.path, self.file, self.size)?;
        let by_name: Named<&zip::Record> = records.iter().map(|record| (record.name.clone(), record)).collect();
        let pickles: Vec<&str> = by_name.keys().filter_map(|name| name.strip_suffix("data.pkl")).collect();
        let [root] = pickles.as_slice() else {
            return Err(self.refused("is a zip archive, but no checkpoint of PyTorch: it has no record data.pkl"));
        };
        if by_name.contains_key(&format!("{root}constants.pkl")) {
            return Err(self.refused("is a TorchScript archive, a program; save the model's state_dict() instead"));
        }
        if let Some(order) = by_name.get(&format!("{root}byteorder"))
            && self.bytes(order.start, order.length)? != b"little"
        {
            return Err(self.refused("was written on a machine with another order of bytes, which is not read"));
        }
        let pickle = by_name[&format!("{root}data.pkl")];
        let mut heap = Heap::default();
        let bytes = self.bytes(pickle.start, pickle.length)?;
        let (top, _) = heap.read(&bytes).map_err(|fault| self.refused(fault))?;
        let place = |storage: &Storage| {
            let record = by_name.get(&format!("{root}data/{}", storage.key))?;
            let bytes = storage.count.checked_mul(storage.kind.elt_size_in_bytes() as u64)?;
            (bytes <= record.length).then_some(record.start)
        };
        self.found(&heap, top, &place)
    }

    /// The older form: pickles of a magic number, the protocol, the machine, the value and the storages' keys, then each
    /// storage as its length and its numbers.
    fn stream(&self) -> Result<Found> {
        let bytes = self.bytes(0, self.size.min(LONGEST))?;
        let mut at = 0;
        let mut heap = Heap::default();
        let mut next = |heap: &mut Heap| -> Result<Id> {
            let (id, length) = heap.read(&bytes[at..]).map_err(|fault| self.refused(fault))?;
            at += length;
            Ok(id)
        };
        let magic = next(&mut heap)?;
        if !matches!(&heap.nodes[magic], Node::Big(bytes) if *bytes == MAGIC) {
            return Err(self.refused("is a Python pickle, but no checkpoint of PyTorch: it lacks its magic number"));
        }
        let protocol = next(&mut heap)?;
        if !matches!(heap.nodes[protocol], Node::Int(PROTOCOL)) {
            return Err(self.refused("is a checkpoint of an unknown protocol; save it with a current PyTorch"));
        }
        let machine = next(&mut heap)?;
        let little = walk::field(&heap, machine, "little_endian");
        if little.is_some_and(|id| matches!(heap.nodes[id], Node::Bool(false))) {
            return Err(self.refused("was written on a machine with another order of bytes, which is not read"));
        }
        let top = next(&mut heap)?;
        let keys = next(&mut heap)?;
        let keys: Option<Vec<&str>> = match &heap.nodes[keys] {
            Node::List(keys) => keys.iter().map(|key| heap.text(*key)).collect(),
            _ => None,
        };
        let keys = keys.ok_or_else(|| self.refused("lacks the list of its storages"))?;
        let known: Named<&Storage> = heap.storages.iter().map(|storage| (storage.key.clone(), storage)).collect();
        let (mut places, mut at) = (Named::new(), at as u64);
        for key in keys {
            let cut = || self.refused(format!("is cut off or damaged at storage {key:?}; copy or download it again"));
            let storage = known.get(key).ok_or_else(cut)?;
            let head = self.size.checked_sub(at).filter(|rest| *rest >= 8).ok_or_else(cut)?;
            let count = self.bytes(at, 8)?;
            let count = count.iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte));
            let bytes = count.checked_mul(storage.kind.elt_size_in_bytes() as u64).filter(|bytes| *bytes <= head - 8);
            let bytes = bytes.filter(|_| count == storage.count).ok_or_else(cut)?;
            places.insert(key.to_owned(), (at + 8, count));
            at += 8 + bytes;
        }
        let place = |storage: &Storage| {
            let (start, count) = places.get(&storage.key)?;
            (storage.count <= *count).then_some(*start)
        };
        self.found(&heap, top, &place)
    }

    fn found(&self, heap: &Heap, top: Id, place: &dyn Fn(&Storage) -> Option<u64>) -> Result<Found> {
        let (views, facts) = walk::walk(heap, top).map_err(|fault| self.refused(fault))?;
        let mut tensors = Named::new();
        for (name, view) in views {
            let storage = &heap.storages[view.storage];
            let lies = || self.refused(format!("is cut off or damaged: the numbers of {name:?} are not all there"));
            let start = place(storage).ok_or_else(lies)?;
            let [offset, count] = storage.part;
            let start =
                offset.checked_mul(storage.kind.elt_size_in_bytes() as u64).and_then(|skip| start.checked_add(skip));
            let start = start.ok_or_else(lies)?;
            let quoted = |why: &str| self.refused(format!("tensor {name:?} {why}"));
            if extent(&view).is_none_or(|end| end > count) {
                return Err(quoted("sees more numbers than its storage has; the file is damaged"));
            }
            let width = storage.kind.elt_size_in_bytes() as u64;
            let bytes = view.shape.iter().try_fold(width, |bytes, side| bytes.checked_mul(*side));
            // A view may show a number many times; beyond the file's size that is no checkpoint but a bomb.
            if bytes.is_none_or(|bytes| bytes > self.size) {
                return Err(quoted("repeats its numbers beyond the file's size; save it after .contiguous()"));
            }
            tensors.insert(name, Described { kind: storage.kind, view, start });
        }
        Ok((tensors, facts))
    }
}
