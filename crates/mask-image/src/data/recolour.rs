//! Colours of a view changed at random.

use std::borrow::Cow;

use mask_core::{Error, Result};
use serde::{Deserialize, Serialize};

use super::augment::Augment;
use super::blur::gaussian_blur;
use super::colour::{brightness, contrast, grey, hue, saturation, solarise};
use super::crop::Draw;
use super::raster::Raster;

/// Brightness, contrast, saturation and hue changed by random amounts in random order, as torchvision's `ColorJitter`
/// does; pictures of one channel have no saturation and no hue.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Jitter {
    /// Probability that a view is changed at all.
    pub probability: f64,
    /// The factor of brightness lies within 1 - this (at least 0) and 1 + this; 0 leaves it alone.
    pub brightness: f64,
    /// The same for contrast, about the mean of the picture's grey.
    pub contrast: f64,
    /// The same for saturation, from grey (a factor of 0) outwards.
    pub saturation: f64,
    /// Hues turn by at most this share of the colour circle, either way; 0.5 reaches all of it.
    pub hue: f64,
}

impl Default for Jitter {
    /// As DINO, iBOT and AttMask have it.
    fn default() -> Self {
        Self { probability: 0.8, brightness: 0.4, contrast: 0.4, saturation: 0.2, hue: 0.1 }
    }
}

/// A Gaussian blur of random radius, as Pillow's `ImageFilter.GaussianBlur` makes it by boxes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Blur {
    /// Probability that a view is blurred.
    pub probability: f64,
    /// Least and greatest radius (Pillow's word; it is the standard deviation), in pixels of the view.
    pub radius: [f64; 2],
}

impl Default for Blur {
    /// As DINO, iBOT and AttMask blur local crops; of their two global crops the first is always blurred, the second
    /// one time in ten.
    fn default() -> Self {
        Self { probability: 0.5, radius: [0.1, 2.0] }
    }
}

/// The greatest strength of a jitter: a factor of 11 makes nearly every value 0 or 255.
const MAX_STRENGTH: f64 = 10.0;

/// The greatest radius of a blur, in pixels.
const MAX_RADIUS: f64 = 256.0;

/// # Errors
/// `value` is no probability; the error names `key`.
pub(super) fn probability(key: &str, value: f64) -> Result<()> {
    if (0.0..=1.0).contains(&value) {
        Ok(())
    } else {
        Err(Error::value(key, format!("{value} is no probability: 0 to 1")))
    }
}

impl Jitter {
    /// # Errors
    /// A number can't be used; the error names its key.
    pub fn check(&self) -> Result<()> {
        probability("jitter.probability", self.probability)?;
        let factors = [("brightness", self.brightness), ("contrast", self.contrast), ("saturation", self.saturation)];
        for (key, strength) in factors {
            if !(0.0..=MAX_STRENGTH).contains(&strength) {
                let problem = format!("{strength} is no strength: 0 to {MAX_STRENGTH}, of which 0 changes nothing");
                return Err(Error::value(format!("jitter.{key}"), problem));
            }
        }
        if !(0.0..=0.5).contains(&self.hue) {
            let problem = format!("{} is no share of the colour circle to either side: 0 to 0.5", self.hue);
            return Err(Error::value("jitter.hue", problem));
        }
        Ok(())
    }

    /// Changes `raster` in `order`, each by its draw of `amounts` from 0 to 1.
    fn apply(&self, raster: &mut Raster, order: [usize; 4], amounts: [f64; 4]) {
        for which in order {
            let factor = |strength: f64| {
                let least = (1.0 - strength).max(0.0);
                least + (1.0 + strength - least) * amounts[which]
            };
            // What is off is left out, not done by nothing: a turn by 0 would still round each colour to a hue.
            match which {
                0 if self.brightness > 0.0 => brightness(raster, factor(self.brightness)),
                1 if self.contrast > 0.0 => contrast(raster, factor(self.contrast)),
                2 if self.saturation > 0.0 => saturation(raster, factor(self.saturation)),
                3 if self.hue > 0.0 => hue(raster, self.hue * (2.0 * amounts[which] - 1.0)),
                _ => {}
            }
        }
    }
}

impl Blur {
    /// # Errors
    /// A number can't be used; the error names its key.
    pub fn check(&self) -> Result<()> {
        probability("blur.probability", self.probability)?;
        let [least, most] = self.radius;
        if !(0.0 <= least && least <= most && most <= MAX_RADIUS) {
            let problem = format!("[{least}, {most}] is no range of radii: within 0 to {MAX_RADIUS}, in order");
            return Err(Error::value("blur.radius", problem));
        }
        Ok(())
    }
}

/// The four changes of a jitter in an order of which all are as likely.
fn order(draw: &mut dyn Draw) -> [usize; 4] {
    let mut order = [0, 1, 2, 3];
    for last in (1..order.len()).rev() {
        order.swap(last, draw.below(last as u64 + 1) as usize);
    }
    order
}

/// Changes the colours of `view` as `recipe` and chance have it.
pub(super) fn recolour(recipe: &Augment, view: &mut Cow<'_, Raster>, draw: &mut dyn Draw) {
    // Everything is drawn whatever the recipe has, so that changing one key leaves the draws of the others alone.
    let jittered = draw.uniform();
    let order = order(draw);
    let amounts = std::array::from_fn(|_| draw.uniform());
    let [greyed, blurred, amount, solarised] = std::array::from_fn(|_| draw.uniform());
    if let Some(jitter) = recipe.jitter.as_ref().filter(|jitter| jittered < jitter.probability) {
        jitter.apply(view.to_mut(), order, amounts);
    }
    if greyed < recipe.grey {
        grey(view.to_mut());
    }
    if let Some(blur) = recipe.blur.as_ref().filter(|blur| blurred < blur.probability) {
        let [least, most] = blur.radius;
        gaussian_blur(view.to_mut(), least + (most - least) * amount);
    }
    if solarised < recipe.solarise {
        solarise(view.to_mut());
    }
}

#[cfg(test)]
mod tests {
    use super::super::colour::tests::{crc, picture};
    use super::super::crop::tests::Toy;
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    /// Always the same draw.
    struct Fixed(f64);
    impl Draw for Fixed {
        fn uniform(&mut self) -> f64 {
            self.0
        }
        fn below(&mut self, n: u64) -> u64 {
            (self.0 * n as f64) as u64
        }
    }

    /// A recipe that does all but grey to every view.
    fn everything() -> Augment {
        let jitter = Jitter { probability: 1.0, ..Jitter::default() };
        let blur = Blur { probability: 1.0, ..Blur::default() };
        Augment { jitter: Some(jitter), blur: Some(blur), solarise: 1.0, ..Augment::default() }
    }

    fn recoloured(recipe: &Augment, raster: &Raster, draw: &mut dyn Draw) -> Raster {
        let mut view = Cow::Borrowed(raster);
        recolour(recipe, &mut view, draw);
        view.into_owned()
    }

    #[test]
    fn the_order_is_jitter_grey_blur_solarise() {
        // Draws of 0.7 put hue before saturation, with factors of 1.16 and 1.08 and a turn of 0.04:
        // p = F.adjust_saturation(F.adjust_hue(F.adjust_contrast(F.adjust_brightness(p, 1.16), 1.16), .04), 1.08)
        // for q in p, F.to_grayscale(p, 3): print(hex(crc32(F.solarize(q.filter(ImageFilter.GaussianBlur(1.43)), 128).tobytes())))
        assert_eq!(order(&mut Fixed(0.7)), [0, 1, 3, 2]);
        let picture = picture(3, 37, 53);
        assert_eq!(crc(&recoloured(&everything(), &picture, &mut Fixed(0.7))), 0x8ce4_ac18);
        let grey = Augment { grey: 1.0, ..everything() };
        assert_eq!(crc(&recoloured(&grey, &picture, &mut Fixed(0.7))), 0xc64e_13f1);
    }

    #[test]
    fn what_is_off_changes_nothing() {
        let (picture, none) = (picture(3, 20, 30), Augment::default());
        let mut view = Cow::Borrowed(&picture);
        recolour(&none, &mut view, &mut Toy(1));
        assert!(matches!(view, Cow::Borrowed(_)));
        // Strengths of 0 in particular: a turn of 0 would round colours to hues.
        let still = Jitter { probability: 1.0, brightness: 0.0, contrast: 0.0, saturation: 0.0, hue: 0.0 };
        let sharp = Blur { probability: 1.0, radius: [0.0, 0.0] };
        let recipe = Augment { jitter: Some(still), blur: Some(sharp), ..none };
        assert_eq!(recoloured(&recipe, &picture, &mut Toy(1)), picture);
        let mut turned = picture.clone();
        hue(&mut turned, 0.0);
        assert_ne!(turned, picture);
    }

    #[test]
    fn one_key_leaves_the_draws_of_others_alone() {
        let picture = picture(3, 9, 8);
        let still = Jitter { probability: 1.0, brightness: 0.0, contrast: 0.0, saturation: 0.0, hue: 0.0 };
        let half = |jitter| Augment {
            jitter,
            grey: 0.5,
            blur: Some(Blur { probability: 0.5, radius: [0.5, 2.0] }),
            solarise: 0.5,
            ..Augment::default()
        };
        let mut kinds = BTreeSet::new();
        for seed in 0..200 {
            let view = |recipe: &Augment| recoloured(recipe, &picture, &mut Toy(seed));
            assert_eq!(view(&half(None)), view(&half(Some(still.clone()))));
            // What comes after a change is drawn the same whether the change was made or not.
            let mut sharp = view(&Augment { blur: None, ..half(None) });
            let solarised = view(&Augment { blur: None, solarise: 0.0, ..half(None) }) != sharp;
            if solarised {
                sharp = view(&Augment { blur: None, solarise: 0.0, ..half(None) });
            }
            let blurred = view(&Augment { solarise: 0.0, ..half(None) });
            let mut whole = blurred.clone();
            if solarised {
                solarise(&mut whole);
            }
            assert_eq!(view(&half(None)), whole);
            kinds.insert((solarised, blurred != sharp, sharp != picture));
        }
        assert_eq!(kinds.len(), 8);
    }

    #[test]
    fn probabilities_are_those_of_the_recipe() {
        let mut draw = Toy(3);
        let darker = Jitter { probability: 0.8, brightness: 0.1, contrast: 0.0, saturation: 0.0, hue: 0.0 };
        let none = Augment::default();
        let blur = Blur { probability: 0.3, radius: [1.0, 1.0] };
        for (recipe, wanted) in [
            (Augment { jitter: Some(darker), ..none.clone() }, 0.8),
            (Augment { grey: 0.2, ..none.clone() }, 0.2),
            (Augment { blur: Some(blur), ..none.clone() }, 0.3),
            (Augment { solarise: 0.1, ..none.clone() }, 0.1),
        ] {
            let picture = Raster::new(3, 1, 2, vec![250, 10, 130, 10, 200, 90]).unwrap();
            let changed = (0..4000).filter(|_| recoloured(&recipe, &picture, &mut draw) != picture).count();
            // The deviation of the share is at most 0.5 / sqrt(4000) = 0.008; one in 25 factors rounds to no change.
            assert!((changed as f64 / 4000.0 - wanted).abs() < 0.035, "{changed} {wanted}");
        }
        let orders: BTreeSet<_> = (0..1000).map(|_| order(&mut draw)).collect();
        assert_eq!(orders.len(), 24);
    }

    #[test]
    fn numbers_are_checked_by_key() {
        let (jitter, blur) = (Jitter::default(), Blur::default());
        for (checked, key) in [
            (Jitter { probability: 1.1, ..jitter.clone() }.check(), "jitter.probability"),
            (Jitter { brightness: -0.1, ..jitter.clone() }.check(), "jitter.brightness"),
            (Jitter { contrast: f64::INFINITY, ..jitter.clone() }.check(), "jitter.contrast"),
            (Jitter { saturation: f64::NAN, ..jitter.clone() }.check(), "jitter.saturation"),
            (Jitter { hue: 0.6, ..jitter.clone() }.check(), "jitter.hue"),
            (Blur { probability: f64::NAN, ..blur.clone() }.check(), "blur.probability"),
            (Blur { radius: [2.0, 1.0], ..blur.clone() }.check(), "blur.radius"),
            (Blur { radius: [-1.0, 1.0], ..blur.clone() }.check(), "blur.radius"),
            (Blur { radius: [0.0, f64::INFINITY], ..blur.clone() }.check(), "blur.radius"),
        ] {
            let line = checked.unwrap_err().to_string();
            assert!(line.starts_with(&format!("{key}: ")), "{line}");
        }
        assert!(jitter.check().is_ok() && blur.check().is_ok());
    }

    proptest! {
        #[test]
        fn one_channel_is_changed_as_three_alike(h in 1usize..20, w in 1usize..20, seed in any::<u64>(), greyed in any::<bool>()) {
            let one = picture(1, h, w);
            let recipe = Augment { grey: f64::from(u8::from(greyed)), ..everything() };
            let three = recoloured(&recipe, &one.clone().to_channels(3).unwrap(), &mut Toy(seed));
            prop_assert_eq!(recoloured(&recipe, &one, &mut Toy(seed)).to_channels(3).unwrap(), three);
        }

    }
}
