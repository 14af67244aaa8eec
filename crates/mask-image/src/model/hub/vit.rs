//! `vit`: plain encoders, masked image modeling (SimMIM), and classifiers.

use mask_core::data::STILL;
use mask_core::hub::{ConfigReader, Family, Folder, Hosted};
use mask_core::nn::{Activation, Linear, LinearHead, Parameters, unpatch};
use mask_core::objective::absolute_error;
use mask_core::{DevicePlan, Encoder, Features, Named, Predictor, Result, View, Want};
use tch::{Device, Kind, Tensor};

use super::hosting::{Hosting, Outputs};
use super::names::Place;
use super::{describe, encoder_config, load, map, prefix_of};
use crate::target::{Normalise, PatchOrder, PatchPixels};

/// The family `vit`.
pub struct VitFamily;

/// The family `vit`.
pub static VIT: VitFamily = VitFamily;

/// A map of the class token and what follows it; none = tanh.
struct Pooler(Linear, Option<Activation>);

/// What stands behind the encoder.
struct Heads {
    head: Option<LinearHead>,
    pooler: Option<Pooler>,
    classifier: Option<Linear>,
    has_token: bool,
}

fn pooler_activation(reader: &ConfigReader) -> Result<Option<Activation>> {
    Ok(if reader.text("pooler_act", Some("tanh"))? == "tanh" { None } else { Some(reader.activation("pooler_act")?) })
}

impl Family for VitFamily {
    fn model_types(&self) -> &'static [&'static str] {
        &["vit"]
    }

    fn open(&self, folder: &Folder, device: Device) -> Result<Box<dyn Hosted>> {
        let (reader, weights) = (&folder.config, &folder.weights);
        let config = encoder_config(reader)?;
        let prefix = prefix_of(weights, "vit.");
        let has_token = weights.contains_key(&format!("{prefix}embeddings.mask_token"));
        let parameters = Parameters::new(device, 0);
        let root = parameters.root();
        let encoder = config.build(&root.enter("encoder"), has_token)?;
        let norm = format!("{prefix}layernorm");
        let place = Place { mask_token: has_token, ..Place::of("encoder", prefix, &norm) };
        let mut names = place.plain(&config);
        let mut read = vec!["the encoder"];
        let head = if weights.contains_key("decoder.0.weight") {
            let stride = reader.sides("encoder_stride", Some([16, 16]))?;
            if stride.map(|side| side as usize) != config.patch {
                let problem = format!("{stride:?} differs from patch_size {:?}, which is not supported", config.patch);
                return Err(reader.refuse("encoder_stride", &problem));
            }
            // A 1 x 1 convolution, whose outputs pixel shuffle spreads: channel, row, column.
            names =
                names.padded("predictor.weight", "decoder.0.weight", [0, 2]).same("predictor.bias", "decoder.0.bias");
            Some(LinearHead::new(&root.enter("predictor"), config.width, config.patch_numbers(), config.init)?)
        } else {
            None
        };
        let theirs = format!("{prefix}pooler.dense");
        let pooler = match weights.get(&format!("{theirs}.weight")) {
            Some(weight) => {
                read.push("its pooler");
                let activation = pooler_activation(reader)?;
                Some(Pooler(map(&mut names, &root.enter("pooler"), &theirs, config.width, weight)?, activation))
            }
            None => None,
        };
        let classifier = match weights.get("classifier.weight") {
            Some(weight) => {
                read.push("a classifier");
                Some(map(&mut names, &root.enter("classifier"), "classifier", config.width, weight)?)
            }
            None => None,
        };
        let loaded = load(&names, &parameters, folder)?;
        let note = format!("the folder has no head of masked image modeling; what is read: {}", read.join(", "));
        let notes = describe(&loaded, head.is_none().then_some(note.as_str()));
        let own = Heads { head, pooler, classifier, has_token };
        Hosting::of(folder, config, encoder, own, parameters, notes)
    }
}

impl Hosting<Heads> {
    /// What the head of masked image modeling gives.
    fn pixels(&self, head: &LinearHead, seen: &Features, view: &View, plan: &DevicePlan) -> Result<[Tensor; 2]> {
        let answers = head.answer(seen, plan, 0, &STILL)?; // [B * L, P]
        let target = PatchPixels::new(self.config.patch, PatchOrder::ChannelFirst, Normalise::None);
        let errors = absolute_error(&plan.scored_of(&answers), &target.at(view, &plan.scored)?)?;
        let pixels = (self.config.patch[0] * self.config.patch[1]) as f64;
        let count = plan.scored.flat.size()[0] as f64 + 1e-5 / pixels;
        let tokens = answers.view([plan.seen.rows(), plan.seen.length, self.config.patch_numbers()]);
        let grid: Vec<i64> = view.layout.grid()?.dims().iter().map(|side| *side as i64).collect();
        let patch = self.config.patch.map(|side| side as i64);
        Ok([(errors.sum(Kind::Float) / count).view([1]), unpatch(&tokens, &grid, &patch, false)?])
    }
}

impl Outputs for Heads {
    fn forward(model: &Hosting<Self>, inputs: &Named<Tensor>) -> Result<Named<Tensor>> {
        let own = &model.own;
        let (view, plan) = model.masked(inputs, own.has_token)?;
        tch::no_grad(|| {
            let features = model.encoder.encode(&view, Some(&plan), &Want::last(), &STILL)?;
            let last = features.last();
            let mut outputs = Named::from([("last_hidden_state".to_owned(), last.shallow_clone())]);
            if let Some(head) = &own.head {
                let [loss, reconstruction] = model.pixels(head, &features, &view, &plan)?;
                outputs.insert("reconstruction".to_owned(), reconstruction);
                if inputs.contains_key("bool_masked_pos") {
                    outputs.insert("loss".to_owned(), loss);
                }
            }
            let class = last.select(1, 0);
            if let Some(Pooler(map, activation)) = &own.pooler {
                let mapped = map.forward(&class);
                let pooled = activation.map_or_else(|| mapped.tanh(), |activation| activation.forward(&mapped));
                outputs.insert("pooler_output".to_owned(), pooled);
            }
            if let Some(classifier) = &own.classifier {
                outputs.insert("logits".to_owned(), classifier.forward(&class));
            }
            Ok(outputs)
        })
    }
}
