//! From a recipe's text, or a run's folder, to typed keys.

use std::path::Path;
use std::rc::Rc;

use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};
use tch::Device;

use super::evaluate::{EvaluateConfig, HeldOutConfig};
use super::init::InitConfig;
use crate::data::Front;
use crate::method::{Configured, MethodEntry, Site, Split};
use crate::nn::Parameters;
use crate::recipe::{Mapping, Tree, Value, kind_of, to_yaml};
use crate::stage::{self, Artefacts, Mention, StageEntry, Stages};
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
    /// Its tokenizers: trained like methods, most often by a stage of another recipe.
    pub tokenizers: &'static [MethodEntry],
    /// Its own kinds of stages.
    pub stages: &'static [StageEntry],
    /// Hugging Face model types that `forward`, `probe` and `embed` read.
    pub families: &'static [&'static dyn crate::hub::Family],
    /// Layouts of official checkpoints that `convert` reads.
    pub layouts: &'static [&'static dyn crate::hub::Layout],
    /// The index of its golden folders, a line `folder: method` each.
    pub golden: &'static str,
    /// Where its recipes lie below `experiments`.
    pub modality: &'static str,
    /// What probes call samples in front of any model, for example `raw pixels`.
    pub raw: &'static str,
}

impl Register {
    /// A register that names its crate and holds nothing: what a crate fills in.
    #[must_use]
    pub const fn empty(name: &'static str, about: &'static str, modality: &'static str, raw: &'static str) -> Self {
        Self {
            name,
            about,
            modality,
            raw,
            methods: &[],
            tasks: &[],
            tokenizers: &[],
            stages: &[],
            families: &[],
            layouts: &[],
            golden: "",
        }
    }

    /// Opens a Hugging Face folder by the crate's families; what a user should know of it is logged.
    ///
    /// # Errors
    /// As [`crate::hub::open`].
    pub fn open_hosted(&self, folder: &Path, device: Device) -> Result<Box<dyn crate::hub::Hosted>> {
        let hosted = crate::hub::open(self.families, folder, device)?;
        for note in hosted.notes() {
            tracing::info!("{}: {note}", folder.display());
        }
        Ok(hosted)
    }

    /// Every kind of `method` that a recipe may have.
    fn all(&self) -> impl Iterator<Item = &'static MethodEntry> {
        self.methods.iter().chain(self.tasks).chain(self.tokenizers)
    }

    /// The register's line of a method, a task or a tokenizer.
    #[must_use]
    pub fn method(&self, name: &str) -> Option<&'static MethodEntry> {
        self.all().find(|entry| entry.card.name == name)
    }
}

/// The outer keys of a recipe.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RecipeConfig {
    /// Keys all randomness.
    pub seed: u64,
    /// Where the first weights come from; null = drawn anew.
    pub init: Option<InitConfig>,
    /// What is made before, by names; see [`crate::stage`].
    pub stages: Value,
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
    init: Option<IgnoredAny>,
    stages: Option<IgnoredAny>,
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
    /// The stages.
    pub stages: Stages,
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
        Self::keys(register, tree, None)
    }

    /// Reads the recipe of a stage, whose data are by default those of the recipe around it. Its stages stand there,
    /// too: names of stages are left for the recipe around to look up.
    ///
    /// # Errors
    /// As [`Resolved::read`].
    pub fn inside(register: &Register, mut tree: Tree, data: &Value) -> Result<Self> {
        if tree.value(&["stages"]).is_some() {
            return Err(tree.refuse("stages", "stages stand at the top of a recipe, where each can use all others"));
        }
        // Probes of a model that only serves are asked for, held-out loss aside.
        let held_out = EvaluateConfig::HeldOut(HeldOutConfig { every: 0, ..HeldOutConfig::default() });
        let held_out = serde_yaml::to_value([held_out]).map_err(|error| Error::Defect(error.to_string()))?;
        tree.over(Mapping::from_iter([("data".into(), data.clone()), ("evaluate".into(), held_out)]).into());
        Self::keys(register, tree, Some(()))
    }

    fn keys(register: &Register, mut tree: Tree, inside: Option<()>) -> Result<Self> {
        tree.typed::<OuterKeys>(&[])?;
        let names: Vec<&str> = register.all().map(|entry| entry.card.name).collect();
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
        if let Some(init) = &mut config.init {
            init.check().map_err(|error| tree.place(error, ""))?;
            init.strict = Some(init.strict.unwrap_or(false));
        }
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
        let mentions = mentions(&*method, entry, &data)?;
        let stages = match inside {
            Some(()) => Stages::default(),
            None => Stages::read(register, &tree, entry, &data, &mentions)?,
        };
        config.stages = stages.value()?;
        let value = serde_yaml::to_value(&config).map_err(|error| Error::Defect(error.to_string()))?;
        Ok(Self {
            config,
            entry,
            method,
            data,
            batch,
            value,
            register: *register,
            stages,
            made: Artefacts::none(),
            tree,
        })
    }

    /// The loader's half of the method over a part of the data.
    ///
    /// # Errors
    /// Data that can't be read or that doesn't fit the model.
    pub fn front(&self, split: Split) -> Result<Box<dyn Front>> {
        self.front_over(&self.data, split).map_err(|error| self.place(error, ""))
    }

    /// As [`Resolved::front`], over other data keys.
    ///
    /// # Errors
    /// As there.
    pub fn front_over(&self, data: &Value, split: Split) -> Result<Box<dyn Front>> {
        self.method.front(&Site { data, split, made: &self.made })
    }

    /// Keys of method and data that name stages.
    #[must_use]
    pub fn mentions(&self) -> Vec<Mention> {
        mentions(&*self.method, self.entry, &self.data).unwrap_or_default()
    }

    /// Builds model and data once over artefacts that needn't be there: what can be wrong with a recipe is found before
    /// its stages are made.
    ///
    /// # Errors
    /// Data that can't be read, numbers that don't fit together.
    pub fn rehearse(&mut self) -> Result<()> {
        let made = std::mem::replace(&mut self.made, stage::imagine(&self.stages, &self.register)?);
        let splits = [Split::Train, Split::HeldOut];
        let tried = splits.iter().try_for_each(|split| self.front(*split).map(|_| ())).and_then(|()| {
            let built = self.method.build(&self.parameters(Device::Cpu));
            built.map(|_| ()).map_err(|error| self.place(error, ""))
        });
        self.made = made;
        tried
    }

    /// No parameter yet, with the recipe's seed and what its stages made: where the method is built.
    #[must_use]
    pub fn parameters(&self, device: Device) -> Rc<Parameters> {
        Parameters::over(device, self.config.seed, self.made.clone())
    }

    /// Whether it fine-tunes an encoder rather than pre-trains one.
    #[must_use]
    pub fn is_task(&self) -> bool {
        self.register.tasks.iter().any(|task| task.card.name == self.entry.card.name)
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

/// Keys of method and data that name stages, by their paths in the recipe.
fn mentions(method: &dyn Configured, entry: &MethodEntry, data: &Value) -> Result<Vec<Mention>> {
    let below = |part: &str, mentions: Vec<Mention>| -> Vec<Mention> {
        mentions.into_iter().map(|(path, name)| (format!("{part}.{path}"), name)).collect()
    };
    Ok([below("method", method.stages()), below("data", (entry.data_stages)(data)?)].concat())
}

/// The tree below every recipe.
fn defaults(kind: &str, method: Value, data: Value, evaluate: &[EvaluateConfig]) -> Result<Value> {
    let value = |v: std::result::Result<Value, serde_yaml::Error>| v.map_err(|e| Error::Defect(e.to_string()));
    let mut tree = Mapping::new();
    tree.insert("seed".into(), 0.into());
    tree.insert("init".into(), Value::Null);
    tree.insert("stages".into(), Value::Mapping(Mapping::new()));
    tree.insert("data".into(), data);
    let mut named = Mapping::from_iter([("kind".into(), kind.into())]);
    named.extend(method.as_mapping().cloned().unwrap_or_default());
    tree.insert("method".into(), named.into());
    tree.insert("train".into(), value(serde_yaml::to_value(TrainConfig::default()))?);
    tree.insert("evaluate".into(), value(serde_yaml::to_value(evaluate))?);
    Ok(Value::Mapping(tree))
}
