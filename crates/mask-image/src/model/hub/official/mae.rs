//! Checkpoints of facebookresearch/mae: pre-trained with decoder, encoders alone, fine-tuned classifiers.

use mask_core::Result;
use mask_core::hub::{ConfigReader, Described, Layout, Names, Official};
use mask_core::nn::{Decoder, DecoderConfig, QkvBias};
use serde_json::{Map, Value, json};

use super::super::beit::beit_config;
use super::super::names::{Place, official_blocks, official_encoder};
use super::super::vit_mae::decoder_names;
use super::{Fields, IMAGENET, Model, encoder_config, labels, parts};
use crate::model::VitConfig;

/// The layout.
pub struct Mae;

impl Layout for Mae {
    fn name(&self) -> &'static str {
        "MAE of facebookresearch/mae"
    }

    fn marks(&self) -> &'static str {
        "cls_token, pos_embed, blocks.0.attn.qkv.bias, with decoder_blocks.0 in pre-training"
    }

    fn parts(&self, from: &Official) -> Vec<String> {
        let mut parts = parts(from);
        let marks = ["cls_token", "pos_embed", "blocks.0.attn.qkv.bias"];
        parts.retain(|part| marks.iter().all(|mark| from.has(&format!("{part}{mark}"))));
        parts
    }

    fn describe(&self, from: &Official, part: &str, set: &Map<String, Value>) -> Result<Described> {
        let [_, rows, width] = from.shape(&format!("{part}pos_embed"))?;
        let mut fields = Fields::of(from, part, set, rows - 1)?;
        fields.heads("num_attention_heads", width)?;
        let has = |name: &str| from.has(&format!("{part}{name}"));
        if has("decoder_blocks.0.attn.qkv.weight") {
            return pre_trained(from, part, fields);
        }
        match (has("fc_norm.weight"), has("head.weight")) {
            (true, true) => pooled(from, part, fields),
            (_, true) => classifier(from, part, fields),
            _ => encoder(from, fields),
        }
    }
}

fn decoder_config(reader: &ConfigReader) -> Result<DecoderConfig> {
    Ok(DecoderConfig {
        width: reader.size("decoder_hidden_size", None)?,
        depth: reader.size("decoder_num_hidden_layers", None)? as usize,
        heads: reader.size("decoder_num_attention_heads", None)?,
        mlp: reader.size("decoder_intermediate_size", None)?,
        norm_eps: reader.number("layer_norm_eps", None)?,
    })
}

fn pre_trained(from: &Official, part: &str, mut fields: Fields<'_>) -> Result<Described> {
    let [width, _] = from.shape(&format!("{part}decoder_embed.weight"))?;
    let [mlp, _] = from.shape(&format!("{part}decoder_blocks.0.mlp.fc1.weight"))?;
    let mut notes = Vec::new();
    fields.put("qkv_bias", json!(true));
    fields.put("decoder_hidden_size", json!(width));
    fields.put("decoder_num_hidden_layers", json!(from.blocks(&format!("{part}decoder_blocks"))));
    fields.put("decoder_intermediate_size", json!(mlp));
    fields.heads("decoder_num_attention_heads", width)?;
    fields.fact("mask_ratio", "args.mask_ratio", json!(0.75), &mut notes);
    fields.fact("norm_pix_loss", "args.norm_pix_loss", json!(false), &mut notes);
    let fields = fields.done("vit_mae", "ViTMAEForPreTraining")?;
    let model = Model::build(from, &fields, encoder_config, false)?;
    let decoder = decoder_config(&ConfigReader::of(from.path(), fields.clone()))?;
    let config = &model.config;
    let out = config.patch_numbers();
    let at = model.root.enter("predictor");
    Decoder::new(&at, &decoder, &config.stack(), &config.grid()?, config.width, config.prefix(), out)
        .map_err(|error| from.refuse(format!("decoder: {error}")))?;
    let official = official_encoder(config, "norm", false)
        .pair("predictor.embed", "decoder_embed")
        .same("predictor.mask_token", "mask_token")
        .padded("predictor.positions", "decoder_pos_embed", [1, 0])
        .pair("predictor.norm", "decoder_norm")
        .pair("predictor.head", "decoder_pred");
    let official = official_blocks(official, "predictor", "decoder_blocks", config, decoder.depth);
    let hub = Place::of("encoder", "vit.", "vit.layernorm").plain(config);
    let hub = decoder_names(hub, false, &decoder, true);
    Ok(model.described(fields, official, hub, IMAGENET, notes))
}

/// The encoder alone, as the repository offers it for fine-tuning.
fn encoder(from: &Official, mut fields: Fields<'_>) -> Result<Described> {
    fields.put("qkv_bias", json!(true));
    let fields = fields.done("vit_mae", "ViTMAEModel")?;
    let model = Model::build(from, &fields, encoder_config, false)?;
    let official = official_encoder(&model.config, "norm", false);
    let hub = Place::of("encoder", "", "layernorm").plain(&model.config);
    let notes = vec!["the checkpoint has no decoder".to_owned()];
    Ok(model.described(fields, official, hub, IMAGENET, notes))
}

fn head(from: &Official, part: &str, model: &Model, official: Names, hub: Names) -> Result<[Names; 2]> {
    model.map(from, &format!("{part}head"), "classifier")?;
    Ok([official.pair("classifier", "head"), hub.pair("classifier", "classifier")])
}

/// A classifier on the class token.
fn classifier(from: &Official, part: &str, mut fields: Fields<'_>) -> Result<Described> {
    let [classes, _] = from.shape(&format!("{part}head.weight"))?;
    fields.put("qkv_bias", json!(true));
    fields.put("id2label", labels(classes));
    let fields = fields.done("vit", "ViTForImageClassification")?;
    let model = Model::build(from, &fields, encoder_config, false)?;
    let hub = Place::of("encoder", "vit.", "vit.layernorm").plain(&model.config);
    let [official, hub] = head(from, part, &model, official_encoder(&model.config, "norm", false), hub)?;
    Ok(model.described(fields, official, hub, IMAGENET, Vec::new()))
}

/// A classifier on the normalised mean of the tokens, which `transformers` has in its BEiT alone.
fn pooled(from: &Official, part: &str, mut fields: Fields<'_>) -> Result<Described> {
    let [classes, _] = from.shape(&format!("{part}head.weight"))?;
    fields.put("use_absolute_position_embeddings", json!(true));
    fields.put("layer_scale_init_value", json!(0.0));
    fields.put("use_mean_pooling", json!(true));
    fields.put("use_mask_token", json!(false));
    fields.put("id2label", labels(classes));
    let fields = fields.done("beit", "BeitForImageClassification")?;
    let full = |reader: &ConfigReader| Ok(VitConfig { qkv_bias: QkvBias::Full, ..beit_config(reader)? });
    let model = Model::build(from, &fields, full, false)?;
    let hub = Place::of("encoder", "beit.", "beit.pooler.layernorm").beit(&model.config);
    let [official, hub] = head(from, part, &model, official_encoder(&model.config, "fc_norm", false), hub)?;
    let note = "beit is what transformers has for a classifier on the mean of the tokens; the keys' biases, which change \
                no attention, have no place there";
    Ok(model.described(fields, official, hub, IMAGENET, vec![note.to_owned()]))
}
