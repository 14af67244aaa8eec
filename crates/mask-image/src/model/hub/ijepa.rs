//! `ijepa`: I-JEPA's encoders, with or without a classifier on the mean of the tokens.

use mask_core::data::STILL;
use mask_core::hub::{Family, Folder, Hosted};
use mask_core::nn::{Linear, Parameters};
use mask_core::{Encoder, Named, Result, Want};
use tch::{Device, Tensor};

use super::hosting::{Hosting, Outputs};
use super::names::Place;
use super::{describe, encoder_config, load, map, prefix_of};
use crate::model::VitConfig;

/// The family `ijepa`.
pub struct IJepaFamily;

/// The family `ijepa`.
pub static IJEPA: IJepaFamily = IJepaFamily;

/// What stands behind the encoder.
struct IJepa {
    classifier: Option<Linear>,
    has_token: bool,
}

impl Family for IJepaFamily {
    fn model_types(&self) -> &'static [&'static str] {
        &["ijepa"]
    }

    fn open(&self, folder: &Folder, device: Device) -> Result<Box<dyn Hosted>> {
        let weights = &folder.weights;
        let config = VitConfig { class_token: false, ..encoder_config(&folder.config)? };
        let prefix = prefix_of(weights, "ijepa.");
        let has_token = weights.contains_key(&format!("{prefix}embeddings.mask_token"));
        let parameters = Parameters::new(device, 0);
        let root = parameters.root();
        let encoder = config.build(&root.enter("encoder"), has_token)?;
        let norm = format!("{prefix}layernorm");
        let mut names = Place { mask_token: has_token, ..Place::of("encoder", prefix, &norm) }.plain(&config);
        let classifier = weights.get("classifier.weight");
        let classifier = classifier
            .map(|w| map(&mut names, &root.enter("classifier"), "classifier", config.width, w))
            .transpose()?;
        let loaded = load(&names, &parameters, folder)?;
        let own = IJepa { classifier, has_token };
        Hosting::of(folder, config, encoder, own, parameters, describe(&loaded, None))
    }
}

impl Outputs for IJepa {
    fn forward(model: &Hosting<Self>, inputs: &Named<Tensor>) -> Result<Named<Tensor>> {
        let (view, plan) = model.masked(inputs, model.own.has_token)?;
        tch::no_grad(|| {
            let features = model.encoder.encode(&view, Some(&plan), &Want::last(), &STILL)?;
            let mut outputs = Named::from([("last_hidden_state".to_owned(), features.last().shallow_clone())]);
            if let Some(classifier) = &model.own.classifier {
                outputs.insert("logits".to_owned(), classifier.forward(&features.pooled()));
            }
            Ok(outputs)
        })
    }
}
