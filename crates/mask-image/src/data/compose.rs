//! Garments on photographs: pictures made from two data sets, so that the class of every pixel is known.
//!
//! A square part of a photograph, shrunk to `side` and flipped or not, with garments pasted at uniform places, the later
//! on top; a garment's pixels above 0 are opaque. What stands on a canvas hangs on the recipe's keys and the number of
//! the canvas alone: it is the same in every epoch, on any number of threads.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use mask_core::{Error, Purpose, Result, Stream};
use serde::{Deserialize, Serialize};

use super::front::IdxConfig;
use super::{Area, IdxImages, ImageFolder, ImageSource, Interpolation, Raster, resize};

/// Which photographs a source may use. No photograph is in both parts, nor are two of one scene apart: pictures whose
/// names differ in a last number or a last capital letter only (`left08`, `leuvenA`) count as one scene.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Part {
    /// Four scenes of five, in the order of their names.
    Train,
    /// Every fifth scene.
    HeldOut,
}

/// Recipe keys of composed pictures.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ComposedConfig {
    /// The folder of the photographs; those with a side below `side` are left out.
    pub photographs: PathBuf,
    /// Which of them.
    pub part: Part,
    /// What is pasted, and its classes: a training and a held-out source need files of their own.
    pub garments: IdxConfig,
    /// Garments on a canvas. With one its class is the label; with several a canvas has no label.
    pub each: u64,
    /// Canvases.
    pub count: u64,
    /// Height and width of a canvas.
    pub side: usize,
    /// The largest part of a photograph, in pixels a side; the smallest is `side`.
    pub largest: usize,
    /// Whether photographs keep their colours.
    pub colour: bool,
    /// Keys everything that is drawn.
    pub seed: u64,
}

impl Default for ComposedConfig {
    /// One bundled garment on 56 x 56 grey pixels of a bundled photograph.
    fn default() -> Self {
        Self {
            photographs: PathBuf::from("datasets/samples/photographs"),
            part: Part::Train,
            garments: IdxConfig::default(),
            each: 1,
            count: 6000,
            side: 56,
            largest: 240,
            colour: false,
            seed: 0,
        }
    }
}

/// A photograph that is decoded when it is first needed.
#[derive(Debug)]
struct Photograph {
    index: usize,
    height: usize,
    width: usize,
    decoded: OnceLock<Raster>,
}

/// The source of composed pictures; the head of its file says how one is made.
#[derive(Debug)]
pub struct Composed {
    config: ComposedConfig,
    folder: ImageFolder,
    photographs: Vec<Photograph>,
    garments: IdxImages,
    /// Garments in the order in which canvases use them, all of them before one comes again.
    order: Vec<u32>,
    /// The name of a canvas without its number.
    name: &'static str,
}

/// What stands where on one canvas.
struct Composition {
    photograph: usize,
    area: Area,
    flip: bool,
    /// Garment, row and column of its upper left corner.
    garments: Vec<(usize, usize, usize)>,
}

/// Most bytes of decoded photographs.
const MEMORY: usize = 1 << 30;

impl ComposedConfig {
    /// The files of both data sets.
    ///
    /// # Errors
    /// A folder that can't be read.
    pub fn files(&self) -> Result<Vec<PathBuf>> {
        let mut files = ImageFolder::open(&self.photographs, None)?.paths();
        files.extend(self.garments.files());
        Ok(files)
    }

    /// Opens both data sets; `classes` are those of the training set.
    ///
    /// # Errors
    /// A number out of range, files that are missing or damaged, no photograph that is large enough.
    pub fn open(&self, classes: Option<&[String]>) -> Result<Composed> {
        let range = |key: &str, number: u64, low: u64, high: u64| match number {
            n if (low..=high).contains(&n) => Ok(()),
            n => Err(Error::value(format!("source.{key}"), format!("{n} is not a number from {low} to {high}"))),
        };
        range("each", self.each, 1, 64)?;
        range("count", self.count, 1, u64::from(u32::MAX))?;
        range("side", self.side as u64, 1, 4096)?;
        range("largest", self.largest as u64, self.side as u64, 1 << 16)?;
        let garments = IdxImages::open(&self.garments.images, self.garments.labels.as_deref(), classes)?;
        let [channels, height, width] = garments.size_of(0)?;
        if garments.classes().is_empty() {
            return Err(Error::value("source.garments.labels", "null gives garments without classes: name their file"));
        }
        if channels != 1 || height.max(width) > self.side {
            let problem = format!(
                "garments of {height} x {width} pixels and {channels} channel(s) are pasted: a canvas needs sides of \
                 {} or more, garments one channel",
                height.max(width)
            );
            return Err(Error::value("source.side", problem));
        }
        let folder = ImageFolder::open(&self.photographs, None)?;
        let photographs = self.photographs_of(&folder)?;
        // A stream of its own, beyond the number of any canvas.
        let order = Stream::keyed(self.seed, Purpose::Compose, self.part as u64, u64::MAX).permutation(garments.len());
        let name = match self.part {
            Part::Train => "composed",
            Part::HeldOut => "composed-held-out",
        };
        Ok(Composed { config: self.clone(), folder, photographs, garments, order, name })
    }

    /// The photographs of this part that are large enough.
    fn photographs_of(&self, folder: &ImageFolder) -> Result<Vec<Photograph>> {
        let names: Vec<String> = (0..folder.len()).map(|index| folder.name(index)).collect();
        let mut scenes: Vec<&str> = names.iter().map(|name| scene(name)).collect();
        scenes.sort_unstable();
        scenes.dedup();
        let held_out = |name: &str| scenes.binary_search(&scene(name)).is_ok_and(|at| at % 5 == 4);
        let mut photographs = Vec::new();
        for (index, name) in names.iter().enumerate() {
            if held_out(name) != (self.part == Part::HeldOut) {
                continue;
            }
            let [_, height, width] = folder.size_of(index)?;
            if height.min(width) >= self.side {
                photographs.push(Photograph { index, height, width, decoded: OnceLock::new() });
            }
        }
        if photographs.is_empty() {
            let problem = format!(
                "holds {} photographs, none of them in this part ({} scenes) with sides of {} or more",
                names.len(),
                scenes.len(),
                self.side
            );
            return Err(Error::file(&self.photographs, problem));
        }
        let channels = if self.colour { 3 } else { 1 };
        let bytes = photographs.iter().fold(0usize, |sum, p| sum.saturating_add(p.height * p.width * channels));
        if bytes > MEMORY {
            let problem = format!(
                "holds photographs of {} MiB when decoded, which are kept in memory; the limit is {} MiB: take fewer",
                bytes >> 20,
                MEMORY >> 20
            );
            return Err(Error::file(&self.photographs, problem));
        }
        Ok(photographs)
    }
}

/// The part of a file name that two pictures of one scene share.
fn scene(name: &str) -> &str {
    let stem = name.rsplit_once('.').map_or(name, |(stem, _)| stem);
    let short = stem.trim_end_matches(|c: char| c.is_ascii_digit());
    let short = match short.strip_suffix(|c: char| c.is_ascii_uppercase()) {
        Some(before) if short.len() == stem.len() && before.ends_with(|c: char| c.is_ascii_lowercase()) => before,
        _ => short,
    };
    // A name that is a number alone is a scene of its own.
    if Path::new(short).file_name().is_none() || short.ends_with('/') { stem } else { short }
}

impl Composed {
    fn composition(&self, index: usize) -> Result<Composition> {
        if index as u64 >= self.config.count {
            let problem = format!("{index} is beyond the last of {} composed images", self.config.count);
            return Err(Error::value("image", problem));
        }
        let side = self.config.side;
        let mut stream = Stream::keyed(self.config.seed, Purpose::Compose, self.config.part as u64, index as u64);
        let mut below = |count: usize| stream.below(count as u64) as usize;
        let photograph = below(self.photographs.len());
        let Photograph { height, width, .. } = self.photographs[photograph];
        let part = side + below(self.config.largest.min(height).min(width) - side + 1);
        let area = Area { top: below(height - part + 1), left: below(width - part + 1), height: part, width: part };
        let flip = below(2) == 1;
        let each = self.config.each as usize;
        let mut garments = Vec::with_capacity(each);
        for which in 0..each {
            let garment = self.order[(index * each + which) % self.order.len()] as usize;
            let [_, height, width] = self.garments.size_of(garment)?;
            garments.push((garment, below(side - height + 1), below(side - width + 1)));
        }
        Ok(Composition { photograph, area, flip, garments })
    }

    fn photograph(&self, which: usize) -> Result<&Raster> {
        let photograph = &self.photographs[which];
        if photograph.decoded.get().is_none() {
            let channels = if self.config.colour { 3 } else { 1 };
            let decoded = self.folder.read(photograph.index)?.to_channels(channels)?;
            if [decoded.height(), decoded.width()] != [photograph.height, photograph.width] {
                let name = self.folder.name(photograph.index);
                return Err(Error::file(self.config.photographs.join(name), "has changed since it was first read"));
            }
            // Another thread may have been faster, with the same picture.
            let _ = photograph.decoded.set(decoded);
        }
        let none = || Error::Defect("a photograph was decoded and is gone".to_owned());
        photograph.decoded.get().ok_or_else(none)
    }

    /// Calls `paint` with the place on the canvas, the garment's number and the value of every opaque pixel, the later
    /// garments last.
    fn paste(&self, composition: &Composition, mut paint: impl FnMut(usize, usize, u8)) -> Result<()> {
        for &(garment, top, left) in &composition.garments {
            let picture = self.garments.read(garment)?;
            for (y, row) in picture.data().chunks_exact(picture.width()).enumerate() {
                for (x, &value) in row.iter().enumerate().filter(|(_, value)| **value > 0) {
                    paint((top + y) * self.config.side + left + x, garment, value);
                }
            }
        }
        Ok(())
    }
}

impl ImageSource for Composed {
    fn len(&self) -> usize {
        self.config.count as usize
    }

    fn label(&self, index: usize) -> Option<u32> {
        match self.composition(index).ok()?.garments[..] {
            [(garment, ..)] => self.garments.label(garment),
            _ => None,
        }
    }

    fn classes(&self) -> &[String] {
        self.garments.classes()
    }

    fn name(&self, index: usize) -> String {
        format!("{}#{index}", self.name)
    }

    fn read(&self, index: usize) -> Result<Raster> {
        let composition = self.composition(index)?;
        let side = self.config.side;
        let photograph = self.photograph(composition.photograph)?;
        let ground = resize(photograph, composition.area, [side, side], Interpolation::Bicubic)?;
        let ground = if composition.flip { ground.flip() } else { ground };
        let channels = ground.channels();
        let mut data = ground.into_data();
        self.paste(&composition, |at, _, value| data[at * channels..][..channels].fill(value))?;
        Raster::new(channels, side, side, data)
    }

    fn size_of(&self, index: usize) -> Result<[usize; 3]> {
        self.composition(index)?;
        Ok([if self.config.colour { 3 } else { 1 }, self.config.side, self.config.side])
    }

    fn regions(&self, index: usize) -> Result<Option<Raster>> {
        let side = self.config.side;
        let mut data = vec![0; side * side];
        let class = |garment| self.garments.label(garment).map_or(0, |label| label as u8 + 1);
        self.paste(&self.composition(index)?, |at, garment, _| data[at] = class(garment))?;
        Raster::new(1, side, side, data).map(Some)
    }
}

#[cfg(test)]
mod tests {
    use mask_core::{SamplerConfig, Site, Split};

    use super::super::{Augment, ImageData, ImageFront, Reads, SourceConfig};
    use super::*;
    use crate::model::VitConfig;

    fn root() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
    }

    fn config(part: Part) -> ComposedConfig {
        let samples = root().join("datasets/samples");
        let garments = samples.join("fashion-mnist");
        ComposedConfig {
            photographs: samples.join("photographs"),
            part,
            garments: IdxConfig {
                images: garments.join("t10k-images-idx3-ubyte.gz"),
                labels: Some(garments.join("t10k-labels-idx1-ubyte.gz")),
            },
            count: 4000,
            ..ComposedConfig::default()
        }
    }

    #[test]
    fn a_canvas_hangs_on_its_number_alone() {
        let [one, two] = [0, 1].map(|_| config(Part::Train).open(None).unwrap());
        for index in [17, 0, 3999] {
            assert_eq!(one.read(index).unwrap(), two.read(index).unwrap());
            assert_eq!(one.regions(index).unwrap(), two.regions(index).unwrap());
        }
        assert_ne!(one.read(0).unwrap(), one.read(1).unwrap());
        let other = ComposedConfig { seed: 1, ..config(Part::Train) }.open(None).unwrap();
        assert_ne!(one.read(0).unwrap(), other.read(0).unwrap());
        assert!(one.read(4000).is_err() && one.size_of(4000).is_err() && one.label(4000).is_none());
        assert_eq!((one.size_of(3).unwrap(), one.name(3)), ([1, 56, 56], "composed#3".to_owned()));
    }

    /// The garments' own pixels stand where the regions say, all garments are used equally often, and the label is the
    /// class of the region.
    #[test]
    fn labels_follow_from_the_composition() {
        let source = config(Part::HeldOut).open(None).unwrap();
        let mut used = vec![0; source.garments.len()];
        for index in 0..source.len() {
            used[source.composition(index).unwrap().garments[0].0] += 1;
        }
        assert!(used.iter().all(|times| *times == 2), "2,000 garments on 4,000 canvases");
        for index in 0..40 {
            let composition = source.composition(index).unwrap();
            let [(garment, top, left)] = composition.garments[..] else { panic!("one garment") };
            let (canvas, regions) = (source.read(index).unwrap(), source.regions(index).unwrap().unwrap());
            let label = source.label(index).unwrap();
            assert_eq!(Some(label), source.garments.label(garment));
            let picture = source.garments.read(garment).unwrap();
            for y in 0..56 {
                for x in 0..56 {
                    let inside = (top..top + 28).contains(&y) && (left..left + 28).contains(&x);
                    let own = if inside { picture.data()[(y - top) * 28 + x - left] } else { 0 };
                    let region = regions.data()[y * 56 + x];
                    assert_eq!(region, if own > 0 { label as u8 + 1 } else { 0 });
                    assert!(own == 0 || canvas.data()[y * 56 + x] == own);
                }
            }
        }
    }

    /// Patches of 7: a class covers at least half of its 49 pixels, the share is counted by hand.
    #[test]
    fn patches_have_classes_and_shares() {
        let source = SourceConfig::Composed(config(Part::Train));
        let augment = Augment { centre: None, mean: vec![0.5], std: vec![0.5], ..Augment::default() };
        let data = ImageData { held_out: Some(source.clone()), source, augment, ..ImageData::default() };
        let vit = VitConfig { image: [56, 56], channels: 1, patch: [7, 7], ..VitConfig::mae(16, 1, 1) };
        let front = ImageFront::build(&Site::new(&data, Split::Train), &vit, &SamplerConfig::default(), Reads::Visible)
            .unwrap();
        let source = config(Part::Train).open(None).unwrap();
        let mut covered = 0;
        for id in 0..50 {
            let labels = front.position_labels(id).unwrap().unwrap();
            let regions = source.regions(id as usize).unwrap().unwrap();
            assert_eq!((labels.classes.len(), labels.shares.len()), (64, 64));
            for (at, (class, share)) in labels.classes.iter().zip(&labels.shares).enumerate() {
                let pixel = |i: usize| regions.data()[(at / 8 * 7 + i / 7) * 56 + at % 8 * 7 + i % 7];
                let inside = (0..49).filter(|i| pixel(*i) > 0).count();
                assert_eq!(*share, inside as f32 / 49.0);
                let wanted = if inside >= 25 { source.label(id as usize).unwrap() + 1 } else { 0 };
                assert_eq!(*class, wanted);
                covered += usize::from(inside >= 25);
            }
        }
        assert!((100..800).contains(&covered), "{covered} of 3200 patches");
    }

    #[test]
    fn later_garments_lie_on_top_and_colours_stay() {
        let config = ComposedConfig { each: 3, colour: true, count: 50, ..config(Part::Train) };
        let source = config.open(None).unwrap();
        assert!(source.label(0).is_none() && source.classes().len() == 10);
        let composition = source.composition(0).unwrap();
        let (garment, top, left) = composition.garments[2];
        let last = source.garments.read(garment).unwrap();
        let (canvas, regions) = (source.read(0).unwrap(), source.regions(0).unwrap().unwrap());
        for (at, &value) in last.data().iter().enumerate().filter(|(_, value)| **value > 0) {
            let place = (top + at / 28) * 56 + left + at % 28;
            assert_eq!(canvas.data()[3 * place..][..3], [value; 3]);
            assert_eq!(u32::from(regions.data()[place]), source.garments.label(garment).unwrap() + 1);
        }
        let coloured = |raster: Raster| raster.data().chunks_exact(3).any(|p| p[0] != p[1]);
        assert!((0..50).any(|index| coloured(source.read(index).unwrap())));
    }

    #[test]
    fn no_photograph_and_no_scene_is_in_both_parts() {
        let names = |part| {
            let source = config(part).open(None).unwrap();
            let name = |p: &Photograph| scene(&source.folder.name(p.index)).to_owned();
            source.photographs.iter().map(name).collect::<std::collections::BTreeSet<_>>()
        };
        let (train, held_out) = (names(Part::Train), names(Part::HeldOut));
        assert!(train.len() >= 12 && held_out.len() >= 3, "{train:?} {held_out:?}");
        assert!(train.is_disjoint(&held_out));
        for (name, wanted) in [
            ("left08.jpg", "left"),
            ("left.jpg", "left"),
            ("leuvenA.jpg", "leuven"),
            ("000.jpg", "000"),
            ("a/b/12.png", "a/b/12"),
            ("IMG_0001.JPG", "IMG_"),
            ("coins.jpg", "coins"),
        ] {
            assert_eq!(scene(name), wanted);
        }
    }

    #[test]
    fn numbers_are_checked_by_key() {
        let good = || config(Part::Train);
        for (config, key) in [
            (ComposedConfig { each: 0, ..good() }, "source.each"),
            (ComposedConfig { count: 0, ..good() }, "source.count"),
            (ComposedConfig { side: 27, ..good() }, "source.side"),
            (ComposedConfig { side: 5000, ..good() }, "source.side"),
            (ComposedConfig { largest: 55, ..good() }, "source.largest"),
            (ComposedConfig { side: 2000, largest: 2000, ..good() }, ""),
            (
                ComposedConfig { garments: IdxConfig { labels: None, ..good().garments }, ..good() },
                "source.garments.labels",
            ),
        ] {
            let line = config.open(None).unwrap_err().to_string();
            assert!(line.starts_with(key) && (!key.is_empty() || line.contains("2000 or more")), "{line}");
        }
    }
}
