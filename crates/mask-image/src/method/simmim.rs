//! SimMIM: puts a mask token in place of large random cells and predicts their raw pixels by one linear layer.
//!
//! Zhenda Xie, Zheng Zhang, Yue Cao, Yutong Lin, Jianmin Bao, Zhuliang Yao, Qi Dai, Han Hu: SimMIM: A Simple Framework
//! for Masked Image Modeling, CVPR 2022, arXiv 2111.09886.
//!
//! | part | choice | source |
//! | --- | --- | --- |
//! | hidden | cells of 32 x 32 pixels, ceil(60 %) of them, uniform | section 3.2 |
//! | encoder sees | all patches, a mask token in place of the hidden ones' embeddings | section 3.2 |
//! | predictor | one linear layer | section 3.3 |
//! | target | raw pixels (normalised by the data's mean and deviation) | section 3.4 |
//! | loss | absolute error on hidden pixels, mean over the batch | section 3.4 |
//!
//! The encoder is the official ViT recipe: shared relative bias, gains of 0.1, no key bias, no position table.
//!
//! Deviation: the official scheduler is one update behind (its updates 0 and 1 both have the first rate of the warm-up);
//! here update n has the rate of n.

use mask_core::data::Front;
use mask_core::hub::Export;
use mask_core::method::Sheet;
use mask_core::nn::{LinearHead, Scope};
use mask_core::objective::absolute_error;
use mask_core::sampler::{Ratio, Rounding, UniformConfig};
use mask_core::{
    Batch, Card, Encoder, Method, MethodConfig, Outcome, Predictor, Result, SamplerConfig, Site, Step, Want,
};
use serde::{Deserialize, Serialize};

use crate::data::{ImageData, ImageFront, Reads};
use crate::model::{Vit, VitConfig, export_masked_vit};
use crate::target::{Normalise, PatchOrder, PatchPixels};

/// Recipe keys of SimMIM; the defaults are the paper's ViT-B.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SimmimConfig {
    /// The encoder.
    pub encoder: VitConfig,
    /// What is hidden; `cell` is in patches.
    pub mask: SamplerConfig,
}

impl Default for SimmimConfig {
    fn default() -> Self {
        let mask = UniformConfig { ratio: Ratio::Fixed(0.6), rounding: Rounding::HideCeil, cell: 2 };
        let encoder = VitConfig { drop_path: 0.1, ..VitConfig::beit(768, 12, 12) };
        Self { encoder, mask: SamplerConfig::Uniform(mask) }
    }
}

impl MethodConfig for SimmimConfig {
    type Data = ImageData;
    const CARD: Card = Card {
        name: "simmim",
        title: "SimMIM: A Simple Framework for Masked Image Modeling",
        year: 2022,
        arxiv: Some("2111.09886"),
        ledger: &[7],
        summary: "puts mask tokens in place of large cells, predicts raw pixels by a linear layer",
    };

    fn front(&self, site: &Site<'_, ImageData>) -> Result<Box<dyn Front>> {
        ImageFront::build(site, &self.encoder, &self.mask, Reads::All)
    }

    fn build(&self, at: &Scope) -> Result<Box<dyn Method>> {
        let VitConfig { width, depth, .. } = self.encoder;
        let out = self.encoder.patch_numbers();
        Ok(Box::new(Simmim {
            encoder: self.encoder.build(&at.enter("encoder"), true).map_err(|e| e.within("encoder"))?,
            predictor: LinearHead::like_convolution(&at.enter("predictor").at_layer(depth + 1), width, out)?,
            target: PatchPixels::new(self.encoder.patch, PatchOrder::ChannelFirst, Normalise::None),
            config: self.clone(),
        }))
    }
}

/// What is trained; the [page above](self) says what it hides and predicts.
pub struct Simmim {
    encoder: Vit,
    predictor: LinearHead,
    target: PatchPixels,
    config: SimmimConfig,
}

impl Method for Simmim {
    fn loss(&self, batch: &Batch, step: &Step<'_>) -> Result<Outcome> {
        let view = batch.only_view()?;
        let plan = view.plan()?;
        let read = self.encoder.encode(view, Some(plan), &Want::last(), step)?; // [B, 1 + L, D]
        let answers = self.predictor.answer(&read, plan, 0, step)?; // [N, P]
        let targets = self.target.at(view, &plan.scored)?; // [N, P]
        let errors = absolute_error(&answers, &targets)?; // [N]
        // The official loss counts pixels and adds 1e-5: nothing hidden gives 0.
        let pixels = (self.config.encoder.patch[0] * self.config.encoder.patch[1]) as f64;
        let count = batch.totals.scored[0] + 1e-5 / pixels;
        Ok(Outcome::one("pixels", errors.sum(None), count).with(answers, targets))
    }

    fn encoder(&self) -> &dyn Encoder {
        &self.encoder
    }

    fn export(&self) -> Result<Export> {
        export_masked_vit(&self.config.encoder)
    }

    fn show(&self, batch: &Batch, step: &Step<'_>) -> Result<Sheet> {
        let view = batch.only_view()?;
        let outcome = self.loss(batch, step)?;
        self.target.sheet(outcome.predictions()?, view, view.plan()?)
    }

    fn flops(&self, seen: f64, queried: f64) -> Option<f64> {
        let VitConfig { width, .. } = self.config.encoder;
        let head = 2.0 * queried * (width * self.config.encoder.patch_numbers()) as f64;
        Some(3.0 * (self.config.encoder.flops(seen) + head))
    }
}
