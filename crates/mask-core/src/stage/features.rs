//! `features`: what an encoder makes of every sample.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::shards::{SPLITS, Shape, split_name, write_rows};
use super::{Measured, Mention, Model, StageConfig, Workbench};
use crate::method::Want;
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

/// Recipe keys of `features`. Exactly one of `from` and `run` is given.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FeaturesConfig {
    /// The `train` stage whose encoder is asked.
    pub from: Option<String>,
    /// The run whose encoder is asked: its folder, or one of its checkpoints.
    pub run: Option<PathBuf>,
    /// The block whose output is taken, from 1; none = the output behind the final norm.
    pub layer: Option<usize>,
    /// Which rows a sample gives.
    pub rows: Rows,
}

impl Default for FeaturesConfig {
    fn default() -> Self {
        Self { from: None, run: None, layer: None, rows: Rows::Tokens }
    }
}

impl StageConfig for FeaturesConfig {
    const READS_DATA: bool = true;

    fn check(&self) -> Result<()> {
        if self.from.is_some() == self.run.is_some() {
            return Err(Error::value(
                "from",
                "takes a stage whose encoder is asked, or run takes a folder: one of both",
            ));
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
        let Some(run) = &self.run else { return Ok(Vec::new()) };
        if !run.is_dir() {
            return Ok(vec![run.clone()]);
        }
        let checkpoints = crate::train::Checkpoints::of(run);
        let last = checkpoints.steps()?.last().map(|step| checkpoints.path(*step));
        let last = last.ok_or_else(|| Error::file(run, "holds no checkpoint of a run"))?;
        Ok(vec![run.join("recipe.yaml"), last])
    }

    fn make(&self, at: &Workbench<'_>) -> Result<Measured> {
        let model = match (&self.from, &self.run) {
            (Some(name), _) => at.input(name)?.model(at.device)?,
            (None, Some(run)) => {
                let splits = [crate::Split::Synthetic; 2];
                let (session, _) = Session::open_over(splits, at.register, run, &Default::default(), at.device)?;
                Model { resolved: session.resolved, method: session.method }
            }
            (None, None) => return Err(Error::value("from", "names no stage")),
        };
        let encoder = model.method.encoder();
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
