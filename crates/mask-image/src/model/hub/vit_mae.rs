//! `vit_mae`: masked autoencoders.

use mask_core::data::STILL;
use mask_core::hub::{Family, Folder, Hosted, Names};
use mask_core::nn::{Decoder, DecoderConfig, Parameters, PositionTable, QkvBias};
use mask_core::objective::squared_error;
use mask_core::{Encoder, Error, Named, Plan, Predictor, Result, Want};
use tch::{Device, Kind, Tensor};

use super::hosting::{Hosting, Outputs};
use super::names::{Place, layer};
use super::{describe, encoder_config, input, load, prefix_of, view};
use crate::model::VitConfig;
use crate::target::{Normalise, PatchOrder, PatchPixels};

/// `vit_mae`: the encoder, and the decoder where the folder has one.
pub struct VitMaeFamily;

/// The family `vit_mae`.
pub static VIT_MAE: VitMaeFamily = VitMaeFamily;

/// What stands behind the encoder.
struct VitMae {
    decoder: Option<Decoder>,
    keep: usize,
    target: PatchPixels,
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
        if !(0.0..=1.0).contains(&ratio) {
            return Err(reader.refuse("mask_ratio", &format!("{ratio} is not a share from 0 to 1")));
        }
        let normalise = if reader.flag("norm_pix_loss", Some(false))? { Normalise::Patch } else { Normalise::None };
        let has_decoder = weights.keys().any(|name| name.starts_with("decoder."));
        let parameters = Parameters::new(device, 0);
        let root = parameters.root();
        let grid = config.grid()?;
        // Both tables are frozen, but the file's own values count: writers have been seen with other ones.
        let encoder =
            VitConfig { positions: PositionTable::Learned, ..config.clone() }.build(&root.enter("encoder"), false)?;
        let prefix = prefix_of(weights, "vit.");
        let mut names = Place::of("encoder", prefix, &format!("{prefix}layernorm")).plain(&config);
        let decoder = if has_decoder {
            let (from, out) = (config.width, config.patch_numbers());
            let at = root.enter("predictor");
            // Newer writers nest the layers.
            let nested = weights.keys().any(|name| name.starts_with("decoder.decoder_encoder."));
            names = decoder_names(names, nested, &decoder_config, config.qkv_bias == QkvBias::Full);
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
        let own = VitMae {
            decoder,
            keep: (grid.len() as f64 * (1.0 - ratio)) as usize,
            target: PatchPixels::new(config.patch, PatchOrder::ChannelLast, normalise),
        };
        Hosting::of(folder, config, encoder, own, parameters, describe(&loaded, head))
    }
}

/// Names of the decoder.
pub(super) fn decoder_names(names: Names, nested: bool, config: &DecoderConfig, qkv_bias: bool) -> Names {
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

impl Outputs for VitMae {
    fn forward(model: &Hosting<Self>, inputs: &Named<Tensor>) -> Result<Named<Tensor>> {
        let own = &model.own;
        let pixels = input(inputs, "pixel_values", 4)?;
        let noise = input(inputs, "noise", 2)?.to_kind(Kind::Float);
        let length = model.config.grid()?.len();
        if noise.size() != [pixels.size()[0], length as i64] {
            return Err(Error::shape("noise", format!("[{}, {length}]", pixels.size()[0]), &noise.size()));
        }
        let rows: Vec<Vec<f32>> = Vec::try_from(&noise)?;
        let plans: Vec<Plan> = rows
            .iter()
            .map(|noise| Plan { queried: vec![(0..length as u32).collect()], ..Plan::keep_lowest(noise, own.keep) })
            .collect();
        let (view, plan) = view(&model.config, pixels, &plans)?;
        tch::no_grad(|| {
            let latent = model.encoder.encode(&view, Some(&plan), &Want::last(), &STILL)?;
            let order = noise.argsort_stable(true, 1, false);
            let mut outputs = Named::from([
                ("latent".to_owned(), latent.last().shallow_clone()),
                ("mask".to_owned(), plan.hidden.to_kind(Kind::Float)),
                ("ids_restore".to_owned(), order.argsort(1, false)),
            ]);
            if let Some(decoder) = &own.decoder {
                let answers = decoder.answer(&latent, &plan, 0, &STILL)?; // [B * L, P]
                let targets = own.target.at(&view, &plan.scored)?;
                let errors = squared_error(&plan.scored_of(&answers), &targets)?;
                outputs.insert("loss".to_owned(), errors.mean(Kind::Float).view([1]));
                outputs.insert(
                    "logits".to_owned(),
                    answers.view([rows.len() as i64, length as i64, model.config.patch_numbers()]),
                );
            }
            Ok(outputs)
        })
    }
}
