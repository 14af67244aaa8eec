//! What a kind of stage is: keys, inputs, and how it makes what it makes.

use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;
use tch::Device;

use super::{Artefact, Artefacts};
use crate::data::DataConfig;
use crate::method::MethodEntry;
use crate::recipe::{Mapping, Tree, Value, typed_over};
use crate::run::{Register, Resolved};
use crate::{Error, Result};

/// What a stage measured of what it made, for `artefact.json` and the log.
pub type Measured = serde_json::Map<String, serde_json::Value>;

/// A key that holds the name of a stage: the key's path below its part, and the name.
pub type Mention = (String, String);

/// The recipe keys of a kind of stage. One word in `stages!` registers it.
pub trait StageConfig: Serialize + DeserializeOwned + Default + 'static {
    /// Whether it reads samples: the recipe's data then belong to what it hangs on.
    const READS_DATA: bool;

    /// Checks the numbers.
    ///
    /// # Errors
    /// The first key that is out of range.
    fn check(&self) -> Result<()> {
        Ok(())
    }

    /// The stages that it stands on.
    fn inputs(&self) -> Vec<Mention>;

    /// Files besides the data and the inputs that it reads, such as those of a run.
    ///
    /// # Errors
    /// They can't be found.
    fn files(&self) -> Result<Vec<PathBuf>> {
        Ok(Vec::new())
    }

    /// Makes everything that belongs to it in the workbench's folder. Called again after an interruption, it goes on
    /// with what lies there.
    ///
    /// # Errors
    /// What a user can mend, in one line.
    fn make(&self, at: &Workbench<'_>) -> Result<Measured>;
}

/// A stage with its keys read, its type forgotten.
pub trait Stage {
    /// Its kind.
    fn kind(&self) -> &'static str;

    /// The stages that it stands on.
    fn inputs(&self) -> Vec<Mention>;

    /// All keys, resolved, `kind` first.
    ///
    /// # Errors
    /// A value that YAML can't hold.
    fn value(&self) -> Result<Value>;

    /// What it makes hangs on these keys; the names of its inputs stand there, too, and are left aside.
    ///
    /// # Errors
    /// As [`Stage::value`].
    fn identity(&self) -> Result<Value> {
        self.value()
    }

    /// The data keys that it reads, if it reads samples.
    fn data(&self) -> Option<&Value>;

    /// The files that it reads.
    ///
    /// # Errors
    /// They can't be found.
    fn files(&self) -> Result<Vec<PathBuf>>;

    /// The model that it makes, where it makes one.
    fn model(&self) -> Option<&Resolved> {
        None
    }

    /// See [`StageConfig::make`].
    ///
    /// # Errors
    /// As there.
    fn make(&self, at: &Workbench<'_>) -> Result<Measured>;
}

/// Where a stage works.
pub struct Workbench<'a> {
    /// The stage's name in the recipe, for the log.
    pub name: &'a str,
    /// What the crate registers.
    pub register: &'a Register,
    /// The folder to fill.
    pub folder: &'a Path,
    /// What its inputs made.
    pub made: &'a Artefacts,
    /// The recipe's data keys, resolved.
    pub data: &'a Value,
    /// The whole recipe of the model that it makes, where it makes one.
    pub recipe: Option<Value>,
    /// The device.
    pub device: Device,
    /// Threads of the loader.
    pub threads: usize,
}

impl Workbench<'_> {
    /// What an input made.
    ///
    /// # Errors
    /// It isn't there.
    pub fn input(&self, name: &str) -> Result<&Artefact> {
        self.made.get(name)
    }

    /// The recipe's data keys, typed.
    ///
    /// # Errors
    /// They are of another modality.
    pub fn data_keys<D: DataConfig>(&self) -> Result<D> {
        serde_yaml::from_value(self.data.clone()).map_err(|error| Error::value("data", error.to_string()))
    }
}

/// What the keys of a stage are read from.
pub struct Reading<'a> {
    /// What the crate registers.
    pub register: &'a Register,
    /// The stage's own keys, without `kind`.
    pub tree: Tree,
    /// The recipe's data keys, resolved, and the method whose keys they are.
    pub data: &'a Value,
    /// The line of the recipe's method.
    pub entry: &'static MethodEntry,
}

/// A line of the register of stages.
#[derive(Clone, Copy)]
pub struct StageEntry {
    /// The word in recipes.
    pub kind: &'static str,
    /// What it makes, in one line.
    pub about: &'static str,
    /// Reads its keys.
    pub read: fn(&Reading<'_>) -> Result<Box<dyn Stage>>,
}

/// Registers kinds of stages: `stages! { patches: PatchesConfig = "the numbers of every patch" }`.
#[macro_export]
macro_rules! stages {
    ($($kind:ident : $config:ty = $about:literal),+ $(,)?) => {
        &[$($crate::stage::StageEntry {
            kind: stringify!($kind),
            about: $about,
            read: |from| $crate::stage::read_plain::<$config>(stringify!($kind), from),
        }),+]
    };
}

/// Reads a stage whose keys are a plain struct, for [`stages!`](crate::stages).
///
/// # Errors
/// Keys that don't fit, with their place.
#[doc(hidden)]
pub fn read_plain<C: StageConfig>(kind: &'static str, from: &Reading<'_>) -> Result<Box<dyn Stage>> {
    let config = from.tree.read(&[], typed_over::<C>)?;
    config.check().map_err(|error| from.tree.place(error, ""))?;
    let data = C::READS_DATA.then(|| from.data.clone());
    Ok(Box::new(Plain { kind, config, data, entry: from.entry }))
}

struct Plain<C> {
    kind: &'static str,
    config: C,
    data: Option<Value>,
    entry: &'static MethodEntry,
}

/// A mapping with its kind in front.
pub(super) fn with_kind(kind: &str, value: Value) -> Value {
    let mut whole = Mapping::from_iter([("kind".into(), kind.into())]);
    whole.extend(value.as_mapping().cloned().unwrap_or_default());
    Value::Mapping(whole)
}

impl<C: StageConfig> Stage for Plain<C> {
    fn kind(&self) -> &'static str {
        self.kind
    }

    fn inputs(&self) -> Vec<Mention> {
        self.config.inputs()
    }

    fn value(&self) -> Result<Value> {
        let keys = serde_yaml::to_value(&self.config).map_err(|error| Error::Defect(error.to_string()))?;
        Ok(with_kind(self.kind, keys))
    }

    fn identity(&self) -> Result<Value> {
        let mut value = self.value()?;
        if let (Some(data), Value::Mapping(keys)) = (&self.data, &mut value) {
            // Samples are read as in evaluation, so what acts on training alone changes nothing.
            keys.insert("data".into(), (self.entry.still)(data)?);
        }
        Ok(value)
    }

    fn data(&self) -> Option<&Value> {
        self.data.as_ref()
    }

    fn files(&self) -> Result<Vec<PathBuf>> {
        let mut files = self.config.files()?;
        if let Some(data) = &self.data {
            files.extend((self.entry.files)(data)?);
        }
        Ok(files)
    }

    fn make(&self, at: &Workbench<'_>) -> Result<Measured> {
        self.config.make(at)
    }
}
