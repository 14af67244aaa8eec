//! HPM: a masked autoencoder that learns to predict how hard each patch is, and hides the hardest ones more and more.
//!
//! Haochen Wang, Kaiyou Song, Junsong Fan, Yuxi Wang, Jin Xie, Zhaoxiang Zhang: Hard Patches Mining for Masked Image
//! Modeling, CVPR 2023, arXiv 2304.05919.
//!
//! | part | choice | source |
//! | --- | --- | --- |
//! | scores | an EMA copy of the model predicts the loss of each patch of the whole image | section 3.3 |
//! | hidden | 75 %: a share of them, from 0 to a half over the epochs, of the highest scores, the rest uniform | section 3.3 |
//! | encoder sees | the other patches and a class token | as MAE |
//! | predictors | two decoders over one sequence: pixels, and a loss a patch (the mean of its outputs) | section 3.1 |
//! | target | raw pixels; the order of the patches' losses | sections 3.1, 3.2 |
//! | loss | squared error on hidden patches, plus a pairwise logistic loss on the order | section 3.2 |
//!
//! Deviations: the teacher has no reconstructor, which nothing reads; patches are read in the order of positions, which
//! an attention doesn't see. The arms with features as targets are not here.

use mask_core::data::Front;
use mask_core::method::{Count, Reduce, Sheet, Term};
use mask_core::nn::{Decoder, DecoderBlocks, DecoderConfig, DecoderInput, Scope};
use mask_core::objective::{ranking, squared_error, standardised};
use mask_core::sampler::{GuidedConfig, Rounding};
use mask_core::schedule::{Curve, Tick};
use mask_core::{
    Batch, Card, DevicePlan, Encoder, Method, MethodConfig, Named, Outcome, Ramp, Result, Sampler, SamplerConfig, Site,
    Step, Teacher, View, Want,
};
use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor};

use crate::data::{ImageData, ImageFront, Reads};
use crate::model::{Vit, VitConfig};
use crate::target::{Normalise, PatchOrder, PatchPixels};

/// How the loss predictor learns.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Predicts {
    /// The order of an image's hidden patches (the paper's choice).
    Relative,
    /// Their losses, standardised in each image (ablation).
    Absolute,
}

/// Recipe keys of HPM; the defaults are the paper's ViT-B/16.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HpmConfig {
    /// The encoder.
    pub encoder: VitConfig,
    /// The reconstructor.
    pub predictor: DecoderConfig,
    /// The loss predictor; its width is the reconstructor's, whose sequence it reads.
    pub scorer: DecoderConfig,
    /// How the loss predictor learns.
    pub predicts: Predicts,
    /// What is hidden.
    pub mask: SamplerConfig,
    /// What is done to the pixels of the target.
    pub target: Normalise,
    /// How much of the teacher stays at each step.
    pub momentum: Ramp,
}

impl Default for HpmConfig {
    fn default() -> Self {
        let share = Ramp { tick: Tick::Epoch, ..Ramp::new(0.0, 0.5, Curve::Linear) };
        let mask = GuidedConfig { rounding: Rounding::KeepFloor, share, ..GuidedConfig::default() };
        Self {
            encoder: VitConfig::mae(768, 12, 12),
            predictor: DecoderConfig::default(),
            scorer: DecoderConfig::default(),
            predicts: Predicts::Relative,
            mask: SamplerConfig::Guided(mask),
            target: Normalise::None,
            momentum: Ramp { tick: Tick::Epoch, ticks: Some(101), ..Ramp::new(0.999, 0.9999, Curve::Linear) },
        }
    }
}

impl MethodConfig for HpmConfig {
    type Data = ImageData;
    const CARD: Card = Card {
        name: "hpm",
        title: "Hard Patches Mining for Masked Image Modeling",
        year: 2023,
        arxiv: Some("2304.05919"),
        ledger: &[21],
        summary: "an MAE whose teacher predicts each patch's loss and hides the hardest ones, more of them over time",
    };

    fn front(&self, site: &Site<'_, ImageData>) -> Result<Box<dyn Front>> {
        ImageFront::build(site, &self.encoder, &self.mask, Reads::Visible)
    }

    fn build(&self, at: &Scope) -> Result<Box<dyn Method>> {
        self.momentum.check("momentum", 0.0..=1.0)?;
        let (encoder, stack, grid) = (&self.encoder, self.encoder.stack(), self.encoder.grid()?);
        let (from, out, prefix) = (encoder.width, encoder.patch_numbers(), encoder.prefix());
        let scorer = DecoderConfig { width: self.predictor.width, ..self.scorer.clone() };
        let behind = |at: &Scope, name: &str| at.enter(name).at_layer(encoder.depth + 1);
        let vit = |at: &Scope| encoder.build(&at.enter("encoder"), false).map_err(|e| e.within("encoder"));
        let blocks = |at: &Scope| {
            DecoderBlocks::new(&behind(at, "scorer"), &scorer, &stack, out).map_err(|e| e.within("scorer"))
        };
        let student = Hpm {
            encoder: vit(at)?,
            predictor: Decoder::new(&behind(at, "predictor"), &self.predictor, &stack, &grid, from, prefix, out)
                .map_err(|e| e.within("predictor"))?,
            scorer: blocks(at)?,
            sampler: self.mask.build().map_err(|e| e.within("mask"))?,
            teacher: Teacher::copy_of(at, &at.enter("teacher"), |at| {
                let width = self.predictor.width;
                let input = DecoderInput::new(&behind(at, "predictor"), width, stack.init, &grid, from, prefix)?;
                Ok(Judge { encoder: vit(at)?, input, scorer: blocks(at)? })
            })?,
            target: PatchPixels::new(encoder.patch, PatchOrder::ChannelLast, self.target),
            config: self.clone(),
        };
        Ok(Box::new(student))
    }
}

/// What is trained; the [page above](self) says what it hides and predicts.
pub struct Hpm {
    encoder: Vit,
    predictor: Decoder,
    scorer: DecoderBlocks,
    sampler: Box<dyn Sampler>,
    teacher: Teacher<Judge>,
    target: PatchPixels,
    config: HpmConfig,
}

/// The part of the model that scores an image of which nothing is hidden.
struct Judge {
    encoder: Vit,
    input: DecoderInput,
    scorer: DecoderBlocks,
}

impl Judge {
    /// The predicted loss of each patch, [B, L].
    fn scores(&self, view: &View, step: &Step<'_>) -> Result<Tensor> {
        let step = Step { train: false, ..*step };
        let pixels = view.input("pixels")?;
        let (rows, length) = (pixels.size()[0], view.layout.len() as i64);
        let plan = DevicePlan::asking_all(rows, length, pixels.device());
        let read = self.encoder.encode(view, None, &Want::last(), &step)?;
        let answers = self.scorer.answer(&self.input.sequence(&read, &plan, 0)?, &plan, 0, &step)?; // [B * L, P]
        Ok(answers.mean_dim(-1, false, Kind::Float).view([rows, length]))
    }
}

impl Method for Hpm {
    fn loss(&self, batch: &Batch, step: &Step<'_>) -> Result<Outcome> {
        let view = batch.only_view()?;
        let plan = view.settle(&*self.sampler, || self.teacher.ask(|teacher| teacher.scores(view, step)))?;
        let seen = self.encoder.encode(view, Some(&plan), &Want::last(), step)?; // [B, 1 + K, D]
        let sequence = self.predictor.input.sequence(&seen, &plan, 0)?;
        let answers = self.predictor.blocks.answer(&sequence, &plan, 0, step)?; // [N, P]
        let targets = self.target.at(view, &plan.scored)?; // [N, P]
        let errors = squared_error(&answers, &targets)?; // [N]
        let scores = self.scorer.answer(&sequence, &plan, 0, step)?.mean_dim(-1, false, Kind::Float);
        let (scores, hardness) = (plan.scored.pad(&scores), plan.scored.pad(&errors.detach())); // [B, M]
        let real = plan.scored.valid.as_ref();
        let order = ranking(&scores, &hardness, real)?;
        let (sum, count) = match self.config.predicts {
            Predicts::Relative => (order.sum, Count::Micro(order.count)),
            Predicts::Absolute => {
                let gap = (scores - standardised(&hardness, real)).square(); // 0 where it is padded
                (gap.sum(Kind::Float), Count::Global(batch.totals.scored[0]))
            }
        };
        let mut outcome = Outcome::one("pixels", errors.sum(None), batch.totals.scored[0]).with(answers, targets);
        outcome.terms.push(Term { name: "hardness", weight: 1.0, sum, count });
        let momentum = Tensor::from(self.config.momentum.at(step.clock));
        outcome.notes = vec![("ranked", order.right, Reduce::Mean), ("momentum", momentum, Reduce::Mean)];
        Ok(outcome.under(vec![plan]))
    }

    fn begin(&mut self) {
        self.teacher.follow(0.0);
    }

    fn after_step(&mut self, _: &Named<Tensor>, step: &Step<'_>) -> Result<Named<Tensor>> {
        self.teacher.follow(self.config.momentum.at(step.clock));
        Ok(Named::new())
    }

    fn scores(&self, view: &View, step: &Step<'_>) -> Result<Option<Tensor>> {
        self.teacher.ask(|teacher| teacher.scores(view, step)).map(Some)
    }

    fn encoder(&self) -> &dyn Encoder {
        &self.encoder
    }

    fn show(&self, batch: &Batch, step: &Step<'_>) -> Result<Sheet> {
        let outcome = self.loss(batch, step)?;
        self.target.sheet(outcome.predictions()?, batch.only_view()?, &outcome.plans[0])
    }

    fn flops(&self, seen: f64, queried: f64) -> Option<f64> {
        let HpmConfig { encoder, predictor, scorer, .. } = &self.config;
        let (all, prefix) = (seen + queried, encoder.prefix() as f64);
        let scorer =
            DecoderConfig { width: predictor.width, ..scorer.clone() }.stack(&encoder.stack()).flops(all + prefix);
        let decoder = predictor.stack(&encoder.stack()).flops(all + prefix);
        let map = |tokens: f64, out: i64| 2.0 * tokens * (out * predictor.width) as f64;
        let head = encoder.patch_numbers();
        let student = encoder.flops(seen) + decoder + scorer + map(seen, encoder.width) + 2.0 * map(queried, head);
        let teacher = encoder.flops(all) + scorer + map(all, encoder.width) + map(all, head);
        Some(3.0 * student + teacher)
    }
}
