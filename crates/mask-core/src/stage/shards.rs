//! Rows of samples in files of so many samples each: features and labels.
//!
//! A file `<split>-<number>.safetensors` holds the samples from `number * per_shard` on. `offsets` [n + 1] say where
//! each sample's rows begin in the other tensors; a sample that could not be read has none. So a sample's number leads
//! to its rows without a search, and an interrupted stage goes on with the first file that isn't there.

use std::path::Path;

use tch::{Device, Kind, Tensor};

use super::Workbench;
use super::checksum::hash_text;
use crate::data::{Front, STILL, still, whole};
use crate::method::{Split, Step, View};
use crate::store::RowFile;
use crate::train::{Progress, interrupted};
use crate::{Error, Named, Result, store};

/// The parts of the data that stages go through.
pub const SPLITS: [Split; 2] = [Split::Train, Split::HeldOut];

/// Numbers of a file at most, as far as whole samples allow, and its samples at most.
const NUMBERS: usize = 1 << 26;
const SAMPLES: usize = 4096;

/// What a split is called in file names.
#[must_use]
pub const fn split_name(split: Split) -> &'static str {
    match split {
        Split::Train => "train",
        Split::HeldOut => "held_out",
        Split::Synthetic => "noise",
    }
}

/// What all files of a split say.
#[derive(Clone, Debug, PartialEq)]
pub struct Shape {
    /// Samples of the split.
    pub samples: u64,
    /// Samples of each file but the last.
    pub per_shard: u64,
    /// SHA-256 over the samples' names, so that other samples are told from these.
    pub names: String,
    /// The grid of a sample's rows, where all have the same.
    pub grid: Option<Vec<usize>>,
    /// Rows a second, where samples have a duration.
    pub rate: Option<f64>,
    /// What else is said.
    pub more: Named<String>,
}

impl Shape {
    /// That of a front's samples, of so many numbers a row.
    ///
    /// # Errors
    /// A front that can't plan.
    pub fn of(front: &dyn Front, width: usize, more: Named<String>) -> Result<Self> {
        let samples = front.len();
        let items = front.plan(&[0], &still(&Named::new()))?;
        let layout = items.first().and_then(|item| item.views.first()).map(|view| view.layout.clone());
        let layout = layout.ok_or_else(|| Error::Defect("a sample without a view".to_owned()))?;
        let per_shard = (NUMBERS / (layout.len() * width).max(1)).clamp(1, SAMPLES) as u64;
        let grid = layout.grid().ok().map(|grid| grid.dims().to_vec());
        Ok(Self { samples, per_shard, names: names(front), grid, rate: None, more })
    }

    /// Writes a file whose first sample is `first`.
    pub(super) fn save(&self, path: &Path, first: u64, tensors: &[(String, Tensor)]) -> Result<()> {
        store::write(path, tensors, &self.metadata(first))
    }

    fn metadata(&self, first: u64) -> Named<String> {
        let mut metadata = self.more.clone();
        let grid = self.grid.as_ref().map(|grid| grid.iter().map(usize::to_string).collect::<Vec<_>>().join(","));
        let rate = self.rate.map(|rate| rate.to_string());
        metadata.extend([
            ("format".to_owned(), "mask-rows-1".to_owned()),
            ("samples".to_owned(), self.samples.to_string()),
            ("per_shard".to_owned(), self.per_shard.to_string()),
            ("names".to_owned(), self.names.clone()),
            ("first".to_owned(), first.to_string()),
        ]);
        metadata.extend(grid.map(|grid| ("grid".to_owned(), grid)));
        metadata.extend(rate.map(|rate| ("rate".to_owned(), rate)));
        metadata
    }

    fn read(file: &RowFile) -> Result<Self> {
        let mut more = file.metadata.clone();
        let mut take = |key: &str| more.remove(key);
        let damaged = || file.refuse("is no file of rows: its metadata lack format, samples, per_shard or names");
        let format = take("format");
        let number = |text: Option<String>| text.and_then(|text| text.parse::<u64>().ok());
        let (samples, per_shard, names) = (number(take("samples")), number(take("per_shard")), take("names"));
        let (Some("mask-rows-1"), Some(samples), Some(per_shard), Some(names)) =
            (format.as_deref(), samples, per_shard.filter(|n| *n > 0), names)
        else {
            return Err(damaged());
        };
        let sides = |text: String| text.split(',').map(|side| side.parse().ok()).collect::<Option<Vec<usize>>>();
        let grid = take("grid").map(|text| sides(text).ok_or_else(damaged)).transpose()?;
        let rate = take("rate").map(|text| text.parse().map_err(|_| damaged())).transpose()?;
        take("first");
        Ok(Self { samples, per_shard, names, grid, rate, more })
    }
}

/// SHA-256 over the names of a front's samples.
#[must_use]
pub(super) fn names(front: &dyn Front) -> String {
    let all: Vec<String> = (0..front.len()).map(|id| front.name(id)).collect();
    hash_text(&all.join("\n"))
}

/// Rows of a batch: tensors [B, T, ..] by name, and which of them are real, [B, T]; none = all.
pub type BatchRows = (Vec<(String, Tensor)>, Option<Tensor>);

/// Goes through the samples of a split, nothing hidden, no augmentation, and writes the rows of each. `rows` gives, for
/// the first view of a batch, tensors [B, T, ..] by name; rows that aren't real are left out by `valid` [B, T].
///
/// # Errors
/// Data that can't be read, a full disk, an interruption between two files.
pub fn write_rows(
    at: &Workbench<'_>,
    front: &dyn Front,
    split: Split,
    shape: &Shape,
    rows: &mut dyn FnMut(&View, &Step<'_>) -> Result<BatchRows>,
) -> Result<()> {
    let what = format!("stage {}, {}", at.name, split_name(split).replace('_', "-"));
    let mut progress = Progress::new(&what, 0, shape.samples);
    store::sweep(at.folder)?;
    for (number, first) in (0..shape.samples).step_by(shape.per_shard as usize).enumerate() {
        let path = at.folder.join(format!("{}-{number:05}.safetensors", split_name(split)));
        let last = (first + shape.per_shard).min(shape.samples);
        if path.is_file() {
            continue;
        }
        let ids: Vec<u64> = (first..last).collect();
        let mut parts: Named<Vec<Tensor>> = Named::new();
        let mut lengths = vec![0i64; ids.len()];
        for prepared in whole(front, &ids) {
            let prepared = match prepared {
                Ok(prepared) => prepared,
                // Samples that can't be read have no rows; where all of a chunk are so, that is all there is.
                Err(Error::Value { what, problem }) if what == "data" && !front.strict() => {
                    tracing::warn!("{problem}");
                    continue;
                }
                Err(error) => return Err(error),
            };
            for problem in &prepared.skipped {
                tracing::warn!("stage {}: skipped a sample: {problem}", at.name);
            }
            let batch = prepared.to_device(at.device)?;
            let view = batch.views.first().ok_or_else(|| Error::Defect("a batch without views".to_owned()))?;
            let (tensors, valid) = tch::no_grad(|| rows(view, &STILL))?;
            let mut real = vec![-1i64; batch.ids.len()];
            if let Some(valid) = &valid {
                real = Vec::<i64>::try_from(valid.sum_dim_intlist(1, false, Kind::Int64).to_device(Device::Cpu))?;
            }
            for (name, tensor) in tensors {
                let tensor = tensor.to_device(Device::Cpu); // [B, T, ..]
                let size = tensor.size();
                let flat: Vec<i64> = std::iter::once(-1).chain(size[2..].iter().copied()).collect();
                let whole = tensor.reshape(flat.as_slice());
                let kept = match &valid {
                    None => whole,
                    Some(valid) => {
                        let flags = Vec::<bool>::try_from(valid.to_device(Device::Cpu).reshape([-1]))?;
                        let at = flags.iter().enumerate().filter(|(_, real)| **real).map(|(at, _)| at as i64);
                        whole.index_select(0, &Tensor::from_slice(&at.collect::<Vec<_>>()))
                    }
                };
                for length in real.iter_mut().filter(|length| **length < 0) {
                    *length = size[1];
                }
                parts.entry(name).or_default().push(kept);
            }
            for (id, length) in batch.ids.iter().zip(&real) {
                lengths[(id - first) as usize] = *length;
            }
        }
        let mut offsets = vec![0i64];
        for length in &lengths {
            offsets.push(offsets[offsets.len() - 1] + length);
        }
        let mut tensors = vec![("offsets".to_owned(), Tensor::from_slice(&offsets))];
        for (name, parts) in parts {
            tensors.push((name, Tensor::f_cat(&parts, 0)?));
        }
        if tensors.len() == 1 {
            let problem = format!("none of the samples {first} to {} could be read", last - 1);
            return Err(Error::value("data", problem));
        }
        shape.save(&path, first, &tensors)?;
        progress.at(last, "");
        if interrupted() {
            return Err(Error::Interrupted { step: last, checkpoint: String::new() });
        }
    }
    progress.finish();
    Ok(())
}

/// The rows of a split's samples.
#[derive(Debug)]
pub struct Shards {
    /// What its files say.
    pub shape: Shape,
    files: Vec<(RowFile, Vec<i64>)>,
}

impl Shards {
    /// Opens the files of a split.
    ///
    /// # Errors
    /// A file that is missing, damaged or of another set.
    pub fn open(folder: &Path, split: Split) -> Result<Self> {
        let path = |number: u64| folder.join(format!("{}-{number:05}.safetensors", split_name(split)));
        let mut files = Vec::new();
        let mut shape: Option<Shape> = None;
        loop {
            let file = RowFile::open(&path(files.len() as u64))?;
            let own = Shape::read(&file)?;
            let shape = shape.get_or_insert_with(|| own.clone());
            if *shape != own {
                return Err(file.refuse("belongs to other samples than the files before it"));
            }
            let first = files.len() as u64 * shape.per_shard;
            let samples = shape.per_shard.min(shape.samples.saturating_sub(first));
            let rows = file.entry("offsets")?.shape[0] as u64;
            if rows != samples + 1 || samples == 0 {
                return Err(file.refuse(format!("has {rows} offsets, {} were expected", samples + 1)));
            }
            let offsets = file.integers("offsets", 0..rows)?;
            if offsets[0] != 0 || offsets.windows(2).any(|pair| pair[0] > pair[1]) {
                return Err(file.refuse("has offsets that don't ascend from 0"));
            }
            files.push((file, offsets));
            if first + samples == shape.samples {
                break;
            }
        }
        let shape = shape.ok_or_else(|| Error::Defect("a split without files".to_owned()))?;
        Ok(Self { shape, files })
    }

    /// Files, each with the number of its rows.
    pub fn files(&self) -> impl Iterator<Item = (&RowFile, u64)> {
        self.files.iter().map(|(file, offsets)| (file, offsets[offsets.len() - 1] as u64))
    }

    /// Offsets of a file's samples among its rows, one more than samples.
    #[must_use]
    pub fn offsets(&self, file: usize) -> &[i64] {
        self.files.get(file).map_or(&[], |(_, offsets)| offsets)
    }

    /// Rows of all files.
    #[must_use]
    pub fn rows(&self) -> u64 {
        self.files().map(|(_, rows)| rows).sum()
    }

    /// Where a sample's rows lie: the file and its rows.
    ///
    /// # Errors
    /// There is no such sample.
    pub fn of(&self, id: u64) -> Result<(&RowFile, std::ops::Range<u64>)> {
        let beyond = || Error::value("data", format!("sample {id} lies beyond the {} with rows", self.shape.samples));
        let (file, offsets) = self.files.get((id / self.shape.per_shard) as usize).ok_or_else(beyond)?;
        let at = (id % self.shape.per_shard) as usize;
        match offsets.get(at..at + 2) {
            Some([start, end]) => Ok((file, *start as u64..*end as u64)),
            _ => Err(beyond()),
        }
    }

    /// Compares the samples with a front's.
    ///
    /// # Errors
    /// They are others.
    pub fn check(&self, front: &dyn Front) -> Result<()> {
        if self.shape.samples == front.len() && self.shape.names == names(front) {
            return Ok(());
        }
        let problem = format!(
            "the stage saw other samples ({} of them) than these ({}): let it read the same data",
            self.shape.samples,
            front.len()
        );
        Err(Error::value("data", problem))
    }
}
