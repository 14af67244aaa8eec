//! Vision transformers of the Hub: `vit_mae`, and `vit` with or without the head of masked image modeling.

use std::path::Path;
use std::rc::Rc;

use mask_core::data::Front;
use mask_core::hub::{ConfigReader, Family, Folder, Hosted, Loaded, Names};
use mask_core::method::DeviceDraft;
use mask_core::nn::{Decoder, DecoderConfig, InitRule, LinearHead, Parameters, PositionTable, QkvBias, unpatch};
use mask_core::objective::{absolute_error, squared_error};
use mask_core::{
    Clock, DevicePlan, Encoder, Error, Fill, Layout, Named, Plan, Predictor, Result, SamplerConfig, Split, Step, View,
    Want,
};
use tch::{Device, Kind, Tensor};

use super::{Vit, VitConfig};
use crate::data::{Augment, FolderConfig, ImageData, ImageFront, Reads, SourceConfig};
use crate::target::{Normalise, PatchOrder, PatchPixels};

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

/// A view of given pixels, and the plan of given rows.
fn view(config: &VitConfig, pixels: &Tensor, plans: Option<&[Plan]>) -> Result<(View, Option<DevicePlan>)> {
    let layout = Layout::single(config.grid()?);
    let plan = match plans {
        Some(plans) => Some(DevicePlan::collate(&plans.iter().collect::<Vec<_>>(), layout.len(), pixels.device())?),
        None => None,
    };
    let inputs = Named::from([("pixels".to_owned(), pixels.to_kind(Kind::Float))]);
    Ok((View { inputs, layout, draft: DeviceDraft::Whole }, plan))
}

/// A user's images as these models want them: the whole picture, resized.
fn folder_front(config: &VitConfig, data: &Path) -> Result<Box<dyn Front>> {
    let augment = Augment { mean: vec![0.5; config.channels], std: vec![0.5; config.channels], ..Augment::default() };
    let source = SourceConfig::Folder(FolderConfig { path: data.to_owned() });
    // With a held-out source of its own all of `data` is read.
    let data = ImageData { held_out: Some(source.clone()), source, augment, ..ImageData::default() };
    ImageFront::build(&data, Split::Train, config, &SamplerConfig::default(), Reads::Visible)
}

/// `vit_mae`: the encoder, and the decoder where the folder has one.
pub struct VitMaeFamily;

/// The family `vit_mae`.
pub static VIT_MAE: VitMaeFamily = VitMaeFamily;

struct VitMae {
    config: VitConfig,
    encoder: Vit,
    decoder: Option<Decoder>,
    keep: usize,
    target: PatchPixels,
    notes: Vec<String>,
}

impl Family for VitMaeFamily {
    fn model_types(&self) -> &'static [&'static str] {
        &["vit_mae"]
    }

    fn open(&self, folder: &Folder, device: Device) -> Result<Box<dyn Hosted>> {
        let (reader, weights) = (&folder.config, &folder.weights);
        let config = encoder_config(reader)?;
        let decoder_config = DecoderConfig {
            width: reader.size("decoder_hidden_size", Some(512))?,
            depth: reader.size("decoder_num_hidden_layers", Some(8))? as usize,
            heads: reader.size("decoder_num_attention_heads", Some(16))?,
            mlp: reader.size("decoder_intermediate_size", Some(2048))?,
            norm_eps: config.norm_eps,
        };
        let ratio = reader.number("mask_ratio", Some(0.75))?;
        if !(0.0..1.0).contains(&ratio) {
            return Err(reader.refuse("mask_ratio", &format!("{ratio} is not a share from 0 to 1 (excluded)")));
        }
        let normalise = if reader.flag("norm_pix_loss", Some(false))? { Normalise::Patch } else { Normalise::None };
        let has_decoder = weights.keys().any(|name| name.starts_with("decoder."));
        let parameters = Parameters::new(device, 0);
        let root = parameters.root();
        let grid = config.grid()?;
        // Both tables are frozen, but the file's own values count: writers have been seen with other ones.
        let encoder =
            VitConfig { positions: PositionTable::Learned, ..config.clone() }.build(&root.enter("encoder"), false)?;
        let mut names = encoder_names(&config, prefix_of(weights), false);
        let decoder = if has_decoder {
            let (from, out) = (config.width, config.patch_numbers());
            let at = root.enter("predictor");
            names = decoder_names(names, weights, &decoder_config, config.qkv_bias == QkvBias::Full);
            let decoder = Decoder::new(&at, &decoder_config, &config.stack(), &grid, from, 1, out);
            Some(decoder.map_err(|error| match error {
                Error::Value { .. } => reader.refuse("decoder", &error.to_string()),
                other => other,
            })?)
        } else {
            None
        };
        let loaded = load(&names, &parameters, folder)?;
        let head = (!has_decoder).then_some("the folder has no decoder: only the encoder is read");
        Ok(Box::new(VitMae {
            keep: (grid.len() as f64 * (1.0 - ratio)) as usize,
            target: PatchPixels::new(config.patch, PatchOrder::ChannelLast, normalise),
            notes: describe(&loaded, head),
            config,
            encoder,
            decoder,
        }))
    }
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

fn decoder_names(names: Names, weights: &Named<Tensor>, config: &DecoderConfig, qkv_bias: bool) -> Names {
    // Newer writers nest the layers.
    let nested = weights.keys().any(|name| name.starts_with("decoder.decoder_encoder."));
    let layers = if nested { "decoder.decoder_encoder.layer" } else { "decoder.decoder_layers" };
    let mut names = names
        .pair("predictor.embed", "decoder.decoder_embed")
        .same("predictor.mask_token", "decoder.mask_token")
        .optional("predictor.positions", "decoder.decoder_pos_embed", [1, 0])
        .pair("predictor.norm", "decoder.decoder_norm")
        .pair("predictor.head", "decoder.decoder_pred");
    for block in 0..config.depth {
        names = layer(names, &format!("predictor.block.{block}"), &format!("{layers}.{block}"), qkv_bias);
    }
    names
}

impl Hosted for VitMae {
    fn forward(&self, inputs: &Named<Tensor>) -> Result<Named<Tensor>> {
        let pixels = input(inputs, "pixel_values", 4)?;
        let noise = input(inputs, "noise", 2)?.to_kind(Kind::Float);
        let length = self.config.grid()?.len();
        if noise.size() != [pixels.size()[0], length as i64] {
            return Err(Error::shape("noise", format!("[{}, {length}]", pixels.size()[0]), &noise.size()));
        }
        let rows: Vec<Vec<f32>> = Vec::try_from(&noise)?;
        let plans: Vec<Plan> = rows
            .iter()
            .map(|noise| Plan { queried: vec![(0..length as u32).collect()], ..Plan::keep_lowest(noise, self.keep) })
            .collect();
        let (view, plan) = view(&self.config, pixels, Some(&plans))?;
        let plan = plan.ok_or_else(|| Error::Defect("no plan".to_owned()))?;
        tch::no_grad(|| {
            let latent = self.encoder.encode(&view, Some(&plan), &Want::last(), &STEP)?;
            let order = noise.argsort_stable(true, 1, false);
            let mut outputs = Named::from([
                ("latent".to_owned(), latent.last().shallow_clone()),
                ("mask".to_owned(), plan.hidden.to_kind(Kind::Float)),
                ("ids_restore".to_owned(), order.argsort(1, false)),
            ]);
            if let Some(decoder) = &self.decoder {
                let answers = decoder.answer(&latent, &plan, 0, &STEP)?; // [B * L, P]
                let targets = self.target.at(&view, &plan.scored)?;
                let errors = squared_error(&plan.scored_of(&answers), &targets)?;
                outputs.insert("loss".to_owned(), errors.mean(Kind::Float).view([1]));
                outputs.insert("logits".to_owned(), answers.view([rows.len() as i64, length as i64, -1]));
            }
            Ok(outputs)
        })
    }

    fn encoder(&self) -> &dyn Encoder {
        &self.encoder
    }

    fn front(&self, data: &Path) -> Result<Box<dyn Front>> {
        folder_front(&self.config, data)
    }

    fn notes(&self) -> &[String] {
        &self.notes
    }
}

/// `vit`: masked image modeling, and plain encoders.
pub struct VitFamily;

/// The family `vit`.
pub static VIT: VitFamily = VitFamily;

struct HostedVit {
    config: VitConfig,
    encoder: Vit,
    head: Option<LinearHead>,
    notes: Vec<String>,
}

impl Family for VitFamily {
    fn model_types(&self) -> &'static [&'static str] {
        &["vit"]
    }

    fn open(&self, folder: &Folder, device: Device) -> Result<Box<dyn Hosted>> {
        let (reader, weights) = (&folder.config, &folder.weights);
        let config = encoder_config(reader)?;
        let has_head = weights.contains_key("decoder.0.weight");
        let prefix = prefix_of(weights);
        let has_token = weights.contains_key(&format!("{prefix}embeddings.mask_token"));
        if has_head {
            let stride = reader.sides("encoder_stride", Some([16, 16]))?;
            if stride.map(|side| side as usize) != config.patch {
                let problem = format!("{stride:?} differs from patch_size {:?}, which is not supported", config.patch);
                return Err(reader.refuse("encoder_stride", &problem));
            }
        }
        let parameters = Parameters::new(device, 0);
        let root = parameters.root();
        let encoder = config.build(&root.enter("encoder"), has_token)?;
        let mut names = encoder_names(&config, prefix, has_token);
        let head = if has_head {
            // A 1 x 1 convolution, whose outputs pixel shuffle spreads: channel, row, column.
            names =
                names.padded("predictor.weight", "decoder.0.weight", [0, 2]).same("predictor.bias", "decoder.0.bias");
            Some(LinearHead::new(&root.enter("predictor"), config.width, config.patch_numbers(), config.init)?)
        } else {
            None
        };
        let loaded = load(&names, &parameters, folder)?;
        let note = (!has_head).then_some("the folder has no head of masked image modeling: only the encoder is read");
        Ok(Box::new(HostedVit { notes: describe(&loaded, note), config, encoder, head }))
    }
}

impl Hosted for HostedVit {
    fn forward(&self, inputs: &Named<Tensor>) -> Result<Named<Tensor>> {
        let pixels = input(inputs, "pixel_values", 4)?;
        let layout = Layout::single(self.config.grid()?);
        let plans = match inputs.get("bool_masked_pos") {
            None => None,
            Some(mask) if mask.size() == [pixels.size()[0], layout.len() as i64] => {
                let rows: Vec<Vec<i64>> = Vec::try_from(mask.to_kind(Kind::Int64))?;
                let plan = |row: Vec<i64>| {
                    let mask: Vec<bool> = row.iter().map(|hidden| *hidden != 0).collect();
                    let plan = Plan::from_mask(&layout, &mask)?.filled(|_| Fill::MaskToken);
                    Ok(Plan { queried: vec![(0..layout.len() as u32).collect()], ..plan })
                };
                Some(rows.into_iter().map(plan).collect::<Result<Vec<_>>>()?)
            }
            Some(mask) => {
                let expected = format!("[{}, {}]", pixels.size()[0], layout.len());
                return Err(Error::shape("bool_masked_pos", expected, &mask.size()));
            }
        };
        let (view, plan) = view(&self.config, pixels, plans.as_deref())?;
        tch::no_grad(|| {
            let features = self.encoder.encode(&view, plan.as_ref(), &Want::last(), &STEP)?;
            let mut outputs = Named::from([("last_hidden_state".to_owned(), features.last().shallow_clone())]);
            if let (Some(head), Some(plan)) = (&self.head, &plan) {
                let answers = head.answer(&features, plan, 0, &STEP)?; // [B * L, P]
                let target = PatchPixels::new(self.config.patch, PatchOrder::ChannelFirst, Normalise::None);
                let targets = target.at(&view, &plan.scored)?;
                let errors = absolute_error(&plan.scored_of(&answers), &targets)?;
                let pixels_of = (self.config.patch[0] * self.config.patch[1]) as f64;
                let count = plan.scored.flat.size()[0] as f64 + 1e-5 / pixels_of;
                outputs.insert("loss".to_owned(), (errors.sum(Kind::Float) / count).view([1]));
                let tokens = answers.view([pixels.size()[0], layout.len() as i64, -1]);
                let grid: Vec<i64> = layout.grid()?.dims().iter().map(|side| *side as i64).collect();
                let patch = self.config.patch.map(|side| side as i64);
                outputs.insert("reconstruction".to_owned(), unpatch(&tokens, &grid, &patch, false)?);
            }
            Ok(outputs)
        })
    }

    fn encoder(&self) -> &dyn Encoder {
        &self.encoder
    }

    fn front(&self, data: &Path) -> Result<Box<dyn Front>> {
        folder_front(&self.config, data)
    }

    fn notes(&self) -> &[String] {
        &self.notes
    }
}
