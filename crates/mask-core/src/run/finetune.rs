//! Fine-tuning as a measure of an encoder.

use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::evaluate::{Score, top1};
use super::resolve::{Overrides, Resolved};
use super::session::Session;
use crate::data::{MixConfig, WorkLimits};
use crate::finetune::{HeadConfig, LabelsConfig};
use crate::nn::{Parameters, transfer};
use crate::recipe::{Mapping, Tree, Value, to_value};
use crate::schedule::RateConfig;
use crate::train::{AdamWConfig, BatchConfig, OptimiserConfig, TrainConfig, Trainer};
use crate::{Error, Result};

/// Recipe keys of fine-tuning at the end of a run, on the run's own data and augmentation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FinetuneConfig {
    /// Training.
    pub train: TrainConfig,
    /// The batch.
    pub batch: BatchConfig,
    /// Stochastic depth of the encoder's last block.
    pub drop_path: f64,
    /// Whether the encoder is changed as fine-tuning changes it: see the task's key of that name.
    pub adapt: bool,
    /// The map to classes.
    pub head: HeadConfig,
    /// Which training samples are used.
    pub labels: LabelsConfig,
    /// How samples are mixed.
    pub mix: MixConfig,
    /// Held-out samples, at most.
    pub test: u64,
}

impl Default for FinetuneConfig {
    /// A few hundred steps: for small models and few labels.
    fn default() -> Self {
        let adamw = AdamWConfig {
            rate: 1e-3,
            rate_per: None,
            betas: [0.9, 0.999],
            layer_decay: Some(0.75),
            ..AdamWConfig::default()
        };
        let train = TrainConfig {
            steps: 200,
            optimiser: OptimiserConfig::AdamW(adamw),
            schedule: RateConfig { warmup_steps: 20, ..RateConfig::default() },
            ..TrainConfig::default()
        };
        Self {
            train,
            batch: BatchConfig { size: 64, ..BatchConfig::default() },
            drop_path: 0.0,
            adapt: true,
            head: HeadConfig::default(),
            labels: LabelsConfig::default(),
            mix: MixConfig::default(),
            test: 5000,
        }
    }
}

impl FinetuneConfig {
    /// Checks the numbers.
    ///
    /// # Errors
    /// The first key that is out of range.
    pub fn check(&self) -> Result<()> {
        let below = |error: Error| match error {
            // These name the keys of a whole recipe.
            Error::Value { what, problem } => Error::value(what.trim_start_matches("data."), problem),
            other => other,
        };
        self.train.check()?;
        self.batch.check().map_err(below)?;
        if !(0.0..1.0).contains(&self.drop_path) {
            return Err(Error::value("drop_path", format!("{} is not a rate from 0 to 1 (excluded)", self.drop_path)));
        }
        self.head.check()?;
        self.labels.check()?;
        self.mix.check().map_err(|error| error.within("mix"))?;
        if self.test == 0 {
            return Err(Error::value("test", "0 is too small, it takes 1 or more"));
        }
        Ok(())
    }

    /// The whole recipe over the data, the encoder and the seed of a run; `classes` are those of its data.
    fn recipe(&self, run: &Resolved, classes: usize) -> Result<Resolved> {
        let task = run.register.tasks.first();
        let task = task.ok_or_else(|| Error::value("finetune", "is not there for this modality yet"))?;
        let mut encoder = run.config.method.get("encoder").cloned().unwrap_or(Value::Null);
        match encoder.get_mut("drop_path") {
            Some(rate) => *rate = self.drop_path.into(),
            None => return Err(Error::value("finetune", "the method has no encoder with drop_path")),
        }
        let mut data = run.data.clone();
        if let Some(batch) = data.get_mut("batch") {
            *batch = to_value(&self.batch)?;
        }
        let method: Mapping = [
            ("kind", Value::from(task.card.name)),
            ("encoder", encoder),
            ("adapt", self.adapt.into()),
            ("classes", (classes as u64).into()),
            ("head", to_value(&self.head)?),
            ("labels", to_value(&self.labels)?),
            ("mix", to_value(&self.mix)?),
        ]
        .map(|(key, value)| (Value::from(key), value))
        .into_iter()
        .collect();
        let recipe: Mapping = [
            ("seed", run.config.seed.into()),
            ("data", data),
            ("method", Value::Mapping(method)),
            ("train", to_value(&self.train)?),
            ("evaluate", Value::Sequence(Vec::new())),
        ]
        .map(|(key, value)| (Value::from(key), value))
        .into_iter()
        .collect();
        let tree = Tree::from_value(Value::Mapping(recipe), "evaluate.finetune");
        Resolved::of(&run.register, tree, &Overrides::default())
    }
}

/// Fine-tunes the encoder of a run, or, without `weights`, one that starts anew, and measures it. `folder` is used for
/// the training and emptied before.
///
/// # Errors
/// Data without classes, numbers that don't fit, a disk that refuses.
pub(super) fn finetuned(
    run: &Session,
    weights: Option<&Parameters>,
    config: &FinetuneConfig,
    folder: &Path,
    threads: usize,
) -> Result<Option<Score>> {
    let classes = run.train.classes().len();
    if classes == 0 || run.train.label(0).is_none() {
        return Ok(None);
    }
    let tuned = Session::build(config.recipe(&run.resolved, classes)?, run.device)?;
    if let Some(weights) = weights {
        let done = transfer(weights, &tuned.parameters, false)?;
        if let Some(name) = done.missing.iter().find(|name| name.starts_with("encoder.")) {
            return Err(Error::value(name, "is missing from the run's encoder, so it can't be fine-tuned"));
        }
    }
    if folder.exists() {
        std::fs::remove_dir_all(folder).map_err(Error::io(folder, "emptying the folder"))?;
    }
    std::fs::create_dir_all(folder).map_err(Error::io(folder, "making the folder"))?;
    let Session { resolved, train, held_out, method, parameters, device, .. } = tuned;
    let (seed, text) = (resolved.config.seed, resolved.text());
    // One checkpoint, at the end: a run that is cut short here begins its fine-tuning again.
    let keys = TrainConfig { checkpoint_every: config.train.steps, keep: 1, ..config.train.clone() };
    let limits = WorkLimits { threads, ahead: 2 };
    let mut trainer = Trainer::new(method, Rc::clone(&parameters), folder, keys, resolved.batch, seed, text, limits)?;
    trainer.train(Arc::clone(&train), None, &|_| false, &|_, _| Ok(Vec::new()))?;
    let score = top1(&*trainer.method, &*held_out, config.test, device)?;
    Ok(score.map(|score| Score { kind: "finetune", train: train.len() as usize, ..score }))
}
