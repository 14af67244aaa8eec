//! Checkpoints of the papers' own repositories, and how they become Hugging Face folders.

use std::path::{Path, PathBuf};
use std::rc::Rc;

use serde_json::{Map, Value};
use tch::Tensor;

use super::{Folder, Names, Pth};
use crate::nn::Parameters;
use crate::{Error, Named, Result, store};

/// A checkpoint file as its repository's program wrote it: `.pth` and its like, or safetensors.
#[derive(Debug)]
pub struct Official {
    path: PathBuf,
    source: Source,
    shapes: Named<Vec<i64>>,
}

#[derive(Debug)]
enum Source {
    Pth(Pth),
    Stored(Named<Tensor>),
}

impl Official {
    /// Opens a checkpoint.
    ///
    /// # Errors
    /// As [`Pth::open`] and [`store::read`].
    pub fn open(path: &Path) -> Result<Self> {
        let source = match path.extension().is_some_and(|extension| extension == "safetensors") {
            true => Source::Stored(store::read(path)?.tensors),
            false => Source::Pth(Pth::open(path)?),
        };
        let shapes = match &source {
            Source::Pth(pth) => pth.shapes().map(|(name, shape)| (name.to_owned(), shape)).collect(),
            Source::Stored(tensors) => tensors.iter().map(|(name, tensor)| (name.clone(), tensor.size())).collect(),
        };
        Ok(Self { path: path.to_owned(), source, shapes })
    }

    /// The file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Names and shapes of all tensors.
    #[must_use]
    pub fn shapes(&self) -> &Named<Vec<i64>> {
        &self.shapes
    }

    /// The shape of a tensor; an error says that it's missing.
    ///
    /// # Errors
    /// It is missing, or has another number of dimensions.
    pub fn shape<const N: usize>(&self, name: &str) -> Result<[i64; N]> {
        let shape = self.shapes.get(name).ok_or_else(|| self.refuse(format!("{name} is missing")))?;
        let wanted = || self.refuse(format!("{name} has shape {shape:?}, expected {N} sides of at least 1"));
        let sides: [i64; N] = shape.as_slice().try_into().map_err(|_| wanted())?;
        if sides.iter().all(|side| *side >= 1) { Ok(sides) } else { Err(wanted()) }
    }

    /// A plain value that lies beside the tensors.
    #[must_use]
    pub fn fact(&self, name: &str) -> Option<&Value> {
        match &self.source {
            Source::Pth(pth) => pth.facts().get(name),
            Source::Stored(_) => None,
        }
    }

    /// Whether there is such a tensor.
    #[must_use]
    pub fn has(&self, name: &str) -> bool {
        self.shapes.contains_key(name)
    }

    /// How many blocks there are, by names that begin with `PREFIX.0.`, `PREFIX.1.` and so on.
    #[must_use]
    pub fn blocks(&self, prefix: &str) -> usize {
        let number =
            |name: &str| name.strip_prefix(prefix)?.strip_prefix('.')?.split('.').next()?.parse::<usize>().ok();
        self.shapes.keys().filter_map(|name| number(name)).map(|n| n.saturating_add(1)).max().unwrap_or(0)
    }

    /// Reads the tensors below a prefix, which their names lose.
    ///
    /// # Errors
    /// The disk refuses.
    pub fn below(&self, prefix: &str) -> Result<Named<Tensor>> {
        let inside = self.shapes.keys().filter_map(|name| Some((name, name.strip_prefix(prefix)?)));
        inside
            .map(|(name, rest)| {
                let tensor = match &self.source {
                    Source::Pth(pth) => pth.tensor(name)?,
                    Source::Stored(tensors) => tensors[name].shallow_clone(),
                };
                Ok((rest.to_owned(), tensor))
            })
            .collect()
    }

    /// The error that the file can't be used.
    #[must_use]
    pub fn refuse(&self, problem: impl Into<String>) -> Error {
        Error::file(&self.path, problem)
    }
}

/// A way in which a repository lays its checkpoints out.
pub trait Layout: Sync {
    /// What it is called, with its repository.
    fn name(&self) -> &'static str;

    /// The names that it is known by.
    fn marks(&self) -> &'static str;

    /// Parts of a checkpoint that may be converted, the usual one first; what precedes the names there.
    fn parts(&self, from: &Official) -> Vec<String>;

    /// Reads what a part is. `set` are fields of `config.json` that a user gives, since weights don't tell them.
    ///
    /// # Errors
    /// Weights that don't fit together, a field that can't be known.
    fn describe(&self, from: &Official, part: &str, set: &Map<String, Value>) -> Result<Described>;
}

/// A checkpoint that was understood.
pub struct Described {
    /// `config.json`.
    pub config: Map<String, Value>,
    /// `preprocessor_config.json`, where the repository's preparation of samples is known.
    pub processor: Option<Value>,
    /// The model, built, not filled.
    pub parameters: Rc<Parameters>,
    /// Its names in the checkpoint, below the part.
    pub official: Names,
    /// Its names on the Hub.
    pub hub: Names,
    /// What a user should know.
    pub notes: Vec<String>,
}

/// What a conversion did.
#[derive(Debug)]
pub struct Converted {
    /// Name of the layout.
    pub layout: &'static str,
    /// Where in the checkpoint the weights lay.
    pub part: String,
    /// `model_type` of the folder.
    pub model_type: String,
    /// Tensors that were read.
    pub matched: usize,
    /// Tensors that stayed as they were computed.
    pub missing: Vec<String>,
    /// Tensors of the checkpoint that the folder has no place for.
    pub unused: Vec<String>,
    /// Tensors that were cut or took another shape, `NAME [SHAPE] -> [SHAPE] + [SHAPE]`.
    pub reshaped: Vec<String>,
    /// What a user should know.
    pub notes: Vec<String>,
}

/// Converts a checkpoint to a folder. `part` picks one of several models in a file by its first key.
///
/// # Errors
/// A file of no layout that is known here, weights that don't fit, or a disk that refuses.
pub fn convert(
    layouts: &[&dyn Layout],
    from: &Path,
    to: &Path,
    part: Option<&str>,
    set: &Map<String, Value>,
) -> Result<Converted> {
    if to.join("config.json").exists() || to.join("model.safetensors").exists() {
        return Err(Error::file(to, "holds a model already; choose another folder with --hf"));
    }
    let from = Official::open(from)?;
    let found = layouts.iter().map(|layout| (*layout, layout.parts(&from))).find(|(_, parts)| !parts.is_empty());
    let (layout, parts) = found.ok_or_else(|| {
        let marks: Vec<String> = layouts.iter().map(|l| format!("{} ({})", l.name(), l.marks())).collect();
        let marks = if marks.is_empty() { "none yet".to_owned() } else { marks.join(", ") };
        let first: Vec<&str> = from.shapes.keys().map(String::as_str).take(3).collect();
        from.refuse(format!(
            "has the layout of no checkpoint that is known here: {marks}; it begins with {}",
            first.join(", ")
        ))
    })?;
    let chosen = match part {
        None => parts.first(),
        Some(part) => parts.iter().find(|p| p.split('.').next() == Some(part)),
    };
    let chosen = chosen.ok_or_else(|| {
        let parts: Vec<&str> = parts.iter().filter_map(|p| p.split('.').next()).collect();
        Error::value("--part", format!("takes one of {} with this file", parts.join(", ")))
    })?;
    let Described { config, processor, parameters, official, hub, mut notes } = layout.describe(&from, chosen, set)?;
    let weights = from.below(chosen)?;
    let loaded = official.load(&parameters, &weights).map_err(|error| match error {
        Error::Value { .. } | Error::Shape { .. } => from.refuse(error.to_string()),
        other => other,
    })?;
    let written = hub.save(&parameters)?;
    let places: Named<Vec<&str>> = hub.rows().map(|(ours, theirs)| (ours.to_owned(), theirs)).collect();
    let mut reshaped = Vec::new();
    let mut unused = loaded.unused;
    for (ours, names) in official.rows() {
        let shapes = |names: &[&str], of: &Named<Tensor>| -> Vec<Vec<i64>> {
            names.iter().filter_map(|name| of.get(*name).map(Tensor::size)).collect()
        };
        let Some(there) = places.get(ours) else {
            unused.extend(names.iter().map(|name| (*name).to_owned()));
            continue;
        };
        let (old, new) = (shapes(&names, &weights), shapes(there, &written));
        if old != new && !old.is_empty() {
            let list = |shapes: &[Vec<i64>]| shapes.iter().map(|s| format!("{s:?}")).collect::<Vec<_>>().join(" + ");
            reshaped.push(format!("{} {} -> {}", names.join(" + "), list(&old), list(&new)));
        }
    }
    let outside = from.shapes.keys().filter(|name| !name.starts_with(chosen.as_str())).cloned();
    unused.extend(outside);
    let model_type = config.get("model_type").and_then(Value::as_str).unwrap_or_default().to_owned();
    if processor.is_none() {
        notes.push("how samples were normalised is not known: no preprocessor_config.json is written".to_owned());
    }
    Folder::write(to, &Value::Object(config), &written)?;
    if let Some(processor) = &processor {
        Folder::write_processor(to, processor)?;
    }
    Ok(Converted {
        layout: layout.name(),
        part: chosen.trim_end_matches('.').to_owned(),
        model_type,
        matched: loaded.matched,
        missing: loaded.missing,
        unused,
        reshaped,
        notes,
    })
}
