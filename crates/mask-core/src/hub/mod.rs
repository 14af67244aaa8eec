//! Hugging Face folders: `config.json` and `model.safetensors`, in and out.

mod config;
mod export;
mod names;
mod official;
mod pth;

use std::path::{Path, PathBuf};

use tch::{Device, Tensor};

pub use config::ConfigReader;
pub use export::{ClassHead, Export};
pub use names::{Loaded, Names};
pub use official::{Converted, Described, Layout, Official, convert};
pub use pth::Pth;

use crate::data::Front;
use crate::method::{Encoder, Split};
use crate::nn::Parameters;
use crate::recipe::Value;
use crate::{Error, Named, Result, store};

/// A folder that was read.
#[derive(Debug)]
pub struct Folder {
    /// Where it lies.
    pub path: PathBuf,
    /// `config.json`.
    pub config: ConfigReader,
    /// `preprocessor_config.json`: how samples are prepared, where the folder says so.
    pub processor: Option<ConfigReader>,
    /// The weights by their names on the Hub.
    pub weights: Named<Tensor>,
}

impl Folder {
    /// Reads `config.json` and `model.safetensors` (or its shards).
    ///
    /// # Errors
    /// A file that is missing or damaged.
    pub fn open(path: &Path) -> Result<Self> {
        if !path.is_dir() {
            return Err(Error::file(path, "is no folder; --hf takes one with config.json and model.safetensors"));
        }
        let config = ConfigReader::open(&path.join("config.json"))?;
        let (single, index) = (path.join("model.safetensors"), path.join("model.safetensors.index.json"));
        let weights =
            if single.is_file() || !index.is_file() { store::read(&single)?.tensors } else { shards(path, &index)? };
        let processor = path.join("preprocessor_config.json");
        let processor = processor.is_file().then(|| ConfigReader::open(&processor)).transpose()?;
        Ok(Self { path: path.to_owned(), config, processor, weights })
    }

    /// Writes a folder; the files are complete or not there.
    ///
    /// # Errors
    /// The disk is full or refuses.
    pub fn write(path: &Path, config: &serde_json::Value, weights: &Named<Tensor>) -> Result<()> {
        std::fs::create_dir_all(path).map_err(Error::io(path, "making the folder"))?;
        let tensors: Vec<(String, Tensor)> = weights.iter().map(|(n, t)| (n.clone(), t.shallow_clone())).collect();
        // `transformers` asks for this word before it reads the file.
        let metadata = Named::from([("format".to_owned(), "pt".to_owned())]);
        store::write(&path.join("model.safetensors"), &tensors, &metadata)?;
        write_json(&path.join("config.json"), config)
    }

    /// Writes how samples are prepared, beside the model.
    ///
    /// # Errors
    /// As [`Folder::write`].
    pub fn write_processor(path: &Path, processor: &serde_json::Value) -> Result<()> {
        write_json(&path.join("preprocessor_config.json"), processor)
    }
}

fn write_json(path: &Path, value: &serde_json::Value) -> Result<()> {
    let text = serde_json::to_string_pretty(value).map_err(|error| Error::Defect(error.to_string()))?;
    store::write_bytes(path, format!("{text}\n").as_bytes())
}

/// Weights split over several files.
fn shards(folder: &Path, index: &Path) -> Result<Named<Tensor>> {
    let text = std::fs::read(index).map_err(Error::io(index, "reading"))?;
    let json: serde_json::Value =
        serde_json::from_slice(&text).map_err(|error| Error::file(index, format!("is no valid JSON: {error}")))?;
    let map = json.get("weight_map").and_then(serde_json::Value::as_object);
    let map = map.ok_or_else(|| Error::file(index, "lacks 'weight_map', the names of the shards"))?;
    let mut files: Vec<&str> = map.values().filter_map(serde_json::Value::as_str).collect();
    files.sort_unstable();
    files.dedup();
    let mut weights = Named::new();
    for file in files {
        if file.contains(['/', '\\']) {
            return Err(Error::file(index, format!("names the shard {file:?}, which does not lie beside it")));
        }
        weights.extend(store::read(&folder.join(file))?.tensors);
    }
    Ok(weights)
}

/// A family of models on the Hub that a crate reads.
pub trait Family: Sync {
    /// Values of `model_type`.
    fn model_types(&self) -> &'static [&'static str];

    /// Builds the model of a folder.
    ///
    /// # Errors
    /// A configuration that isn't supported, named; weights that are missing or have other shapes.
    fn open(&self, folder: &Folder, device: Device) -> Result<Box<dyn Hosted>>;
}

/// A model that came from a folder.
pub trait Hosted {
    /// Runs given tensors and gives the outputs under the names that `transformers` uses.
    ///
    /// # Errors
    /// Inputs that are missing or have other shapes.
    fn forward(&self, inputs: &Named<Tensor>) -> Result<Named<Tensor>>;

    /// The representation model.
    fn encoder(&self) -> &dyn Encoder;

    /// The encoder's keys, as recipes have them.
    ///
    /// # Errors
    /// Keys that YAML can't hold.
    fn recipe(&self) -> Result<Value>;

    /// Its parameters under our own names, filled.
    fn parameters(&self) -> &Parameters;

    /// Reads a user's files as the model wants them.
    ///
    /// # Errors
    /// Data that can't be read.
    fn front(&self, data: &Path) -> Result<Box<dyn Front>>;

    /// Reads a recipe's data as the model wants them: `data` are resolved keys, normalised as the folder says.
    ///
    /// # Errors
    /// Data that can't be read or don't fit.
    fn front_over(&self, data: &Value, split: Split) -> Result<Box<dyn Front>>;

    /// What a user should know about how the folder was read.
    fn notes(&self) -> &[String];
}

/// Opens a folder by the family that its `model_type` names.
///
/// # Errors
/// No family here reads it, or as [`Family::open`].
pub fn open(families: &[&dyn Family], path: &Path, device: Device) -> Result<Box<dyn Hosted>> {
    let folder = Folder::open(path)?;
    let kind = folder.config.text("model_type", None)?;
    let family = families.iter().find(|family| family.model_types().contains(&kind.as_str()));
    let family = family.ok_or_else(|| {
        let known: Vec<&str> = families.iter().flat_map(|family| family.model_types()).copied().collect();
        let known = if known.is_empty() { "none yet".to_owned() } else { known.join(", ") };
        folder.config.refuse("model_type", &format!("{kind:?} is not read by this program; it reads {known}"))
    })?;
    // Fields that any configuration may have, and that change what its weights mean.
    for key in ["quantization_config", "pruned_heads"] {
        let value = folder.config.fields().get(key).filter(|value| !value.is_null());
        if value.is_some_and(|value| value.as_object().is_none_or(|object| !object.is_empty())) {
            return Err(folder.config.refuse(key, "is not supported"));
        }
    }
    family.open(&folder, device)
}
