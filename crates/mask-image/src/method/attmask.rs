//! AttMask: self-distillation with masked patches (iBOT), where the patches that the teacher attends to most are hidden
//! from the student.
//!
//! Ioannis Kakogeorgiou, Spyros Gidaris, Bill Psomas, Yannis Avrithis, Andrei Bursuc, Konstantinos Karantzalos, Nikos
//! Komodakis: What to Hide from Your Students: Attention-Guided Masked Image Modeling, ECCV 2022, arXiv 2203.12719.
//!
//! | part | choice | source |
//! | --- | --- | --- |
//! | views | two global crops, masked for the student, and local crops, read whole | iBOT |
//! | scores | the teacher's last attention from the class token to each patch of the same crop, mean over heads | 3.2 |
//! | hidden | the highest scores (High), without some of the very highest (Hint), or the lowest (Low); one ratio a step, half of the crops left whole | section 3.3 |
//! | student sees | all patches, a mask token in place of the hidden ones' embeddings | iBOT |
//! | predictor | one projection head for class token and patches | iBOT |
//! | target | the EMA teacher's distribution over prototypes, centred and sharpened | iBOT |
//! | loss | cross-entropy of class tokens over all pairs of different crops, and of hidden patches within a crop | iBOT |
//!
//! Deviations: hints come only from what was hidden (see [`mask_core::sampler::Guided`]); the rate of update n of the
//! warm-up is n / W of the peak (official n / (W - 1)); the position table is interpolated to the local crops' exact
//! size (see [`mask_core::nn::interpolate`]).

use mask_core::data::Front;
use mask_core::method::{Count, Reduce, Sheet, Term};
use mask_core::nn::{Centre, Init, InitRule, PositionTable, Projection, ProjectionConfig, Scope, across_crops};
use mask_core::objective::soft_cross_entropy;
use mask_core::sampler::{GuidedConfig, Per, Ratio};
use mask_core::schedule::{Clock, Curve, Stretch, Tick};
use mask_core::{
    Batch, Card, DevicePlan, Encoder, Error, Features, Method, MethodConfig, Named, Outcome, Ramp, Result, Sampler,
    SamplerConfig, Site, Step, Teacher, View, Want,
};
use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor};

use crate::data::{ImageData, ImageFront, MultiCrop};
use crate::model::{Vit, VitConfig};
use crate::picture::guided_sheet;

/// Recipe keys of AttMask; the defaults are the paper's ViT-S/16, AttMask-High.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AttMaskConfig {
    /// The encoder of student and teacher.
    pub encoder: VitConfig,
    /// The projection head of student and teacher.
    pub head: ProjectionConfig,
    /// The views.
    pub crops: MultiCrop,
    /// What is hidden of the global ones.
    pub mask: SamplerConfig,
    /// Temperature of the student.
    pub temperature: f64,
    /// Temperature of the teacher.
    pub teacher_temperature: Ramp,
    /// How much of the teacher stays at each step.
    pub momentum: Ramp,
    /// How much of the centres of the teacher's logits stays at each step.
    pub centre: f64,
    /// Weight of the loss on hidden patches; 0 leaves plain distillation under masks.
    pub patches: f64,
    /// For how long the head's last layer is held.
    pub hold: Stretch,
}

impl Default for AttMaskConfig {
    fn default() -> Self {
        let encoder = VitConfig {
            positions: PositionTable::Learned,
            init: InitRule::Normal,
            drop_path: 0.1,
            ..VitConfig::mae(384, 12, 6)
        };
        let ratio = Ratio::Uniform { low: 0.1, high: 0.5, per: Per::Step };
        Self {
            encoder,
            head: ProjectionConfig::default(),
            crops: MultiCrop::default(),
            mask: SamplerConfig::Guided(GuidedConfig { ratio, whole: 0.5, ..GuidedConfig::default() }),
            temperature: 0.1,
            teacher_temperature: Ramp { tick: Tick::Epoch, ticks: Some(30), ..Ramp::new(0.04, 0.07, Curve::Linear) },
            momentum: Ramp::new(0.996, 1.0, Curve::Cosine),
            centre: 0.9,
            patches: 1.0,
            hold: Stretch { tick: Tick::Epoch, ticks: 1 },
        }
    }
}

impl MethodConfig for AttMaskConfig {
    type Data = ImageData;
    const CARD: Card = Card {
        name: "attmask",
        title: "What to Hide from Your Students: Attention-Guided Masked Image Modeling",
        year: 2022,
        arxiv: Some("2203.12719"),
        ledger: &[70],
        summary: "self-distillation in which the patches that the teacher attends to most are hidden",
    };

    fn front(&self, site: &Site<'_, ImageData>) -> Result<Box<dyn Front>> {
        let views = self.crops.views(&site.data.augment, self.encoder.image, &self.mask);
        ImageFront::several(site, &self.encoder, &views.map_err(|e| e.within("method.crops"))?)
    }

    fn build(&self, at: &Scope) -> Result<Box<dyn Method>> {
        if !self.encoder.class_token {
            return Err(Error::value(
                "encoder.class_token",
                "false: the teacher's attention is that of the class token",
            ));
        }
        self.teacher_temperature.check("teacher_temperature", 1e-4..=1e4)?;
        self.momentum.check("momentum", 0.0..=1.0)?;
        for (key, value, range) in [
            ("temperature", self.temperature, 1e-4..=1e4),
            ("centre", self.centre, 0.0..=1.0),
            ("patches", self.patches, 0.0..=1e4),
        ] {
            if !range.contains(&value) {
                let [low, high] = [range.start(), range.end()];
                return Err(Error::value(key, format!("{value} lies outside {low} to {high}")));
            }
        }
        let net = |at: &Scope, encoder: &VitConfig, mask_token| {
            let head = at.enter("head").at_layer(encoder.depth + 1);
            let encoder = encoder.build_with(&at.enter("encoder"), mask_token).map_err(|e| e.within("encoder"))?;
            let head =
                Projection::new(&head, &self.head, encoder.width(), self.encoder.init).map_err(|e| e.within("head"))?;
            Ok::<_, Error>(Net { encoder, head })
        };
        let plain = VitConfig { drop_path: 0.0, dropout: 0.0, ..self.encoder.clone() };
        let centre = |name: &str| Centre::new(at, name, self.head.prototypes, self.centre);
        Ok(Box::new(AttMask {
            student: net(at, &self.encoder, Some(Init::ZEROS))?,
            teacher: Teacher::copy_of(at, &at.enter("teacher"), |at| net(at, &plain, None))?,
            centres: [centre("centre.class")?, centre("centre.patch")?],
            sampler: self.mask.build().map_err(|e| e.within("mask"))?,
            config: self.clone(),
        }))
    }
}

/// Notes of the means that the centres follow.
const CENTRES: [&str; 2] = ["centre_class", "centre_patch"];

/// An encoder and its projection head.
struct Net {
    encoder: Vit,
    head: Projection,
}

/// What the teacher says of a global crop.
struct Lesson {
    /// Logits of the class token [B, V] and of all patches [B, L, V].
    logits: [Tensor; 2],
    /// The attention from the class token, [B, L].
    attention: Tensor,
}

impl Net {
    fn lesson(&self, view: &View, step: &Step<'_>) -> Result<Lesson> {
        let want = Want { attention_of: Some(0..1), ..Want::last() };
        let read = self.encoder.encode(view, None, &want, &Step { train: false, ..*step })?;
        let attention = read.attention.as_ref().ok_or_else(|| Error::Defect("no attention was given".to_owned()))?;
        let attention = attention.mean_dim([1i64].as_slice(), false, Kind::Float).select(1, 0); // [B, 1 + L]
        let logits = self.head.forward(read.last()); // [B, 1 + L, V]
        Ok(Lesson {
            logits: [logits.select(1, 0), logits.slice(1, 1, None, 1)],
            attention: attention.slice(1, read.prefix, None, 1),
        })
    }
}

/// What is trained; the [page above](self) says what it hides and predicts.
pub struct AttMask {
    student: Net,
    teacher: Teacher<Net>,
    /// Of the teacher's logits of class tokens and of patches.
    centres: [Centre; 2],
    sampler: Box<dyn Sampler>,
    config: AttMaskConfig,
}

impl AttMask {
    fn lessons(&self, batch: &Batch, step: &Step<'_>) -> Result<Vec<Lesson>> {
        let global = batch.views.iter().take(2);
        self.teacher.ask(|teacher| global.map(|view| teacher.lesson(view, step)).collect())
    }

    /// The plan of a global crop.
    fn plan(&self, view: &View, lesson: &Lesson) -> Result<DevicePlan> {
        Ok(view.settle(&*self.sampler, || Ok(lesson.attention.shallow_clone()))?.with_mask_tokens())
    }

    /// Cross-entropy of hidden patches with the teacher's, the mean of each crop (0 where nothing is hidden), summed;
    /// with the student's logits and the teacher's shares [N, V].
    fn patches(&self, read: &Features, lesson: &Lesson, plan: &DevicePlan, sharp: f64) -> Result<[Tensor; 3]> {
        let answer = self.student.head.forward(&plan.scored.take_flat(&read.tokens()));
        let target = self.centres[1].shares(&plan.scored.take_flat(&lesson.logits[1]), sharp);
        let costs = soft_cross_entropy(&answer, &target, self.config.temperature)?; // [N]
        let hidden = plan.hidden.sum_dim_intlist(1, false, Kind::Float).clamp_min(1.0); // [B]
        let crop = plan.scored.flat.divide_scalar_mode(plan.scored.length, "floor");
        Ok([(costs / hidden.index_select(0, &crop)).sum(Kind::Float), answer, target])
    }
}

/// Tensors added.
fn total(all: impl IntoIterator<Item = Tensor>) -> Result<Tensor> {
    all.into_iter().reduce(|a, b| a + b).ok_or_else(|| Error::Defect("a batch without global crops".to_owned()))
}

impl Method for AttMask {
    fn loss(&self, batch: &Batch, step: &Step<'_>) -> Result<Outcome> {
        let lessons = self.lessons(batch, step)?;
        let sharp = self.config.teacher_temperature.at(step.clock);
        let (mut classes, mut patches, mut answers, mut targets, mut plans) =
            (Vec::new(), Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for (index, view) in batch.views.iter().enumerate() {
            let lesson = lessons.get(index);
            let plan = lesson.map(|lesson| self.plan(view, lesson)).transpose()?;
            let read = self.student.encoder.encode(view, plan.as_ref(), &Want::last(), step)?; // [B, 1 + L, D]
            classes.push(self.student.head.forward(&read.last().select(1, 0)));
            if let Some((lesson, plan)) = lesson.zip(plan) {
                let [cost, answer, target] = self.patches(&read, lesson, &plan, sharp)?;
                patches.push(cost);
                answers.push(answer);
                targets.push(target);
                plans.push(plan);
            }
        }
        let shares: Vec<Tensor> =
            lessons.iter().map(|lesson| self.centres[0].shares(&lesson.logits[0], sharp)).collect();
        let (class, pairs) = across_crops(&classes, &shares, self.config.temperature)?;
        let crops = batch.totals.samples * lessons.len() as f64;
        let mut outcome = Outcome::one("class", class, batch.totals.samples * pairs);
        let (sum, count) = (total(patches)?, Count::Global(crops));
        outcome.terms.push(Term { name: "patches", weight: self.config.patches, sum, count });
        let mean =
            |which: usize| Ok::<_, Error>(total(lessons.iter().map(|l| Centre::rows(&l.logits[which])))? / crops);
        let entropy = -total(shares.iter().map(|p| (p * p.clamp_min(1e-30).log()).sum(Kind::Float)))? / crops;
        outcome.notes = vec![
            (CENTRES[0], mean(0)?, Reduce::Sum),
            (CENTRES[1], mean(1)?, Reduce::Sum),
            ("teacher_entropy", entropy, Reduce::Sum),
            ("momentum", Tensor::from(self.config.momentum.at(step.clock)), Reduce::Mean),
        ];
        Ok(outcome.with(Tensor::cat(&answers, 0), Tensor::cat(&targets, 0)).under(plans))
    }

    fn begin(&mut self) {
        self.teacher.follow(0.0);
    }

    fn after_step(&mut self, notes: &Named<Tensor>, step: &Step<'_>) -> Result<Named<Tensor>> {
        for (name, centre) in CENTRES.into_iter().zip(&mut self.centres) {
            centre.follow(notes.get(name).ok_or_else(|| Error::Defect(format!("no note {name}")))?);
        }
        self.teacher.follow(self.config.momentum.at(step.clock));
        Ok(Named::new())
    }

    fn held(&self, clock: &Clock) -> Vec<&'static str> {
        if self.config.hold.holds(clock) { vec!["head.last."] } else { Vec::new() }
    }

    fn scores(&self, view: &View, step: &Step<'_>) -> Result<Option<Tensor>> {
        self.teacher.ask(|teacher| Ok(Some(teacher.lesson(view, step)?.attention)))
    }

    fn encoder(&self) -> &dyn Encoder {
        &self.teacher.model().encoder
    }

    fn show(&self, batch: &Batch, step: &Step<'_>) -> Result<Sheet> {
        let lessons = self.lessons(batch, step)?;
        let both = batch.views.iter().zip(&lessons);
        let plans = both.map(|(view, lesson)| self.plan(view, lesson)).collect::<Result<Vec<_>>>()?;
        let attention = lessons.iter().map(|lesson| &lesson.attention);
        let all: Vec<_> = batch.views.iter().zip(attention).zip(&plans).map(|((v, a), p)| (v, a, p)).collect();
        guided_sheet(&all)
    }

    fn flops(&self, _: f64, _: f64) -> Option<f64> {
        let AttMaskConfig { encoder, head, crops, .. } = &self.config;
        let ProjectionConfig { hidden, bottleneck, prototypes } = *head;
        let sizes = encoder.width * hidden + hidden * hidden + hidden * bottleneck + bottleneck * prototypes;
        let project = |rows: f64| 2.0 * rows * sizes as f64;
        let (global, locals) = (encoder.grid().ok()?.len() as f64, crops.locals as f64);
        let small = VitConfig { image: crops.local_size, ..encoder.clone() }.grid().ok()?.len() as f64;
        let student = 2.0 * encoder.flops(global) + locals * encoder.flops(small) + project(2.0 + locals);
        let teacher = 2.0 * encoder.flops(global) + project(2.0 * (global + 1.0));
        Some(3.0 * student + teacher)
    }
}
