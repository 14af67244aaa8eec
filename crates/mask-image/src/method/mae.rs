//! MAE: drops most patches, encodes the rest, and predicts the pixels of what was dropped.
//!
//! Kaiming He, Xinlei Chen, Saining Xie, Yanghao Li, Piotr Dollár, Ross Girshick: Masked Autoencoders Are Scalable
//! Vision Learners, CVPR 2022, arXiv 2111.06377.
//!
//! | part | choice | source |
//! | --- | --- | --- |
//! | hidden | 75 % of the patches, uniform, an exact count a sample | section 3, Masking |
//! | encoder sees | the other patches, with their positions, and a class token | section 3, MAE encoder |
//! | predictor | a narrow transformer over the encoded patches and mask tokens | section 3, MAE decoder |
//! | target | pixels, each patch standardised with its unbiased variance | section 3, Reconstruction target |
//! | loss | squared error on hidden patches, mean over the batch | section 3, Reconstruction target |
//!
//! `encoder_reads: all` is the ablation in which the encoder reads mask tokens, too (table 1c).
//!
//! Deviation: the decoder answers for hidden patches only; the official one predicts all and ignores the visible, which
//! gives the same numbers.

use mask_core::data::Front;
use mask_core::hub::Export;
use mask_core::method::Sheet;
use mask_core::nn::{Decoder, DecoderConfig, Scope};
use mask_core::objective::squared_error;
use mask_core::sampler::{Ratio, UniformConfig};
use mask_core::{
    Batch, Card, Encoder, Method, MethodConfig, Outcome, Predictor, Result, SamplerConfig, Site, Step, Want,
};
use serde::{Deserialize, Serialize};

use crate::data::{ImageData, ImageFront, Reads};
use crate::model::{Vit, VitConfig, export_mae, refuse_mask_tokens};
use crate::target::{Normalise, PatchOrder, PatchPixels};

/// Recipe keys of MAE; the defaults are ViT-B/16 of the paper with the target of its best models.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MaeConfig {
    /// The encoder.
    pub encoder: VitConfig,
    /// Whether the encoder reads the visible patches alone, or mask tokens as well.
    pub encoder_reads: Reads,
    /// The decoder.
    pub predictor: DecoderConfig,
    /// What is hidden.
    pub mask: SamplerConfig,
    /// What is done to the pixels of the target.
    pub target: Normalise,
}

impl Default for MaeConfig {
    fn default() -> Self {
        Self {
            encoder: VitConfig::mae(768, 12, 12),
            encoder_reads: Reads::Visible,
            predictor: DecoderConfig::default(),
            mask: SamplerConfig::default(),
            target: Normalise::Patch,
        }
    }
}

impl MethodConfig for MaeConfig {
    type Data = ImageData;
    const CARD: Card = Card {
        name: "mae",
        title: "Masked Autoencoders Are Scalable Vision Learners",
        year: 2022,
        arxiv: Some("2111.06377"),
        ledger: &[81],
        summary: "drops 75 % of the patches, predicts their pixels by a narrow decoder",
    };

    fn front(&self, site: &Site<'_, ImageData>) -> Result<Box<dyn Front>> {
        ImageFront::build(site, &self.encoder, &self.mask, self.encoder_reads)
    }

    fn build(&self, at: &Scope) -> Result<Box<dyn Method>> {
        let (encoder, stack, grid) = (&self.encoder, self.encoder.stack(), self.encoder.grid()?);
        let (from, out) = (encoder.width, encoder.patch_numbers());
        Ok(Box::new(Mae {
            encoder: encoder
                .build(&at.enter("encoder"), self.encoder_reads == Reads::All)
                .map_err(|e| e.within("encoder"))?,
            predictor: Decoder::new(
                &at.enter("predictor").at_layer(encoder.depth + 1),
                &self.predictor,
                &stack,
                &grid,
                from,
                encoder.prefix(),
                out,
            )
            .map_err(|e| e.within("predictor"))?,
            target: PatchPixels::new(encoder.patch, PatchOrder::ChannelLast, self.target),
            config: self.clone(),
        }))
    }
}

/// What is trained; the [page above](self) says what it hides and predicts.
pub struct Mae {
    encoder: Vit,
    predictor: Decoder,
    target: PatchPixels,
    config: MaeConfig,
}

impl Method for Mae {
    fn loss(&self, batch: &Batch, step: &Step<'_>) -> Result<Outcome> {
        let view = batch.only_view()?;
        let plan = view.plan()?;
        let seen = self.encoder.encode(view, Some(plan), &Want::last(), step)?; // [B, 1 + K, D]
        let answers = self.predictor.answer(&seen, plan, 0, step)?; // [N, P]
        let targets = self.target.at(view, &plan.scored)?; // [N, P]
        let errors = squared_error(&answers, &targets)?; // [N]
        Ok(Outcome::one("pixels", errors.sum(None), batch.totals.scored[0]).with(answers, targets))
    }

    fn encoder(&self) -> &dyn Encoder {
        &self.encoder
    }

    fn export(&self) -> Result<Export> {
        let MaeConfig { encoder, predictor, mask, target, encoder_reads } = &self.config;
        if *encoder_reads == Reads::All {
            return Err(refuse_mask_tokens());
        }
        // Theirs masks uniformly; another mask leaves the paper's share there.
        let ratio = match mask {
            SamplerConfig::Uniform(UniformConfig { ratio: Ratio::Fixed(ratio), .. }) => *ratio,
            _ => 0.75,
        };
        export_mae(encoder, predictor, ratio, *target == Normalise::Patch)
    }

    fn show(&self, batch: &Batch, step: &Step<'_>) -> Result<Sheet> {
        let view = batch.only_view()?;
        let outcome = self.loss(batch, step)?;
        self.target.sheet(outcome.predictions()?, view, view.plan()?)
    }

    fn flops(&self, seen: f64, queried: f64) -> Option<f64> {
        let MaeConfig { encoder, predictor, .. } = &self.config;
        let length = seen + if self.config.encoder_reads == Reads::All { 0.0 } else { queried };
        let decoder = predictor.stack(&encoder.stack()).flops(length + encoder.prefix() as f64);
        let maps = (seen * encoder.width as f64 + queried * encoder.patch_numbers() as f64) * predictor.width as f64;
        Some(3.0 * (encoder.flops(seen) + decoder + 2.0 * maps))
    }
}
