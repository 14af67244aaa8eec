//! From a recipe's text, or a run's folder, to typed keys.

use std::path::Path;
use std::rc::Rc;

use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};
use tch::Device;

use super::evaluate::EvaluateConfig;
use crate::data::Front;
use crate::method::{Configured, MethodEntry, Site, Split};
use crate::nn::Parameters;
use crate::recipe::{Mapping, Tree, Value, kind_of, to_yaml};
use crate::stage::Artefacts;
use crate::train::{BatchConfig, TrainConfig};
use crate::{Error, Result};

/// What a modality crate registers.
#[derive(Clone, Copy)]
pub struct Register {
    /// The crate's name, `mask-image`.
    pub name: &'static str,
    /// One line about it.
    pub about: &'static str,
    /// Its methods.
    pub methods: &'static [MethodEntry],
    /// What its encoders are fine-tuned to: kinds of `method` that are no methods of the register.
    pub tasks: &'static [MethodEntry],
    /// Hugging Face model types that `forward`, `probe` and `embed` read.
    pub families: &'static [&'static dyn crate::hub::Family],
    /// The index of its golden folders, a line `folder: method` each.
    pub golden: &'static str,
    /// Where its recipes lie below `experiments`.
    pub modality: &'static str,
    /// What probes call samples in front of any model, for example `raw pixels`.
    pub raw: &'static str,
}

impl Register {
    /// The register's line of a method or a task.
    #[must_use]
    pub fn method(&self, name: &str) -> Option<&'static MethodEntry> {
        self.methods.iter().chain(self.tasks).find(|entry| entry.card.name == name)
    }
}

/// The outer keys of a recipe.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RecipeConfig {
    /// Keys all randomness.
    pub seed: u64,
    /// What is read; the modality's keys.
    pub data: Value,
    /// The method and its keys.
    pub method: Value,
    /// Training.
    pub train: TrainConfig,
    /// What is measured, on the way and at the end.
    pub evaluate: Vec<EvaluateConfig>,
}

/// The same keys without what is below them: a misspelt `method` is told before it is missed.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "only their names are looked at")]
struct OuterKeys {
    seed: Option<IgnoredAny>,
    data: Option<IgnoredAny>,
    method: Option<IgnoredAny>,
    train: Option<IgnoredAny>,
    evaluate: Option<IgnoredAny>,
}

/// What the command line changes.
#[derive(Clone, Debug, Default)]
pub struct Overrides {
    /// `--set key.path=value`.
    pub sets: Vec<String>,
    /// `--seed`.
    pub seed: Option<u64>,
    /// `--steps`.
    pub steps: Option<u64>,
}

/// A recipe with every key read.
pub struct Resolved {
    /// The outer keys.
    pub config: RecipeConfig,
    /// The register's line of the method.
    pub entry: &'static MethodEntry,
    /// The method's keys.
    pub method: Box<dyn Configured>,
    /// The data keys, with defaults.
    pub data: Value,
    /// The batch.
    pub batch: BatchConfig,
    /// All keys as one tree.
    pub value: Value,
    /// The register that it was read with.
    pub register: Register,
    /// What the stages made, once they were run or looked up.
    pub made: Artefacts,
    tree: Tree,
}

impl Resolved {
    /// Reads a recipe file, or the recipe of a run where `path` is its folder or its checkpoint.
    ///
    /// # Errors
    /// A recipe that can't be read; the error says where.
    pub fn read(register: &Register, path: &Path, overrides: &Overrides) -> Result<Self> {
        let tree = match path.is_dir() {
            true if path.join("recipe.yaml").is_file() => Tree::load(path.join("recipe.yaml"))?,
            true => return Err(Error::file(path, "is a folder without recipe.yaml: neither a recipe nor a run")),
            false => Tree::load(path)?,
        };
        Self::of(register, tree, overrides)
    }

    /// Reads a tree that was loaded.
    ///
    /// # Errors
    /// As [`Resolved::read`].
    pub fn of(register: &Register, mut tree: Tree, overrides: &Overrides) -> Result<Self> {
        for set in &overrides.sets {
            tree.set(set)?;
        }
        if let Some(seed) = overrides.seed {
            tree.set(&format!("seed={seed}"))?;
        }
        if let Some(steps) = overrides.steps {
            tree.set(&format!("train.steps={steps}"))?;
        }
        tree.typed::<OuterKeys>(&[])?;
        let names: Vec<&str> = register.methods.iter().chain(register.tasks).map(|entry| entry.card.name).collect();
        let kind = tree.read(&["method"], |value| kind_of(value, &names).map(str::to_owned))?;
        let entry = register.method(&kind).ok_or_else(|| Error::Defect(format!("{kind} left the register")))?;
        let (method_defaults, data_defaults) = (entry.defaults)()?;
        let evaluate = match register.tasks.iter().any(|task| task.card.name == kind) {
            true => EvaluateConfig::of_classes(),
            false => EvaluateConfig::usual(),
        };
        tree.over(defaults(&kind, method_defaults, data_defaults, &evaluate)?);
        // The outer keys first: a misspelt one stops before the method's are looked at.
        let mut config: RecipeConfig = tree.typed(&[])?;
        let method = (entry.read)(&tree)?;
        let data = (entry.read_data)(&tree)?;
        let batch: BatchConfig = tree.typed(&["data", "batch"])?;
        batch.check().map_err(|error| tree.place(error, ""))?;
        config.train.check().map_err(|error| tree.place(error, ""))?;
        for (index, evaluate) in config.evaluate.iter().enumerate() {
            evaluate.check().map_err(|error| tree.place(error.within(&format!("evaluate.{index}")), ""))?;
        }
        config.data.clone_from(&data);
        let mut method_value = Mapping::new();
        method_value.insert("kind".into(), kind.into());
        if let Value::Mapping(keys) = method.value()? {
            method_value.extend(keys);
        }
        config.method = Value::Mapping(method_value);
        let value = serde_yaml::to_value(&config).map_err(|error| Error::Defect(error.to_string()))?;
        Ok(Self { config, entry, method, data, batch, value, register: *register, made: Artefacts::none(), tree })
    }

    /// The loader's half of the method over a part of the data.
    ///
    /// # Errors
    /// Data that can't be read or that doesn't fit the model.
    pub fn front(&self, split: Split) -> Result<Box<dyn Front>> {
        let site = Site { data: &self.data, split, made: &self.made };
        self.method.front(&site).map_err(|error| self.place(error, ""))
    }

    /// No parameter yet, with the recipe's seed and what its stages made: where the method is built.
    #[must_use]
    pub fn parameters(&self, device: Device) -> Rc<Parameters> {
        Parameters::over(device, self.config.seed, self.made.clone())
    }

    /// The resolved recipe as text.
    #[must_use]
    pub fn text(&self) -> String {
        to_yaml(&self.value)
    }

    /// Gives an error of a part's `build` its place in the recipe.
    #[must_use]
    pub fn place(&self, error: Error, prefix: &str) -> Error {
        self.tree.place(error, prefix)
    }
}

/// The tree below every recipe.
fn defaults(kind: &str, method: Value, data: Value, evaluate: &[EvaluateConfig]) -> Result<Value> {
    let value = |v: std::result::Result<Value, serde_yaml::Error>| v.map_err(|e| Error::Defect(e.to_string()));
    let mut tree = Mapping::new();
    tree.insert("seed".into(), 0.into());
    tree.insert("data".into(), data);
    let mut named = Mapping::from_iter([("kind".into(), kind.into())]);
    named.extend(method.as_mapping().cloned().unwrap_or_default());
    tree.insert("method".into(), named.into());
    tree.insert("train".into(), value(serde_yaml::to_value(TrainConfig::default()))?);
    tree.insert("evaluate".into(), value(serde_yaml::to_value(evaluate))?);
    Ok(Value::Mapping(tree))
}
