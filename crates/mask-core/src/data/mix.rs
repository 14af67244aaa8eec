//! Samples mixed in pairs: mixup and cutmix, a batch at a time, as `timm` does it.
//!
//! Mixing happens on the global batch before it is cut into micro-batches, so that accumulation changes nothing. It knows
//! arrays only: cutmix swaps a box of the last two axes (rows and columns of a picture or of a spectrogram).

use std::ops::Range;

use ndarray::{ArrayD, Slice};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::{Array, Item};
use crate::stream::Stream;
use crate::{Error, Result};

/// Recipe keys of mixing; off by default.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MixConfig {
    /// Parameter of the Beta law of mixup's share; 0 = no mixup.
    pub mixup: f64,
    /// Parameter of the Beta law of cutmix's share; 0 = no cutmix.
    pub cutmix: f64,
    /// Probability that a batch is mixed at all.
    pub probability: f64,
    /// Probability that it is cutmix, where both are on.
    pub switch: f64,
}

impl Default for MixConfig {
    fn default() -> Self {
        Self { mixup: 0.0, cutmix: 0.0, probability: 1.0, switch: 0.5 }
    }
}

/// What is done to the pairs of one batch: the first row with the last, the second with the last but one.
#[derive(Clone, Debug, PartialEq)]
pub enum Mixing {
    /// Nothing.
    None,
    /// Each is `share` of itself and the rest of its partner.
    Mixup {
        /// From 0 to 1.
        share: f64,
    },
    /// A box is the partner's.
    Cutmix {
        /// Rows of the box.
        rows: Range<usize>,
        /// Columns of the box.
        columns: Range<usize>,
        /// The part outside the box.
        share: f64,
    },
}

impl MixConfig {
    /// Checks the numbers.
    ///
    /// # Errors
    /// The first key that is out of range.
    pub fn check(&self) -> Result<()> {
        for (key, alpha) in [("mixup", self.mixup), ("cutmix", self.cutmix)] {
            if !(alpha == 0.0 || (1e-3..=1e3).contains(&alpha)) {
                return Err(Error::value(key, format!("{alpha} is no parameter: 0 (off), or 0.001 to 1000")));
            }
        }
        for (key, share) in [("probability", self.probability), ("switch", self.switch)] {
            if !(0.0..=1.0).contains(&share) {
                return Err(Error::value(key, format!("{share} is no probability: 0 to 1")));
            }
        }
        Ok(())
    }

    /// What is done to a batch of arrays whose last two axes are `plane`.
    #[must_use]
    pub fn draw(&self, plane: [usize; 2], stream: &mut Stream) -> Mixing {
        let on = [self.mixup > 0.0, self.cutmix > 0.0];
        if on == [false, false] || stream.uniform() >= self.probability {
            return Mixing::None;
        }
        let cut = match on {
            [true, true] => stream.uniform() < self.switch,
            [_, cutmix] => cutmix,
        };
        let alpha = if cut { self.cutmix } else { self.mixup };
        let share = stream.beta(alpha, alpha);
        if cut {
            let middle = plane.map(|side| stream.below(side as u64) as usize);
            Mixing::cutmix(plane, share, middle)
        } else {
            Mixing::Mixup { share }
        }
    }
}

impl Mixing {
    /// The box of `1 - share` of a plane around `middle`, cut off at the edges; the share is that of what is left.
    #[must_use]
    pub fn cutmix(plane: [usize; 2], share: f64, middle: [usize; 2]) -> Self {
        let ratio = (1.0 - share).max(0.0).sqrt();
        let side = |axis: usize| {
            let half = (plane[axis] as f64 * ratio) as usize / 2;
            middle[axis].saturating_sub(half)..(middle[axis] + half).min(plane[axis])
        };
        let (rows, columns) = (side(0), side(1));
        let share = 1.0 - (rows.len() * columns.len()) as f64 / (plane[0] * plane[1]).max(1) as f64;
        Self::Cutmix { rows, columns, share }
    }

    /// The share of its own that a row keeps.
    #[must_use]
    pub fn share(&self) -> f64 {
        match self {
            Self::None => 1.0,
            Self::Mixup { share } | Self::Cutmix { share, .. } => *share,
        }
    }

    /// Mixes the input `name` of all views of a batch. With an odd number the middle sample stays as it is.
    ///
    /// # Errors
    /// Samples whose values have different shapes or no plane.
    pub fn apply(&self, items: &mut [Item], name: &str) -> Result<()> {
        if self.share() >= 1.0 {
            return Ok(());
        }
        let (first, last) = items.split_at_mut(items.len() / 2);
        first.par_iter_mut().zip(last.par_iter_mut().rev()).try_for_each(|(a, b)| {
            for (a, b) in a.views.iter_mut().zip(&mut b.views) {
                match (a.inputs.get_mut(name), b.inputs.get_mut(name)) {
                    (Some(Array::F32(a)), Some(Array::F32(b))) if a.shape() == b.shape() && a.ndim() >= 2 => {
                        self.pair(a, b);
                    }
                    _ => {
                        let problem = format!("samples whose '{name}' differ in shape can't be mixed");
                        return Err(Error::value("mix", problem));
                    }
                }
            }
            Ok(())
        })
    }

    fn pair(&self, a: &mut ArrayD<f32>, b: &mut ArrayD<f32>) {
        match self {
            Self::None => {}
            Self::Mixup { share } => {
                let [own, other] = [*share as f32, (1.0 - share) as f32];
                ndarray::Zip::from(a).and(b).for_each(|a, b| {
                    (*a, *b) = (*a * own + *b * other, *b * own + *a * other);
                });
            }
            Self::Cutmix { rows, columns, .. } => {
                let axes = a.ndim();
                let inside = |axis: usize| match axes - axis {
                    2 => Slice::from(rows.clone()),
                    1 => Slice::from(columns.clone()),
                    _ => Slice::from(..),
                };
                let a = a.slice_each_axis_mut(|axis| inside(axis.axis.index()));
                let b = b.slice_each_axis_mut(|axis| inside(axis.axis.index()));
                ndarray::Zip::from(a).and(b).for_each(std::mem::swap);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::ItemView;
    use crate::{Grid, Layout, Named};
    use ndarray::IxDyn;
    use proptest::prelude::*;

    /// Samples of [1, height, width] that count upwards through the batch.
    fn batch(rows: usize, [height, width]: [usize; 2]) -> Vec<Item> {
        let numbers = height * width;
        let item = |row: usize| {
            let values = (0..numbers).map(|at| (row * numbers + at) as f32).collect();
            let x = ArrayD::from_shape_vec(IxDyn(&[1, height, width]), values).unwrap();
            let inputs = Named::from([("x".to_owned(), Array::F32(x))]);
            let view = ItemView { layout: Layout::single(Grid::plane(1, 1)), draft: None, inputs };
            Item { id: row as u64, views: vec![view] }
        };
        (0..rows).map(item).collect()
    }

    fn values(item: &Item) -> &[f32] {
        match &item.views[0].inputs["x"] {
            Array::F32(x) => x.as_slice().unwrap(),
            _ => panic!("floats"),
        }
    }

    /// timm 1.0.19, `Mixup` on arange(96) as [4, 1, 4, 6] with a share of 0.7.
    #[test]
    fn mixup_is_timms() {
        let mut items = batch(4, [4, 6]);
        Mixing::Mixup { share: 0.7 }.apply(&mut items, "x").unwrap();
        let first = [[21.6, 22.6, 23.6], [31.2, 32.2, 33.2], [40.8, 41.8, 42.8], [50.4, 51.4, 52.4]];
        for ((item, first), last) in items.iter().zip(first).zip([44.6, 54.2, 63.8, 73.4]) {
            let found = [&values(item)[..3], &values(item)[23..]].concat();
            let wanted = [first.to_vec(), vec![last]].concat();
            assert!(found.iter().zip(&wanted).all(|(a, b)| (a - b).abs() < 1e-5), "{found:?} {wanted:?}");
        }
    }

    /// The same with cutmix at 0.3 and a middle of (1, 4): its share becomes that of what is left, 2 / 3.
    #[test]
    fn cutmix_is_timms() {
        let mut items = batch(4, [4, 6]);
        let mixing = Mixing::cutmix([4, 6], 0.3, [1, 4]);
        assert!((mixing.share() - 2.0 / 3.0).abs() < 1e-12, "{mixing:?}");
        mixing.apply(&mut items, "x").unwrap();
        #[rustfmt::skip]
        let wanted = [
            [0., 1., 74., 75., 76., 77., 6., 7., 80., 81., 82., 83., 12., 13., 14., 15., 16., 17., 18., 19., 20., 21., 22., 23.],
            [72., 73., 2., 3., 4., 5., 78., 79., 8., 9., 10., 11., 84., 85., 86., 87., 88., 89., 90., 91., 92., 93., 94., 95.],
        ];
        assert_eq!([values(&items[0]), values(&items[3])], [&wanted[0][..], &wanted[1][..]]);
    }

    /// timm 1.0.19, `cutmix_bbox_and_lam`: sides, share drawn, middle; rows, columns, share.
    #[test]
    fn boxes_are_timms() {
        for (plane, share, middle, rows, columns, left) in [
            ([28, 28], 0.5, [3, 20], 0..12, 11..28, 0.739_795_918_367_346_9),
            ([224, 224], 0.123, [100, 220], 0..204, 116..224, 0.560_905_612_244_897_9),
            ([7, 9], 0.0, [6, 0], 3..7, 0..4, 0.746_031_746_031_746),
            ([5, 5], 0.99, [2, 2], 2..2, 2..2, 1.0),
            ([32, 40], 0.75, [31, 39], 23..32, 29..40, 0.922_656_25),
        ] {
            match Mixing::cutmix(plane, share, middle) {
                Mixing::Cutmix { rows: a, columns: b, share } => {
                    assert!((share - left).abs() < 1e-12 && (a, b) == (rows, columns), "{plane:?} {share}");
                }
                other => panic!("{other:?}"),
            }
        }
    }

    #[test]
    fn the_choice_follows_its_probabilities() {
        let counts = |config: MixConfig| {
            let mut counts = [0; 3];
            for step in 0..2000 {
                let mut stream = Stream::keyed(1, crate::stream::Purpose::Mix, step, 0);
                counts[match config.draw([8, 8], &mut stream) {
                    Mixing::None => 0,
                    Mixing::Mixup { .. } => 1,
                    Mixing::Cutmix { .. } => 2,
                }] += 1;
            }
            counts
        };
        let both = MixConfig { mixup: 0.8, cutmix: 1.0, ..MixConfig::default() };
        let near = |found: usize, wanted: usize| found.abs_diff(wanted) < 100;
        assert_eq!(counts(MixConfig::default()), [2000, 0, 0]);
        let [none, mixup, cutmix] = counts(both.clone());
        assert!(none == 0 && near(mixup, 1000) && near(cutmix, 1000));
        let [none, mixup, cutmix] = counts(MixConfig { probability: 0.5, switch: 0.2, ..both.clone() });
        assert!(near(none, 1000) && near(mixup, 800) && near(cutmix, 200), "{none} {mixup} {cutmix}");
        assert_eq!(counts(MixConfig { mixup: 0.0, ..both.clone() })[2], 2000);
        assert_eq!(counts(MixConfig { cutmix: 0.0, ..both })[1], 2000);
    }

    #[test]
    fn numbers_and_shapes_are_checked() {
        for (config, key) in [
            (MixConfig { mixup: -1.0, ..MixConfig::default() }, "mixup"),
            (MixConfig { cutmix: f64::NAN, ..MixConfig::default() }, "cutmix"),
            (MixConfig { probability: 1.5, ..MixConfig::default() }, "probability"),
            (MixConfig { switch: -0.1, ..MixConfig::default() }, "switch"),
        ] {
            assert!(config.check().unwrap_err().to_string().starts_with(key));
        }
        let mixing = Mixing::Mixup { share: 0.5 };
        let mut odd = [batch(1, [2, 2]), batch(1, [2, 3])].concat();
        assert!(mixing.apply(&mut odd, "x").is_err() && mixing.apply(&mut batch(2, [2, 2]), "y").is_err());
        assert!(Mixing::None.apply(&mut odd, "y").is_ok());
    }

    proptest! {
        /// Nothing is lost: pairs keep their sum, and the middle of an odd batch is left alone.
        #[test]
        fn pairs_keep_their_sum(rows in 1usize..8, height in 1usize..6, width in 1usize..6, seed: u64, switch in 0..2) {
            let config = MixConfig { mixup: 0.8, cutmix: 1.0, switch: f64::from(switch), ..MixConfig::default() };
            let before = batch(rows, [height, width]);
            let mut after = before.clone();
            config.draw([height, width], &mut Stream::new(seed)).apply(&mut after, "x").unwrap();
            for row in 0..rows {
                let other = rows - 1 - row;
                for at in 0..height * width {
                    let sum = |items: &[Item]| values(&items[row])[at] + values(&items[other])[at];
                    prop_assert!((sum(&before) - sum(&after)).abs() < 1e-3);
                    prop_assert!(row != other || values(&before[row])[at] == values(&after[row])[at]);
                }
            }
        }
    }
}
