//! BEiT: puts mask tokens in place of blocks of patches and predicts the ids that a frozen tokenizer gives them.
//!
//! Hangbo Bao, Li Dong, Songhao Piao, Furu Wei: BEiT: BERT Pre-Training of Image Transformers, ICLR 2022,
//! arXiv 2106.08254.
//!
//! | part | choice | source |
//! | --- | --- | --- |
//! | hidden | blocks of at least 16 patches, 75 of 196 at most | section 2.3, `masking_generator.py` |
//! | encoder sees | all patches, a mask token in place of the hidden ones' embeddings, and a class token | section 2.3 |
//! | predictor | one linear layer behind the final norm | equation 2 |
//! | target | the id that a frozen tokenizer gives each patch of the same crop, one of 8192 | section 2.1 |
//! | loss | cross-entropy on hidden patches, mean over the batch | equation 2 |
//!
//! The encoder is the official one: shared relative bias, gains of 0.1, no key bias, no position table. Blocks are those
//! of the code; the paper's pseudo-code draws their aspect otherwise and overshoots the count.
//!
//! Deviations: the paper's tokenizer, DALL-E's of 53.8 million parameters, reads the crop at 112 pixels; here the
//! tokenizer is one of a stage of the recipe and reads the crop at the encoder's size. Ids of a store of labels
//! (`target.codes` names a stage `codes` or `labels`) are those of whole pictures, without crops and flips.

use mask_core::data::Front;
use mask_core::hub::Export;
use mask_core::method::{Reduce, Sheet};
use mask_core::nn::{LinearHead, Scope};
use mask_core::objective::cross_entropy;
use mask_core::sampler::BlockConfig;
use mask_core::stage::Mention;
use mask_core::{
    Batch, Card, Encoder, Method, MethodConfig, Outcome, Predictor, Result, SamplerConfig, Site, Step, Want,
};
use serde::{Deserialize, Serialize};

use crate::data::{ImageData, ImageFront, Reads};
use crate::model::{Vit, VitConfig, export_beit};
use crate::target::{Codes, CodesConfig};

/// Recipe keys of BEiT; the defaults are the paper's ViT-B.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BeitConfig {
    /// The encoder.
    pub encoder: VitConfig,
    /// What is hidden.
    pub mask: SamplerConfig,
    /// Where the ids come from.
    pub target: CodesConfig,
}

impl Default for BeitConfig {
    fn default() -> Self {
        let encoder = VitConfig { drop_path: 0.1, ..VitConfig::beit(768, 12, 12) };
        Self { encoder, mask: SamplerConfig::Block(BlockConfig::default()), target: CodesConfig::default() }
    }
}

impl MethodConfig for BeitConfig {
    type Data = ImageData;
    const CARD: Card = Card {
        name: "beit",
        title: "BEiT: BERT Pre-Training of Image Transformers",
        year: 2022,
        arxiv: Some("2106.08254"),
        ledger: &[0],
        summary: "puts mask tokens in place of blocks, predicts ids of a tokenizer by a linear layer",
    };

    fn front(&self, site: &Site<'_, ImageData>) -> Result<Box<dyn Front>> {
        let front = ImageFront::build(site, &self.encoder, &self.mask, Reads::All)?;
        self.target.front(front, site)
    }

    fn stages(&self) -> Vec<Mention> {
        vec![self.target.mention("target")]
    }

    fn build(&self, at: &Scope) -> Result<Box<dyn Method>> {
        let VitConfig { width, depth, .. } = self.encoder;
        let top = at.enter("predictor").at_layer(depth + 1);
        Ok(Box::new(Beit {
            encoder: self.encoder.build(&at.enter("encoder"), true).map_err(|e| e.within("encoder"))?,
            predictor: LinearHead::new(&top, width, self.target.ids, self.encoder.init)?,
            target: self.target.build(at).map_err(|e| e.within("target"))?,
            config: self.clone(),
        }))
    }
}

/// What is trained; the [page above](self) says what it hides and predicts.
pub struct Beit {
    encoder: Vit,
    predictor: LinearHead,
    target: Codes,
    config: BeitConfig,
}

impl Method for Beit {
    fn loss(&self, batch: &Batch, step: &Step<'_>) -> Result<Outcome> {
        let view = batch.only_view()?;
        let plan = view.plan()?;
        let read = self.encoder.encode(view, Some(plan), &Want::last(), step)?; // [B, 1 + L, D]
        let answers = self.predictor.answer(&read, plan, 0, step)?; // [N, ids]
        let targets = self.target.at(view, &plan.scored)?; // [N]
        let errors = cross_entropy(&answers, &targets, 0.0)?; // [N]
        let right = answers.argmax(1, false).eq_tensor(&targets).sum(tch::Kind::Float);
        let mut outcome = Outcome::one("ids", errors.sum(None), batch.totals.scored[0]).with(answers, targets);
        outcome.notes.push(("accuracy", right / batch.totals.scored[0].max(1.0), Reduce::Sum));
        Ok(outcome)
    }

    fn encoder(&self) -> &dyn Encoder {
        &self.encoder
    }

    fn export(&self) -> Result<Export> {
        export_beit(&self.config.encoder, self.config.target.ids)
    }

    fn show(&self, batch: &Batch, step: &Step<'_>) -> Result<Sheet> {
        let view = batch.only_view()?;
        let outcome = self.loss(batch, step)?;
        self.target.sheet(outcome.predictions()?, view, view.plan()?)
    }

    fn flops(&self, seen: f64, queried: f64) -> Option<f64> {
        let head = 2.0 * queried * (self.config.encoder.width * self.config.target.ids) as f64;
        Some(3.0 * (self.config.encoder.flops(seen) + head))
    }
}
