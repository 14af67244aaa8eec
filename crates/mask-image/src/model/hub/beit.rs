//! `beit`: BEiT's and SimMIM's encoders, BEiT's head over visual tokens, and classifiers.

use mask_core::data::STILL;
use mask_core::hub::{ConfigReader, Family, Folder, Hosted, Names};
use mask_core::nn::{LayerNorm, Linear, Parameters, PositionTable, QkvBias, RelativeBiasConfig};
use mask_core::{Encoder, Named, Result, Want};
use tch::{Device, Tensor};

use super::hosting::{Hosting, Outputs};
use super::names::Place;
use super::{describe, encoder_config, load, map, prefix_of};
use crate::model::VitConfig;

/// The family `beit`.
pub struct BeitFamily;

/// The family `beit`.
pub static BEIT: BeitFamily = BeitFamily;

/// What stands behind the blocks.
enum Behind {
    /// The final norm, then perhaps a classifier on the class token.
    Class(Option<Linear>),
    /// The final norm, perhaps another one, and a map to visual tokens.
    Codes { own_norm: bool, norm: Option<LayerNorm>, map: Linear },
    /// No final norm: one of the mean of the tokens, then perhaps a classifier.
    Mean(LayerNorm, Option<Linear>),
}

struct Beit {
    behind: Behind,
    has_token: bool,
}

/// The encoder that a `config.json` describes.
pub(super) fn beit_config(reader: &ConfigReader) -> Result<VitConfig> {
    let flag = |key: &str| reader.flag(key, Some(false));
    let relative_bias = match (flag("use_shared_relative_position_bias")?, flag("use_relative_position_bias")?) {
        (false, false) => RelativeBiasConfig::None,
        (true, false) => RelativeBiasConfig::Shared,
        (false, true) => RelativeBiasConfig::PerBlock,
        (true, true) => {
            let problem = "true beside use_shared_relative_position_bias is not supported";
            return Err(reader.refuse("use_relative_position_bias", problem));
        }
    };
    let gain = reader.number("layer_scale_init_value", Some(0.1))?;
    let config = VitConfig {
        positions: match flag("use_absolute_position_embeddings")? {
            true => PositionTable::Learned,
            false => PositionTable::None,
        },
        relative_bias,
        qkv_bias: QkvBias::Qv,
        layer_scale: (gain > 0.0).then_some(gain),
        ..encoder_config(reader)?
    };
    let [image, patch] = [config.image, config.patch];
    if image[0] != image[1] || patch[0] != patch[1] {
        // The reference cuts its tables with the sides exchanged there.
        return Err(
            reader.refuse("image_size", &format!("{image:?} in patches of {patch:?}: only squares are supported"))
        );
    }
    Ok(config)
}

impl Family for BeitFamily {
    fn model_types(&self) -> &'static [&'static str] {
        &["beit"]
    }

    fn open(&self, folder: &Folder, device: Device) -> Result<Box<dyn Hosted>> {
        let (reader, weights) = (&folder.config, &folder.weights);
        let config = beit_config(reader)?;
        let prefix = prefix_of(weights, "beit.");
        let parameters = Parameters::new(device, 0);
        let (root, below) = (parameters.root(), parameters.root().enter("encoder"));
        let own_norm = !reader.flag("use_mean_pooling", Some(true))?;
        let codes = weights.get("lm_head.weight");
        let pooled = !own_norm && codes.is_none();
        let has_token = !pooled && weights.contains_key(&format!("{prefix}embeddings.mask_token"));
        let norm = match (own_norm, pooled) {
            (true, _) => format!("{prefix}layernorm"),
            (false, true) => format!("{prefix}pooler.layernorm"),
            (false, false) => "layernorm".to_owned(),
        };
        // Named as fine-tuning names them, which may begin with them.
        let place = Place { mask_token: has_token, ..Place::of("encoder", prefix, &norm) };
        let mut names = Place { norm_here: pooled.then_some("norm"), ..place }.beit(&config);
        let encoder = if pooled { config.build_without_norm(&below)? } else { config.build(&below, has_token)? };
        let layer_norm = |name: &str| LayerNorm::new(&root.enter(name), config.width, config.norm_eps);
        let classifier = weights.get("classifier.weight");
        let classifier = |names: &mut Names| {
            classifier.map(|w| map(names, &root.enter("head"), "classifier", config.width, w)).transpose()
        };
        let behind = match codes {
            None if pooled => Behind::Mean(layer_norm("norm")?, classifier(&mut names)?),
            None => Behind::Class(classifier(&mut names)?),
            Some(weight) => {
                let norm = if own_norm { Some(layer_norm("predictor.norm")?) } else { None };
                if norm.is_some() {
                    names = names.pair("predictor.norm", "layernorm");
                }
                let map = map(&mut names, &root.enter("predictor"), "lm_head", config.width, weight)?;
                Behind::Codes { own_norm, norm, map }
            }
        };
        let loaded = load(&names, &parameters, folder)?;
        let note = codes.is_none().then_some("the folder has no head over visual tokens");
        Hosting::of(folder, config, encoder, Beit { behind, has_token }, parameters, describe(&loaded, note))
    }
}

impl Outputs for Beit {
    fn forward(model: &Hosting<Self>, inputs: &Named<Tensor>) -> Result<Named<Tensor>> {
        let (view, plan) = model.masked(inputs, model.own.has_token)?;
        tch::no_grad(|| {
            let features = model.encoder.encode(&view, Some(&plan), &Want::last(), &STILL)?;
            let last = features.last();
            let mut outputs = Named::from([("last_hidden_state".to_owned(), last.shallow_clone())]);
            let logits =
                match &model.own.behind {
                    Behind::Class(map) => map.as_ref().map(|map| map.forward(&last.select(1, 0))),
                    Behind::Codes { own_norm, norm, map } => {
                        if !own_norm {
                            // The bare model's output there has no norm.
                            outputs.clear();
                        }
                        let tokens = features.tokens();
                        Some(map.forward(
                            &norm.as_ref().map_or_else(|| tokens.shallow_clone(), |norm| norm.forward(&tokens)),
                        ))
                    }
                    Behind::Mean(norm, map) => {
                        let pooled = norm.forward(&features.pooled());
                        let logits = map.as_ref().map(|map| map.forward(&pooled));
                        outputs.insert("pooler_output".to_owned(), pooled);
                        logits
                    }
                };
            outputs.extend(logits.map(|logits| ("logits".to_owned(), logits)));
            Ok(outputs)
        })
    }
}
