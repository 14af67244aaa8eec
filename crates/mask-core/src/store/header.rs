//! The header of a safetensors file: eight bytes of length, JSON, then the data.

use std::fmt;
use std::io::Read;
use std::path::Path;

use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, Visitor};
use tch::{Kind, Tensor};

use crate::{Error, Named, Result};

/// The format's own limit for the header, in bytes.
const LONGEST: u64 = 100_000_000;

/// What to do about damage.
pub(super) const AGAIN: &str = "copy or download it again";

/// Name and type of what is read and written, in the order in which the `safetensors` library places them.
const KINDS: [(&str, Kind); 10] = [
    ("I64", Kind::Int64),
    ("F64", Kind::Double),
    ("F32", Kind::Float),
    ("I32", Kind::Int),
    ("BF16", Kind::BFloat16),
    ("F16", Kind::Half),
    ("I16", Kind::Int16),
    ("I8", Kind::Int8),
    ("U8", Kind::Uint8),
    ("BOOL", Kind::Bool),
];

/// A tensor's place in the data, which follows that of the tensor before it.
pub(super) struct Place {
    pub name: String,
    pub kind: Kind,
    pub shape: Vec<i64>,
    pub bytes: usize,
}

/// A tensor as the header describes it.
#[derive(serde::Deserialize)]
struct Info {
    dtype: String,
    shape: Vec<u64>,
    data_offsets: (u64, u64),
}

/// The header's entries as they stand in the file. A map of serde's would hide names that come twice.
#[derive(Default)]
struct Entries {
    tensors: Vec<(String, Info)>,
    metadata: Named<String>,
}

impl<'de> Deserialize<'de> for Entries {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Header;
        impl<'de> Visitor<'de> for Header {
            type Value = Entries;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("tensors by name")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Entries, A::Error> {
                let mut entries = Entries::default();
                while let Some(name) = map.next_key::<String>()? {
                    let named = |error| A::Error::custom(format!("{}: {error}", quoted(&name)));
                    if name == "__metadata__" {
                        let metadata: Option<Named<String>> = map.next_value().map_err(named)?;
                        entries.metadata = metadata.unwrap_or_default();
                    } else {
                        let info = map.next_value().map_err(named)?;
                        entries.tensors.push((name, info));
                    }
                }
                Ok(entries)
            }
        }
        from.deserialize_map(Header)
    }
}

/// A name from a file as part of one line.
pub(super) fn quoted(name: &str) -> String {
    match name.char_indices().nth(80) {
        Some((end, _)) => format!("{:?}..", &name[..end]),
        None => format!("{name:?}"),
    }
}

/// What a file is instead, as far as its first bytes tell.
fn instead(start: &[u8]) -> Option<&'static str> {
    let text = start.trim_ascii_start();
    Some(if start.starts_with(b"version https://git-lfs") {
        "is a Git LFS pointer, not the file itself; fetch it with `git lfs pull`"
    } else if start.starts_with(b"PK\x03\x04") {
        "is a zip archive, as PyTorch's .pth and .bin files are, which is not read here; turn it into a folder with \
         convert, or save it as safetensors"
    } else if matches!(start, [0x80, 2..=5, ..]) {
        "is a Python pickle, as old .pth and .bin files are, which is not read here; turn it into a folder with \
         convert, or save it as safetensors"
    } else if text.starts_with(b"<") {
        "is a web page, not the file itself; download it again, signed in where that is asked for"
    } else if text.starts_with(b"{") {
        "is JSON text, not safetensors; where it is an index, give the files that it lists"
    } else {
        return None;
    })
}

/// Reads the header of a file of `size` bytes and leaves `source` at the first byte of the data. The places are in the
/// order of the data, which they fill without hole or overlap.
pub(super) fn read(path: &Path, source: &mut impl Read, size: u64) -> Result<(Vec<Place>, Named<String>)> {
    let refused = |problem: String| Error::file(path, problem);
    let mut start = Vec::new();
    source.take(8).read_to_end(&mut start).map_err(Error::io(path, "reading"))?;
    let Some(length) = start.first_chunk::<8>().map(|bytes| u64::from_le_bytes(*bytes)) else {
        return Err(refused(match start.len() {
            0 => format!("is empty; {AGAIN}"),
            few => format!("has only {few} bytes, a safetensors file begins with 8; {AGAIN}"),
        }));
    };
    let rest = size.saturating_sub(8);
    // As much as tells what else it may be, or the whole header.
    let believed = length <= LONGEST && length <= rest;
    let mut text = Vec::new();
    source.take(if believed { length } else { 64 }).read_to_end(&mut text).map_err(Error::io(path, "reading"))?;
    if !believed || text.first() != Some(&b'{') {
        start.extend(text.iter().take(64));
        return Err(refused(match instead(&start) {
            Some(other) => other.to_owned(),
            None if length > LONGEST => {
                format!(
                    "claims a header of {length} bytes, the limit is {LONGEST}: it is damaged or no safetensors file"
                )
            }
            None if length > rest => {
                format!("is cut off or no safetensors file: its header takes {length} bytes, {rest} are there; {AGAIN}")
            }
            None => format!("is damaged or no safetensors file: its header does not begin with '{{'; {AGAIN}"),
        }));
    }
    let text = String::from_utf8(text).map_err(|_| refused(format!("is damaged: its header is not UTF-8; {AGAIN}")))?;
    let entries: Entries =
        serde_json::from_str(&text).map_err(|error| refused(format!("has a damaged header ({error}); {AGAIN}")))?;
    let places = settle(entries.tensors, rest - length).map_err(refused)?;
    Ok((places, entries.metadata))
}

/// Compares what the header claims with itself and with the `size` of the data.
fn settle(tensors: Vec<(String, Info)>, size: u64) -> Result<Vec<Place>, String> {
    let mut places = Vec::with_capacity(tensors.len());
    for (name, info) in tensors {
        let named = quoted(&name);
        let Some((_, kind)) = KINDS.iter().find(|(word, _)| *word == info.dtype) else {
            let dtype = quoted(&info.dtype);
            return Err(format!("tensor {named} has numbers of type {dtype}, which is not read here; store it as F32"));
        };
        // Sides of zero count as one: libtorch multiplies strides so.
        let width = kind.elt_size_in_bytes() as u64;
        let most = info.shape.iter().try_fold(width, |bytes, side| bytes.checked_mul(*side.max(&1)));
        if most.is_none_or(|bytes| bytes > i64::MAX as u64) {
            return Err(format!("tensor {named} has a shape beyond all memory; the file is damaged: {AGAIN}"));
        }
        let bytes = info.shape.iter().product::<u64>() * width;
        let (begin, end) = info.data_offsets;
        if end.checked_sub(begin) != Some(bytes) {
            let Info { dtype, shape, .. } = info;
            return Err(format!(
                "tensor {named} takes {bytes} bytes as {dtype} {shape:?}, but stands at {begin} to {end}; {AGAIN}"
            ));
        }
        let shape = info.shape.into_iter().map(|side| side as i64).collect(); // each is below i64::MAX, see above
        places.push((begin, end, Place { name, kind: *kind, shape, bytes: bytes as usize }));
    }
    places.sort_by(|(b, e, p), (begin, end, place)| (b, e, &p.name).cmp(&(begin, end, &place.name)));
    if let Some(twice) = twice(places.iter().map(|(_, _, place)| place.name.as_str())) {
        return Err(format!("has two tensors {}; {AGAIN}", quoted(twice)));
    }
    let mut at = 0;
    for (begin, end, place) in &places {
        let named = quoted(&place.name);
        if *begin < at {
            return Err(format!("tensor {named} overlaps the one before it (byte {begin} of the data); {AGAIN}"));
        } else if *begin > at {
            return Err(format!("has {} bytes of no tensor before {named}; {AGAIN}", begin - at));
        } else if *end > size {
            return Err(format!(
                "is cut off: tensor {named} ends at byte {end} of the data, {size} are there; {AGAIN}"
            ));
        }
        at = *end;
    }
    if at < size {
        return Err(format!("has {} bytes after its last tensor; {AGAIN}", size - at));
    }
    Ok(places.into_iter().map(|(_, _, place)| place).collect())
}

/// A name that comes more than once.
fn twice<'a>(names: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let mut names: Vec<&str> = names.collect();
    names.sort_unstable();
    names.windows(2).find(|pair| pair[0] == pair[1]).map(|pair| pair[0])
}

fn json(value: &impl serde::Serialize) -> Result<String> {
    serde_json::to_string(value).map_err(|error| Error::Defect(error.to_string()))
}

/// The first bytes of a file, up to the data, and the tensors in the order in which theirs follow.
pub(super) fn make<'a>(
    tensors: &'a [(String, Tensor)],
    metadata: &Named<String>,
) -> Result<(Vec<u8>, Vec<&'a Tensor>)> {
    let names = tensors.iter().map(|(name, _)| name.as_str());
    if let Some(name) = twice(names.chain(["__metadata__"])) {
        return Err(Error::value(format!("tensor {name:?}"), "comes twice, or takes the name of the metadata"));
    }
    let mut sorted = Vec::with_capacity(tensors.len());
    for (name, tensor) in tensors {
        let kind = tensor.f_kind()?;
        let Some(rank) = KINDS.iter().position(|(_, known)| *known == kind) else {
            let words = KINDS.map(|(word, _)| word).join(", ");
            return Err(Error::value(format!("tensor {name:?}"), format!("is {kind:?}; files hold {words}")));
        };
        sorted.push((rank, name, tensor));
    }
    sorted.sort_by_key(|(rank, name, _)| (*rank, *name));
    let mut entries = Vec::with_capacity(sorted.len() + 1);
    if !metadata.is_empty() {
        entries.push(format!("\"__metadata__\":{}", json(metadata)?));
    }
    let mut begin = 0;
    for (rank, name, tensor) in &sorted {
        let (dtype, kind) = KINDS[*rank];
        let end = begin + tensor.numel() * kind.elt_size_in_bytes();
        let (name, shape) = (json(name)?, json(&tensor.size())?);
        entries.push(format!("{name}:{{\"dtype\":\"{dtype}\",\"shape\":{shape},\"data_offsets\":[{begin},{end}]}}"));
        begin = end;
    }
    let mut text = format!("{{{}}}", entries.join(",")).into_bytes();
    // The data begin at a multiple of eight, so that a mapped file needs no copy.
    text.resize(text.len().next_multiple_of(8), b' ');
    if text.len() as u64 > LONGEST {
        return Err(Error::value(
            "safetensors",
            format!("the header would take {} bytes, the limit is {LONGEST}", text.len()),
        ));
    }
    let head = [&(text.len() as u64).to_le_bytes()[..], &text].concat();
    Ok((head, sorted.into_iter().map(|(_, _, tensor)| tensor).collect()))
}
