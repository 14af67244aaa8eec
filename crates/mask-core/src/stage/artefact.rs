//! What stages made, and where it lies.

use std::path::PathBuf;

use crate::{Error, Named, Result};

/// What a stage made: a folder of files, and the key that says what they hang on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Artefact {
    /// The stage's kind.
    pub kind: String,
    /// 64 hexadecimal digits: the same key, the same content.
    pub key: String,
    /// Where its files lie.
    pub folder: PathBuf,
}

/// What the stages of a recipe made, by the names that they have there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
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
    /// The recipe has no stage of that name, or what it makes isn't there.
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
}
