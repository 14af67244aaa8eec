//! TensorBoard event files: TFRecord framing (length, masked CRC-32C, payload, masked CRC-32C) around `Event` messages
//! of TensorFlow's `event.proto` and `summary.proto`, written by hand since only three kinds of summary are needed.

use std::fs::{self, File, OpenOptions};
use std::io::{BufWriter, ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::error::{Error, Result};

/// Version record that every reader expects first; from version 2 on, restarts are marked (see [`Events::resume`]).
const VERSION: &[u8] = b"brain.Event:2";
/// `SessionLog.SessionStatus.START`.
const START: u64 = 1;
/// `DataType.DT_STRING`.
const DT_STRING: u64 = 7;
/// `DataClass.DATA_CLASS_TENSOR`.
const DATA_CLASS_TENSOR: u64 = 2;

/// Writes one TensorBoard event file: scalars, pictures and text.
///
/// Records are buffered; [`Events::flush`] (and dropping) hands them to the system. A file is never appended to: after
/// a resume the folder gets a further one, whose name sorts behind all earlier ones.
/// ```
/// # use mask_core::report::Events;
/// # let folder = tempfile::tempdir()?;
/// let mut events = Events::create(folder.path())?;
/// events.scalar("loss", 10, 0.83)?;
/// events.flush()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Events {
    file: BufWriter<File>,
    path: PathBuf,
    wall_time: Option<f64>,
}

impl Events {
    /// Starts a file in the folder `dir`, which is made when missing.
    ///
    /// # Errors
    /// The folder or the file can't be written.
    pub fn create(dir: impl AsRef<Path>) -> Result<Self> {
        let dir = dir.as_ref();
        fs::create_dir_all(dir).map_err(Error::io(dir, "making the folder of the events"))?;
        let mut stamp = (now() as u64).max(newest(dir)?.saturating_add(1));
        let (file, path) = loop {
            let path = dir.join(format!("events.out.tfevents.{stamp:010}.mask"));
            match OpenOptions::new().write(true).create_new(true).open(&path) {
                Ok(file) => break (file, path),
                Err(error) if error.kind() == ErrorKind::AlreadyExists => stamp += 1,
                Err(error) => return Err(Error::io(&path, "starting the events")(error)),
            }
        };
        let mut events = Self { file: BufWriter::new(file), path, wall_time: None };
        events.event(0, |event| event.bytes(3, VERSION))?;
        events.flush()?;
        Ok(events)
    }

    /// Starts a further file in `dir` after a resume from the checkpoint of step `done`: TensorBoard then drops what
    /// earlier files hold of later steps (a `SessionLog` START record at `done + 1`), since they are done again.
    ///
    /// # Errors
    /// The folder or the file can't be written.
    pub fn resume(dir: impl AsRef<Path>, done: u64) -> Result<Self> {
        let mut events = Self::create(dir)?;
        events.event(done.saturating_add(1), |event| event.message(7, |session| session.number(1, START)))?;
        events.flush()?;
        Ok(events)
    }

    /// The file that is written.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Stamps all further records with `wall_time` (seconds since 1970), or with the clock again for `None`.
    pub fn set_wall_time(&mut self, wall_time: Option<f64>) {
        self.wall_time = wall_time;
    }

    /// One value of the curve `tag`. It is stored as 32-bit float; NaN and infinities are kept.
    ///
    /// # Errors
    /// The file can't be written.
    pub fn scalar(&mut self, tag: &str, step: u64, value: f64) -> Result<()> {
        self.summary(tag, step, |entry| entry.float(2, value as f32))
    }

    /// One picture of `width` x `height`, as the bytes of a PNG file.
    ///
    /// # Errors
    /// `png` is no PNG file, or the file can't be written.
    pub fn image(&mut self, tag: &str, step: u64, png: &[u8], width: u32, height: u32) -> Result<()> {
        if !png.starts_with(b"\x89PNG\r\n\x1a\n") {
            return Err(Error::value(format!("picture '{tag}'"), "is no PNG file"));
        }
        self.summary(tag, step, |entry| {
            entry.message(4, |image| {
                image.number(1, u64::from(height));
                image.number(2, u64::from(width));
                image.number(3, 3); // colour space: RGB
                image.bytes(4, png);
            });
        })
    }

    /// A text, which TensorBoard shows as Markdown.
    ///
    /// # Errors
    /// The file can't be written.
    pub fn text(&mut self, tag: &str, step: u64, text: &str) -> Result<()> {
        self.summary(tag, step, |entry| {
            entry.message(8, |tensor| {
                tensor.number(1, DT_STRING);
                tensor.message(2, |shape| shape.message(2, |dim| dim.number(1, 1)));
                tensor.bytes(8, text.as_bytes());
            });
            entry.message(9, |metadata| {
                metadata.message(1, |plugin| plugin.bytes(1, b"text"));
                metadata.number(4, DATA_CLASS_TENSOR);
            });
        })
    }

    /// Hands everything written so far to the system, so that a running TensorBoard sees it.
    ///
    /// # Errors
    /// The file can't be written.
    pub fn flush(&mut self) -> Result<()> {
        self.file.flush().map_err(Error::io(&self.path, "writing the events"))
    }

    fn summary(&mut self, tag: &str, step: u64, fill: impl FnOnce(&mut Message)) -> Result<()> {
        self.event(step, |event| {
            event.message(5, |summary| {
                summary.message(1, |entry| {
                    entry.bytes(1, tag.as_bytes());
                    fill(entry);
                });
            });
        })
    }

    fn event(&mut self, step: u64, fill: impl FnOnce(&mut Message)) -> Result<()> {
        let mut event = Message::default();
        event.double(1, self.wall_time.unwrap_or_else(now));
        event.number(2, step.min(i64::MAX as u64));
        fill(&mut event);
        let length = (event.0.len() as u64).to_le_bytes();
        // One write a record keeps a killed run's last record whole or cut, never interleaved.
        let mut record = Vec::with_capacity(event.0.len() + 16);
        record.extend(length);
        record.extend(masked_crc(&length).to_le_bytes());
        record.extend(&event.0);
        record.extend(masked_crc(&event.0).to_le_bytes());
        self.file.write_all(&record).map_err(Error::io(&self.path, "writing the events"))
    }
}

/// Seconds since 1970; 0 for a clock before that.
fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |age| age.as_secs_f64())
}

/// The largest time stamp among the event files of `dir`: TensorBoard reads them in the order of their names, so a
/// resume within the same second, or after the clock was set back, must not sort in front.
fn newest(dir: &Path) -> Result<u64> {
    let mut newest = 0;
    for entry in fs::read_dir(dir).map_err(Error::io(dir, "listing"))? {
        let name = entry.map_err(Error::io(dir, "listing"))?.file_name();
        let stamp = name.to_str().and_then(|name| name.strip_prefix("events.out.tfevents.")?.split('.').next());
        // Ten digits: a longer number would come from elsewhere and would not sort by value.
        newest = newest.max(stamp.filter(|stamp| stamp.len() == 10).and_then(|s| s.parse().ok()).unwrap_or(0));
    }
    Ok(newest)
}

fn masked_crc(data: &[u8]) -> u32 {
    crc32c::crc32c(data).rotate_right(15).wrapping_add(0xa282_ead8)
}

/// A protobuf message under construction.
#[derive(Default)]
struct Message(Vec<u8>);

impl Message {
    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }

    fn number(&mut self, field: u64, value: u64) {
        self.varint(field << 3);
        self.varint(value);
    }

    fn double(&mut self, field: u64, value: f64) {
        self.varint(field << 3 | 1);
        self.0.extend(value.to_le_bytes());
    }

    fn float(&mut self, field: u64, value: f32) {
        self.varint(field << 3 | 5);
        self.0.extend(value.to_le_bytes());
    }

    fn bytes(&mut self, field: u64, value: &[u8]) {
        self.varint(field << 3 | 2);
        self.varint(value.len() as u64);
        self.0.extend(value);
    }

    fn message(&mut self, field: u64, fill: impl FnOnce(&mut Message)) {
        let mut inner = Message::default();
        fill(&mut inner);
        self.bytes(field, &inner.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// CRC-32C bit by bit, from its polynomial: shares nothing with the writer.
    fn slow_crc(data: &[u8]) -> u32 {
        !data.iter().fold(!0u32, |crc, byte| {
            (0..8).fold(crc ^ u32::from(*byte), |c, _| if c & 1 == 1 { c >> 1 ^ 0x82f6_3b78 } else { c >> 1 })
        })
    }

    fn unmask(stored: &[u8]) -> u32 {
        u32::from_le_bytes(stored.try_into().unwrap()).wrapping_sub(0xa282_ead8).rotate_left(15)
    }

    /// The payloads of a file, both checksums of each record compared.
    fn records(path: &Path) -> Vec<Vec<u8>> {
        let file = fs::read(path).unwrap();
        let (mut rest, mut found) = (&file[..], Vec::new());
        while !rest.is_empty() {
            let length = u64::from_le_bytes(rest[..8].try_into().unwrap()) as usize;
            assert_eq!(unmask(&rest[8..12]), slow_crc(&rest[..8]));
            let payload = &rest[12..12 + length];
            assert_eq!(unmask(&rest[12 + length..16 + length]), slow_crc(payload));
            found.push(payload.to_vec());
            rest = &rest[16 + length..];
        }
        found
    }

    #[derive(Debug, PartialEq)]
    enum Wire {
        Number(u64),
        Double(f64),
        Float(f32),
        Bytes(Vec<u8>),
    }

    fn varint(data: &mut &[u8]) -> u64 {
        let (mut value, mut shift) = (0, 0);
        loop {
            let byte = data[0];
            *data = &data[1..];
            value |= u64::from(byte & 0x7f) << shift;
            shift += 7;
            if byte < 0x80 {
                return value;
            }
        }
    }

    fn fields(mut data: &[u8]) -> Vec<(u64, Wire)> {
        let mut found = Vec::new();
        while !data.is_empty() {
            let key = varint(&mut data);
            let mut take = |count: usize| {
                let (taken, rest) = data.split_at(count);
                data = rest;
                taken.to_vec()
            };
            let value = match key & 7 {
                1 => Wire::Double(f64::from_le_bytes(take(8).try_into().unwrap())),
                5 => Wire::Float(f32::from_le_bytes(take(4).try_into().unwrap())),
                0 => Wire::Number(varint(&mut data)),
                2 => {
                    let count = varint(&mut data) as usize;
                    let (taken, rest) = data.split_at(count);
                    data = rest;
                    Wire::Bytes(taken.to_vec())
                }
                other => panic!("wire type {other}"),
            };
            found.push((key >> 3, value));
        }
        found
    }

    fn inside(data: &[u8], path: &[u64]) -> Vec<u8> {
        path.iter().fold(data.to_vec(), |data, want| {
            let found = fields(&data).into_iter().find_map(|(key, value)| match value {
                Wire::Bytes(bytes) if key == *want => Some(bytes),
                _ => None,
            });
            found.expect("field")
        })
    }

    #[test]
    fn checksum_is_that_of_rfc_3720() {
        assert_eq!(slow_crc(b"123456789"), 0xe306_9283);
        assert_eq!(unmask(&masked_crc(b"123456789").to_le_bytes()), 0xe306_9283);
    }

    #[test]
    fn what_was_written_is_read_back() {
        let folder = tempfile::tempdir().unwrap();
        let mut events = Events::create(folder.path().join("new/events")).unwrap();
        events.set_wall_time(Some(1.5e9));
        events.scalar("loss", 300, 0.25).unwrap();
        events.scalar("loss", u64::MAX, f64::NAN).unwrap();
        events.image("picture", 7, b"\x89PNG\r\n\x1a\nrest", 300, 2).unwrap();
        events.text("recipe", 0, "a: *b*").unwrap();
        events.flush().unwrap();
        let found = records(events.path());
        assert_eq!(found.len(), 5);
        assert_eq!(inside(&found[0], &[3]), b"brain.Event:2");
        assert_eq!(fields(&found[1])[..2], [(1, Wire::Double(1.5e9)), (2, Wire::Number(300))]);
        let entry = fields(&inside(&found[1], &[5, 1]));
        assert_eq!(entry, [(1, Wire::Bytes(b"loss".to_vec())), (2, Wire::Float(0.25))]);
        assert_eq!(fields(&found[2])[1], (2, Wire::Number(i64::MAX as u64)));
        let image = fields(&inside(&found[3], &[5, 1, 4]));
        assert_eq!(image[..2], [(1, Wire::Number(2)), (2, Wire::Number(300))], "height, then width");
        assert_eq!(inside(&found[4], &[5, 1, 9, 1, 1]), b"text");
        assert_eq!(inside(&found[4], &[5, 1, 8, 8]), b"a: *b*");
        assert!(events.image("picture", 8, b"GIF89a", 1, 1).is_err());
    }

    #[test]
    fn a_resume_sorts_last_and_marks_the_restart() {
        let folder = tempfile::tempdir().unwrap();
        let paths: Vec<PathBuf> = (0..3).map(|_| Events::resume(folder.path(), 200).unwrap().path).collect();
        assert!(paths.is_sorted() && paths[0] != paths[1]);
        let found = records(&paths[2]);
        assert_eq!(fields(&found[1])[1], (2, Wire::Number(201)));
        assert_eq!(fields(&inside(&found[1], &[7])), [(1, Wire::Number(START))]);
    }
}
