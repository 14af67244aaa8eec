//! `convert`: checkpoints of the papers' own repositories.

use std::collections::BTreeMap;
use std::path::PathBuf;

use clap::Args;
use serde_json::{Map, Value};

use super::say;
use crate::run::Register;
use crate::{Error, Result, hub};

#[derive(Args)]
pub(super) struct Convert {
    /// The checkpoint: .pth and its like, or safetensors
    from: PathBuf,
    /// The folder to write
    #[arg(long)]
    hf: PathBuf,
    /// Which model of the file, by its first key, where it holds several
    #[arg(long)]
    part: Option<String>,
    /// A field of config.json that weights don't tell, for example num_attention_heads=12; may be given several times
    #[arg(long = "set", value_name = "FIELD=VALUE")]
    sets: Vec<String>,
}

/// `FIELD=VALUE`s, values as JSON, else as text.
fn fields(sets: &[String]) -> Result<Map<String, Value>> {
    let field = |set: &String| {
        let (key, value) = set.split_once('=').filter(|(key, _)| !key.is_empty())?;
        Some((key.to_owned(), serde_json::from_str(value).unwrap_or_else(|_| Value::from(value))))
    };
    let wrong = |set: &String| Error::value("--set", format!("takes FIELD=VALUE, found {set:?}"));
    sets.iter().map(|set| field(set).ok_or_else(|| wrong(set))).collect()
}

/// Names with their block numbers left open, and how many there are of each.
fn folded(names: &[String]) -> String {
    let open = |name: &String| {
        let parts: Vec<&str> = name.split('.').collect();
        parts.iter().map(|part| if part.parse::<u32>().is_ok() { "N" } else { part }).collect::<Vec<_>>().join(".")
    };
    let mut counts = BTreeMap::new();
    names.iter().for_each(|name| *counts.entry(open(name)).or_insert(0) += 1);
    let one = |(name, count): (String, u32)| if count == 1 { name } else { format!("{name} ({count} times)") };
    counts.into_iter().map(one).collect::<Vec<_>>().join(", ")
}

impl Convert {
    pub(super) fn run(self, register: &Register) -> Result<()> {
        let set = fields(&self.sets)?;
        let done = hub::convert(register.layouts, &self.from, &self.hf, self.part.as_deref(), &set)?;
        let part = if done.part.is_empty() { String::new() } else { format!(", weights below '{}'", done.part) };
        say(format_args!("layout     {}{part}", done.layout));
        say(format_args!("matched    {}", done.matched));
        for (title, names) in [("missing", &done.missing), ("unused", &done.unused), ("reshaped", &done.reshaped)] {
            let list = if names.is_empty() { "none".to_owned() } else { folded(names) };
            say(format_args!("{title:10} {list}"));
        }
        for note in &done.notes {
            say(format_args!("note       {note}"));
        }
        say(format_args!("written    {} ({})", self.hf.display(), done.model_type));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_json_or_text() {
        let sets = ["a=3", "b=true", "c=gelu", "d=[1, 2]"].map(str::to_owned);
        let fields = fields(&sets).unwrap();
        assert_eq!(Value::Object(fields), serde_json::json!({ "a": 3, "b": true, "c": "gelu", "d": [1, 2] }));
        assert!(super::fields(&["heads".to_owned()]).is_err() && super::fields(&["=1".to_owned()]).is_err());
    }

    #[test]
    fn block_numbers_are_folded() {
        let names = ["blocks.0.index", "blocks.11.index", "head.weight"].map(str::to_owned);
        assert_eq!(folded(&names), "blocks.N.index (2 times), head.weight");
    }
}
