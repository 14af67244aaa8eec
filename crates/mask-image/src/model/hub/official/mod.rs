//! Checkpoints of the papers' own repositories: MAE, BEiT and SimMIM, I-JEPA.

mod beit;
mod ijepa;
mod mae;

use std::rc::Rc;

use mask_core::hub::{ConfigReader, Described, Layout, Names, Official};
use mask_core::nn::{Parameters, Scope};
use mask_core::{Error, Result};
use serde_json::{Map, Value, json};
use tch::Device;

use super::encoder_config;
use super::export::{labels, processor};
use crate::model::VitConfig;

/// All of them. One is taken by the names that it alone has, so their order doesn't matter but for I-JEPA's, whose parts
/// look like plain encoders.
pub const LAYOUTS: [&dyn Layout; 4] = [&ijepa::IJepa, &beit::SimMim, &beit::Beit, &mae::Mae];

/// The mean and deviation of ImageNet's channels, which all these repositories but BEiT's normalise with.
const IMAGENET: [[f64; 3]; 2] = [[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]];

/// What precedes the names of each vision transformer in a file: `model.`, `target_encoder.module.`, or nothing.
fn parts(from: &Official) -> Vec<String> {
    let part = |name: &String| name.strip_suffix("blocks.0.attn.qkv.weight").map(str::to_owned);
    let mut parts: Vec<String> = from.shapes().keys().filter_map(part).collect();
    // `decoder_blocks` ends like `blocks`.
    parts.retain(|part| part.is_empty() || part.ends_with('.'));
    // The weights that were trained before copies of them.
    parts.sort_by_key(|part| (part.contains("ema"), part.len()));
    parts
}

/// Heads of the widths that the papers use; weights don't tell them.
fn usual_heads(width: i64) -> Option<i64> {
    Some(match width {
        192 => 3,
        384 => 6,
        768 => 12,
        1024 | 1280 | 1408 | 1664 | 512 => 16,
        _ => return None,
    })
}

/// What is known of a checkpoint's `config.json`: fields that the weights tell, and those that a user gives.
struct Fields<'a> {
    from: &'a Official,
    set: &'a Map<String, Value>,
    fields: Map<String, Value>,
}

impl<'a> Fields<'a> {
    /// The encoder's fields. `table` are the rows of its position table or of its relative index without prefix.
    fn of(from: &'a Official, part: &str, set: &'a Map<String, Value>, positions: i64) -> Result<Self> {
        let [width, channels, height, patch_width] = from.shape(&format!("{part}patch_embed.proj.weight"))?;
        let [mlp, _] = from.shape(&format!("{part}blocks.0.mlp.fc1.weight"))?;
        let depth = from.blocks(&format!("{part}blocks"));
        // Before a model of that size is built: every block has to be there.
        for block in 0..depth {
            let name = format!("{part}blocks.{block}.attn.qkv.weight");
            let found: [i64; 2] = from.shape(&name)?;
            if found != [3 * width, width] {
                return Err(from.refuse(format!("{name} has shape {found:?}, expected {:?}", [3 * width, width])));
            }
        }
        let mut fields = Self { from, set, fields: Map::new() };
        fields.put("hidden_size", json!(width));
        fields.put("num_hidden_layers", json!(depth));
        fields.put("intermediate_size", json!(mlp));
        fields.put("hidden_act", json!("gelu"));
        fields.put("hidden_dropout_prob", json!(0.0));
        fields.put("attention_probs_dropout_prob", json!(0.0));
        fields.put("initializer_range", json!(0.02));
        fields.put("layer_norm_eps", json!(1e-6));
        fields.put("num_channels", json!(channels));
        let one = |sides: [i64; 2]| if sides[0] == sides[1] { json!(sides[0]) } else { json!(sides) };
        fields.put("patch_size", one([height, patch_width]));
        let side = (positions as f64).sqrt().round() as i64;
        let image = (side * side == positions).then(|| one([side * height, side * patch_width]));
        fields.asked("image_size", image, "its number of positions is no square")?;
        fields.put("dtype", json!("float32"));
        Ok(fields)
    }

    fn put(&mut self, key: &str, value: Value) {
        self.fields.insert(key.to_owned(), value);
    }

    /// A field that weights may not tell.
    fn asked(&mut self, key: &str, known: Option<Value>, why: &str) -> Result<()> {
        let value = self.set.get(key).cloned().or(known);
        let value = value.ok_or_else(|| self.from.refuse(format!("{why}: give {key} by --set {key}=VALUE")))?;
        self.put(key, value);
        Ok(())
    }

    /// Heads of a width.
    fn heads(&mut self, key: &str, width: i64) -> Result<()> {
        let why = format!("weights don't tell the number of heads, and no paper has a width of {width}");
        self.asked(key, usual_heads(width).map(Value::from), &why)
    }

    /// A plain value that lies in the checkpoint, or a default with a note that says so.
    fn fact(&mut self, key: &str, at: &str, default: Value, notes: &mut Vec<String>) {
        let found = self.from.fact(at).filter(|value| value.is_boolean() == default.is_boolean()).cloned();
        if found.is_none() && !self.set.contains_key(key) {
            notes.push(format!(
                "{key} is not in the checkpoint and taken as {default}; --set {key}=VALUE says otherwise"
            ));
        }
        self.put(key, found.unwrap_or(default));
    }

    /// With `model_type` and what the user set; another field than those there is refused.
    fn done(mut self, model_type: &str, architecture: &str) -> Result<Map<String, Value>> {
        self.put("architectures", json!([architecture]));
        self.put("model_type", json!(model_type));
        for (key, value) in self.set {
            if !self.fields.contains_key(key) {
                let known: Vec<&str> = self.fields.keys().map(String::as_str).collect();
                return Err(Error::value(
                    "--set",
                    format!("{model_type} has no field {key}; it has {}", known.join(", ")),
                ));
            }
            self.put(key, value.clone());
        }
        Ok(self.fields)
    }
}

/// The model of a `config.json`, built, and its scope.
struct Model {
    config: VitConfig,
    parameters: Rc<Parameters>,
    root: Scope,
}

impl Model {
    fn build(
        from: &Official,
        fields: &Map<String, Value>,
        read: impl Fn(&ConfigReader) -> Result<VitConfig>,
        mask_token: bool,
    ) -> Result<Self> {
        let config = read(&ConfigReader::of(from.path(), fields.clone()))?;
        let parameters = Parameters::new(Device::Cpu, 0);
        let root = parameters.root();
        config.build(&root.enter("encoder"), mask_token)?;
        Ok(Self { config, parameters, root })
    }

    /// A linear map named `ours` here.
    fn map(&self, from: &Official, name: &str, ours: &str) -> Result<()> {
        let [out, width] = from.shape(&format!("{name}.weight"))?;
        mask_core::nn::Linear::new(&self.root.enter(ours), width, out, mask_core::nn::Init::ZEROS)?;
        Ok(())
    }

    fn described(
        self,
        config: Map<String, Value>,
        official: Names,
        hub: Names,
        colours: [[f64; 3]; 2],
        notes: Vec<String>,
    ) -> Described {
        let [mean, std] = colours;
        let processor = (self.config.channels == 3).then(|| processor(self.config.image, &mean, &std));
        Described { config, processor, parameters: self.parameters, official, hub, notes }
    }
}
