//! The measurements of a run as series, read from its JSON lines.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;

use serde_json::Value;

use crate::error::{Error, Result};

/// Series by name, each a list of `[step, value]` with rising steps; a value that was not finite is NaN.
///
/// Read from `metrics.jsonl` and `timing.jsonl`: one JSON object a line with a number `step`; every other key that
/// holds a number or null (what JSON writers make of NaN) is a point of the series of that name. Other values are
/// skipped.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Metrics {
    series: BTreeMap<String, Vec<[f64; 2]>>,
}

impl Metrics {
    /// Reads one file. A last line that was cut (a killed run) is left out; where a resumed run wrote a step again, the
    /// later rows stand.
    ///
    /// # Errors
    /// The file can't be read, or a line (which is named) is no such object.
    pub fn read(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let mut file = BufReader::new(File::open(path).map_err(Error::io(path, "reading the metrics"))?);
        let (mut metrics, mut line, mut number) = (Self::default(), Vec::new(), 0);
        loop {
            line.clear();
            if file.read_until(b'\n', &mut line).map_err(Error::io(path, "reading the metrics"))? == 0 {
                return Ok(metrics);
            }
            number += 1;
            if line.iter().all(u8::is_ascii_whitespace) {
                continue;
            }
            match metrics.add(&line) {
                Err(_) if !line.ends_with(b"\n") => return Ok(metrics),
                Err(problem) => return Err(Error::file(path, format!("line {number}: {problem}"))),
                Ok(()) => {}
            }
        }
    }

    fn add(&mut self, line: &[u8]) -> Result<(), String> {
        let row: serde_json::Map<String, Value> =
            serde_json::from_slice(line).map_err(|error| format!("no JSON object: {error}"))?;
        let step = row.get("step").and_then(Value::as_f64).ok_or("no number 'step'")?;
        for (name, value) in &row {
            match value {
                Value::Number(number) if name != "step" => self.push(name, step, number.as_f64().unwrap_or(f64::NAN)),
                Value::Null => self.push(name, step, f64::NAN),
                _ => {}
            }
        }
        Ok(())
    }

    /// Adds a point; points of the same series at this step or later are dropped first.
    pub fn push(&mut self, name: &str, step: f64, value: f64) {
        if !self.series.contains_key(name) {
            self.series.insert(name.to_owned(), Vec::new());
        }
        if let Some(points) = self.series.get_mut(name) {
            while points.last().is_some_and(|last| last[0] >= step) {
                points.pop();
            }
            points.push([step, value]);
        }
    }

    /// Takes over the series of `other`; where both have one of a name, that of `other` stands.
    pub fn merge(&mut self, other: Self) {
        self.series.extend(other.series);
    }

    /// The points of a series, none when there is no such series.
    #[must_use]
    pub fn series(&self, name: &str) -> &[[f64; 2]] {
        self.series.get(name).map_or(&[], Vec::as_slice)
    }

    /// The names of the series, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.series.keys().map(String::as_str)
    }

    /// The last value of a series, which may be NaN.
    #[must_use]
    pub fn last(&self, name: &str) -> Option<f64> {
        self.series(name).last().map(|point| point[1])
    }

    /// The mean of the finite values of a series.
    #[must_use]
    pub fn mean(&self, name: &str) -> Option<f64> {
        let values = self.finite(name);
        (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
    }

    /// The median of the finite values of a series (the upper one of two).
    #[must_use]
    pub fn median(&self, name: &str) -> Option<f64> {
        let mut values = self.finite(name);
        values.sort_by(f64::total_cmp);
        values.get(values.len() / 2).copied()
    }

    fn finite(&self, name: &str) -> Vec<f64> {
        self.series(name).iter().map(|point| point[1]).filter(|value| value.is_finite()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Metrics> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("metrics.jsonl");
        std::fs::write(&path, text).unwrap();
        Metrics::read(path)
    }

    #[test]
    fn rows_become_series() {
        let rows = "{\"step\":10,\"loss\":0.8,\"masked\":0.75,\"kind\":\"train\"}\n\n{\"step\":10,\"knn\":0.7}\n{\"step\":20,\"loss\":null}\n";
        let metrics = read(rows).unwrap();
        assert_eq!(metrics.names().collect::<Vec<_>>(), ["knn", "loss", "masked"]);
        assert_eq!(metrics.series("loss")[0], [10.0, 0.8]);
        assert!(metrics.last("loss").unwrap().is_nan());
        assert_eq!(metrics.mean("loss"), Some(0.8));
        assert_eq!(metrics.series("absent"), &[] as &[[f64; 2]]);
        assert_eq!(read("").unwrap(), Metrics::default());
    }

    #[test]
    fn a_cut_last_line_is_left_out() {
        for cut in ["{\"step\":2,\"lo", "{\"step\":2", "\0\0\0", "{\"step\":2,\"name\":\"\u{fc}"] {
            assert_eq!(read(&format!("{{\"step\":1,\"loss\":3}}\n{cut}")).unwrap().series("loss"), [[1.0, 3.0]]);
        }
        assert_eq!(read("{\"step\":1,\"loss\":3}").unwrap().last("loss"), Some(3.0), "whole but for its line end");
    }

    #[test]
    fn a_corrupt_line_is_named() {
        for bad in ["{\"step\":2,\"lo\n{\"step\":3}\n", "[1]\n", "{\"loss\":1}\n", "{\"step\":\"2\"}\n", "\u{0}\n"] {
            let error = read(&format!("{{\"step\":1}}\n{bad}")).unwrap_err();
            assert!(matches!(&error, Error::File { problem, .. } if problem.starts_with("line 2: ")), "{error}");
        }
        assert!(matches!(Metrics::read("no/such/file"), Err(Error::Io { .. })));
    }

    #[test]
    fn rows_of_a_resumed_run_replace_those_of_the_same_steps() {
        let rows: String =
            [10, 20, 30, 20, 30].iter().zip(1..).map(|(s, v)| format!("{{\"step\":{s},\"loss\":{v}}}\n")).collect();
        assert_eq!(read(&rows).unwrap().series("loss"), [[10.0, 1.0], [20.0, 4.0], [30.0, 5.0]]);
    }

    #[test]
    fn medians_ignore_what_is_not_finite() {
        let mut metrics = Metrics::default();
        for (step, value) in [3.0, f64::NAN, 1.0, 2.0].into_iter().enumerate() {
            metrics.push("x", step as f64, value);
        }
        assert_eq!((metrics.median("x"), metrics.median("y")), (Some(2.0), None));
    }
}
