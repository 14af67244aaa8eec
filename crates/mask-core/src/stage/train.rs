//! `train`: a model trained by a recipe of its own, in the artefact's folder.

use std::path::PathBuf;

use super::entry::with_kind;
use super::{Measured, Mention, Reading, Stage, Workbench, origin};
use crate::recipe::{Tree, Value};
use crate::run::{Overrides, Resolved, train_in};
use crate::train::TrainConfig;
use crate::{Error, Result};

/// A recipe inside a recipe: its keys are those of a recipe, its data those of the recipe around it where it gives none.
pub struct TrainStage {
    resolved: Resolved,
}

/// Reads the keys of a `train` stage.
pub(super) fn read(from: &Reading<'_>) -> Result<Box<dyn Stage>> {
    let resolved = Resolved::inside(from.register, from.tree.clone(), from.data)?;
    Ok(Box::new(TrainStage { resolved }))
}

impl Stage for TrainStage {
    fn kind(&self) -> &'static str {
        "train"
    }

    fn inputs(&self) -> Vec<Mention> {
        self.resolved.mentions()
    }

    fn value(&self) -> Result<Value> {
        let mut value = with_kind(self.kind(), self.resolved.value.clone());
        if let Value::Mapping(keys) = &mut value {
            keys.shift_remove("stages");
        }
        Ok(value)
    }

    fn identity(&self) -> Result<Value> {
        let mut value = self.value()?;
        let Value::Mapping(keys) = &mut value else { return Ok(value) };
        // What is measured on the way, and when it is written, changes no weight.
        keys.shift_remove("evaluate");
        if let Some(Value::Mapping(train)) = keys.get_mut("train") {
            for key in TrainConfig::FREE.iter().filter_map(|key| key.strip_prefix("train.")) {
                train.shift_remove(key);
            }
        }
        Ok(value)
    }

    fn data(&self) -> Option<&Value> {
        Some(&self.resolved.data)
    }

    fn files(&self) -> Result<Vec<PathBuf>> {
        let mut files = (self.resolved.entry.files)(&self.resolved.data)?;
        if let Some(init) = &self.resolved.config.init {
            files.extend(init.run.as_deref().map(origin::of_run).transpose()?.into_iter().flatten());
            files.extend(init.hf.as_deref().map(origin::of_hf).transpose()?.into_iter().flatten());
        }
        Ok(files)
    }

    fn model(&self) -> Option<&Resolved> {
        Some(&self.resolved)
    }

    fn make(&self, at: &Workbench<'_>) -> Result<Measured> {
        let recipe = at.recipe.clone().ok_or_else(|| Error::Defect("a model without a recipe".to_owned()))?;
        let tree = Tree::from_value(recipe, format!("stage {}", at.name));
        let mut resolved = Resolved::of(at.register, tree, &Overrides::default())?;
        resolved.made = at.made.clone();
        let done = train_in(resolved, at.folder, at.device, at.threads)?;
        let mut measured = Measured::new();
        measured.insert("steps".to_owned(), done.trained.step.into());
        let rows = std::fs::read_to_string(at.folder.join("metrics.jsonl"))
            .map_err(Error::io(at.folder.join("metrics.jsonl"), "reading"))?;
        for row in rows.lines().filter_map(|row| serde_json::from_str::<Measured>(row).ok()) {
            let told = |name: &str| !["step", "rate", "grad_norm", "masked"].contains(&name);
            // The last row that has a number is what the finished model has.
            measured.extend(row.into_iter().filter(|(name, value)| told(name) && value.is_number()));
        }
        Ok(measured)
    }
}
