//! Models of our own as Hugging Face folders.

use std::path::Path;

use serde_json::Value;

use super::{Folder, Names};
use crate::nn::Parameters;
use crate::{Error, Result};

/// A model as an architecture of `transformers`.
#[derive(Clone, Debug)]
pub struct Export {
    /// `config.json`.
    pub config: Value,
    /// Where our parameters stand there.
    pub names: Names,
}

/// Where the parameters of a classifier behind an encoder stand here.
#[derive(Clone, Debug)]
pub struct ClassHead {
    /// A norm of the mean of the tokens; none = the class token is read, behind the encoder's final norm.
    pub norm: Option<String>,
    /// The linear map.
    pub map: String,
    /// Classes.
    pub classes: i64,
}

impl Export {
    /// The error of a model that `transformers` has no architecture for.
    #[must_use]
    pub fn refuse(what: &str, problem: impl Into<String>) -> Error {
        Error::value(what, format!("{}, so transformers has no architecture for this model", problem.into()))
    }

    /// Writes the folder; gives the names of our parameters that have no place there.
    ///
    /// # Errors
    /// The folder holds a model already, or the disk refuses.
    pub fn write(&self, to: &Path, parameters: &Parameters, processor: Option<&Value>) -> Result<Vec<String>> {
        if to.join("config.json").exists() || to.join("model.safetensors").exists() {
            return Err(Error::file(to, "holds a model already; choose another folder with --hf"));
        }
        let weights = self.names.save(parameters)?;
        Folder::write(to, &self.config, &weights)?;
        if let Some(processor) = processor {
            Folder::write_processor(to, processor)?;
        }
        let placed: std::collections::BTreeSet<&str> = self.names.rows().map(|(ours, _)| ours).collect();
        Ok(parameters
            .named()
            .into_iter()
            .map(|(name, _)| name)
            .filter(|name| !placed.contains(name.as_str()))
            .collect())
    }
}
