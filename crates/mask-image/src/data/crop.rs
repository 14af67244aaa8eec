//! Where crops lie.

use mask_core::{Error, Result};
use serde::{Deserialize, Serialize};

use super::raster::Area;

/// Random numbers for augmentation, from a stream that the caller keys.
pub trait Draw {
    /// Uniform in `[0, 1)`.
    fn uniform(&mut self) -> f64;
    /// Uniform in `0..n`; `n` is at least 1.
    fn below(&mut self, n: u64) -> u64;
}

/// A crop of random area and aspect, as torchvision's `RandomResizedCrop` draws it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RandomResized {
    /// Least and greatest share of the picture's area.
    pub scale: [f64; 2],
    /// Least and greatest width over height, drawn uniformly in its logarithm.
    pub ratio: [f64; 2],
}

impl Default for RandomResized {
    /// As MAE pre-trains: 0.2 to 1 of the area, 3/4 to 4/3 in aspect.
    fn default() -> Self {
        Self { scale: [0.2, 1.0], ratio: [3.0 / 4.0, 4.0 / 3.0] }
    }
}

impl RandomResized {
    /// # Errors
    /// The scale is not within 0 to 1 (0 excluded), the ratio not above 0, or a range runs backwards.
    pub fn check(&self) -> Result<()> {
        let ([least, most], [narrow, wide]) = (self.scale, self.ratio);
        if !(0.0 < least && least <= most && most <= 1.0) {
            let problem = format!("[{least}, {most}] is no range of shares: above 0, at most 1, in order");
            return Err(Error::value("crop.scale", problem));
        }
        if !(0.0 < narrow && narrow <= wide && wide.is_finite()) {
            let problem = format!("[{narrow}, {wide}] is no range of width over height: above 0, in order");
            return Err(Error::value("crop.ratio", problem));
        }
        Ok(())
    }

    /// A crop of a picture of `height` x `width`: ten tries, then the centre, cut to the nearest allowed aspect.
    pub fn draw<D: Draw + ?Sized>(&self, height: usize, width: usize, draw: &mut D) -> Area {
        let (h, w) = (height as f64, width as f64);
        let mut within = |from: f64, to: f64| from + (to - from) * draw.uniform();
        let mut sides = None;
        for _ in 0..10 {
            let area = h * w * within(self.scale[0], self.scale[1]);
            let aspect = within(self.ratio[0].ln(), self.ratio[1].ln()).exp();
            let (wide, tall) = ((area * aspect).sqrt().round_ties_even(), (area / aspect).sqrt().round_ties_even());
            if 0.0 < wide && wide <= w && 0.0 < tall && tall <= h {
                sides = Some((tall as usize, wide as usize));
                break;
            }
        }
        let Some((tall, wide)) = sides else {
            let aspect = w / h;
            let (tall, wide) = if aspect < self.ratio[0] {
                ((w / self.ratio[0]).round_ties_even() as usize, width)
            } else if aspect > self.ratio[1] {
                (height, (h * self.ratio[1]).round_ties_even() as usize)
            } else {
                (height, width)
            };
            // Rounding could make a side of 0.
            let (tall, wide) = (tall.clamp(1, height), wide.clamp(1, width));
            return Area { top: (height - tall) / 2, left: (width - wide) / 2, height: tall, width: wide };
        };
        let top = draw.below((height - tall + 1) as u64) as usize;
        let left = draw.below((width - wide + 1) as u64) as usize;
        Area { top, left, height: tall, width: wide }
    }
}

/// How a picture of `height` x `width` is shown whole in evaluation: the size to resize it to and the part of the result
/// to keep, which is its centre of `size`.
///
/// The smallest size of the picture's own aspect is taken of which `size` covers at most `share` of a side. For a square
/// that is torchvision's `Resize(int(side / share))` and `CenterCrop(side)`, with its rounding.
pub(super) fn centre(height: usize, width: usize, size: [usize; 2], share: f64) -> ([usize; 2], Area) {
    let [tall, wide] = size.map(|side| ((side as f64 / share) as usize).max(side));
    // Compares tall / height with wide / width.
    let whole = if tall as u128 * width as u128 >= wide as u128 * height as u128 {
        [tall, scaled(tall, width, height).max(size[1])]
    } else {
        [scaled(wide, height, width).max(size[0]), wide]
    };
    let offset = |i: usize| ((whole[i] - size[i]) as f64 / 2.0).round_ties_even() as usize;
    (whole, Area { top: offset(0), left: offset(1), height: size[0], width: size[1] })
}

/// `side * by / over`, rounded down.
fn scaled(side: usize, by: usize, over: usize) -> usize {
    usize::try_from(side as u128 * by as u128 / over.max(1) as u128).unwrap_or(usize::MAX)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A small generator (splitmix64), so that tests need no other.
    pub(crate) struct Toy(pub u64);
    impl Draw for Toy {
        fn uniform(&mut self) -> f64 {
            self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            ((z ^ (z >> 31)) >> 11) as f64 / (1u64 << 53) as f64
        }
        fn below(&mut self, n: u64) -> u64 {
            ((self.uniform() * n as f64) as u64).min(n - 1)
        }
    }

    /// Always the same draw.
    struct Fixed(f64);
    impl Draw for Fixed {
        fn uniform(&mut self) -> f64 {
            self.0
        }
        fn below(&mut self, n: u64) -> u64 {
            ((self.0 * n as f64) as u64).min(n - 1)
        }
    }

    #[test]
    fn a_draw_by_hand() {
        // scale 0.6, ratio exp(0) = 1: sqrt(0.6 * 100 * 200) = 109.5 > 100 fails ten times; aspect 2 > 4/3: the centre.
        let rule = RandomResized::default();
        assert_eq!(rule.draw(100, 200, &mut Fixed(0.5)), Area { top: 0, left: 33, height: 100, width: 133 });
        // Square: 0.6 of 100 x 100 is 77.46 a side; the offsets are half of 0..24.
        assert_eq!(rule.draw(100, 100, &mut Fixed(0.5)), Area { top: 12, left: 12, height: 77, width: 77 });
        // Too tall: 100 / (3/4) = 133.
        assert_eq!(rule.draw(400, 100, &mut Fixed(0.99)), Area { top: 133, left: 0, height: 133, width: 100 });
    }

    #[test]
    fn centre_is_torchvisions() {
        // Resize(256) makes 375 x 500 into 256 x 341; CenterCrop(224) starts at 16 and round(58.5) = 58.
        let (whole, part) = centre(375, 500, [224, 224], 0.875);
        assert_eq!((whole, part), ([256, 341], Area { top: 16, left: 58, height: 224, width: 224 }));
        // A wide recipe: width decides.
        assert_eq!(centre(100, 100, [32, 64], 1.0), ([64, 64], Area { top: 16, left: 0, height: 32, width: 64 }));
    }

    #[test]
    fn mean_area_is_that_of_the_range() {
        let (rule, mut draw) = (RandomResized { scale: [0.2, 0.6], ratio: [0.75, 4.0 / 3.0] }, Toy(1));
        let areas: f64 = (0..20_000).map(|_| rule.draw(500, 500, &mut draw)).map(|a| (a.height * a.width) as f64).sum();
        // Mean 0.4, deviation of the mean 0.4 / sqrt(12 * 20000) = 0.0008.
        assert!((areas / 20_000.0 / 250_000.0 - 0.4).abs() < 0.004);
    }

    #[test]
    fn odd_ranges_are_refused() {
        let default = RandomResized::default;
        for scale in [[0.0, 1.0], [0.5, 0.4], [0.5, 1.1], [f64::NAN, 1.0]] {
            assert!(RandomResized { scale, ..default() }.check().is_err());
        }
        for ratio in [[0.0, 1.0], [2.0, 1.0], [1.0, f64::INFINITY], [1.0, f64::NAN]] {
            assert!(RandomResized { ratio, ..default() }.check().is_err());
        }
        assert!(default().check().is_ok());
    }

    proptest! {
        #[test]
        fn crops_lie_inside(
            h in 1usize..3000, w in 1usize..3000, seed in any::<u64>(),
            least in 0.01f64..1.0, narrow in 0.1f64..3.0, wider in 1.0f64..5.0,
        ) {
            let rule = RandomResized { scale: [least, 1.0], ratio: [narrow, narrow * wider] };
            let a = rule.draw(h, w, &mut Toy(seed));
            prop_assert!(a.height > 0 && a.width > 0 && a.top + a.height <= h && a.left + a.width <= w);
        }

        #[test]
        fn centres_lie_inside(
            h in 1usize..3000, w in 1usize..3000, tall in 1usize..400, wide in 1usize..400, share in 0.1f64..1.0,
        ) {
            let ([rh, rw], a) = centre(h, w, [tall, wide], share);
            prop_assert!(a.top + tall <= rh && a.left + wide <= rw && (a.height, a.width) == (tall, wide));
        }
    }
}
