//! Several random crops of one picture, as self-distillation reads them.

use mask_core::{Error, Result, SamplerConfig};
use serde::{Deserialize, Serialize};

use super::recolour::probability;
use super::{Augment, Blur, RandomResized, Reads, ViewSpec};

/// Recipe keys of DINO's multi-crop: two global crops of the encoder's size, which may be masked, and some small local
/// ones, which are read whole.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MultiCrop {
    /// Where global crops lie.
    pub global: RandomResized,
    /// Number of local crops.
    pub locals: usize,
    /// Height and width of local crops, in pixels.
    pub local_size: [usize; 2],
    /// Where local crops lie.
    pub local: RandomResized,
    /// Probability of a blur of the first global crop, the second and each local one, in place of `data.augment`'s.
    pub blur: [f64; 3],
    /// The same of solarising.
    pub solarise: [f64; 3],
}

impl Default for MultiCrop {
    /// iBOT: shares 0.25 to 1, and ten local crops of 96 pixels of 0.05 to 0.25.
    fn default() -> Self {
        let crop = |low, high| RandomResized { scale: [low, high], ..RandomResized::default() };
        Self {
            global: crop(0.25, 1.0),
            locals: 10,
            local_size: [96, 96],
            local: crop(0.05, 0.25),
            blur: [1.0, 0.1, 0.5],
            solarise: [0.0, 0.2, 0.0],
        }
    }
}

impl MultiCrop {
    /// Crops that every image of a batch may have at most.
    const MOST: usize = 64;

    /// The views: global ones first. `base` says what else is done to a picture.
    ///
    /// # Errors
    /// Too many crops, a range that runs backwards.
    pub fn views<'a>(&self, base: &Augment, size: [usize; 2], mask: &'a SamplerConfig) -> Result<Vec<ViewSpec<'a>>> {
        if self.locals > Self::MOST {
            return Err(Error::value("locals", format!("{} is more than {} crops", self.locals, Self::MOST)));
        }
        let under = |key: &'static str| move |error: Error| error.within(key);
        self.global.check().map_err(under("global"))?;
        self.local.check().map_err(under("local"))?;
        for (key, shares) in [("blur", self.blur), ("solarise", self.solarise)] {
            shares.iter().try_for_each(|share| probability(key, *share))?;
        }
        let view = |which: usize, size, crop: &RandomResized, mask| {
            let blur = Blur { probability: self.blur[which], ..base.blur.clone().unwrap_or_default() };
            let solarise = self.solarise[which];
            let augment = Augment { crop: Some(crop.clone()), blur: Some(blur), solarise, ..base.clone() };
            ViewSpec { size, augment, mask }
        };
        let mut views: Vec<_> = (0..2).map(|which| view(which, size, &self.global, Some((mask, Reads::All)))).collect();
        views.extend((0..self.locals).map(|_| view(2, self.local_size, &self.local, None)));
        Ok(views)
    }
}
