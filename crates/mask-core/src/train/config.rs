//! Recipe keys of training.

use serde::{Deserialize, Serialize};

use crate::schedule::{Clock, Curve, Ramp, RateConfig};
use crate::{Error, Result};

/// What a batch counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Unit {
    /// Samples.
    Samples,
}

/// Recipe keys of the batch, `data.batch`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BatchConfig {
    /// The *global* batch of an optimiser step.
    pub size: u64,
    /// What `size` counts.
    pub unit: Unit,
    /// At most so many samples go through the model at once; a step then accumulates several. None = all at once.
    pub micro: Option<u64>,
}

impl Default for BatchConfig {
    fn default() -> Self {
        Self { size: 256, unit: Unit::Samples, micro: None }
    }
}

impl BatchConfig {
    /// Checks the numbers.
    ///
    /// # Errors
    /// A size of 0.
    pub fn check(&self) -> Result<()> {
        if self.size == 0 || self.size > 1 << 24 {
            return Err(Error::value("data.batch.size", format!("{} is not a number from 1 to 16777216", self.size)));
        }
        if self.micro == Some(0) {
            return Err(Error::value("data.batch.micro", "a micro-batch has at least one sample"));
        }
        Ok(())
    }
}

/// Numbers of the forward.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Precision {
    /// Single precision throughout.
    Float32,
    /// bfloat16 where autocast says so; parameters, losses and the optimiser stay float32.
    Bf16,
}

/// What happens when a loss or gradient isn't finite. The update is dropped in any case.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NonFinite {
    /// Training stops and names the step.
    Stop,
    /// Training goes on; the metrics count such steps.
    Skip,
}

/// Whose norm a clip looks at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ClipBy {
    /// That of all gradients together.
    Global,
    /// That of each parameter by itself: g times clip / (|g| + 1e-6) where that is below 1 (DINO, iBOT).
    Parameter,
}

/// Recipe keys of AdamW.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AdamWConfig {
    /// Peak rate.
    pub rate: f64,
    /// The batch that `rate` is meant for: the peak is then rate * batch / this. None = `rate` is absolute.
    pub rate_per: Option<f64>,
    /// Decay of the two moments.
    pub betas: [f64; 2],
    /// Added to the root of the second moment.
    pub eps: f64,
    /// Decoupled weight decay, for parameters that are decayed at all.
    pub weight_decay: f64,
    /// Where the weight decay ends, by half a cosine over training (DINO: 0.04 to 0.4); none = it stays.
    pub weight_decay_last: Option<f64>,
    /// Rate of a layer as a share of that of the layer above it; none = all the same.
    pub layer_decay: Option<f64>,
}

impl Default for AdamWConfig {
    /// MAE's pre-training.
    fn default() -> Self {
        Self {
            rate: 1.5e-4,
            rate_per: Some(256.0),
            betas: [0.9, 0.95],
            eps: 1e-8,
            weight_decay: 0.05,
            weight_decay_last: None,
            layer_decay: None,
        }
    }
}

impl AdamWConfig {
    /// The peak rate at a global batch.
    #[must_use]
    pub fn peak(&self, batch: u64) -> f64 {
        self.rate * self.rate_per.map_or(1.0, |per| batch as f64 / per)
    }

    /// The weight decay at the clock.
    #[must_use]
    pub fn weight_decay_at(&self, clock: &Clock) -> f64 {
        let last = self.weight_decay_last.unwrap_or(self.weight_decay);
        Ramp::new(self.weight_decay, last, Curve::Cosine).at(clock)
    }
}

crate::tagged! {
    /// The optimiser.
    #[derive(PartialEq)]
    pub enum OptimiserConfig {
        /// AdamW with decoupled weight decay, fused.
        adamw => AdamW(AdamWConfig),
    }
}

/// Recipe keys of training.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrainConfig {
    /// Optimiser steps; schedules span them.
    pub steps: u64,
    /// The optimiser.
    pub optimiser: OptimiserConfig,
    /// The rate over training.
    pub schedule: RateConfig,
    /// Largest norm of the gradient; none = no clipping.
    pub clip: Option<f64>,
    /// Whose norm that is.
    pub clip_by: ClipBy,
    /// Numbers of the forward.
    pub precision: Precision,
    /// What happens when a loss isn't finite.
    pub nonfinite: NonFinite,
    /// Metrics are read from the device and written every so many steps.
    pub log_every: u64,
    /// A checkpoint every so many steps, and at the end.
    pub checkpoint_every: u64,
    /// Checkpoints kept besides the best one.
    pub keep: u64,
    /// Every checkpoint at a multiple of this is kept, too.
    pub keep_every: Option<u64>,
}

impl Default for TrainConfig {
    fn default() -> Self {
        Self {
            steps: 1000,
            optimiser: OptimiserConfig::AdamW(AdamWConfig::default()),
            schedule: RateConfig::default(),
            clip: None,
            clip_by: ClipBy::Global,
            precision: Precision::Float32,
            nonfinite: NonFinite::Stop,
            log_every: 10,
            checkpoint_every: 200,
            keep: 3,
            keep_every: None,
        }
    }
}

impl TrainConfig {
    /// Keys that change no number of a run, so that `--resume` accepts another value.
    pub const FREE: [&'static str; 5] =
        ["train.nonfinite", "train.log_every", "train.checkpoint_every", "train.keep", "train.keep_every"];

    /// Checks the numbers.
    ///
    /// # Errors
    /// The first key that is out of range.
    pub fn check(&self) -> Result<()> {
        let refuse = |key: &str, problem: String| Err(Error::value(format!("train.{key}"), problem));
        for (key, number) in [
            ("steps", self.steps),
            ("log_every", self.log_every),
            ("checkpoint_every", self.checkpoint_every),
            ("keep", self.keep),
        ] {
            if number == 0 {
                return refuse(key, "0 is too small, it takes 1 or more".to_owned());
            }
        }
        if self.keep_every == Some(0) {
            return refuse("keep_every", "0 is too small, it takes 1 or more".to_owned());
        }
        if let Some(clip) = self.clip.filter(|clip| !(*clip > 0.0 && clip.is_finite())) {
            return refuse("clip", format!("{clip} is not a positive number"));
        }
        self.schedule.check()?;
        let OptimiserConfig::AdamW(adamw) = &self.optimiser;
        let numbers = [
            ("rate", adamw.rate, 0.0..1e3),
            ("rate_per", adamw.rate_per.unwrap_or(1.0), 1e-9..1e12),
            ("betas.0", adamw.betas[0], 0.0..1.0),
            ("betas.1", adamw.betas[1], 0.0..1.0),
            ("eps", adamw.eps, 1e-30..1.0),
            ("weight_decay", adamw.weight_decay, 0.0..1e3),
            ("weight_decay_last", adamw.weight_decay_last.unwrap_or(0.0), 0.0..1e3),
            ("layer_decay", adamw.layer_decay.unwrap_or(0.5), 1e-9..1.000_000_1),
        ];
        for (key, number, range) in numbers {
            if !range.contains(&number) {
                let [low, high] = [range.start, range.end];
                return refuse(&format!("optimiser.{key}"), format!("{number} lies outside {low} to {high}"));
            }
        }
        Ok(())
    }
}
