//! The metrics of record: JSON lines, which everything else is drawn from.

use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use crate::{Error, Result};

/// A file of JSON objects, a line each, every one with a `step`.
#[derive(Debug)]
pub struct Journal {
    path: PathBuf,
    file: File,
}

impl Journal {
    /// Opens the file for the rows after `step`: later rows, and a last line that was cut off, are removed.
    ///
    /// # Errors
    /// The file can't be read or written, or a line in its middle is damaged.
    pub fn open(path: &Path, step: u64) -> Result<Self> {
        let io = |doing| Error::io(path, doing);
        let mut file = OpenOptions::new().create(true).read(true).append(true).open(path).map_err(io("opening"))?;
        let (mut keep, mut number) = (0u64, 0);
        let mut reader = BufReader::new(&mut file);
        let mut line = Vec::new();
        loop {
            line.clear();
            let read = reader.read_until(b'\n', &mut line).map_err(Error::io(path, "reading"))?;
            number += 1;
            // A line without its end was being written when the program was killed.
            if read == 0 || line.last() != Some(&b'\n') {
                break;
            }
            let row: Option<Value> = serde_json::from_slice(&line).ok();
            match row.as_ref().and_then(|row| row.get("step")).and_then(Value::as_u64) {
                Some(at) if at <= step => keep += read as u64,
                Some(_) => break,
                None => {
                    return Err(Error::file(path, format!("line {number} is no row of metrics; mend or remove it")));
                }
            }
        }
        file.set_len(keep).map_err(Error::io(path, "cutting back"))?;
        Ok(Self { path: path.to_owned(), file })
    }

    /// Appends a row. Numbers that JSON has no word for become null.
    ///
    /// # Errors
    /// The disk is full or refuses.
    pub fn row(&mut self, step: u64, values: &[(&str, f64)]) -> Result<()> {
        let mut row = Map::new();
        row.insert("step".to_owned(), step.into());
        row.extend(values.iter().map(|(name, value)| ((*name).to_owned(), Value::from(*value))));
        let line = format!("{}\n", Value::Object(row));
        self.file.write_all(line.as_bytes()).map_err(Error::io(&self.path, "writing"))
    }

    /// Makes sure that the rows are on the disk.
    ///
    /// # Errors
    /// The disk refuses.
    pub fn sync(&self) -> Result<()> {
        self.file.sync_data().map_err(Error::io(&self.path, "writing"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_resumed_journal_goes_on_where_the_checkpoint_was() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("metrics.jsonl");
        let mut journal = Journal::open(&path, 0).unwrap();
        for step in 1..=4 {
            journal.row(step, &[("loss", 1.0 / step as f64)]).unwrap();
        }
        journal.file.write_all(b"{\"step\":5,\"lo").unwrap();
        drop(journal);
        let mut journal = Journal::open(&path, 2).unwrap();
        journal.row(3, &[("loss", f64::NAN)]).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(text, "{\"step\":1,\"loss\":1.0}\n{\"step\":2,\"loss\":0.5}\n{\"step\":3,\"loss\":null}\n");
        std::fs::write(&path, "{\"step\":1}\nrubbish\n{\"step\":2}\n").unwrap();
        assert!(Journal::open(&path, 9).unwrap_err().to_string().contains("line 2"));
    }
}
