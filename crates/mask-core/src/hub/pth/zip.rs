//! Just as much of the zip format as PyTorch writes: records that are stored, not compressed.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use crate::{Error, Result};

/// Where the bytes of a record lie in the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Record {
    pub name: String,
    pub start: u64,
    pub length: u64,
}

/// The longest directory that is read, in bytes; a model with thousands of tensors has some hundred thousand.
const LONGEST: u64 = 64 << 20;

fn u16_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from(u16::from_le_bytes(bytes.get(at..at + 2)?.try_into().ok()?)))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?)))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}

/// Where the directory lies: start, length, and the end of everything before it.
fn directory(tail: &[u8], tail_start: u64, read: &dyn Fn(u64, u64) -> Result<Vec<u8>>) -> Result<Option<[u64; 2]>> {
    // The end record is the last one; a comment may follow it, which PyTorch never writes but other tools do.
    let fits = |at: &usize| {
        tail[*at..].starts_with(b"PK\x05\x06") && u16_at(tail, at + 20) == Some((tail.len() - at - 22) as u64)
    };
    let Some(end) = (0..tail.len().saturating_sub(21)).rev().find(fits) else { return Ok(None) };
    let (Some(length), Some(start)) = (u32_at(tail, end + 12), u32_at(tail, end + 16)) else { return Ok(None) };
    let locator = end.checked_sub(20).filter(|at| tail[*at..].starts_with(b"PK\x06\x07"));
    let Some(locator) = locator else { return Ok(Some([start, length])) };
    // Files beyond 4 GB keep the numbers in a longer record.
    let Some(at) = u64_at(tail, locator + 8).filter(|at| at.saturating_add(56) <= tail_start + locator as u64) else {
        return Ok(None);
    };
    let long = read(at, 56)?;
    Ok(match (long.starts_with(b"PK\x06\x06"), u64_at(&long, 48), u64_at(&long, 40)) {
        (true, Some(start), Some(length)) => Some([start, length]),
        _ => None,
    })
}

/// The three numbers of an entry that may stand in the extra field instead: size there, size stored, offset.
fn widened(mut numbers: [u64; 3], mut extra: &[u8]) -> Option<[u64; 3]> {
    if !numbers.contains(&0xFFFF_FFFF) {
        return Some(numbers);
    }
    while let (Some(id), Some(length)) = (u16_at(extra, 0), u16_at(extra, 2)) {
        let body = extra.get(4..4 + length as usize)?;
        if id == 1 {
            let mut at = 0;
            for number in numbers.iter_mut().filter(|number| **number == 0xFFFF_FFFF) {
                *number = u64_at(body, at)?;
                at += 8;
            }
            return Some(numbers);
        }
        extra = &extra[4 + length as usize..];
    }
    None
}

/// Finds every record of a zip file of `size` bytes.
pub(super) fn records(path: &Path, file: &File, size: u64) -> Result<Vec<Record>> {
    let damaged = |what: &str| {
        Error::file(path, format!("is a damaged or cut off zip archive: {what}; copy or download it again"))
    };
    let read = |start: u64, length: u64| -> Result<Vec<u8>> {
        let mut bytes = vec![0; length as usize];
        file.read_exact_at(&mut bytes, start).map_err(Error::io(path, "reading"))?;
        Ok(bytes)
    };
    let length = size.min(22 + 20 + 0xFFFF);
    let tail = read(size - length, length)?;
    let found =
        directory(&tail, size - length, &read)?.ok_or_else(|| damaged("its directory at the end is missing"))?;
    let [start, length] = found;
    if start.checked_add(length).is_none_or(|end| end > size) || length > LONGEST {
        return Err(damaged("its directory lies outside the file"));
    }
    let directory = read(start, length)?;
    let (mut rest, mut records) = (directory.as_slice(), Vec::new());
    while !rest.is_empty() {
        let entry = || -> Option<(usize, String, u64, u64, [u64; 3])> {
            let [name, extra, comment] = [28, 30, 32].map(|at| u16_at(rest, at).map(|n| n as usize));
            let (name, extra, comment) = (name?, extra?, comment?);
            let text = String::from_utf8_lossy(rest.get(46..46 + name)?).into_owned();
            let numbers = [u32_at(rest, 24)?, u32_at(rest, 20)?, u32_at(rest, 42)?];
            let numbers = widened(numbers, rest.get(46 + name..46 + name + extra)?)?;
            let whole = 46 + name + extra + comment;
            (rest.starts_with(b"PK\x01\x02") && rest.len() >= whole).then_some((
                whole,
                text,
                u16_at(rest, 8)?,
                u16_at(rest, 10)?,
                numbers,
            ))
        };
        let (whole, name, flags, method, [bytes, stored, offset]) =
            entry().ok_or_else(|| damaged("an entry of its directory makes no sense"))?;
        rest = &rest[whole..];
        if flags & 1 == 1 || method != 0 || bytes != stored {
            let problem = format!(
                "its record {name:?} is compressed or encrypted, as PyTorch never writes it; unpack it and save it with torch.save"
            );
            return Err(Error::file(path, problem));
        }
        if offset.checked_add(30).is_none_or(|end| end > start) {
            return Err(damaged("a record lies outside the file"));
        }
        let head = read(offset, 30)?;
        let skip = u16_at(&head, 26).zip(u16_at(&head, 28)).filter(|_| head.starts_with(b"PK\x03\x04"));
        let (name_length, extra_length) = skip.ok_or_else(|| damaged("a record does not begin where it should"))?;
        let begin = offset + 30 + name_length + extra_length;
        if begin.checked_add(bytes).is_none_or(|end| end > start) {
            return Err(damaged("a record lies outside the file"));
        }
        records.push(Record { name, start: begin, length: bytes });
    }
    Ok(records)
}
