//! `finetune`: a recipe whose encoder and first weights come from a run or a Hugging Face folder.

use std::path::PathBuf;

use clap::Args;

use super::Training;
use crate::recipe::{Mapping, Tree, Value, to_value};
use crate::run::{InitConfig, Overrides, Register, Resolved, Session};
use crate::{Error, Result};

#[derive(Args)]
pub(super) struct Finetune {
    /// A run's folder, or one of its checkpoints
    #[arg(required_unless_present = "hf")]
    run: Option<PathBuf>,
    /// A recipe of kind classify, whose encoder may be left out
    #[arg(required = true)]
    recipe: PathBuf,
    /// A Hugging Face folder instead of a run
    #[arg(long, conflicts_with = "run")]
    hf: Option<PathBuf>,
    #[command(flatten)]
    training: Training,
}

impl Finetune {
    pub(super) fn run(self, register: &Register) -> Result<()> {
        let Self { run, recipe, hf, training } = self;
        let init = InitConfig { run, hf, strict: None };
        let encoder = encoder(register, &init)?;
        let resolve = |overrides: &Overrides| resolve(register, &recipe, &init, &encoder, overrides);
        training.run(register, &recipe, &resolve)
    }
}

/// The keys of the encoder of a run or a Hugging Face folder.
fn encoder(register: &Register, from: &InitConfig) -> Result<Value> {
    match (&from.run, &from.hf) {
        (Some(run), _) => {
            let resolved = Session::recipe_of(register, run)?;
            let encoder = resolved.config.method.get("encoder").cloned();
            encoder.ok_or_else(|| Error::file(run, "is a run whose method has no encoder to fine-tune"))
        }
        (None, Some(hf)) => register.open_hosted(hf, tch::Device::Cpu)?.recipe(),
        (None, None) => Err(Error::value("finetune", "takes a run or --hf")),
    }
}

/// The recipe over what it is fine-tuned from: whatever it says itself counts.
fn resolve(
    register: &Register,
    recipe: &std::path::Path,
    init: &InitConfig,
    encoder: &Value,
    overrides: &Overrides,
) -> Result<Resolved> {
    let task = register.tasks.first().map(|task| task.card.name);
    let task = task.ok_or_else(|| Error::value("finetune", "there is no task to fine-tune to in this modality yet"))?;
    let mut tree = Tree::load(recipe)?;
    let method = Mapping::from_iter([("kind".into(), task.into()), ("encoder".into(), encoder.clone())]);
    let below = [("init".into(), to_value(init)?), ("method".into(), Value::Mapping(method))];
    tree.over(Value::Mapping(Mapping::from_iter(below)));
    let resolved = Resolved::of(register, tree, overrides)?;
    let kind = resolved.entry.card.name;
    if !register.tasks.iter().any(|task| task.card.name == kind) {
        let problem = format!("is a recipe of kind {kind}; finetune takes one of kind {task}");
        return Err(Error::file(recipe, problem));
    }
    Ok(resolved)
}
