//! From a decoded picture to what a model reads.

use std::borrow::Cow;

use mask_core::{Error, Result};
use serde::{Deserialize, Serialize};

use super::{
    crop::{Draw, RandomResized, centre},
    erase::erase,
    raster::{Area, MAX_SIDE, Raster},
    recolour::{Blur, Jitter, probability, recolour},
    resize::{Interpolation, resize, resize_window},
};

/// Recipe keys of the way from a picture to a model's input; the defaults are MAE's at 224.
///
/// Channels are those of `mean`. In training a picture is padded, cropped and resized, flipped, changed in
/// colour (jitter, grey, blur, solarise, in this order), normalised and erased in part; in evaluation padded, resized, cut
/// to its centre and normalised.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Augment {
    /// Height and width that come out, in pixels. No key of recipes: it is the encoder's `image`.
    #[serde(skip)]
    pub size: [usize; 2],
    /// Black pixels added on each of the four sides before anything else: 2 makes 32 of 28.
    pub pad: usize,
    /// The random crop of training, resized to `size`; null trains on what evaluation sees.
    #[serde(deserialize_with = "mask_core::recipe::optional")]
    pub crop: Option<RandomResized>,
    /// In evaluation, how much of a side of the resized picture the centre crop keeps, at most (0.875 = 224 of 256);
    /// null takes pictures as they are, and they must have `size`.
    pub centre: Option<f64>,
    /// The filter of every resize.
    pub interpolation: Interpolation,
    /// Probability of a flip left to right in training.
    pub flip: f64,
    /// Random changes of colour in training; null leaves colours alone.
    #[serde(deserialize_with = "mask_core::recipe::optional")]
    pub jitter: Option<Jitter>,
    /// Probability of a view without colour in training.
    pub grey: f64,
    /// A random blur in training; null leaves views sharp.
    #[serde(deserialize_with = "mask_core::recipe::optional")]
    pub blur: Option<Blur>,
    /// Probability in training that values of 128 and more are turned upside down.
    pub solarise: f64,
    /// Probability that a rectangle of 2 to 33 % of the area becomes noise in training (random erasing).
    pub erase: f64,
    /// Mean of each channel, of values from 0 to 1.
    pub mean: Vec<f64>,
    /// Standard deviation of each channel, of values from 0 to 1.
    pub std: Vec<f64>,
}

impl Default for Augment {
    fn default() -> Self {
        Self {
            size: [224, 224],
            pad: 0,
            crop: Some(RandomResized::default()),
            centre: Some(0.875),
            interpolation: Interpolation::Bicubic,
            flip: 0.5,
            jitter: None,
            grey: 0.0,
            blur: None,
            solarise: 0.0,
            erase: 0.0,
            mean: vec![0.485, 0.456, 0.406],
            std: vec![0.229, 0.224, 0.225],
        }
    }
}

impl Augment {
    /// # Errors
    /// A number can't be used; the error names its key.
    pub fn check(&self) -> Result<()> {
        let problem = |key: &str, text: String| Err(Error::value(key, text));
        if self.size.iter().any(|side| !(1..=MAX_SIDE).contains(side)) {
            return problem("size", format!("{:?} (height, width) must lie within 1 to {MAX_SIDE}", self.size));
        }
        if let Some(crop) = &self.crop {
            crop.check()?;
        }
        if let Some(share) = self.centre.filter(|share| !(0.01..=1.0).contains(share)) {
            return problem("centre", format!("{share} is no share of a side: 0.01 to 1"));
        }
        for (key, value) in
            [("flip", self.flip), ("grey", self.grey), ("solarise", self.solarise), ("erase", self.erase)]
        {
            probability(key, value)?;
        }
        if let Some(jitter) = &self.jitter {
            jitter.check()?;
        }
        if let Some(blur) = &self.blur {
            blur.check()?;
        }
        if self.mean.is_empty() || self.mean.len() != self.std.len() {
            let (mean, std) = (self.mean.len(), self.std.len());
            return problem("std", format!("mean has {mean} values and std {std}: give one of each a channel"));
        }
        for (key, used) in [("jitter", self.jitter.is_some()), ("grey", self.grey > 0.0)] {
            if used && ![1, 3].contains(&self.channels()) {
                return problem(key, format!("works on 1 or 3 channels, but mean has {} values", self.channels()));
            }
        }
        if let Some(mean) = self.mean.iter().find(|mean| !mean.is_finite()) {
            return problem("mean", format!("{mean} is no number that values can be shifted by"));
        }
        if let Some(std) = self.std.iter().find(|&&std| !(std.is_finite() && std > 0.0)) {
            return problem("std", format!("{std} must be above 0"));
        }
        Ok(())
    }

    /// The same without what is drawn at random in training: what evaluation sees hangs on nothing else.
    #[must_use]
    pub fn still(&self) -> Self {
        let Self { size, pad, centre, interpolation, mean, std, .. } = self.clone();
        // What else there is acts on training alone, and is off by default.
        Self { size, pad, centre, interpolation, mean, std, crop: None, flip: 0.0, ..Self::default() }
    }

    /// Number of channels that come out.
    #[must_use]
    pub fn channels(&self) -> usize {
        self.mean.len()
    }

    /// Number of values that come out: channels x height x width.
    #[must_use]
    pub fn len(&self) -> usize {
        self.channels().saturating_mul(self.size[0]).saturating_mul(self.size[1])
    }

    /// Whether nothing comes out, which [`Self::check`] refuses.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// A view cropped, flipped and changed in colour at random, `[C, H, W]`.
    ///
    /// # Errors
    /// The picture's channels or size don't fit the recipe, or the recipe's numbers are off.
    pub fn train(&self, raster: &Raster, draw: &mut dyn Draw) -> Result<Vec<f32>> {
        self.check()?;
        let mut out = vec![0.0; self.len()];
        self.train_into(raster, draw, &mut out)?;
        Ok(out)
    }

    /// The view of evaluation, `[C, H, W]`.
    ///
    /// # Errors
    /// As for [`Self::train`].
    pub fn eval(&self, raster: &Raster) -> Result<Vec<f32>> {
        self.check()?;
        let mut out = vec![0.0; self.len()];
        self.eval_into(raster, &mut out)?;
        Ok(out)
    }

    /// As [`Self::train`], into a row of a batch; `out` holds [`Self::len`] values.
    ///
    /// # Errors
    /// As for [`Self::train`], or `out` has another length.
    pub fn train_into(&self, raster: &Raster, draw: &mut dyn Draw, out: &mut [f32]) -> Result<()> {
        self.check()?;
        let source = self.prepared(raster)?;
        let view = match &self.crop {
            Some(crop) => {
                let area = crop.draw(source.height(), source.width(), draw);
                Cow::Owned(resize(&source, area, self.size, self.interpolation)?)
            }
            None => self.whole(&source)?,
        };
        // Drawn whatever the probability, so that changing it leaves the draws that follow alone.
        let mut view = if draw.uniform() < self.flip { Cow::Owned(view.into_owned().flip()) } else { view };
        recolour(self, &mut view, draw);
        normalise(&view, &self.mean, &self.std, out)?;
        // Last, since how much it draws hangs on chance.
        erase(out, [self.channels(), self.size[0], self.size[1]], self.erase, draw);
        Ok(())
    }

    /// As [`Self::eval`], into a row of a batch; `out` holds [`Self::len`] values.
    ///
    /// # Errors
    /// As for [`Self::train_into`].
    pub fn eval_into(&self, raster: &Raster, out: &mut [f32]) -> Result<()> {
        self.check()?;
        let source = self.prepared(raster)?;
        normalise(&*self.whole(&source)?, &self.mean, &self.std, out)
    }

    /// Numbers of regions (one channel, no meaning between them) as [`Self::eval`] shows the picture: padded with 0,
    /// each pixel that of the nearest one.
    ///
    /// # Errors
    /// As for [`Self::eval`].
    pub fn regions(&self, regions: &Raster) -> Result<Raster> {
        let source = if self.pad > 0 { Cow::Owned(regions.pad(self.pad)?) } else { Cow::Borrowed(regions) };
        let found = [source.height(), source.width()];
        // Where the picture is taken as it is, so are its regions; what is refused there is refused here.
        let Some(share) = self.centre.filter(|share| found != self.size || *share != 1.0) else {
            return Ok(self.whole(&source)?.into_owned());
        };
        let (size, part) = centre(found[0], found[1], self.size, share);
        let nearest =
            |at: usize, from: usize, to: usize| (((at as f64 + 0.5) * from as f64 / to as f64) as usize).min(from - 1);
        let mut data = Vec::with_capacity(self.size[0] * self.size[1]);
        for y in part.top..part.top + part.height {
            let row = nearest(y, found[0], size[0]) * found[1];
            data.extend(
                (part.left..part.left + part.width).map(|x| source.data()[row + nearest(x, found[1], size[1])]),
            );
        }
        Raster::new(1, part.height, part.width, data)
    }

    /// Back from `[C, H, W]` of this recipe's size to a picture: times the deviation, plus the mean, rounded and cut to
    /// what 8 bits hold; not a number is 0.
    ///
    /// # Errors
    /// `values` are not as many as the recipe's size, or the recipe's numbers are off.
    pub fn denormalise(&self, values: &[f32]) -> Result<Raster> {
        self.check()?;
        let [height, width] = self.size;
        if values.len() != self.len() {
            return Err(Error::shape("image", format!("{} values", self.len()), &[values.len() as i64]));
        }
        let mut data = vec![0; values.len()];
        let planes = values.chunks_exact(height * width).zip(self.mean.iter().zip(&self.std));
        for (channel, (plane, (&mean, &std))) in planes.enumerate() {
            for (to, &value) in data[channel..].iter_mut().step_by(self.channels()).zip(plane) {
                // The cast cuts to 0..=255 and takes NaN to 0.
                *to = ((value * std as f32 + mean as f32) * 255.0).round() as u8;
            }
        }
        Raster::new(self.channels(), height, width, data)
    }

    /// The picture with the recipe's padding and channels; grey stays grey until the end, where it is repeated.
    fn prepared<'a>(&self, raster: &'a Raster) -> Result<Cow<'a, Raster>> {
        let grey = raster.channels() == 1 && self.channels() == 3;
        let converted = if grey { None } else { raster.converted(self.channels())? };
        let raster = converted.map_or(Cow::Borrowed(raster), Cow::Owned);
        Ok(if self.pad > 0 { Cow::Owned(raster.pad(self.pad)?) } else { raster })
    }

    /// The view without chance.
    fn whole<'a>(&self, source: &'a Raster) -> Result<Cow<'a, Raster>> {
        let found = [source.height(), source.width()];
        match self.centre {
            _ if found == self.size && self.centre.is_none_or(|share| share == 1.0) => Ok(Cow::Borrowed(source)),
            Some(share) => {
                let (size, part) = centre(found[0], found[1], self.size, share);
                resize_window(source, Area::whole(source), size, part, self.interpolation).map(Cow::Owned)
            }
            None => {
                let padding =
                    if self.pad > 0 { format!(" with {} of padding a side", self.pad) } else { String::new() };
                let problem = format!(
                    "the image is {}x{} (height x width){padding}, the recipe's size is {}x{}: change size or pad, or \
                     set centre to have images resized",
                    found[0], found[1], self.size[0], self.size[1]
                );
                Err(Error::value("size", problem))
            }
        }
    }
}

/// Channel-last bytes to channel-first numbers: `(value / 255 - mean) / std` in 32 bits, rounded as torchvision's
/// `ToTensor` and `Normalize` do. A picture of one channel serves any number of means, by repetition.
///
/// # Errors
/// `raster` has other channels than `mean` and `std` and more than one, or `out` doesn't hold channels x height x width.
pub fn normalise(raster: &Raster, mean: &[f64], std: &[f64], out: &mut [f32]) -> Result<()> {
    let (channels, area) = (raster.channels(), raster.height() * raster.width());
    if mean.is_empty() || mean.len() != std.len() || (channels != 1 && channels != mean.len()) {
        let problem = format!("{} means and {} deviations don't fit {channels} channels", mean.len(), std.len());
        return Err(Error::value("mean", problem));
    }
    if area.checked_mul(mean.len()) != Some(out.len()) {
        let wanted = format!("{} x {} x {}", mean.len(), raster.height(), raster.width());
        return Err(Error::shape("the image's place in the batch", wanted, &[out.len() as i64]));
    }
    for (channel, (plane, (&mean, &std))) in out.chunks_exact_mut(area).zip(mean.iter().zip(std)).enumerate() {
        let table: [f32; 256] = std::array::from_fn(|value| (value as f32 / 255.0 - mean as f32) / std as f32);
        let first = if channels == 1 { 0 } else { channel };
        for (to, &value) in plane.iter_mut().zip(raster.data()[first..].iter().step_by(channels)) {
            *to = table[usize::from(value)];
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::crop::tests::Toy;
    use super::*;
    use proptest::prelude::*;

    fn raster(channels: usize, height: usize, width: usize) -> Raster {
        let data = (0..channels * height * width).map(|i| (i * i % 251) as u8).collect();
        Raster::new(channels, height, width, data).unwrap()
    }

    fn plain(size: [usize; 2], channels: usize) -> Augment {
        let (mean, std) = (vec![0.0; channels], vec![1.0; channels]);
        Augment { size, crop: None, centre: None, flip: 0.0, mean, std, ..Augment::default() }
    }

    #[test]
    fn values_become_channel_first_and_normalised() {
        let picture = Raster::new(3, 1, 2, vec![0, 51, 102, 153, 204, 255]).unwrap();
        let recipe = Augment { mean: vec![0.5; 3], std: vec![0.25; 3], ..plain([1, 2], 3) };
        let close = |a: f32, b: f32| (a - b).abs() < 1e-6;
        let wanted = [-2.0, 0.4, -1.2, 1.2, -0.4, 2.0];
        assert!(recipe.eval(&picture).unwrap().iter().zip(wanted).all(|(&a, b)| close(a, b)));
        let mirrored = Augment { flip: 1.0, ..recipe }.train(&picture, &mut Toy(1)).unwrap();
        let wanted = [0.4, -2.0, 1.2, -1.2, 2.0, -0.4];
        assert!(mirrored.iter().zip(wanted).all(|(&a, b)| close(a, b)));
    }

    #[test]
    fn grey_is_repeated_for_three_means() {
        let out = plain([2, 2], 3).eval(&raster(1, 2, 2)).unwrap();
        assert_eq!(out[..4], out[4..8]);
        assert_eq!(out[4..8], out[8..]);
    }

    #[test]
    fn evaluation_resizes_and_cuts_the_centre() {
        let picture = raster(3, 60, 80);
        let recipe = Augment { centre: Some(0.875), ..plain([28, 28], 3) };
        // Resize(32) makes 32 x 42; CenterCrop(28) starts at 2 and 7.
        let wanted = resize(&picture, Area::whole(&picture), [32, 42], Interpolation::Bicubic).unwrap();
        let wanted = wanted.crop(Area { top: 2, left: 7, height: 28, width: 28 }).unwrap();
        assert_eq!(recipe.eval(&picture).unwrap(), plain([28, 28], 3).eval(&wanted).unwrap());
    }

    /// Regions lie where evaluation shows their pixels: a picture of one value a region keeps it away from the edges.
    #[test]
    fn regions_follow_the_picture() {
        let value = |y: usize, x: usize| 50 * (u8::from(y >= 24) + 2 * u8::from(x >= 30));
        let picture = Raster::new(1, 60, 80, (0..4800).map(|at| value(at / 80, at % 80)).collect()).unwrap();
        for (pad, size, centre) in [(0, [28, 28], Some(0.875)), (2, [64, 84], None), (0, [60, 80], Some(0.75))] {
            let recipe = Augment { pad, centre, ..plain(size, 1) };
            let (shown, regions) = (recipe.eval(&picture).unwrap(), recipe.regions(&picture).unwrap());
            assert_eq!([regions.height(), regions.width()], size);
            let same =
                shown.iter().zip(regions.data()).filter(|(a, b)| (**a * 255.0).round() == f32::from(**b)).count();
            assert!(same * 10 > shown.len() * 8, "{same} of {}", shown.len());
            assert!(regions.data().iter().all(|value| value % 50 == 0));
        }
        assert!(plain([64, 80], 1).regions(&picture).is_err());
    }

    #[test]
    fn a_wrong_size_names_both() {
        let line = Augment { pad: 2, ..plain([32, 32], 1) }.eval(&raster(1, 28, 30)).unwrap_err().to_string();
        assert!(line.contains("32x34") && line.contains("32x32") && line.contains("2 of padding"), "{line}");
        let line = plain([4, 4], 3).eval(&raster(5, 4, 4)).unwrap_err().to_string();
        assert!(line.contains("has 5, the recipe wants 3"), "{line}");
        assert!(plain([4, 4], 1).eval_into(&raster(1, 4, 4), &mut [0.0; 15]).is_err());
    }

    #[test]
    fn numbers_are_checked_by_key() {
        let good = Augment::default;
        for (recipe, key) in [
            (Augment { size: [0, 1], ..good() }, "size"),
            (Augment { size: [usize::MAX, 2], ..good() }, "size"),
            (Augment { centre: Some(0.0), ..good() }, "centre"),
            (Augment { centre: Some(f64::NAN), ..good() }, "centre"),
            (Augment { flip: 1.5, ..good() }, "flip"),
            (Augment { grey: -0.5, ..good() }, "grey"),
            (Augment { solarise: f64::NAN, ..good() }, "solarise"),
            (Augment { jitter: Some(Jitter { hue: 0.7, ..Jitter::default() }), ..good() }, "jitter.hue"),
            (Augment { blur: Some(Blur { probability: 2.0, ..Blur::default() }), ..good() }, "blur.probability"),
            (Augment { jitter: Some(Jitter::default()), ..plain([9, 9], 2) }, "jitter"),
            (Augment { grey: 0.1, ..plain([9, 9], 4) }, "grey"),
            (Augment { mean: vec![], std: vec![], ..good() }, "std"),
            (Augment { std: vec![1.0, 0.0, 1.0], ..good() }, "std"),
            (Augment { mean: vec![0.0, f64::NAN, 1.0], ..good() }, "mean"),
        ] {
            let line = recipe.train(&raster(3, 9, 9), &mut Toy(1)).unwrap_err().to_string();
            assert!(line.starts_with(key), "{line}");
        }
        assert!(good().check().is_ok());
    }

    #[test]
    fn recipes_round_trip_and_odd_keys_are_refused() {
        let tree = serde_json::to_value(Augment::default()).unwrap();
        // The size is the encoder's, no key.
        let read = serde_json::from_value::<Augment>(tree.clone()).unwrap();
        assert_eq!(read, Augment { size: [0, 0], ..Augment::default() });
        let with = |key: &str| {
            let mut tree = tree.clone();
            tree[key] = 3.into();
            serde_json::from_value::<Augment>(tree)
        };
        assert!(with("rotate").is_err() && with("size").is_err());
        assert!(with("pad").is_ok_and(|recipe| recipe.pad == 3));
        let mut tree = tree.clone();
        tree["jitter"] = serde_json::json!({ "hue": 0.0 });
        let read = serde_json::from_value::<Augment>(tree).unwrap();
        assert_eq!(read.jitter, Some(Jitter { hue: 0.0, ..Jitter::default() }));
    }

    #[test]
    fn denormalise_is_the_way_back() {
        let picture = raster(3, 5, 7);
        let recipe = Augment { mean: Augment::default().mean, std: Augment::default().std, ..plain([5, 7], 3) };
        assert_eq!(recipe.denormalise(&recipe.eval(&picture).unwrap()).unwrap(), picture);
        assert_eq!(plain([1, 3], 1).denormalise(&[f32::NAN, -3.0, 1e9]).unwrap().data(), [0, 0, 255]);
        assert!(recipe.denormalise(&[0.0; 4]).is_err());
    }

    #[test]
    fn todays_views_stay() {
        // Crops and flips of recipes without colours, so that runs keep their numbers.
        for (recipe, picture, crc) in [
            (Augment { size: [32, 32], ..Augment::default() }, raster(3, 40, 50), 0xf2c6_d65e),
            (Augment { pad: 2, flip: 0.5, ..plain([32, 30], 1) }, raster(1, 28, 26), 0x98cb_de7e),
            (Augment { size: [9, 14], ..Augment::default() }, raster(1, 28, 28), 0x95ea_6f68),
        ] {
            let mut sum = flate2::Crc::new();
            for seed in 0..20 {
                let view = recipe.train(&picture, &mut Toy(seed)).unwrap();
                sum.update(&view.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<_>>());
            }
            assert_eq!(sum.sum(), crc);
        }
    }

    proptest! {
        #[test]
        fn any_picture_becomes_the_recipes_size(
            channels in 1usize..5, h in 1usize..70, w in 1usize..70, th in 1usize..40, tw in 1usize..40,
            pad in 0usize..4, seed in any::<u64>(), grey in any::<bool>(),
        ) {
            let wanted = if grey { 1 } else { 3 };
            let recipe = Augment {
                pad, crop: Some(RandomResized::default()), centre: Some(0.875), flip: 0.5,
                jitter: Some(Jitter::default()), grey: 0.2, blur: Some(Blur::default()), solarise: 0.2,
                ..plain([th, tw], wanted)
            };
            let picture = raster(channels, h, w);
            let out = recipe.train(&picture, &mut Toy(seed)).unwrap();
            prop_assert_eq!(out.len(), wanted * th * tw);
            prop_assert!(out.iter().all(|v| (0.0..=1.0).contains(v)));
            // The same stream gives the same view.
            prop_assert_eq!(out, recipe.train(&picture, &mut Toy(seed)).unwrap());
            prop_assert_eq!(recipe.eval(&picture).unwrap().len(), wanted * th * tw);
        }
    }
}
