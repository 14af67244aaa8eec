//! The loader's half of every image method: samples, plans, crops.

use std::path::PathBuf;
use std::sync::Arc;

use mask_core::data::{Array, Ask, Front, Item, ItemView};
use mask_core::sampler::{Moment, Row, draw};
use mask_core::train::BatchConfig;
use mask_core::{
    Clock, Draft, Error, Fill, Grid, Hints, Layout, Named, Purpose, Result, Sampler, SamplerConfig, Split, Stream,
};
use ndarray::{Array2, Array3};
use serde::{Deserialize, Serialize};

use super::{Augment, Draw, IdxImages, ImageFolder, ImageSource, Raster};
use crate::model::VitConfig;

impl Draw for Stream {
    fn uniform(&mut self) -> f64 {
        Stream::uniform(self)
    }
    fn below(&mut self, n: u64) -> u64 {
        Stream::below(self, n)
    }
}

/// Recipe keys of IDX files.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IdxConfig {
    /// The images, plain or `.gz`.
    pub images: PathBuf,
    /// Their labels; none = no classes.
    pub labels: Option<PathBuf>,
}

impl Default for IdxConfig {
    /// The bundled garments.
    fn default() -> Self {
        let folder = PathBuf::from("datasets/samples/fashion-mnist");
        let labels = folder.join("train-labels-idx1-ubyte.gz");
        Self { images: folder.join("train-images-idx3-ubyte.gz"), labels: Some(labels) }
    }
}

/// Recipe keys of an image folder.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FolderConfig {
    /// The folder: a class per directory, or images without labels.
    pub path: PathBuf,
}

impl Default for FolderConfig {
    /// The bundled photographs.
    fn default() -> Self {
        Self { path: PathBuf::from("datasets/samples/photographs") }
    }
}

mask_core::tagged! {
    /// Where images come from.
    #[derive(PartialEq)]
    pub enum SourceConfig {
        /// IDX files, as MNIST and its kin have them.
        idx => Idx(IdxConfig),
        /// JPEG, PNG and WebP files in a folder.
        folder => Folder(FolderConfig),
    }
}

impl SourceConfig {
    /// Opens the source; `classes` are those of the training set, so that labels mean the same.
    ///
    /// # Errors
    /// Files that are missing or damaged.
    pub fn open(&self, classes: Option<&[String]>) -> Result<Arc<dyn ImageSource>> {
        Ok(match self {
            Self::Idx(config) => Arc::new(IdxImages::open(&config.images, config.labels.as_deref(), classes)?),
            Self::Folder(config) => Arc::new(ImageFolder::open(&config.path, classes)?),
        })
    }
}

/// Recipe keys of image data.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImageData {
    /// What is trained on.
    pub source: SourceConfig,
    /// What is never trained on; none = a tenth of the source, the same one in every run.
    pub held_out: Option<SourceConfig>,
    /// From a picture to the model's input.
    pub augment: Augment,
    /// The batch.
    pub batch: BatchConfig,
    /// Whether an image that can't be read stops the run, instead of being skipped and named.
    pub strict: bool,
}

/// What an encoder reads at hidden positions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reads {
    /// Nothing: it reads the visible patches alone.
    Visible,
    /// A mask token: it reads all positions.
    All,
}

/// Samples of one split, planned on the grid of one encoder.
pub struct ImageFront {
    source: Option<Arc<dyn ImageSource>>,
    /// Which pictures of the source; none = all.
    chosen: Option<Vec<u32>>,
    augment: Augment,
    layout: Layout,
    sampler: Box<dyn Sampler>,
    reads: Reads,
    strict: bool,
}

/// Samples that a split without data claims to have.
const SYNTHETIC: u64 = 1_281_167;

impl ImageFront {
    /// The front of a method with one view.
    ///
    /// # Errors
    /// Data that can't be read or doesn't fit the encoder.
    pub fn build(
        data: &ImageData,
        split: Split,
        encoder: &VitConfig,
        mask: &SamplerConfig,
        reads: Reads,
    ) -> Result<Box<dyn Front>> {
        let augment = Augment { size: encoder.image, ..data.augment.clone() };
        augment.check().map_err(|error| match error {
            Error::Value { what, problem } if what == "size" => Error::value("encoder.image", problem),
            other => other.within("augment"),
        })?;
        if augment.channels() != encoder.channels {
            let problem = format!(
                "{} values, but the encoder reads {} channels (method.encoder.channels)",
                augment.channels(),
                encoder.channels
            );
            return Err(Error::value("augment.mean", problem));
        }
        let layout = Layout::single(encoder.grid().map_err(|error| error.within("encoder"))?);
        let in_mask = |error: Error| error.within("mask");
        let sampler = mask.build().map_err(in_mask)?;
        // A layout that the sampler can't work on is found here, not at the first batch.
        let begin = Clock::at(0, 1, 1);
        for clock in [begin, Clock { step: 1, ..begin }] {
            let (hidden, length) = (sampler.claims(&layout, &clock).map_err(in_mask)?.hidden, layout.len());
            if *hidden.end() == 0 {
                let problem = format!("hides none of the {length} patches, so nothing is predicted: raise its share");
                return Err(Error::value("mask", problem));
            }
            if *hidden.start() == length && reads == Reads::Visible {
                let problem = format!("hides all {length} patches, so the encoder reads none: lower its share");
                return Err(Error::value("mask", problem));
            }
        }
        let (source, chosen) = open(data, split)?;
        let front = Self { source, chosen, augment, layout, sampler, reads, strict: data.strict };
        front.look_at_first(encoder.channels)?;
        Ok(Box::new(front))
    }

    /// Reads the first picture, so that a size or a number of channels that doesn't fit is known before any work.
    fn look_at_first(&self, channels: usize) -> Result<()> {
        let Some(source) = &self.source else { return Ok(()) };
        let readable = (0..self.len()).find_map(|id| Some((id, source.read(self.index(id)).ok()?)));
        let (id, first) = readable.ok_or_else(|| {
            Error::value("source", format!("none of the {} images can be read: {}", self.len(), self.first_problem()))
        })?;
        self.augment.eval(&first).map_err(|error| {
            let size = format!("{} x {}, {} channel(s)", first.height(), first.width(), first.channels());
            Error::value(
                "augment",
                format!("{} ({size}) doesn't fit {channels} channels: {error}", source.name(self.index(id))),
            )
        })?;
        Ok(())
    }

    fn first_problem(&self) -> String {
        let problem = self.source.as_ref().and_then(|source| source.read(self.index(0)).err());
        problem.map_or_else(String::new, |error| error.to_string())
    }

    fn index(&self, id: u64) -> usize {
        match &self.chosen {
            Some(chosen) => chosen.get(id as usize).map_or(usize::MAX, |index| *index as usize),
            None => id as usize,
        }
    }

    fn values(&self, id: u64, ask: &Ask<'_>) -> Result<Vec<f32>> {
        let mut stream = Stream::keyed(ask.seed, Purpose::Augment, ask.clock.epoch, id);
        match &self.source {
            Some(source) => {
                let raster: Raster = source.read(self.index(id))?;
                if ask.train { self.augment.train(&raster, &mut stream) } else { self.augment.eval(&raster) }
            }
            None => Ok((0..self.augment.len()).map(|_| stream.normal() as f32).collect()),
        }
    }
}

/// The pictures of a split: a source, and which of its pictures.
type Chosen = (Option<Arc<dyn ImageSource>>, Option<Vec<u32>>);

fn open(data: &ImageData, split: Split) -> Result<Chosen> {
    if split == Split::Synthetic {
        return Ok((None, None));
    }
    match (&data.held_out, split) {
        (Some(held_out), Split::HeldOut) => {
            let train = data.source.open(None)?;
            let classes = train.classes();
            Ok((Some(held_out.open((!classes.is_empty()).then_some(classes))?), None))
        }
        (Some(_), _) => Ok((Some(data.source.open(None)?), None)),
        (None, split) => {
            let source = data.source.open(None)?;
            let mut order = Stream::keyed(0, Purpose::Evaluate, 1, 0).permutation(source.len());
            let tenth = order.split_off(source.len() - source.len().div_ceil(10));
            let mut chosen = if split == Split::HeldOut || order.is_empty() { tenth } else { order };
            chosen.sort_unstable();
            Ok((Some(source), Some(chosen)))
        }
    }
}

impl Front for ImageFront {
    fn len(&self) -> u64 {
        match (&self.chosen, &self.source) {
            (Some(chosen), _) => chosen.len() as u64,
            (None, Some(source)) => source.len() as u64,
            (None, None) => SYNTHETIC,
        }
    }

    fn plan(&self, global: &[u64], ask: &Ask<'_>) -> Result<Vec<Item>> {
        let layout = ask.grid.map_or_else(|| self.layout.clone(), |grid: &Grid| Layout::single(grid.clone()));
        let item = |(id, draft): (&u64, Option<Draft>)| {
            let view = ItemView { layout: layout.clone(), draft, inputs: Named::new() };
            Item { id: *id, views: vec![view] }
        };
        if !ask.masked {
            return Ok(global.iter().map(|id| item((id, None))).collect());
        }
        let rows: Vec<Row> =
            global.iter().map(|id| Row { id: *id, layout: layout.clone(), hints: Hints::default() }).collect();
        let moment = Moment { seed: ask.seed, clock: ask.clock, state: ask.state };
        let drafts = draw(&*self.sampler, &rows, 0, &moment).map_err(|error| error.within("mask"))?;
        let filled = |draft: Draft| match draft {
            Draft::Ready(plan) if self.reads == Reads::All => Draft::Ready(plan.filled(|_| Fill::MaskToken)),
            other => other,
        };
        Ok(global.iter().zip(drafts.into_iter().map(filled).map(Some)).map(item).collect())
    }

    fn fill(&self, item: &mut Item, ask: &Ask<'_>) -> Result<()> {
        let [height, width] = self.augment.size;
        let channels = self.augment.channels();
        let shaped = |error: ndarray::ShapeError| Error::Defect(error.to_string());
        let colours = [&self.augment.mean, &self.augment.std].into_iter().flatten().map(|x| *x as f32).collect();
        let colours = Array2::from_shape_vec((2, channels), colours).map_err(shaped)?;
        let values = self.values(item.id, ask)?;
        let pixels = Array3::from_shape_vec((channels, height, width), values).map_err(shaped)?;
        for view in &mut item.views {
            view.inputs.insert("pixels".to_owned(), Array::F32(pixels.clone().into_dyn()));
            view.inputs.insert("colours".to_owned(), Array::F32(colours.clone().into_dyn()));
        }
        Ok(())
    }

    fn label(&self, id: u64) -> Option<u32> {
        self.source.as_ref()?.label(self.index(id))
    }

    fn classes(&self) -> Vec<String> {
        self.source.as_ref().map(|source| source.classes().to_vec()).unwrap_or_default()
    }

    fn name(&self, id: u64) -> String {
        self.source.as_ref().map_or_else(|| format!("noise#{id}"), |source| source.name(self.index(id)))
    }

    fn strict(&self) -> bool {
        self.strict
    }

    fn raw(&self, item: &Item) -> Option<Vec<f32>> {
        match item.views.first()?.inputs.get("pixels")? {
            // Beyond this a probe of raw values costs more than it tells.
            Array::F32(pixels) if pixels.len() <= 4096 => Some(pixels.iter().copied().collect()),
            _ => None,
        }
    }
}
