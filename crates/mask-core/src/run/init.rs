//! Where a model's first weights come from: a Hugging Face folder, or a run.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use tch::Device;

use super::{Overrides, Register, Session};
use crate::method::Split;
use crate::nn::{Transferred, transfer};
use crate::{Error, Result};

/// Recipe keys of `init`: one of `hf` and `run`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InitConfig {
    /// A Hugging Face folder.
    pub hf: Option<PathBuf>,
    /// A run's folder, or one of its checkpoints.
    pub run: Option<PathBuf>,
    /// Whether every parameter has to be there; null = no.
    pub strict: Option<bool>,
}

impl InitConfig {
    /// Checks the keys.
    ///
    /// # Errors
    /// None or both of `hf` and `run` are given.
    pub fn check(&self) -> Result<()> {
        if self.hf.is_some() == self.run.is_some() {
            return Err(Error::value("init", "takes one of hf, a Hugging Face folder, and run, the folder of a run"));
        }
        Ok(())
    }
}

impl Session {
    /// Fills the model as the recipe's `init` says; nothing where it says nothing.
    ///
    /// # Errors
    /// A folder or run that can't be read, or weights that don't fit.
    pub fn init(&mut self, register: &Register) -> Result<Option<Transferred>> {
        let Some(config) = self.resolved.config.init.clone() else { return Ok(None) };
        let strict = config.strict.unwrap_or(false);
        let (from, key, done) = match (&config.hf, &config.run) {
            (Some(hf), _) => {
                let hosted = register.open_hosted(hf, Device::Cpu)?;
                (hf, "init.hf", transfer(hosted.parameters(), &self.parameters, strict))
            }
            (None, Some(run)) => {
                // Nothing is read but the model, so that run's data need not be there.
                let splits = [Split::Synthetic, Split::Synthetic];
                let (other, _) = Self::open_over(splits, register, run, &Overrides::default(), Device::Cpu)?;
                (run, "init.run", transfer(&other.parameters, &self.parameters, strict))
            }
            (None, None) => return Ok(None),
        };
        let done = done.map_err(|error| match error {
            Error::Value { what, problem } => {
                self.resolved.place(Error::value(key, format!("{}: {what}: {problem}", from.display())), "")
            }
            other => other,
        })?;
        self.method.begin();
        tracing::info!("init from {}: {done}", from.display());
        Ok(Some(done))
    }
}
