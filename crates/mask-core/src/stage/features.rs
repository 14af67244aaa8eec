//! `features`: what an encoder makes of every sample.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::shards::{SPLITS, Shape, split_name, write_rows};
use super::{Measured, Mention, Model, StageConfig, Workbench, origin};
use crate::data::Front;
use crate::hub::{self, Hosted};
use crate::method::{Encoder, Split, Want};
use crate::recipe::Value;
use crate::run::Session;
use crate::{Error, Named, Result};

/// Which rows a sample gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Rows {
    /// One of each position.
    Tokens,
    /// One: the mean of the positions.
    Mean,
}

/// Recipe keys of `features`. Exactly one of `from`, `run` and `hf` is given.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FeaturesConfig {
    /// The `train` stage whose encoder is asked.
    pub from: Option<String>,
    /// The run whose encoder is asked: its folder, or one of its checkpoints.
    pub run: Option<PathBuf>,
    /// The Hugging Face folder whose encoder is asked, of pictures or sounds normalised as it says.
    pub hf: Option<PathBuf>,
    /// The block whose output is taken, from 1; none = the output behind the final norm.
    pub layer: Option<usize>,
    /// Which rows a sample gives.
    pub rows: Rows,
}

impl Default for FeaturesConfig {
    fn default() -> Self {
        Self { from: None, run: None, hf: None, layer: None, rows: Rows::Tokens }
    }
}

/// Whoever is asked.
enum Asked {
    Ours(Box<Model>),
    Hosted(Box<dyn Hosted>),
}

impl Asked {
    fn encoder(&self) -> &dyn Encoder {
        match self {
            Self::Ours(model) => model.method.encoder(),
            Self::Hosted(hosted) => hosted.encoder(),
        }
    }

    fn front(&self, data: &Value, split: Split) -> Result<Box<dyn Front>> {
        match self {
            Self::Ours(model) => model.front(data, split),
            Self::Hosted(hosted) => hosted.front_over(data, split),
        }
    }
}

impl FeaturesConfig {
    fn open(&self, at: &Workbench<'_>) -> Result<Asked> {
        if let Some(name) = &self.from {
            return Ok(Asked::Ours(Box::new(at.input(name)?.model(at.device)?)));
        }
        if let Some(run) = &self.run {
            let (session, _) =
                Session::open_over([Split::Synthetic; 2], at.register, run, &Default::default(), at.device)?;
            return Ok(Asked::Ours(Box::new(Model { resolved: session.resolved, method: session.method })));
        }
        let hf = self.hf.as_ref().ok_or_else(|| Error::value("from", "names no stage"))?;
        Ok(Asked::Hosted(hub::open(at.register.families, hf, at.device)?))
    }
}

impl StageConfig for FeaturesConfig {
    const READS_DATA: bool = true;

    fn check(&self) -> Result<()> {
        let given = [self.from.is_some(), self.run.is_some(), self.hf.is_some()];
        if given.iter().filter(|given| **given).count() != 1 {
            let problem = "takes the stage whose encoder is asked; or run takes a folder, or hf does: one of the three";
            return Err(Error::value("from", problem));
        }
        if self.layer == Some(0) {
            return Err(Error::value("layer", "0 is no block: they are counted from 1"));
        }
        Ok(())
    }

    fn inputs(&self) -> Vec<Mention> {
        self.from.iter().map(|name| ("from".to_owned(), name.clone())).collect()
    }

    fn files(&self) -> Result<Vec<PathBuf>> {
        match (&self.run, &self.hf) {
            (Some(run), _) => origin::of_run(run),
            (None, Some(hf)) => origin::of_hf(hf),
            (None, None) => Ok(Vec::new()),
        }
    }

    fn make(&self, at: &Workbench<'_>) -> Result<Measured> {
        let model = self.open(at)?;
        let encoder = model.encoder();
        let layer = self.layer.unwrap_or_else(|| encoder.depth());
        if layer > encoder.depth() {
            return Err(Error::value("layer", format!("{layer} lies above the {} blocks", encoder.depth())));
        }
        let want = if self.layer.is_some() { Want { layers: vec![layer], attention_of: None } } else { Want::last() };
        let mut measured = Measured::new();
        for split in SPLITS {
            let front = model.front(at.data, split)?;
            let width = encoder.width() as usize;
            let shape = Shape::of(&*front, width, Named::new())?;
            write_rows(at, &*front, split, &shape, &mut |view, step| {
                let mut features = encoder.encode(view, None, &want, step)?;
                // The wanted layer comes first; the output follows where it is another one.
                features.layers.truncate(1);
                Ok(match self.rows {
                    Rows::Tokens => (vec![("values".to_owned(), features.tokens())], features.valid),
                    Rows::Mean => (vec![("values".to_owned(), features.pooled().unsqueeze(1))], None),
                })
            })?;
            measured.insert(format!("{}_samples", split_name(split)), shape.samples.into());
            measured.insert("numbers".to_owned(), width.into());
        }
        Ok(measured)
    }
}
