//! `list`: what there is, and how far it got. States are derived from files, never typed in.

use std::path::{Path, PathBuf};

use serde::Serialize;

use super::{say, say_json};
use crate::Result;
use crate::method::Card;
use crate::run::Register;
use crate::sampler::SamplerConfig;

#[derive(Serialize)]
struct State {
    golden: bool,
    trained: bool,
    claim: &'static str,
}

#[derive(Serialize)]
struct Line<'a> {
    name: &'a str,
    title: &'a str,
    arxiv: Option<&'a str>,
    ledger: &'a [u32],
    recipes: Vec<PathBuf>,
    state: State,
    claims: std::collections::BTreeMap<String, String>,
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

fn line<'a>(register: &Register, card: &'a Card) -> Line<'a> {
    let folder = Path::new("experiments").join(register.modality);
    let results = folder.join("results").join(format!("{}.json", card.name));
    // The index of golden folders has a line `folder: method`.
    let golden = register.golden.lines().filter_map(|line| line.split_once(':')).any(|(_, m)| m.trim() == card.name);
    Line {
        name: card.name,
        title: card.title,
        arxiv: card.arxiv,
        ledger: card.ledger,
        recipes: recipes(&folder, card.name),
        state: State { golden, trained: results.is_file(), claim: "untested" },
        claims: Default::default(),
    }
}

pub(super) fn list(register: &Register, json: bool) -> Result<()> {
    let lines: Vec<Line<'_>> = register.methods.iter().map(|entry| line(register, &entry.card)).collect();
    if json {
        return say_json(&lines);
    }
    if lines.is_empty() {
        say(format_args!("{} has no method yet", register.name));
    }
    for (kind, about) in SamplerConfig::KINDS {
        say(format_args!("sampler {kind}: {about}"));
    }
    for (line, entry) in lines.iter().zip(register.methods) {
        let arxiv = line.arxiv.map_or_else(String::new, |arxiv| format!(", arXiv {arxiv}"));
        say(format_args!("{}: {} ({}{arxiv})", line.name, line.title, entry.card.year));
        say(format_args!("    {}", entry.card.summary));
        for recipe in &line.recipes {
            say(format_args!("    {}", recipe.display()));
        }
    }
    Ok(())
}
