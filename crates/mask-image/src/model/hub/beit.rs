//! `beit`: BEiT's and SimMIM's encoders, BEiT's head over visual tokens, and classifiers on the class token.

use std::path::Path;
use std::rc::Rc;

use mask_core::data::Front;
use mask_core::hub::{ConfigReader, Family, Folder, Hosted};
use mask_core::nn::{LayerNorm, Linear, Parameters, PositionTable, QkvBias, RelativeBiasConfig};
use mask_core::recipe::{Value, to_value};
use mask_core::{Encoder, Layout, Named, Result, Split, Want};
use tch::{Device, Tensor};

use super::names::Place;
use super::{
    Colours, STEP, describe, encoder_config, folder_front, input, load, map, plans, prefix_of, recipe_front, view,
};
use crate::model::{Vit, VitConfig};

/// The family `beit`.
pub struct BeitFamily;

/// The family `beit`.
pub static BEIT: BeitFamily = BeitFamily;

/// A norm of its own, where the encoder has one already, and a linear map.
struct Head(Option<LayerNorm>, Linear);

struct HostedBeit {
    config: VitConfig,
    encoder: Vit,
    head: Option<Head>,
    classifier: Option<Linear>,
    /// Whether the final norm is the bare model's own, so that its output is ours.
    own_norm: bool,
    has_token: bool,
    colours: Colours,
    parameters: Rc<Parameters>,
    notes: Vec<String>,
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
        let has_token = weights.contains_key(&format!("{prefix}embeddings.mask_token"));
        let own_norm = !reader.flag("use_mean_pooling", Some(true))?;
        let head = weights.get("lm_head.weight");
        let norm = match (own_norm, head) {
            (true, _) => format!("{prefix}layernorm"),
            (false, Some(_)) => "layernorm".to_owned(),
            (false, None) => {
                let problem = "true without lm_head, as fine-tuned models have it, normalises after pooling, which is not \
                               supported";
                return Err(reader.refuse("use_mean_pooling", problem));
            }
        };
        let parameters = Parameters::new(device, 0);
        let root = parameters.root();
        let encoder = config.build(&root.enter("encoder"), has_token)?;
        let mut names = Place { mask_token: has_token, ..Place::of("encoder", prefix, &norm) }.beit(&config);
        let head = match head {
            None => None,
            Some(weight) => {
                let at = root.enter("predictor");
                let norm = match own_norm {
                    true => Some(LayerNorm::new(&at.enter("norm"), config.width, config.norm_eps)?),
                    false => None,
                };
                if norm.is_some() {
                    names = names.pair("predictor.norm", "layernorm");
                }
                Some(Head(norm, map(&mut names, &at, "lm_head", config.width, weight)?))
            }
        };
        let classifier = weights.get("classifier.weight");
        let classifier = classifier
            .map(|w| map(&mut names, &root.enter("classifier"), "classifier", config.width, w))
            .transpose()?;
        let loaded = load(&names, &parameters, folder)?;
        let note = head.is_none().then_some("the folder has no head over visual tokens");
        Ok(Box::new(HostedBeit {
            notes: describe(&loaded, note),
            colours: Colours::of(folder, config.channels)?,
            config,
            encoder,
            head,
            classifier,
            own_norm,
            has_token,
            parameters,
        }))
    }
}

impl Hosted for HostedBeit {
    fn forward(&self, inputs: &Named<Tensor>) -> Result<Named<Tensor>> {
        let pixels = input(inputs, "pixel_values", 4)?;
        let layout = Layout::single(self.config.grid()?);
        let plans = plans(inputs.get("bool_masked_pos"), pixels.size()[0], &layout, self.has_token)?;
        let (view, plan) = view(&self.config, pixels, &plans)?;
        tch::no_grad(|| {
            let features = self.encoder.encode(&view, Some(&plan), &Want::last(), &STEP)?;
            let mut outputs = Named::new();
            if self.own_norm {
                outputs.insert("last_hidden_state".to_owned(), features.last().shallow_clone());
            }
            if let Some(classifier) = &self.classifier {
                outputs.insert("logits".to_owned(), classifier.forward(&features.last().select(1, 0)));
            }
            if let Some(Head(norm, map)) = &self.head {
                let tokens = features.tokens();
                let tokens = norm.as_ref().map_or_else(|| tokens.shallow_clone(), |norm| norm.forward(&tokens));
                outputs.insert("logits".to_owned(), map.forward(&tokens));
            }
            Ok(outputs)
        })
    }

    fn encoder(&self) -> &dyn Encoder {
        &self.encoder
    }

    fn recipe(&self) -> Result<Value> {
        to_value(&self.config)
    }

    fn parameters(&self) -> &Parameters {
        &self.parameters
    }

    fn front(&self, data: &Path) -> Result<Box<dyn Front>> {
        folder_front(&self.config, data, &self.colours)
    }

    fn front_over(&self, data: &Value, split: Split) -> Result<Box<dyn Front>> {
        recipe_front(&self.config, data, split, &self.colours)
    }

    fn notes(&self) -> &[String] {
        &self.notes
    }
}
