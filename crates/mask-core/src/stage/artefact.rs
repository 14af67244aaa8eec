//! What stages made, and where it lies.

use std::fmt;
use std::path::{Path, PathBuf};

use tch::Device;

use super::Measured;
use crate::data::Front;
use crate::method::{Method, Split};
use crate::recipe::{Tree, Value};
use crate::run::{Overrides, Register, Resolved};
use crate::train::Checkpoints;
use crate::{Error, Named, Result};

/// How far an artefact is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// It lies in its folder, and its bytes are those that were written.
    Made,
    /// It isn't there, and needn't be: weights are untrained and ids are noise. For dry runs, laws and benchmarks.
    Imagined,
    /// It isn't there. A model that only encodes does without it.
    Missing,
}

/// A model's recipe, and what reads it.
#[derive(Clone)]
pub(super) struct Opener {
    pub register: Register,
    pub recipe: Value,
}

/// What a stage made: a folder of files, and the key that says what they hang on.
#[derive(Clone)]
pub struct Artefact {
    /// The stage's kind.
    pub kind: String,
    /// 64 hexadecimal digits: the same key, the same content. Empty where it is imagined.
    pub key: String,
    /// Where its files lie.
    pub folder: PathBuf,
    /// How far it is.
    pub state: State,
    /// What was measured of it.
    pub measured: Measured,
    pub(super) opener: Option<Opener>,
}

impl fmt::Debug for Artefact {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kind, key, folder, state, .. } = self;
        f.debug_struct("Artefact")
            .field("kind", kind)
            .field("key", key)
            .field("folder", folder)
            .field("state", state)
            .finish_non_exhaustive()
    }
}

/// A model that a stage trained.
pub struct Model {
    /// Its recipe.
    pub resolved: Resolved,
    /// The model itself. Ask it without gradient only.
    pub method: Box<dyn Method>,
}

impl Model {
    /// Samples as its method reads them.
    ///
    /// # Errors
    /// Data that can't be read or don't fit.
    pub fn front(&self, data: &Value, split: Split) -> Result<Box<dyn Front>> {
        self.resolved.front_over(data, split)
    }
}

impl Artefact {
    /// The file of that name in its folder.
    ///
    /// # Errors
    /// The artefact isn't made.
    pub fn file(&self, name: &str) -> Result<PathBuf> {
        match self.state {
            State::Made => Ok(self.folder.join(name)),
            State::Imagined | State::Missing => Err(self.absent()),
        }
    }

    /// The error that it isn't there.
    #[must_use]
    pub fn absent(&self) -> Error {
        let problem = "isn't there, and this needs it: `pretrain` of the run's recipe makes it again";
        Error::file(&self.folder, format!("the artefact {problem}"))
    }

    /// The model that a stage trained; an untrained one where it is imagined.
    ///
    /// # Errors
    /// The stage made no model, or it is missing.
    pub fn model(&self, device: Device) -> Result<Model> {
        let opener = self.opener.as_ref();
        let opener = opener.ok_or_else(|| Error::value("stages", format!("a stage '{}' makes no model", self.kind)))?;
        let label = format!("the recipe of {}", self.folder.display());
        let tree = Tree::from_value(opener.recipe.clone(), label);
        let mut resolved = Resolved::of(&opener.register, tree, &Overrides::default())?;
        resolved.made = super::imagine(&resolved.stages, &opener.register)?;
        let parameters = resolved.parameters(device);
        let method = resolved.method.build_at(&parameters.root().frozen())?;
        match self.state {
            State::Imagined => {}
            State::Made => parameters.load(&Checkpoints::of(&self.folder).last()?.model, true)?,
            State::Missing => return Err(self.absent()),
        }
        Ok(Model { resolved, method })
    }
}

/// What the stages of a recipe made, by the names that they have there.
#[derive(Clone, Debug, Default)]
pub struct Artefacts {
    by_name: Named<Artefact>,
}

impl Artefacts {
    /// None: for recipes without stages.
    #[must_use]
    pub const fn none() -> Self {
        Self { by_name: Named::new() }
    }

    /// The artefact of a stage.
    ///
    /// # Errors
    /// The recipe has no stage of that name.
    pub fn get(&self, name: &str) -> Result<&Artefact> {
        self.by_name.get(name).ok_or_else(|| {
            let there: Vec<&str> = self.by_name.keys().map(String::as_str).collect();
            let there = if there.is_empty() { "none".to_owned() } else { there.join(", ") };
            Error::value("stages", format!("'{name}' has made nothing that could be used; there is {there}"))
        })
    }

    /// Adds what a stage made.
    pub fn insert(&mut self, name: impl Into<String>, artefact: Artefact) {
        self.by_name.insert(name.into(), artefact);
    }

    /// Names and artefacts, in the order of names.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Artefact)> {
        self.by_name.iter().map(|(name, artefact)| (name.as_str(), artefact))
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.by_name.is_empty()
    }
}

/// The folder's name of a key.
#[must_use]
pub fn folder_name(kind: &str, key: &str) -> PathBuf {
    Path::new(&format!("{kind}-{}", key.get(..16).unwrap_or(key))).to_owned()
}
