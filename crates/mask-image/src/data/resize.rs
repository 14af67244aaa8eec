//! Resizing with an antialiasing filter, bit for bit as Pillow's `Image.resize` does on 8-bit pictures.

use mask_core::{Error, Result};
use serde::{Deserialize, Serialize};

use super::raster::{Area, MAX_SIDE, Raster};

/// The filter of a resize; both are widened by the scale when the picture shrinks (antialias).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Interpolation {
    /// Cubic convolution with a = -0.5, 4 taps.
    Bicubic,
    /// Triangle, 2 taps.
    Bilinear,
}

impl Interpolation {
    /// Half the filter's width, in pixels of the smaller picture.
    fn support(self) -> f64 {
        match self {
            Self::Bicubic => 2.0,
            Self::Bilinear => 1.0,
        }
    }

    /// The filter at distance `x`.
    fn at(self, x: f64) -> f64 {
        let x = x.abs();
        match self {
            Self::Bicubic => {
                // The grouping is Pillow's: another one rounds differently.
                const A: f64 = -0.5;
                if x < 1.0 {
                    ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0
                } else if x < 2.0 {
                    (((x - 5.0) * x + 8.0) * x - 4.0) * A
                } else {
                    0.0
                }
            }
            Self::Bilinear => (1.0 - x).max(0.0),
        }
    }
}

/// Fractional bits of a weight: 8 bits of value and 2 of overshoot are left of 32.
const PRECISION: u32 = 32 - 8 - 2;

/// For each output position the first input position and its weights.
struct Taps {
    /// First input position.
    starts: Vec<usize>,
    /// Number of weights that count.
    counts: Vec<usize>,
    /// `[output, reach]`, padded with zeros.
    weights: Vec<i32>,
    reach: usize,
}

impl Taps {
    /// Weights from `from` input positions to those of `to` output positions that lie in `window`.
    fn new(from: usize, to: usize, window: std::ops::Range<usize>, filter: Interpolation) -> Self {
        let scale = from as f64 / to as f64;
        let widening = scale.max(1.0);
        let support = filter.support() * widening;
        let reach = support.ceil() as usize * 2 + 1;
        let mut taps = Self {
            starts: Vec::with_capacity(window.len()),
            counts: Vec::with_capacity(window.len()),
            weights: vec![0; window.len() * reach],
            reach,
        };
        let mut exact = Vec::with_capacity(reach);
        for (position, fixed) in window.zip(taps.weights.chunks_exact_mut(reach)) {
            let centre = (position as f64 + 0.5) * scale;
            // `as usize` saturates at 0, which is the clamp wanted.
            let start = (centre - support + 0.5) as usize;
            let end = ((centre + support + 0.5) as usize).min(from);
            exact.clear();
            exact.extend((start..end).map(|x| filter.at((x as f64 - centre + 0.5) * (1.0 / widening))));
            let total: f64 = exact.iter().sum();
            for (fixed, exact) in fixed.iter_mut().zip(&exact) {
                let weight = exact / total * f64::from(1 << PRECISION);
                // Half away from zero: the cast drops the fraction.
                *fixed = (weight + 0.5f64.copysign(weight)) as i32;
            }
            taps.starts.push(start);
            taps.counts.push(end - start);
        }
        taps
    }

    /// The input positions that are used; from here on they count from the first of them.
    fn shift(&mut self) -> std::ops::Range<usize> {
        let first = self.starts.first().copied().unwrap_or(0);
        let end = self.iter().map(|(start, weights)| start + weights.len()).max().unwrap_or(first);
        self.starts.iter_mut().for_each(|start| *start -= first);
        first..end
    }

    /// First input position and weights, one pair an output position.
    fn iter(&self) -> impl Iterator<Item = (usize, &[i32])> {
        let weights = self.weights.chunks_exact(self.reach);
        self.starts.iter().zip(&self.counts).zip(weights).map(|((&start, &count), w)| (start, &w[..count]))
    }
}

/// Half a grey level: where the sums start, so that the shift rounds.
const HALF: i32 = 1 << (PRECISION - 1);

/// Columns that are filtered together: as many sums as stay in registers.
const LANES: usize = 16;

/// Filters down the columns of `rows` (`stride` bytes each) into `out` (`stride` bytes a row as well).
fn columns(rows: &[u8], stride: usize, taps: &Taps, out: &mut [u8]) {
    let mut narrow = vec![0; taps.reach * LANES];
    for (to, (start, weights)) in out.chunks_exact_mut(stride).zip(taps.iter()) {
        let rows = &rows[start * stride..][..weights.len() * stride];
        let (blocks, rest) = to.as_chunks_mut();
        for (block, to) in blocks.iter_mut().enumerate() {
            *to = weigh(rows, stride, block * LANES, weights);
        }
        if !rest.is_empty() {
            // What is left of the rows goes through a block of its own.
            for (to, from) in narrow.chunks_exact_mut(LANES).zip(rows.chunks_exact(stride)) {
                to[..rest.len()].copy_from_slice(&from[stride - rest.len()..]);
            }
            rest.copy_from_slice(&weigh(&narrow, LANES, 0, weights)[..rest.len()]);
        }
    }
}

/// The weighted sums of the `LANES` columns from `column` on.
#[inline(always)]
fn weigh(rows: &[u8], stride: usize, column: usize, weights: &[i32]) -> [u8; LANES] {
    let mut sums = [HALF; LANES];
    for (row, &weight) in rows.chunks_exact(stride).zip(weights) {
        let Some(values) = row[column..].first_chunk::<LANES>() else { break };
        for (sum, &value) in sums.iter_mut().zip(values) {
            // The sums can't leave 32 bits, as |weights| sum to less than 2; wrapping only spares the check.
            *sum = sum.wrapping_add(i32::from(value).wrapping_mul(weight));
        }
    }
    sums.map(|sum| (sum >> PRECISION).clamp(0, 255) as u8)
}

/// Rows that are turned into columns together.
pub(super) const TILE: usize = 16;

/// Writes the `height` rows of `width` bytes in `from` (a row every `stride` bytes) as columns of `to`.
pub(super) fn transpose(from: &[u8], stride: usize, [height, width]: [usize; 2], to: &mut [u8], to_stride: usize) {
    let (tall, wide) = (height / 8 * 8, width / 8 * 8);
    for y in (0..tall).step_by(8) {
        for x in (0..wide).step_by(8) {
            let mut block = [0u64; 8];
            for (i, row) in block.iter_mut().enumerate() {
                if let Some(bytes) = from[(y + i) * stride + x..].first_chunk() {
                    *row = u64::from_le_bytes(*bytes);
                }
            }
            turn(&mut block);
            for (i, row) in block.iter().enumerate() {
                to[(x + i) * to_stride + y..][..8].copy_from_slice(&row.to_le_bytes());
            }
        }
    }
    for y in 0..height {
        for x in if y < tall { wide } else { 0 }..width {
            to[x * to_stride + y] = from[y * stride + x];
        }
    }
}

/// Transposes 8 x 8 bytes: swaps quarters, then their quarters, then theirs.
#[inline(always)]
fn turn(block: &mut [u64; 8]) {
    for (step, mask) in [(4, 0x0000_0000_ffff_ffff), (2, 0x0000_ffff_0000_ffff), (1, 0x00ff_00ff_00ff_00ff)] {
        for i in (0..8).filter(|i| i & step == 0) {
            let swap = ((block[i] >> (8 * step)) ^ block[i + step]) & mask;
            block[i + step] ^= swap;
            block[i] ^= swap << (8 * step);
        }
    }
}

/// Filters along the rows of `area` into rows of `stride` bytes: as columns of transposed tiles.
fn rows(raster: &Raster, area: Area, taps: &Taps, stride: usize) -> Vec<u8> {
    let channels = raster.channels();
    let mut out = vec![0; area.height * stride];
    let mut tile = vec![0; area.width * channels * TILE];
    let mut narrow = vec![0; stride * TILE];
    for (i, to) in out.chunks_mut(stride * TILE).enumerate() {
        let from = &raster.data()[(area.top + i * TILE) * raster.stride() + area.left * channels..];
        let height = to.len() / stride;
        transpose(from, raster.stride(), [height, area.width * channels], &mut tile, TILE);
        columns(&tile, channels * TILE, taps, &mut narrow);
        transpose(&narrow, TILE, [stride, height], to, stride);
    }
    out
}

/// The part of `raster` inside `area`, resized to `size` (height, width), bit for bit as
/// `image.crop(area).resize(size, filter)` gives in Pillow up to version 12 and so in torchvision: a horizontal, then a
/// vertical pass in fixed point, each rounded to 8 bits; pixels outside `area` are never looked at.
///
/// Pillow 13 gives the same except where the height loses more than twice as many pixels as the width: there it filters
/// vertically first, and single values differ by a few grey levels.
///
/// # Errors
/// `area` leaves the picture, or a side of `size` is 0 or beyond [`MAX_SIDE`].
pub fn resize(raster: &Raster, area: Area, size: [usize; 2], filter: Interpolation) -> Result<Raster> {
    let [height, width] = size;
    resize_window(raster, area, size, Area { top: 0, left: 0, height, width }, filter)
}

/// As [`resize`], but makes only the part `window` of the result: the same values at less cost.
///
/// # Errors
/// As for [`resize`], or `window` leaves `size`.
pub fn resize_window(
    raster: &Raster,
    area: Area,
    size: [usize; 2],
    window: Area,
    filter: Interpolation,
) -> Result<Raster> {
    area.check(raster)?;
    let [height, width] = size;
    let fits = |from: usize, len: usize, side: usize| {
        (1..=MAX_SIDE).contains(&len) && side <= u32::MAX as usize && from.checked_add(len).is_some_and(|e| e <= side)
    };
    if !fits(window.top, window.height, height) || !fits(window.left, window.width, width) {
        return Err(Error::value(
            "size",
            format!(
                "{}x{} (height x width) of {height}x{width} can't be made; each side may be 1 to {MAX_SIDE}",
                window.height, window.width
            ),
        ));
    }
    let channels = raster.channels();
    let stride = window.width * channels;
    let down_to = window.top..window.top + window.height;
    let mut down = (height != area.height).then(|| Taps::new(area.height, height, down_to.clone(), filter));
    // Only the rows that the second pass reads go through the first.
    let read = down.as_mut().map_or(down_to, Taps::shift);
    let read = Area { top: area.top + read.start, height: read.len(), ..area };
    let narrow = if width == area.width {
        let columns = Area { left: area.left + window.left, width: window.width, ..read };
        raster.crop(columns)?.into_data()
    } else {
        let across = Taps::new(area.width, width, window.left..window.left + window.width, filter);
        rows(raster, read, &across, stride)
    };
    let Some(down) = down else { return Raster::new(channels, window.height, window.width, narrow) };
    let mut data = vec![0; window.height * stride];
    columns(&narrow, stride, &down, &mut data);
    Raster::new(channels, window.height, window.width, data)
}

#[cfg(test)]
mod tests {
    use super::super::decode::decode;
    use super::*;
    use proptest::prelude::*;
    use std::path::Path;

    /// The picture that `tests/data/pillow/make.py` makes.
    fn source() -> Raster {
        let (height, width) = (37usize, 53usize);
        let (mut state, mut data) = (1u32, Vec::new());
        for (y, x, c) in (0..height).flat_map(|y| (0..width).flat_map(move |x| (0..3).map(move |c| (y, x, c)))) {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let smooth = (x * x + 3 * y * y) / 7 + 40 * c;
            let kinds = [smooth, (x / 4 + y / 5) % 2 * 255, (state >> 24) as usize];
            data.push((kinds[(x * 3 / width + c) % 3] % 256) as u8);
        }
        Raster::new(3, height, width, data).unwrap()
    }

    #[test]
    fn every_value_is_pillows() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/pillow");
        let mut files = 0;
        for entry in std::fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_none_or(|e| e != "png") {
                continue;
            }
            let stem = path.file_stem().unwrap().to_str().unwrap().to_owned();
            let mut parts = stem.split('-');
            let channels = if parts.next() == Some("RGB") { 3 } else { 1 };
            let filter = if parts.next() == Some("bicubic") { Interpolation::Bicubic } else { Interpolation::Bilinear };
            let numbers = |text: &str| text.split(['x', '.']).map(|n| n.parse().unwrap()).collect::<Vec<usize>>();
            let size = numbers(parts.next().unwrap());
            let picture = source().to_channels(channels).unwrap();
            let area = parts.nth(1).map_or(Area::whole(&picture), |text| {
                let [top, left, height, width] = numbers(text)[..] else { panic!("{text}") };
                Area { top, left, height, width }
            });
            let wanted = decode(&std::fs::read(&path).unwrap(), &path).unwrap();
            assert_eq!(resize(&picture, area, [size[0], size[1]], filter).unwrap(), wanted, "{stem}");
            files += 1;
        }
        assert_eq!(files, 36);
    }

    #[test]
    fn sizes_that_cant_be_made_are_errors() {
        let picture = source();
        for size in [[0, 4], [4, 0], [MAX_SIDE + 1, 1], [1, usize::MAX]] {
            assert!(resize(&picture, Area::whole(&picture), size, Interpolation::Bicubic).is_err());
        }
        let window = Area { top: 0, left: usize::MAX, height: 1, width: 2 };
        assert!(resize_window(&picture, Area::whole(&picture), [4, 4], window, Interpolation::Bicubic).is_err());
        assert!(resize(&picture, Area { top: 1, ..Area::whole(&picture) }, [4, 4], Interpolation::Bicubic).is_err());
    }

    proptest! {
        #[test]
        fn channels_and_windows_change_no_value(
            channels in 1usize..8, h in 1usize..40, w in 1usize..40, th in 1usize..40, tw in 1usize..40, cut in 0.0f64..1.0,
            bicubic in any::<bool>(), seed in any::<u32>(),
        ) {
            let filter = if bicubic { Interpolation::Bicubic } else { Interpolation::Bilinear };
            let mut state = seed;
            let data = (0..channels * h * w).map(|_| { state = state.wrapping_mul(1_664_525).wrapping_add(1); (state >> 24) as u8 });
            let picture = Raster::new(channels, h, w, data.collect()).unwrap();
            let whole = resize(&picture, Area::whole(&picture), [th, tw], filter).unwrap();
            prop_assert_eq!([whole.channels(), whole.height(), whole.width()], [channels, th, tw]);
            // Each channel by itself gives the same.
            for c in 0..channels {
                let plane = picture.data().iter().skip(c).step_by(channels).copied().collect();
                let plane = Raster::new(1, h, w, plane).unwrap();
                let plane = resize(&plane, Area::whole(&plane), [th, tw], filter).unwrap();
                prop_assert!(whole.data().iter().skip(c).step_by(channels).eq(plane.data()));
            }
            let at = |side: usize| (side as f64 * cut) as usize;
            let window = Area { top: at(th), left: at(tw), height: th - at(th), width: tw - at(tw) };
            let part = resize_window(&picture, Area::whole(&picture), [th, tw], window, filter).unwrap();
            prop_assert_eq!(part, whole.crop(window).unwrap());
        }

        #[test]
        fn one_colour_stays(value in any::<u8>(), h in 1usize..60, w in 1usize..60, th in 1usize..60, tw in 1usize..60) {
            let picture = Raster::new(1, h, w, vec![value; h * w]).unwrap();
            let made = resize(&picture, Area::whole(&picture), [th, tw], Interpolation::Bicubic).unwrap();
            prop_assert!(made.data().iter().all(|&v| v == value));
        }
    }
}
