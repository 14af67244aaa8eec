//! Checkpoints of BEiT (microsoft/unilm) and of SimMIM's vision transformers (microsoft/SimMIM), which are BEiT's.

use mask_core::Result;
use mask_core::hub::{Described, Layout, Official};
use serde_json::{Map, Value, json};

use super::super::beit::beit_config;
use super::super::names::{Place, official_encoder};
use super::{Fields, IMAGENET, Model, labels, parts};

/// BEiT, pre-trained or fine-tuned, and fine-tuned SimMIM.
pub struct Beit;

/// SimMIM in pre-training.
pub struct SimMim;

/// BEiT's normalisation.
const HALF: [[f64; 3]; 2] = [[0.5; 3], [0.5; 3]];

impl Layout for Beit {
    fn name(&self) -> &'static str {
        "BEiT of microsoft/unilm"
    }

    fn marks(&self) -> &'static str {
        "blocks.0.attn.q_bias, with rel_pos_bias.relative_position_bias_table, lm_head or head"
    }

    fn parts(&self, from: &Official) -> Vec<String> {
        let mut parts = parts(from);
        parts
            .retain(|part| ["cls_token", "blocks.0.attn.q_bias"].iter().all(|mark| from.has(&format!("{part}{mark}"))));
        parts
    }

    fn describe(&self, from: &Official, part: &str, set: &Map<String, Value>) -> Result<Described> {
        describe(from, part, set, HALF)
    }
}

impl Layout for SimMim {
    fn name(&self) -> &'static str {
        "SimMIM's ViT of microsoft/SimMIM"
    }

    fn marks(&self) -> &'static str {
        "encoder.blocks.0.attn.q_bias, encoder.mask_token, decoder.0.weight"
    }

    fn parts(&self, from: &Official) -> Vec<String> {
        let mut parts = parts(from);
        parts.retain(|part| {
            let outside = part.strip_suffix("encoder.");
            outside.is_some_and(|outside| from.has(&format!("{outside}decoder.0.weight")))
                && ["cls_token", "mask_token", "blocks.0.attn.q_bias"]
                    .iter()
                    .all(|mark| from.has(&format!("{part}{mark}")))
        });
        parts
    }

    fn describe(&self, from: &Official, part: &str, set: &Map<String, Value>) -> Result<Described> {
        let mut described = describe(from, part, set, IMAGENET)?;
        described
            .notes
            .push("transformers has no place for SimMIM's head of pixels; the encoder is written".to_owned());
        Ok(described)
    }
}

/// How many positions there are, by the position table, or by the rows of a relative bias, (2 side - 1)^2 + 3.
fn positions(from: &Official, part: &str, table: Option<&str>) -> Result<i64> {
    if let Ok([_, rows, _]) = from.shape(&format!("{part}pos_embed")) {
        return Ok(rows - 1);
    }
    let Some(table) = table else {
        return Err(from.refuse("has neither a position table nor a relative bias, so its image size can't be known"));
    };
    let [rows, _] = from.shape(&format!("{part}{table}"))?;
    let side = (((rows - 3) as f64).sqrt().round() as i64 + 1) / 2;
    match (2 * side - 1).pow(2) + 3 == rows {
        true => Ok(side * side),
        false => Err(from.refuse(format!("{table} has {rows} rows, which is no square window's number"))),
    }
}

fn describe(from: &Official, part: &str, set: &Map<String, Value>, colours: [[f64; 3]; 2]) -> Result<Described> {
    let has = |name: &str| from.has(&format!("{part}{name}"));
    let [shared, own] = ["rel_pos_bias", "blocks.0.attn"].map(|at| format!("{at}.relative_position_bias_table"));
    let (is_shared, is_own) = (has(&shared), has(&own));
    let table = match (is_shared, is_own) {
        (true, _) => Some(shared.as_str()),
        (false, true) => Some(own.as_str()),
        (false, false) => None,
    };
    let mut fields = Fields::of(from, part, set, positions(from, part, table)?)?;
    match table {
        // A column of the table is a head.
        Some(table) => {
            let [_, heads] = from.shape(&format!("{part}{table}"))?;
            fields.put("num_attention_heads", json!(heads));
        }
        None => {
            let [_, _, width] = from.shape(&format!("{part}cls_token"))?;
            fields.heads("num_attention_heads", width)?;
        }
    }
    let (codes, classes) = (from.shape(&format!("{part}lm_head.weight")), from.shape(&format!("{part}head.weight")));
    let (codes, classes) = (codes.ok().map(|[codes, _]| codes), classes.ok().map(|[classes, _]| classes));
    let pooled = has("fc_norm.weight");
    let mask_token = has("mask_token");
    // A head over visual tokens has the norm before it; without any head the norm is the model's own.
    let mean = pooled || codes.is_some();
    fields.put("use_mask_token", json!(mask_token));
    fields.put("use_absolute_position_embeddings", json!(has("pos_embed")));
    fields.put("use_shared_relative_position_bias", json!(is_shared));
    fields.put("use_relative_position_bias", json!(is_own && !is_shared));
    // Any start above 0 says that there are gains; their values are the weights'.
    fields.put("layer_scale_init_value", json!(if has("blocks.0.gamma_1") { 0.1 } else { 0.0 }));
    fields.put("drop_path_rate", json!(0.0));
    fields.put("use_mean_pooling", json!(mean));
    if let Some(codes) = codes {
        fields.put("vocab_size", json!(codes));
    }
    if let Some(classes) = classes {
        fields.put("id2label", labels(classes));
    }
    let (architecture, there, norm) = match (codes.is_some(), classes.is_some()) {
        (true, _) => ("BeitForMaskedImageModeling", "beit.", "layernorm"),
        (false, true) if pooled => ("BeitForImageClassification", "beit.", "beit.pooler.layernorm"),
        (false, true) => ("BeitForImageClassification", "beit.", "beit.layernorm"),
        (false, false) if pooled => ("BeitModel", "", "pooler.layernorm"),
        (false, false) => ("BeitModel", "", "layernorm"),
    };
    let fields = fields.done("beit", architecture)?;
    let model = Model::build(from, &fields, beit_config, mask_token)?;
    let mut official = official_encoder(&model.config, if pooled { "fc_norm" } else { "norm" }, mask_token);
    let mut hub = Place { mask_token, ..Place::of("encoder", there, norm) }.beit(&model.config);
    let head = if codes.is_some() { Some("lm_head") } else { classes.map(|_| "head") };
    if let Some(head) = head {
        model.map(from, &format!("{part}{head}"), "predictor")?;
        official = official.pair("predictor", head);
        hub = hub.pair("predictor", if codes.is_some() { "lm_head" } else { "classifier" });
    }
    Ok(model.described(fields, official, hub, colours, Vec::new()))
}
