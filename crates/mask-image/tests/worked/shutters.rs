//! Shutters: drops square cells of patches and predicts their raw pixels with a robust loss.
//!
//! Paper: none, a made-up example. Here stand authors, title, venue, year, arXiv number.
//!
//! | part | choice | source |
//! | --- | --- | --- |
//! | hidden | cells of 2 x 2 patches, ceil(60 %) of them | section, equation |
//! | encoder sees | the other patches | |
//! | predictor | MAE's decoder | |
//! | target | raw pixels | |
//! | loss | smooth L1 on hidden patches | |

use mask_core::data::Front;
use mask_core::nn::{Decoder, DecoderConfig, Scope};
use mask_core::objective::smooth_l1;
use mask_core::sampler::{Ratio, Rounding, UniformConfig};
use mask_core::{
    Batch, Card, Encoder, Method, MethodConfig, Outcome, Predictor, Result, SamplerConfig, Site, Step, Want,
};
use mask_image::data::{ImageData, ImageFront, Reads};
use mask_image::model::{Vit, VitConfig};
use mask_image::target::{Normalise, PatchOrder, PatchPixels};
use serde::{Deserialize, Serialize};

/// Recipe keys of Shutters; the defaults would be the paper's.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ShuttersConfig {
    /// The encoder.
    pub encoder: VitConfig,
    /// The decoder.
    pub predictor: DecoderConfig,
    /// What is hidden.
    pub mask: SamplerConfig,
}

impl Default for ShuttersConfig {
    fn default() -> Self {
        let mask = UniformConfig { ratio: Ratio::Fixed(0.6), rounding: Rounding::HideCeil, cell: 2 };
        Self {
            encoder: VitConfig::mae(768, 12, 12),
            predictor: DecoderConfig::default(),
            mask: SamplerConfig::Uniform(mask),
        }
    }
}

impl MethodConfig for ShuttersConfig {
    type Data = ImageData;
    const CARD: Card = Card {
        name: "shutters",
        title: "Shutters, a worked example",
        year: 2026,
        arxiv: None,
        ledger: &[],
        summary: "drops cells, predicts raw pixels with a robust loss",
    };

    fn front(&self, site: &Site<'_, ImageData>) -> Result<Box<dyn Front>> {
        ImageFront::build(site, &self.encoder, &self.mask, Reads::Visible)
    }

    fn build(&self, at: &Scope) -> Result<Box<dyn Method>> {
        let VitConfig { width, depth, patch, .. } = self.encoder;
        let (stack, grid, out) = (self.encoder.stack(), self.encoder.grid()?, self.encoder.patch_numbers());
        let top = at.enter("predictor").at_layer(depth + 1);
        Ok(Box::new(Shutters {
            encoder: self.encoder.build(&at.enter("encoder"), false)?,
            predictor: Decoder::new(&top, &self.predictor, &stack, &grid, width, self.encoder.prefix(), out)?,
            target: PatchPixels::new(patch, PatchOrder::ChannelLast, Normalise::None),
        }))
    }
}

/// What is trained; the [page above](self) says what it hides and predicts.
pub struct Shutters {
    encoder: Vit,
    predictor: Decoder,
    target: PatchPixels,
}

impl Method for Shutters {
    fn loss(&self, batch: &Batch, step: &Step<'_>) -> Result<Outcome> {
        let view = batch.only_view()?;
        let plan = view.plan()?;
        let seen = self.encoder.encode(view, Some(plan), &Want::last(), step)?; // [B, 1 + K, D]
        let answers = self.predictor.answer(&seen, plan, 0, step)?; // [N, P]
        let targets = self.target.at(view, &plan.scored)?; // [N, P]
        let errors = smooth_l1(&answers, &targets)?; // [N]
        Ok(Outcome::one("pixels", errors.sum(None), batch.totals.scored[0]).with(answers, targets))
    }

    fn encoder(&self) -> &dyn Encoder {
        &self.encoder
    }
}
