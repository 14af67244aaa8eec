//! Vision transformers of the Hub: `vit_mae`, and `vit` with or without a head.

mod vit;
mod vit_mae;

use std::path::Path;
use std::rc::Rc;

use mask_core::data::Front;
use mask_core::hub::{ConfigReader, Folder, Loaded, Names};
use mask_core::method::DeviceDraft;
use mask_core::nn::{InitRule, Parameters, PositionTable, QkvBias};
use mask_core::{Clock, DevicePlan, Error, Layout, Named, Plan, Result, SamplerConfig, Site, Split, Step, View};
use tch::{Kind, Tensor};

use super::VitConfig;
use crate::data::{Augment, FolderConfig, ImageData, ImageFront, Reads, SourceConfig};

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

/// Names of one layer, which encoder and decoder share.
fn layer(names: Names, ours: &str, theirs: &str, qkv_bias: bool) -> Names {
    let qkv =
        |part: &str| ["query", "key", "value"].map(|which| format!("{theirs}.attention.attention.{which}.{part}"));
    let packed = |names: Names, part: &str| {
        let [q, k, v] = qkv(part);
        names.packed(&format!("{ours}.attention.qkv.{part}"), [&q, &k, &v])
    };
    let names = packed(names, "weight");
    let names = if qkv_bias { packed(names, "bias") } else { names };
    names
        .pair(&format!("{ours}.attention.out"), &format!("{theirs}.attention.output.dense"))
        .pair(&format!("{ours}.mlp.up"), &format!("{theirs}.intermediate.dense"))
        .pair(&format!("{ours}.mlp.down"), &format!("{theirs}.output.dense"))
        .pair(&format!("{ours}.norm1"), &format!("{theirs}.layernorm_before"))
        .pair(&format!("{ours}.norm2"), &format!("{theirs}.layernorm_after"))
}

/// Names of the encoder below `prefix` (`vit.`, or nothing in a folder of the bare model).
fn encoder_names(config: &VitConfig, prefix: &str, mask_token: bool) -> Names {
    let embeddings = format!("{prefix}embeddings");
    let mut names = Names::new()
        .pair("encoder.patch", &format!("{embeddings}.patch_embeddings.projection"))
        .same("encoder.class_token", &format!("{embeddings}.cls_token"))
        .padded("encoder.positions", &format!("{embeddings}.position_embeddings"), [1, 0])
        .pair("encoder.norm", &format!("{prefix}layernorm"));
    if mask_token {
        names = names.same("encoder.mask_token", &format!("{embeddings}.mask_token"));
    }
    for block in 0..config.depth {
        let (ours, theirs) = (format!("encoder.block.{block}"), format!("{prefix}encoder.layer.{block}"));
        names = layer(names, &ours, &theirs, config.qkv_bias == QkvBias::Full);
    }
    names
}

/// `vit.` where the weights have it.
fn prefix_of(weights: &Named<Tensor>) -> &'static str {
    if weights.keys().any(|name| name.starts_with("vit.")) { "vit." } else { "" }
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

const CLOCK: Clock = Clock { step: 0, steps: 1, epoch: 0, steps_in_epoch: 1 };
const STEP: Step<'static> = Step { clock: &CLOCK, train: false, micro: 0 };

/// A view of given pixels, and the plan of its rows.
fn view(config: &VitConfig, pixels: &Tensor, plans: &[Plan]) -> Result<(View, DevicePlan)> {
    let layout = Layout::single(config.grid()?);
    let plan = DevicePlan::collate(&plans.iter().collect::<Vec<_>>(), layout.len(), pixels.device())?;
    let inputs = Named::from([("pixels".to_owned(), pixels.to_kind(Kind::Float))]);
    Ok((View { inputs, layout, draft: DeviceDraft::Whole }, plan))
}

/// A user's images as these models want them: the whole picture, resized.
fn folder_front(config: &VitConfig, data: &Path) -> Result<Box<dyn Front>> {
    let augment = Augment { mean: vec![0.5; config.channels], std: vec![0.5; config.channels], ..Augment::default() };
    let source = SourceConfig::Folder(FolderConfig { path: data.to_owned() });
    // With a held-out source of its own all of `data` is read.
    let data = ImageData { held_out: Some(source.clone()), source, augment, ..ImageData::default() };
    ImageFront::build(&Site::new(&data, Split::Train), config, &SamplerConfig::default(), Reads::Visible)
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
