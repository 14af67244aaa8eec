//! `ijepa`: I-JEPA's encoders, with or without a classifier on the mean of the tokens.

use std::path::Path;
use std::rc::Rc;

use mask_core::data::Front;
use mask_core::hub::{Family, Folder, Hosted};
use mask_core::nn::{Linear, Parameters};
use mask_core::recipe::{Value, to_value};
use mask_core::{Encoder, Layout, Named, Result, Split, Want};
use tch::{Device, Tensor};

use super::names::Place;
use super::{
    Colours, STEP, describe, encoder_config, folder_front, input, load, map, plans, prefix_of, recipe_front, view,
};
use crate::model::{Vit, VitConfig};

/// The family `ijepa`.
pub struct IJepaFamily;

/// The family `ijepa`.
pub static IJEPA: IJepaFamily = IJepaFamily;

struct HostedIJepa {
    config: VitConfig,
    encoder: Vit,
    classifier: Option<Linear>,
    has_token: bool,
    colours: Colours,
    parameters: Rc<Parameters>,
    notes: Vec<String>,
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
        Ok(Box::new(HostedIJepa {
            notes: describe(&loaded, None),
            colours: Colours::of(folder, config.channels)?,
            config,
            encoder,
            classifier,
            has_token,
            parameters,
        }))
    }
}

impl Hosted for HostedIJepa {
    fn forward(&self, inputs: &Named<Tensor>) -> Result<Named<Tensor>> {
        let pixels = input(inputs, "pixel_values", 4)?;
        let layout = Layout::single(self.config.grid()?);
        let plans = plans(inputs.get("bool_masked_pos"), pixels.size()[0], &layout, self.has_token)?;
        let (view, plan) = view(&self.config, pixels, &plans)?;
        tch::no_grad(|| {
            let features = self.encoder.encode(&view, Some(&plan), &Want::last(), &STEP)?;
            let mut outputs = Named::from([("last_hidden_state".to_owned(), features.last().shallow_clone())]);
            if let Some(classifier) = &self.classifier {
                outputs.insert("logits".to_owned(), classifier.forward(&features.pooled()));
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
