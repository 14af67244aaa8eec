//! Vision transformers of the Hub (`vit_mae`, `vit`, `beit`, `ijepa`) and official checkpoints that become theirs.

mod beit;
mod export;
mod hosting;
mod ijepa;
mod names;
mod official;
mod vit;
mod vit_mae;

use std::path::Path;
use std::rc::Rc;

use mask_core::data::Front;
use mask_core::hub::{ConfigReader, Folder, Loaded, Names};
use mask_core::method::DeviceDraft;
use mask_core::nn::{Init, InitRule, Linear, Parameters, PositionTable, QkvBias, Scope};
use mask_core::recipe::{Value, typed_over};
use mask_core::{DevicePlan, Error, Fill, Layout, Named, Plan, Result, SamplerConfig, Site, Split, View};
use tch::{Kind, Tensor};

use super::VitConfig;
use crate::data::{Augment, FolderConfig, ImageData, ImageFront, Reads, SourceConfig, ViewSpec};

pub use beit::BEIT;
pub(crate) use export::{
    export_beit, export_classifier, export_encoder, export_mae, export_masked_vit, processor, refuse_mask_tokens,
};
pub use ijepa::IJEPA;
pub use official::LAYOUTS;
pub use vit::VIT;
pub use vit_mae::VIT_MAE;

/// The encoder that a `config.json` describes.
fn encoder_config(config: &ConfigReader) -> Result<VitConfig> {
    let width = config.size("hidden_size", Some(768))?;
    let depth = config.size("num_hidden_layers", Some(12))? as usize;
    let heads = config.size("num_attention_heads", Some(12))?;
    let side = |sides: [i64; 2]| sides.map(|side| side as usize);
    let vit = VitConfig {
        image: side(config.sides("image_size", Some([224, 224]))?),
        channels: config.size("num_channels", Some(3))? as usize,
        patch: side(config.sides("patch_size", Some([16, 16]))?),
        mlp: config.size("intermediate_size", Some(3072))?,
        positions: PositionTable::Learned,
        qkv_bias: if config.flag("qkv_bias", Some(true))? { QkvBias::Full } else { QkvBias::None },
        norm_eps: config.number("layer_norm_eps", Some(1e-12))?,
        activation: config.activation("hidden_act")?,
        init: InitRule::Normal,
        ..VitConfig::mae(width, depth, heads)
    };
    vit.stack()
        .check()
        .and_then(|()| vit.grid().map(drop))
        .map_err(|error| config.refuse("model", &error.to_string()))?;
    Ok(vit)
}

/// `vit.` and its like where the weights have it.
fn prefix_of(weights: &Named<Tensor>, prefix: &'static str) -> &'static str {
    if weights.keys().any(|name| name.starts_with(prefix)) { prefix } else { "" }
}

fn describe(loaded: &Loaded, head: Option<&str>) -> Vec<String> {
    let mut notes: Vec<String> = head.map(str::to_owned).into_iter().collect();
    if !loaded.missing.is_empty() {
        notes.push(format!("missing, kept as computed: {}", loaded.missing.join(", ")));
    }
    if !loaded.unused.is_empty() {
        notes.push(format!("not used: {}", loaded.unused.join(", ")));
    }
    notes
}

/// An input with a number of dimensions.
fn input<'a>(inputs: &'a Named<Tensor>, name: &str, dims: usize) -> Result<&'a Tensor> {
    let tensor = inputs.get(name).ok_or_else(|| Error::value(name, "is missing from the inputs"))?;
    if tensor.dim() != dims {
        return Err(Error::shape(name, format!("{dims} dimensions"), &tensor.size()));
    }
    Ok(tensor)
}

/// A view of given pixels, and the plan of its rows.
fn view(config: &VitConfig, pixels: &Tensor, plans: &[Plan]) -> Result<(View, DevicePlan)> {
    let layout = Layout::single(config.grid()?);
    let plan = DevicePlan::collate(&plans.iter().collect::<Vec<_>>(), layout.len(), pixels.device())?;
    let inputs = Named::from([("pixels".to_owned(), pixels.to_kind(Kind::Float))]);
    Ok((View { inputs, layout, draft: DeviceDraft::Whole }, plan))
}

/// Mean and standard deviation of a folder's channels.
#[derive(Clone, Debug)]
struct Colours([Vec<f64>; 2]);

impl Colours {
    /// Those of `preprocessor_config.json`; 0.5 each where the folder says nothing.
    fn of(folder: &Folder, channels: usize) -> Result<Self> {
        let Some(reader) = &folder.processor else { return Ok(Self([vec![0.5; channels], vec![0.5; channels]])) };
        if !reader.flag("do_normalize", Some(true))? {
            return Ok(Self([vec![0.0; channels], vec![1.0; channels]]));
        }
        let numbers = |key: &str| {
            let values = reader.numbers(key)?.unwrap_or_else(|| vec![0.5; channels]);
            match values.len() == channels && values.iter().all(|value| value.is_finite()) {
                true => Ok(values),
                false => {
                    Err(reader.refuse(key, &format!("{values:?} is not a number for each of {channels} channels")))
                }
            }
        };
        let [mean, std] = [numbers("image_mean")?, numbers("image_std")?];
        match std.iter().all(|std| *std > 0.0) {
            true => Ok(Self([mean, std])),
            false => Err(reader.refuse("image_std", "takes numbers above 0")),
        }
    }
}

/// A user's images as these models want them: the whole picture, resized.
fn folder_front(config: &VitConfig, data: &Path, Colours([mean, std]): &Colours) -> Result<Box<dyn Front>> {
    let augment = Augment { mean: mean.clone(), std: std.clone(), ..Augment::default() };
    let source = SourceConfig::Folder(FolderConfig { path: data.to_owned() });
    // With a held-out source of its own all of `data` is read.
    let data = ImageData { held_out: Some(source.clone()), source, augment, ..ImageData::default() };
    ImageFront::build(&Site::new(&data, Split::Train), config, &SamplerConfig::default(), Reads::Visible)
}

/// A recipe's images, read whole and normalised as the folder says.
fn recipe_front(
    config: &VitConfig,
    data: &Value,
    split: Split,
    Colours([mean, std]): &Colours,
) -> Result<Box<dyn Front>> {
    let mut data: ImageData = typed_over(data).map_err(|error| Error::value("data", error.to_string()))?;
    (data.augment.mean, data.augment.std) = (mean.clone(), std.clone());
    let view = ViewSpec { size: config.image, augment: data.augment.clone(), mask: None };
    ImageFront::several(&Site::new(&data, split), config, &[view])
}

/// The plans of a mask [B, L], or of nothing hidden; all positions are queried.
fn plans(mask: Option<&Tensor>, rows: i64, layout: &Layout, has_token: bool) -> Result<Vec<Plan>> {
    let everything = |plan| Plan { queried: vec![(0..layout.len() as u32).collect()], ..plan };
    let Some(mask) = mask else {
        return Ok((0..rows).map(|_| everything(Plan::nothing_hidden(layout))).collect());
    };
    if !has_token {
        return Err(Error::value("bool_masked_pos", "can't be used: the folder has no mask token"));
    }
    if mask.size() != [rows, layout.len() as i64] {
        return Err(Error::shape("bool_masked_pos", format!("[{rows}, {}]", layout.len()), &mask.size()));
    }
    let mask: Vec<Vec<i64>> = Vec::try_from(mask.to_kind(Kind::Int64))?;
    let plan = |row: Vec<i64>| {
        let mask: Vec<bool> = row.iter().map(|hidden| *hidden != 0).collect();
        Ok(everything(Plan::from_mask(layout, &mask)?.filled(|_| Fill::MaskToken)))
    };
    mask.into_iter().map(plan).collect()
}

/// A linear map of the folder; its number of outputs is that of the file.
fn map(names: &mut Names, at: &Scope, theirs: &str, width: i64, weight: &Tensor) -> Result<Linear> {
    *names = std::mem::take(names).pair(&at.prefix(), theirs);
    let out = weight.size().first().copied().unwrap_or(0);
    Linear::new(at, width, out, Init::ZEROS)
}

/// Fills the parameters; an error names the folder's file.
fn load(names: &Names, parameters: &Rc<Parameters>, folder: &Folder) -> Result<Loaded> {
    names.load(parameters, &folder.weights).map_err(|error| match error {
        Error::Value { .. } | Error::Shape { .. } => {
            Error::file(folder.path.join("model.safetensors"), error.to_string())
        }
        other => other,
    })
}
