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
use mask_core::nn::{Init, InitRule, PositionTable, Projection, ProjectionConfig, Scope};
use mask_core::objective::soft_cross_entropy;
use mask_core::sampler::{GuidedConfig, Per, Ratio};
use mask_core::schedule::{Clock, Curve, Stretch, Tick};
use mask_core::{
    Batch, Card, DevicePlan, Encoder, Error, Method, MethodConfig, Named, Outcome, Ramp, Result, Sampler,
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
        let zeros = |name: &str| at.table(name, Tensor::zeros([1, self.head.prototypes], (Kind::Float, at.device())));
        Ok(Box::new(AttMask {
            student: net(at, &self.encoder, Some(Init::ZEROS))?,
            teacher: Teacher::copy_of(at, &at.enter("teacher"), |at| net(at, &plain, None))?,
            centres: [zeros("centre.class")?, zeros("centre.patch")?],
            sampler: self.mask.build().map_err(|e| e.within("mask"))?,
            config: self.clone(),
        }))
    }
}

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
    /// Of the teacher's logits of class tokens and of patches, [1, V] each.
    centres: [Tensor; 2],
    sampler: Box<dyn Sampler>,
    config: AttMaskConfig,
}

impl AttMask {
    /// Centred and sharpened logits [.., V].
    fn target(&self, logits: &Tensor, which: usize, clock: &Clock) -> Tensor {
        let temperature = self.config.teacher_temperature.at(clock);
        ((logits.to_kind(Kind::Float) - &self.centres[which]) / temperature).softmax(-1, Kind::Float)
    }

    fn lessons(&self, batch: &Batch, step: &Step<'_>) -> Result<Vec<Lesson>> {
        let global = batch.views.iter().take(2);
        self.teacher.ask(|teacher| global.map(|view| teacher.lesson(view, step)).collect())
    }

    /// One of the two global crops.
    fn plan(&self, view: &View, lesson: &Lesson) -> Result<DevicePlan> {
        Ok(view.settle(&*self.sampler, || Ok(lesson.attention.shallow_clone()))?.with_mask_tokens())
    }
}

impl Method for AttMask {
    fn loss(&self, batch: &Batch, step: &Step<'_>) -> Result<Outcome> {
        let (lessons, temperature) = (self.lessons(batch, step)?, self.config.temperature);
        let (mut classes, mut answers, mut targets, mut plans) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        let mut patches = Tensor::zeros([], (Kind::Float, self.centres[0].device()));
        for (index, view) in batch.views.iter().enumerate() {
            let Some(lesson) = lessons.get(index) else {
                let read = self.student.encoder.encode(view, None, &Want::last(), step)?;
                classes.push(self.student.head.forward(&read.last().select(1, 0)));
                continue;
            };
            let plan = self.plan(view, lesson)?;
            let read = self.student.encoder.encode(view, Some(&plan), &Want::last(), step)?; // [B, 1 + L, D]
            classes.push(self.student.head.forward(&read.last().select(1, 0)));
            let answer = self.student.head.forward(&plan.scored.take_flat(&read.tokens())); // [N, V]
            let target = self.target(&plan.scored.take_flat(&lesson.logits[1]), 1, step.clock);
            let costs = soft_cross_entropy(&answer, &target, temperature)?; // [N]
            // Each crop is the mean over its own hidden patches; one of which nothing is hidden counts as 0.
            let hidden = plan.hidden.sum_dim_intlist(1, false, Kind::Float).clamp_min(1.0); // [B]
            let crop = plan.scored.flat.divide_scalar_mode(plan.scored.length, "floor");
            patches = patches + (costs / hidden.index_select(0, &crop)).sum(Kind::Float);
            answers.push(answer);
            targets.push(target);
            plans.push(plan);
        }
        let mut pairs = 0.0;
        let mut class = Tensor::zeros([], (Kind::Float, self.centres[0].device()));
        let mut entropy = Tensor::zeros([], (Kind::Float, self.centres[0].device()));
        for (own, lesson) in lessons.iter().enumerate() {
            let target = self.target(&lesson.logits[0], 0, step.clock); // [B, V]
            entropy = entropy - (&target * target.clamp_min(1e-30).log()).sum(Kind::Float);
            for (_, answer) in classes.iter().enumerate().filter(|(other, _)| *other != own) {
                class = class + soft_cross_entropy(answer, &target, temperature)?.sum(Kind::Float);
                pairs += 1.0;
            }
        }
        let (samples, crops) = (batch.totals.samples, lessons.len() as f64);
        let mut outcome = Outcome::one("class", class, samples * pairs);
        let count = Count::Global(samples * crops);
        outcome.terms.push(Term { name: "patches", weight: self.config.patches, sum: patches, count });
        // Means over the global batch, for the centres.
        let mean = |which: usize| {
            let sum = lessons.iter().map(|lesson| {
                let logits = lesson.logits[which].to_kind(Kind::Float);
                let each = logits.view([logits.size()[0], -1, *logits.size().last().unwrap_or(&1)]);
                each.mean_dim(1, false, Kind::Float).sum_dim_intlist(0, true, Kind::Float)
            });
            sum.reduce(|a, b| a + b).map(|sum| sum / (samples * crops))
        };
        let centres = ["centre_class", "centre_patch"].into_iter().zip([mean(0), mean(1)]);
        outcome.notes.extend(centres.filter_map(|(name, mean)| Some((name, mean?, Reduce::Sum))));
        outcome.notes.push(("teacher_entropy", entropy / (samples * crops), Reduce::Sum));
        let momentum = Tensor::from(self.config.momentum.at(step.clock));
        outcome.notes.push(("momentum", momentum, Reduce::Mean));
        Ok(outcome.with(Tensor::cat(&answers, 0), Tensor::cat(&targets, 0)).under(plans))
    }

    fn begin(&mut self) {
        self.teacher.follow(0.0);
    }

    fn after_step(&mut self, notes: &Named<Tensor>, step: &Step<'_>) -> Result<Named<Tensor>> {
        for (name, centre) in ["centre_class", "centre_patch"].into_iter().zip(&mut self.centres) {
            let mean = notes.get(name).ok_or_else(|| Error::Defect(format!("no note {name}")))?;
            let _ = centre.lerp_(mean, 1.0 - self.config.centre);
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
