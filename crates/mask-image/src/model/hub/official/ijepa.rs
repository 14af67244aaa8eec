//! Checkpoints of facebookresearch/ijepa: an encoder, its moving average, and a predictor.

use mask_core::Result;
use mask_core::hub::{Described, Layout, Official};
use serde_json::{Map, Value, json};

use super::super::names::{Place, official_encoder};
use super::{Fields, IMAGENET, Model, encoder_config, parts};
use crate::model::VitConfig;

/// The layout.
pub struct IJepa;

impl Layout for IJepa {
    fn name(&self) -> &'static str {
        "I-JEPA of facebookresearch/ijepa"
    }

    fn marks(&self) -> &'static str {
        "target_encoder.module.blocks.0.attn.qkv.weight without cls_token"
    }

    fn parts(&self, from: &Official) -> Vec<String> {
        let mut parts = parts(from);
        parts.retain(|part| from.has(&format!("{part}pos_embed")) && !from.has(&format!("{part}cls_token")));
        parts.retain(|part| matches!(part.split('.').next(), Some("target_encoder" | "encoder")));
        // The moving average comes first: it is what the paper evaluates.
        parts.sort_by_key(|part| !part.starts_with("target_encoder"));
        parts
    }

    fn describe(&self, from: &Official, part: &str, set: &Map<String, Value>) -> Result<Described> {
        let [_, rows, width] = from.shape(&format!("{part}pos_embed"))?;
        let mut fields = Fields::of(from, part, set, rows)?;
        fields.heads("num_attention_heads", width)?;
        fields.put("qkv_bias", json!(from.has(&format!("{part}blocks.0.attn.qkv.bias"))));
        let fields = fields.done("ijepa", "IJepaModel")?;
        let read = |reader: &_| Ok(VitConfig { class_token: false, ..encoder_config(reader)? });
        let model = Model::build(from, &fields, read, false)?;
        let official = official_encoder(&model.config, "norm", false);
        let hub = Place::of("encoder", "", "layernorm").plain(&model.config);
        let mut notes = vec!["transformers has no place for the predictor".to_owned()];
        if part.starts_with("target_encoder") {
            notes.push("the moving average is written; --part encoder takes the trained encoder".to_owned());
        }
        Ok(model.described(fields, official, hub, IMAGENET, notes))
    }
}
