//! The Gaussian blur, bit for bit as Pillow's `ImageFilter.GaussianBlur` makes it of 8-bit pictures.

use super::raster::Raster;
use super::resize::{TILE as LANES, transpose};

/// Fractional bits of the weights.
const PRECISION: u32 = 24;

/// Half a grey level, so that the shift rounds.
const HALF: u32 = 1 << (PRECISION - 1);

/// A box filter whose two outermost values count in part.
struct Window {
    /// How many values on each side count in full.
    reach: usize,
    /// The weight of these.
    inner: u32,
    /// The weight of the one beyond on each side.
    outer: u32,
}

impl Window {
    /// The box of which three in turn have the deviation `sigma`; `None` where a box would be a single value.
    ///
    /// Sums and casts are Pillow's, 32 bits where it has `float` and 64 where C widens: others round differently.
    fn third(sigma: f32) -> Option<Self> {
        let variance = sigma * sigma / 3.0;
        let length = (12.0 * f64::from(variance) + 1.0).sqrt() as f32;
        let whole = ((f64::from(length) - 1.0) / 2.0).floor() as f32;
        let part = (2.0 * whole + 1.0) * (whole * (whole + 1.0) - 3.0 * variance);
        let radius = whole + part / (6.0 * (variance - (whole + 1.0) * (whole + 1.0)));
        let reach = radius as usize;
        let inner = ((1 << PRECISION) as f32 / (radius * 2.0 + 1.0)) as u32;
        // The `reach` is at most some hundred, and as many weights of the inside sum to at most 1.
        let outer = (1u32 << PRECISION).wrapping_sub((reach as u32 * 2 + 1).wrapping_mul(inner)) / 2;
        (radius != 0.0).then_some(Self { reach, inner, outer })
    }

    /// Filters each of the `step` lines that lie interleaved in `from`; beyond its ends a line goes on with its last
    /// values.
    ///
    /// Pillow weighs the sum inside the box and the two values at its edges; here that is a running sum, to which each
    /// step adds weighted differences. They fit 16 bits, in which processors multiply many at once.
    fn slide(&self, from: &[[u8; LANES]], step: usize, to: &mut [[u8; LANES]]) {
        let last = from.len() / step - 1;
        for first in 0..step {
            let at = |place: usize| from[place.min(last) * step + first].map(i16::from);
            let mut sums = [HALF; LANES];
            let (mut gone, mut next) = (at(0), at(self.reach + 1));
            for place in 0..=self.reach {
                let inner = if place == 0 { self.reach as u32 + 1 } else { 1 };
                add(&mut sums, at(place), self.inner.wrapping_mul(inner));
            }
            add(&mut sums, gone, self.outer);
            add(&mut sums, next, self.outer);
            let (inner, outer) = (halves(self.inner), halves(self.outer));
            for place in 0..=last {
                to[place * step + first] = sums.map(|sum| (sum >> PRECISION) as u8);
                let (near, far) = (at(place.saturating_sub(self.reach)), at(place + self.reach + 2));
                for lane in 0..LANES {
                    // Differences of bytes; wrapping spares the check, which would keep the lanes apart.
                    let within = next[lane].wrapping_sub(near[lane]);
                    let edges = far[lane].wrapping_sub(gone[lane]).wrapping_sub(within);
                    let change = product(within, inner).wrapping_add(product(edges, outer));
                    sums[lane] = sums[lane].wrapping_add(change);
                }
                (gone, next) = (near, far);
            }
        }
    }

    /// Three boxes in turn; the result is in `tile`.
    fn thrice(&self, tile: &mut Vec<[u8; LANES]>, step: usize, spare: &mut Vec<[u8; LANES]>) {
        for _ in 0..3 {
            self.slide(tile, step, spare);
            std::mem::swap(tile, spare);
        }
    }
}

/// Adds `values` times `weight`, which together stay below 2^32.
fn add(sums: &mut [u32; LANES], values: [i16; LANES], weight: u32) {
    for (sum, value) in sums.iter_mut().zip(values) {
        *sum = sum.wrapping_add((value as u32).wrapping_mul(weight));
    }
}

/// The upper and the lower half of a weight.
fn halves(weight: u32) -> [i16; 2] {
    [weight >> (PRECISION / 2), weight & ((1 << (PRECISION / 2)) - 1)].map(|half| half as i16)
}

/// `value` times the weight of `halves`, modulo 2^32.
#[inline(always)]
fn product(value: i16, [upper, lower]: [i16; 2]) -> u32 {
    let by = |half: i16| (i32::from(value) * i32::from(half)) as u32;
    (by(upper) << (PRECISION / 2)).wrapping_add(by(lower))
}

/// Blurs `raster` by `radius`, which Pillow calls so and which is the deviation in pixels, as far as three boxes go:
/// along the rows, then down the columns, each box rounded to 8 bits.
pub(super) fn gaussian_blur(raster: &mut Raster, radius: f64) {
    let Some(window) = Window::third(radius as f32) else { return };
    let (channels, height, stride) = (raster.channels(), raster.height(), raster.stride());
    let data = raster.data_mut();
    let (mut tile, mut spare) = (vec![[0; LANES]; stride], vec![[0; LANES]; stride]);
    for rows in data.chunks_mut(stride * LANES) {
        let count = rows.len() / stride;
        transpose(rows, stride, [count, stride], tile.as_flattened_mut(), LANES);
        window.thrice(&mut tile, channels, &mut spare);
        transpose(tile.as_flattened(), LANES, [stride, count], rows, stride);
    }
    let (mut tile, mut spare) = (vec![[0; LANES]; height], vec![[0; LANES]; height]);
    for left in (0..stride).step_by(LANES) {
        let width = LANES.min(stride - left);
        for (to, from) in tile.iter_mut().zip(data.chunks_exact(stride)) {
            to[..width].copy_from_slice(&from[left..][..width]);
        }
        window.thrice(&mut tile, 1, &mut spare);
        for (from, to) in tile.iter().zip(data.chunks_exact_mut(stride)) {
            to[left..][..width].copy_from_slice(&from[..width]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::colour::tests::picture;
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_blur_is_even_and_keeps_channels_apart(
            channels in 1usize..5, h in 1usize..40, w in 1usize..40, radius in 0.0f64..40.0, value in any::<u8>(),
        ) {
            let blurred = |mut raster: Raster| { gaussian_blur(&mut raster, radius); raster };
            let picture = picture(channels, h, w);
            let whole = blurred(picture.clone());
            prop_assert_eq!(blurred(picture.clone().flip()).flip(), whole.clone());
            for c in 0..channels {
                let plane = picture.data().iter().skip(c).step_by(channels).copied().collect();
                let plane = blurred(Raster::new(1, h, w, plane).unwrap());
                prop_assert!(whole.data().iter().skip(c).step_by(channels).eq(plane.data()));
            }
            let even = Raster::new(channels, h, w, vec![value; channels * h * w]).unwrap();
            prop_assert_eq!(blurred(even.clone()), even);
        }
    }
}
