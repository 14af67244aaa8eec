//! Our models as architectures of `transformers`.

use mask_core::hub::{ClassHead, Export};
use mask_core::nn::{Activation, DecoderConfig, PositionTable, QkvBias, RelativeBiasConfig};
use mask_core::{Error, Result};
use serde_json::{Map, Value, json};

use super::names::Place;
use super::vit_mae::decoder_names;
use crate::model::VitConfig;

/// The plain encoders of `transformers` that ours may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Plain {
    Vit,
    Beit,
    IJepa,
}

/// Both sides of a square, which some architectures ask for.
fn square(config: &VitConfig, what: &str) -> Result<()> {
    let [image, patch] = [config.image, config.patch];
    match image[0] == image[1] && patch[0] == patch[1] {
        true => Ok(()),
        false => {
            let problem = format!("images of {image:?} in patches of {patch:?} are not square, as {what} needs them");
            Err(Export::refuse("encoder.image", problem))
        }
    }
}

fn plain(config: &VitConfig) -> Result<Plain> {
    let relative = config.relative_bias != RelativeBiasConfig::None;
    let gains = config.layer_scale.is_some();
    let positions = config.positions != PositionTable::None;
    let beyond_vit = relative || gains || config.qkv_bias == QkvBias::Qv || !positions;
    match (config.class_token, beyond_vit) {
        (true, false) => Ok(Plain::Vit),
        (false, false) => Ok(Plain::IJepa),
        (false, true) => {
            let problem = "no class token stands beside a relative bias, gains, partial biases or missing positions";
            Err(Export::refuse("encoder.class_token", problem))
        }
        (true, true) if config.qkv_bias == QkvBias::None => {
            Err(Export::refuse("encoder.qkv_bias", "query and value have no bias beside BEiT's other parts"))
        }
        (true, true) => square(config, "beit").map(|()| Plain::Beit),
    }
}

/// One side, or both where they differ.
fn sides([height, width]: [usize; 2]) -> Value {
    if height == width { json!(height) } else { json!([height, width]) }
}

/// The fields that all these architectures share.
fn fields(config: &VitConfig, model_type: &str, architecture: &str) -> Map<String, Value> {
    let act = match config.activation {
        Activation::Gelu => "gelu",
        Activation::GeluTanh => "gelu_pytorch_tanh",
        Activation::Relu => "relu",
        Activation::Silu => "silu",
    };
    let fields = [
        ("architectures", json!([architecture])),
        ("model_type", json!(model_type)),
        ("hidden_size", json!(config.width)),
        ("num_hidden_layers", json!(config.depth)),
        ("num_attention_heads", json!(config.heads)),
        ("intermediate_size", json!(config.mlp)),
        ("hidden_act", json!(act)),
        ("hidden_dropout_prob", json!(config.dropout)),
        ("attention_probs_dropout_prob", json!(0.0)),
        ("initializer_range", json!(0.02)),
        ("layer_norm_eps", json!(config.norm_eps)),
        ("image_size", sides(config.image)),
        ("patch_size", sides(config.patch)),
        ("num_channels", json!(config.channels)),
        ("qkv_bias", json!(config.qkv_bias == QkvBias::Full)),
        ("dtype", json!("float32")),
    ];
    fields.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()
}

fn extend(mut fields: Map<String, Value>, more: Value) -> Map<String, Value> {
    if let Value::Object(more) = more {
        fields.extend(more);
    }
    fields
}

fn with(fields: Map<String, Value>, more: Value) -> Value {
    Value::Object(extend(fields, more))
}

/// `config.json` of a `beit`; `mean` says that its norm stands behind the mean of the tokens.
fn beit_fields(config: &VitConfig, architecture: &str, mask_token: bool, mean: bool) -> Map<String, Value> {
    let mut fields = fields(config, "beit", architecture);
    fields.remove("qkv_bias");
    let more = json!({
        "use_mask_token": mask_token,
        "use_absolute_position_embeddings": config.positions != PositionTable::None,
        "use_shared_relative_position_bias": config.relative_bias == RelativeBiasConfig::Shared,
        "use_relative_position_bias": config.relative_bias == RelativeBiasConfig::PerBlock,
        "layer_scale_init_value": config.layer_scale.unwrap_or(0.0),
        "drop_path_rate": config.drop_path,
        "use_mean_pooling": mean,
    });
    extend(fields, more)
}

/// The encoder alone, whose parameters lie below `name`.
pub(crate) fn export_encoder(config: &VitConfig, name: &str, mask_token: bool) -> Result<Export> {
    let place = Place::of(name, "", "layernorm");
    Ok(match plain(config)? {
        Plain::Vit => Export { config: Value::Object(fields(config, "vit", "ViTModel")), names: place.plain(config) },
        Plain::IJepa => {
            Export { config: Value::Object(fields(config, "ijepa", "IJepaModel")), names: place.plain(config) }
        }
        Plain::Beit => Export {
            config: Value::Object(beit_fields(config, "BeitModel", mask_token, false)),
            names: Place { mask_token, ..place }.beit(config),
        },
    })
}

/// The encoder with a classifier. On the mean of the tokens that is `beit`, whatever the encoder: no other architecture
/// has a norm behind the mean.
pub(crate) fn export_classifier(config: &VitConfig, name: &str, head: &ClassHead) -> Result<Export> {
    let labels = json!({ "id2label": labels(head.classes) });
    let beit = |mean: bool| with(beit_fields(config, "BeitForImageClassification", false, mean), labels.clone());
    let (config, names) = match (&head.norm, plain(config)?) {
        (None, Plain::Vit) => {
            let fields = with(fields(config, "vit", "ViTForImageClassification"), labels);
            (fields, Place::of(name, "vit.", "vit.layernorm").plain(config))
        }
        (None, Plain::Beit) => (beit(false), Place::of(name, "beit.", "beit.layernorm").beit(config)),
        (Some(norm), Plain::Vit | Plain::Beit) if config.qkv_bias != QkvBias::None => {
            square(config, "beit")?;
            let place = Place::of(name, "beit.", "beit.pooler.layernorm");
            (beit(true), Place { norm_here: Some(norm), ..place }.beit(config))
        }
        (Some(_), Plain::Vit | Plain::Beit) => {
            return Err(Export::refuse("encoder.qkv_bias", "query and value have no bias, as beit needs them"));
        }
        (_, Plain::IJepa) => {
            return Err(Export::refuse("encoder.class_token", "no class token stands in front of a classifier"));
        }
    };
    Ok(Export { config, names: names.pair(&head.map, "classifier") })
}

/// An encoder with mask tokens and a linear head over `codes` visual tokens.
pub(crate) fn export_beit(config: &VitConfig, codes: i64) -> Result<Export> {
    match plain(config)? {
        Plain::IJepa => Err(Export::refuse("encoder.class_token", "beit has a class token")),
        _ if config.qkv_bias == QkvBias::None => {
            Err(Export::refuse("encoder.qkv_bias", "query and value have no bias, as beit needs them"))
        }
        _ => {
            square(config, "beit")?;
            let fields = beit_fields(config, "BeitForMaskedImageModeling", true, true);
            let place = Place { mask_token: true, ..Place::of("encoder", "beit.", "layernorm") };
            Ok(Export {
                config: with(fields, json!({ "vocab_size": codes })),
                names: place.beit(config).pair("predictor", "lm_head"),
            })
        }
    }
}

/// Classes of a classifier, as `config.json` names them.
pub(super) fn labels(count: i64) -> Value {
    Value::Object((0..count).map(|label| (label.to_string(), json!(format!("LABEL_{label}")))).collect())
}

/// An encoder with mask tokens and a linear head for pixels: `ViTForMaskedImageModeling` where its options allow that,
/// else the encoder alone.
pub(crate) fn export_masked_vit(config: &VitConfig) -> Result<Export> {
    if plain(config)? != Plain::Vit || square(config, "a head of pixels").is_err() {
        return export_encoder(config, "encoder", true);
    }
    let place = Place { mask_token: true, ..Place::of("encoder", "vit.", "vit.layernorm") };
    let names = place.plain(config).padded("predictor.weight", "decoder.0.weight", [0, 2]);
    let more = json!({ "encoder_stride": config.patch[0] });
    Ok(Export {
        config: with(fields(config, "vit", "ViTForMaskedImageModeling"), more),
        names: names.same("predictor.bias", "decoder.0.bias"),
    })
}

/// A masked autoencoder with its decoder.
pub(crate) fn export_mae(
    config: &VitConfig,
    decoder: &DecoderConfig,
    mask_ratio: f64,
    standardised: bool,
) -> Result<Export> {
    if plain(config)? != Plain::Vit {
        return Err(Export::refuse(
            "encoder",
            "vit_mae has a class token and no relative bias, gains or partial biases",
        ));
    }
    square(config, "vit_mae")?;
    if decoder.norm_eps != config.norm_eps {
        let problem = format!("{} differs from the encoder's {}", decoder.norm_eps, config.norm_eps);
        return Err(Export::refuse("predictor.norm_eps", problem));
    }
    let names = Place::of("encoder", "vit.", "vit.layernorm").plain(config);
    let more = json!({
        "decoder_hidden_size": decoder.width,
        "decoder_num_hidden_layers": decoder.depth,
        "decoder_num_attention_heads": decoder.heads,
        "decoder_intermediate_size": decoder.mlp,
        "mask_ratio": mask_ratio,
        "norm_pix_loss": standardised,
    });
    Ok(Export {
        config: with(fields(config, "vit_mae", "ViTMAEForPreTraining"), more),
        names: decoder_names(names, false, decoder, config.qkv_bias == QkvBias::Full),
    })
}

/// `preprocessor_config.json`: resized to `image`, normalised.
pub(crate) fn processor(image: [usize; 2], mean: &[f64], std: &[f64]) -> Value {
    json!({
        "image_processor_type": "ViTImageProcessor",
        "do_resize": true,
        "size": { "height": image[0], "width": image[1] },
        "resample": 3,
        "do_rescale": true,
        "rescale_factor": 1.0 / 255.0,
        "do_normalize": true,
        "image_mean": mean,
        "image_std": std,
    })
}

/// A value of the recipe that has no place, told as an error of its key.
pub(crate) fn refuse_mask_tokens() -> Error {
    Export::refuse("encoder_reads", "the encoder reads mask tokens, which vit_mae's doesn't")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_option_has_its_architecture_or_is_named() {
        let mae = VitConfig::mae(16, 1, 2);
        let kind = |config: &VitConfig| plain(config).map_err(|error| error.to_string());
        assert_eq!(kind(&mae), Ok(Plain::Vit));
        assert_eq!(kind(&VitConfig { class_token: false, ..mae.clone() }), Ok(Plain::IJepa));
        assert_eq!(kind(&VitConfig::beit(16, 1, 2)), Ok(Plain::Beit));
        assert_eq!(kind(&VitConfig { layer_scale: Some(0.1), ..mae.clone() }), Ok(Plain::Beit));
        let refused = |config: VitConfig, key: &str| {
            let line = kind(&config).unwrap_err();
            assert!(line.starts_with(&format!("encoder.{key}: ")) && line.contains("no architecture"), "{line}");
        };
        refused(VitConfig { class_token: false, ..VitConfig::beit(16, 1, 2) }, "class_token");
        refused(VitConfig { qkv_bias: QkvBias::None, ..VitConfig::beit(16, 1, 2) }, "qkv_bias");
        refused(VitConfig { image: [32, 64], ..VitConfig::beit(16, 1, 2) }, "image");
        let long = VitConfig { image: [32, 64], ..mae.clone() };
        assert_eq!(kind(&long), Ok(Plain::Vit));
        assert!(export_mae(&long, &DecoderConfig::default(), 0.75, true).is_err());
        let other = DecoderConfig { norm_eps: 1e-5, ..DecoderConfig::default() };
        assert!(export_mae(&mae, &other, 0.75, true).unwrap_err().to_string().contains("predictor.norm_eps"));
    }
}
