//! `export`: a run as a Hugging Face folder.

use std::path::PathBuf;

use clap::Args;
use tch::Device;

use super::{Changes, say};
use crate::Result;
use crate::method::Split;
use crate::run::{Register, Session};

#[derive(Args)]
pub(super) struct Export {
    /// A run's folder, or one of its checkpoints
    run: PathBuf,
    /// The folder to write
    #[arg(long)]
    hf: PathBuf,
    /// Only the encoder, as the plain architecture that holds it
    #[arg(long)]
    encoder: bool,
}

impl Export {
    pub(super) fn run(self, register: &Register) -> Result<()> {
        // Nothing is read but the model, so the data need not be there.
        let splits = [Split::Synthetic, Split::Synthetic];
        let none = Changes::default().overrides();
        let (session, step) = Session::open_over(splits, register, &self.run, &none, Device::Cpu)?;
        let export = if self.encoder { session.method.encoder().export()? } else { session.method.export()? };
        let left = export.write(&self.hf, &session.parameters, session.train.processor().as_ref())?;
        let kind = export.config.get("model_type").and_then(serde_json::Value::as_str).unwrap_or_default();
        say(format_args!("{}: {kind}, the weights of step {step}", self.hf.display()));
        if !left.is_empty() {
            let list = if left.len() > 8 { format!("{}, ..", left[..8].join(", ")) } else { left.join(", ") };
            say(format_args!("{kind} has no place for {} of our parameters: {list}", left.len()));
        }
        Ok(())
    }
}
