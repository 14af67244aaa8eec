//! `list`: what there is, and how far it got. States are derived from files, never typed in.

use std::path::{Path, PathBuf};

use serde::Serialize;
use serde_json::{Map, Value};

use super::{say, say_json};
use crate::method::Card;
use crate::run::Register;
use crate::sampler::SamplerConfig;
use crate::stage::KINDS;
use crate::table::{self, Scale, Table, Verdict};
use crate::{Named, Result};

#[derive(Serialize)]
struct State {
    golden: bool,
    trained: bool,
    claim: Verdict,
}

#[derive(Serialize)]
struct Line<'a> {
    name: &'a str,
    title: &'a str,
    arxiv: Option<&'a str>,
    ledger: &'a [u32],
    recipes: Vec<PathBuf>,
    state: State,
    claims: Map<String, Value>,
}

/// What the tables of a method found: its main claim's verdict, and all claims by `table: claim` in their order.
#[derive(Default)]
struct Found {
    trained: bool,
    claim: Option<Verdict>,
    claims: Map<String, Value>,
}

/// Reads all tables of a modality, and gives what they say of each method.
fn found(register: &Register) -> Result<Named<Found>> {
    let mut methods = Named::<Found>::new();
    for name in table::tables(register) {
        let file = Table::read(register, &table::find(register, &name)?)?;
        let results = table::results(register, &name, Scale::Mini)?;
        let found = methods.entry(file.config.method.clone()).or_default();
        found.trained |= results.is_some();
        for claim in &file.config.claims {
            let known = results.iter().flat_map(|results| &results.claims).find(|known| known.name == claim.name);
            let verdict = known.map_or(Verdict::Untested, |known| known.verdict);
            found.claim.get_or_insert(verdict);
            found.claims.insert(format!("{name}: {}", claim.name), verdict.word().into());
        }
    }
    Ok(methods)
}

/// Recipes of a method: `<name>.yaml`, `<name>.paper.yaml` and their like.
fn recipes(folder: &Path, name: &str) -> Vec<PathBuf> {
    let fits =
        |file: &str| file.strip_prefix(name).is_some_and(|rest| rest.starts_with('.') && rest.ends_with(".yaml"));
    let mut found: Vec<PathBuf> = std::fs::read_dir(folder)
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok().map(|entry| entry.path()))
        .filter(|path| path.file_name().and_then(|name| name.to_str()).is_some_and(fits))
        .collect();
    found.sort();
    found
}

fn line<'a>(register: &Register, card: &'a Card, found: Found) -> Line<'a> {
    let folder = Path::new("experiments").join(register.modality);
    // The index of golden folders has a line `folder: method`.
    let golden = register.golden.lines().filter_map(|line| line.split_once(':')).any(|(_, m)| m.trim() == card.name);
    Line {
        name: card.name,
        title: card.title,
        arxiv: card.arxiv,
        ledger: card.ledger,
        recipes: recipes(&folder, card.name),
        state: State { golden, trained: found.trained, claim: found.claim.unwrap_or(Verdict::Untested) },
        claims: found.claims,
    }
}

pub(super) fn list(register: &Register, json: bool) -> Result<()> {
    let mut found = found(register)?;
    let mut of = |name: &str| found.remove(name).unwrap_or_default();
    let lines: Vec<Line<'_>> =
        register.methods.iter().map(|entry| line(register, &entry.card, of(entry.card.name))).collect();
    if json {
        return say_json(&lines);
    }
    if lines.is_empty() {
        say(format_args!("{} has no method yet", register.name));
    }
    for (kind, about) in SamplerConfig::KINDS {
        say(format_args!("sampler {kind}: {about}"));
    }
    for stage in KINDS.iter().chain(register.stages) {
        say(format_args!("stage {}: {}", stage.kind, stage.about));
    }
    for entry in register.tokenizers {
        say(format_args!("tokenizer {}: {}", entry.card.name, entry.card.summary));
    }
    for (line, entry) in lines.iter().zip(register.methods) {
        let arxiv = line.arxiv.map_or_else(String::new, |arxiv| format!(", arXiv {arxiv}"));
        say(format_args!("{}: {} ({}{arxiv})", line.name, line.title, entry.card.year));
        say(format_args!("    {}", entry.card.summary));
        for recipe in &line.recipes {
            say(format_args!("    {}", recipe.display()));
        }
        for (claim, verdict) in &line.claims {
            say(format_args!("    {claim}: {}", verdict.as_str().unwrap_or_default()));
        }
    }
    Ok(())
}
