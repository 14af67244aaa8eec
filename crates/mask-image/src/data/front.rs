//! The loader's half of every image method: samples, plans, crops.

use std::path::PathBuf;
use std::sync::Arc;

use mask_core::data::{Array, Ask, DataConfig, Front, Item, ItemView, PositionLabels};
use mask_core::sampler::{Moment, Row, draw};
use mask_core::train::BatchConfig;
use mask_core::{
    Clock, Draft, Error, Fill, Grid, Hints, Layout, Named, Purpose, Result, Sampler, SamplerConfig, Site, Split, Stream,
};
use ndarray::{Array2, Array3};
use serde::{Deserialize, Serialize};

use super::salience::gradients;
use super::{Augment, ComposedConfig, Draw, IdxImages, ImageFolder, ImageSource, Raster};
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

impl IdxConfig {
    /// The files that it names.
    #[must_use]
    pub fn files(&self) -> Vec<PathBuf> {
        [Some(&self.images), self.labels.as_ref()].into_iter().flatten().cloned().collect()
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
        /// Garments pasted on photographs: the class of every pixel is known.
        composed => Composed(ComposedConfig),
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
            Self::Composed(config) => Arc::new(config.open(classes)?),
        })
    }

    /// The files that it reads.
    ///
    /// # Errors
    /// A folder that can't be read.
    pub fn files(&self) -> Result<Vec<PathBuf>> {
        match self {
            Self::Idx(config) => Ok(config.files()),
            Self::Folder(config) => Ok(ImageFolder::open(&config.path, None)?.paths()),
            Self::Composed(config) => config.files(),
        }
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

impl DataConfig for ImageData {
    fn files(&self) -> Result<Vec<PathBuf>> {
        let mut files = self.source.files()?;
        if let Some(held_out) = &self.held_out {
            files.extend(held_out.files()?);
        }
        Ok(files)
    }

    fn still(self) -> Self {
        Self { augment: self.augment.still(), batch: BatchConfig::default(), ..self }
    }
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

/// What a method reads of each picture: one view.
#[derive(Clone, Debug)]
pub struct ViewSpec<'a> {
    /// Its height and width.
    pub size: [usize; 2],
    /// The way from the picture to it; its `size` is not looked at.
    pub augment: Augment,
    /// What is hidden, and what the encoder reads there; none = it is read whole.
    pub mask: Option<(&'a SamplerConfig, Reads)>,
}

/// A view that was checked and built.
struct ImageView {
    augment: Augment,
    layout: Layout,
    mask: Option<(Box<dyn Sampler>, Reads)>,
}

/// Samples of one split, planned on the grids of one encoder.
pub struct ImageFront {
    source: Option<Arc<dyn ImageSource>>,
    /// Which pictures of the source; none = all.
    chosen: Option<Vec<u32>>,
    /// At least one. The first is what probes read, without augmentation.
    views: Vec<ImageView>,
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
        site: &Site<'_, ImageData>,
        encoder: &VitConfig,
        mask: &SamplerConfig,
        reads: Reads,
    ) -> Result<Box<dyn Front>> {
        let view = ViewSpec { size: encoder.image, augment: site.data.augment.clone(), mask: Some((mask, reads)) };
        Self::several(site, encoder, &[view])
    }

    /// The front of a method that reads several views of each picture, all by the same encoder.
    ///
    /// # Errors
    /// As [`ImageFront::build`], or no view.
    pub fn several(site: &Site<'_, ImageData>, encoder: &VitConfig, views: &[ViewSpec<'_>]) -> Result<Box<dyn Front>> {
        let views = views.iter().map(|view| ImageView::build(view, encoder)).collect::<Result<Vec<_>>>()?;
        let (source, chosen) = open(site.data, site.split)?;
        let front = Self { source, chosen, views, strict: site.data.strict };
        front.look_at_first(encoder.channels)?;
        Ok(Box::new(front))
    }

    /// The first view.
    fn first(&self) -> Result<&ImageView> {
        self.views.first().ok_or_else(|| Error::Defect("a front without views".to_owned()))
    }

    /// Reads the first picture, so that a size or a number of channels that doesn't fit is known before any work.
    fn look_at_first(&self, channels: usize) -> Result<()> {
        let view = self.first()?;
        let Some(source) = &self.source else { return Ok(()) };
        let readable = (0..self.len()).find_map(|id| Some((id, source.read(self.index(id)).ok()?)));
        let (id, first) = readable.ok_or_else(|| {
            Error::value("source", format!("none of the {} images can be read: {}", self.len(), self.first_problem()))
        })?;
        view.augment.eval(&first).map_err(|error| {
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

    /// What view number `index` of a picture shows; of a split without data, noise.
    fn values(&self, index: usize, picture: Option<&Raster>, id: u64, ask: &Ask<'_>) -> Result<Vec<f32>> {
        let augment = &self.views[index].augment;
        let mut stream = Stream::keyed(ask.seed, Purpose::Augment, ask.clock.epoch, id).branch(index as u64);
        match picture {
            // Several views differ by chance alone, so the masked ones of evaluation have theirs, under a fixed key.
            Some(picture) if ask.train || (ask.masked && self.views.len() > 1) => augment.train(picture, &mut stream),
            Some(picture) => augment.eval(picture),
            None => Ok((0..augment.len()).map(|_| stream.normal() as f32).collect()),
        }
    }
}

impl ImageView {
    fn build(spec: &ViewSpec<'_>, encoder: &VitConfig) -> Result<Self> {
        let augment = Augment { size: spec.size, ..spec.augment.clone() };
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
        let sized = VitConfig { image: spec.size, ..encoder.clone() };
        let layout = Layout::single(sized.grid().map_err(|error| error.within("encoder"))?);
        let mask =
            spec.mask.map(|(mask, reads)| Ok::<_, Error>((sampler(mask, reads, &layout)?, reads))).transpose()?;
        Ok(Self { augment, layout, mask })
    }

    /// A draft a row; none where the view is read whole.
    fn drafts(&self, global: &[u64], layout: &Layout, view: u64, ask: &Ask<'_>) -> Result<Vec<Option<Draft>>> {
        let Some((sampler, reads)) = self.mask.as_ref().filter(|_| ask.masked) else {
            return Ok(vec![None; global.len()]);
        };
        let row = |id: &u64| Row { id: *id, layout: layout.clone(), hints: Hints::default() };
        let rows: Vec<Row> = global.iter().map(row).collect();
        let moment = Moment { seed: ask.seed, clock: ask.clock, state: ask.state };
        let drafts = draw(&**sampler, &rows, view, &moment).map_err(|error| error.within("mask"))?;
        let filled = |draft: Draft| match draft {
            Draft::Ready(plan) if *reads == Reads::All => Draft::Ready(plan.filled(|_| Fill::MaskToken)),
            other => other,
        };
        Ok(drafts.into_iter().map(filled).map(Some).collect())
    }
}

/// The sampler of a view. A layout that it can't work on is found here, not at the first batch.
fn sampler(mask: &SamplerConfig, reads: Reads, layout: &Layout) -> Result<Box<dyn Sampler>> {
    let in_mask = |error: Error| error.within("mask");
    let sampler = mask.build().map_err(in_mask)?;
    let begin = Clock::at(0, 1, 1);
    for clock in [begin, Clock { step: 1, ..begin }] {
        let (hidden, length) = (sampler.claims(layout, &clock).map_err(in_mask)?.hidden, layout.len());
        if *hidden.end() == 0 {
            let problem = format!("hides none of the {length} patches, so nothing is predicted: raise its share");
            return Err(Error::value("mask", problem));
        }
        if *hidden.start() == length && reads == Reads::Visible {
            let problem = format!("hides all {length} patches, so the encoder reads none: lower its share");
            return Err(Error::value("mask", problem));
        }
    }
    Ok(sampler)
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
        let mut items: Vec<Item> = global.iter().map(|id| Item { id: *id, views: Vec::new() }).collect();
        // Probes read one view; so do statistics on another grid.
        let wanted = if ask.masked && ask.grid.is_none() { self.views.len() } else { 1 };
        for (index, view) in self.views.iter().take(wanted).enumerate() {
            let layout = ask.grid.map_or_else(|| view.layout.clone(), |grid: &Grid| Layout::single(grid.clone()));
            let drafts = view.drafts(global, &layout, index as u64, ask)?;
            for (item, draft) in items.iter_mut().zip(drafts) {
                item.views.push(ItemView { layout: layout.clone(), draft, inputs: Named::new() });
            }
        }
        Ok(items)
    }

    fn fill(&self, item: &mut Item, ask: &Ask<'_>) -> Result<()> {
        let shaped = |error: ndarray::ShapeError| Error::Defect(error.to_string());
        let picture = self.source.as_ref().map(|source| source.read(self.index(item.id))).transpose()?;
        for (index, view) in item.views.iter_mut().enumerate() {
            let augment = &self.views[index].augment;
            let [height, width] = augment.size;
            let channels = augment.channels();
            let colours = [&augment.mean, &augment.std].into_iter().flatten().map(|x| *x as f32).collect();
            let colours = Array2::from_shape_vec((2, channels), colours).map_err(shaped)?;
            let values = self.values(index, picture.as_ref(), item.id, ask)?;
            let pixels = Array3::from_shape_vec((channels, height, width), values).map_err(shaped)?;
            view.inputs.insert("pixels".to_owned(), Array::F32(pixels.into_dyn()));
            view.inputs.insert("colours".to_owned(), Array::F32(colours.into_dyn()));
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

    fn position_labels(&self, id: u64) -> Result<Option<PositionLabels>> {
        let Some(source) = &self.source else { return Ok(None) };
        let Some(regions) = source.regions(self.index(id))? else { return Ok(None) };
        let view = self.first()?;
        let (regions, grid) = (view.augment.regions(&regions)?, view.layout.grid()?.as_plane()?);
        let sides = [regions.height() / grid[0], regions.width() / grid[1]];
        let classes = self.classes().len();
        let (mut labels, area) = (PositionLabels::default(), sides[0] * sides[1]);
        for position in 0..grid[0] * grid[1] {
            let corner = (position / grid[1] * sides[0], position % grid[1] * sides[1]);
            let mut counts = vec![0; classes + 1];
            for y in 0..sides[0] {
                for &class in &regions.data()[(corner.0 + y) * regions.width() + corner.1..][..sides[1]] {
                    counts[usize::from(class).min(classes)] += 1;
                }
            }
            let covering = (1..=classes).find(|class| 2 * counts[*class] >= area);
            labels.classes.push(covering.unwrap_or(0) as u32);
            labels.shares.push((area - counts[0]) as f32 / area as f32);
        }
        Ok(Some(labels))
    }

    /// The share of each patch that is garment, where the data knows; else the size of its gradient.
    fn salience(&self, item: &Item) -> Result<Option<Vec<f32>>> {
        if let Some(labels) = self.position_labels(item.id)? {
            return Ok(Some(labels.shares));
        }
        let Some(view) = item.views.first() else { return Ok(None) };
        let grid = view.layout.grid()?.as_plane()?;
        Ok(match view.inputs.get("pixels") {
            Some(Array::F32(pixels)) => gradients(&pixels.view(), grid),
            _ => None,
        })
    }

    fn strict(&self) -> bool {
        self.strict
    }

    fn processor(&self) -> Option<serde_json::Value> {
        let augment = &self.views.first()?.augment;
        Some(crate::model::processor(augment.size, &augment.mean, &augment.std))
    }

    fn raw(&self, item: &Item) -> Option<Vec<f32>> {
        match item.views.first()?.inputs.get("pixels")? {
            // Beyond this a probe of raw values costs more than it tells.
            Array::F32(pixels) if pixels.len() <= 4096 => Some(pixels.iter().copied().collect()),
            _ => None,
        }
    }
}
