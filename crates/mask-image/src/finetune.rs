//! Fine-tuning of an image encoder to classes.
//!
//! | part | choice | source |
//! | --- | --- | --- |
//! | encoder reads | the whole image | MAE, appendix A.1 |
//! | head | mean of the patch tokens, a fresh norm in place of the encoder's own, a linear map | MAE's `models_vit.py` |
//! | changed in the encoder | sine tables are trained; a shared relative bias becomes one of each block; class token and positions are not decayed | MAE's and BEiT's fine-tuning code |
//! | loss | cross-entropy with label smoothing, mixup and cutmix | MAE, table 9 |
//!
//! Deviation: RandAugment is not there; crops, flips and random erasing are (`data.augment`).

use mask_core::data::{Front, MixConfig};
use mask_core::finetune::{Classifier, HeadConfig, Labelled, LabelsConfig, Parts};
use mask_core::method::Pool;
use mask_core::nn::{PositionTable, RelativeBiasConfig, Scope};
use mask_core::{Card, Method, MethodConfig, Result, Site, Split};
use serde::{Deserialize, Serialize};

use crate::data::{ImageData, ImageFront, ViewSpec};
use crate::model::VitConfig;
use crate::picture::panels;

/// Recipe keys of fine-tuning; the defaults are MAE's for ViT-B on ImageNet-1K.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClassifyConfig {
    /// The encoder; `finetune RUN` puts that of the run here.
    pub encoder: VitConfig,
    /// Whether sine tables become trained and a shared relative bias one of each block.
    pub adapt: bool,
    /// Classes.
    pub classes: u64,
    /// The map to them.
    pub head: HeadConfig,
    /// Which training samples are used.
    pub labels: LabelsConfig,
    /// How samples are mixed.
    pub mix: MixConfig,
}

impl Default for ClassifyConfig {
    fn default() -> Self {
        Self {
            encoder: VitConfig { drop_path: 0.1, ..VitConfig::mae(768, 12, 12) },
            adapt: true,
            classes: 1000,
            head: HeadConfig::default(),
            labels: LabelsConfig::default(),
            mix: MixConfig::default(),
        }
    }
}

impl ClassifyConfig {
    /// The encoder as it is tuned.
    fn adapted(&self) -> VitConfig {
        let mut encoder = VitConfig { class_token_decays: false, ..self.encoder.clone() };
        if self.adapt && encoder.positions == PositionTable::SinCos {
            encoder.positions = PositionTable::TrainedSinCos;
        }
        if self.adapt && encoder.relative_bias == RelativeBiasConfig::Shared {
            encoder.relative_bias = RelativeBiasConfig::PerBlock;
        }
        encoder
    }
}

impl MethodConfig for ClassifyConfig {
    type Data = ImageData;
    const CARD: Card = Card {
        name: "classify",
        title: "Fine-tuning to classes",
        year: 2022,
        arxiv: Some("2111.06377"),
        ledger: &[81],
        summary: "trains an encoder and a linear map to classes, as MAE is fine-tuned",
    };

    fn front(&self, site: &Site<'_, ImageData>) -> Result<Box<dyn Front>> {
        let split = site.split;
        let view = ViewSpec { size: self.encoder.image, augment: site.data.augment.clone(), mask: None };
        let whole = ImageFront::several(site, &self.encoder, &[view])?;
        // Few labels are few to train on; what is held out is whole.
        let labels = if split == Split::Train { self.labels.clone() } else { LabelsConfig::default() };
        match split {
            Split::Synthetic => Ok(Labelled::synthetic(whole, &self.mix, "pixels", self.classes)),
            _ => Labelled::build(whole, &labels, &self.mix, "pixels", self.classes),
        }
    }

    fn build(&self, at: &Scope) -> Result<Box<dyn Method>> {
        self.labels.check()?;
        self.mix.check().map_err(|error| error.within("mix"))?;
        let encoder = self.adapted();
        let parts = Parts { classes: self.classes, norm_eps: encoder.norm_eps, prefix: encoder.prefix(), panels };
        let below = at.enter("encoder");
        let vit = match self.head.pool {
            Pool::Tokens => encoder.build_without_norm(&below),
            Pool::Class => encoder.build(&below, false),
        };
        let top = at.at_layer(encoder.depth + 1);
        let vit = vit.map_err(|error| error.within("encoder"))?;
        let flops = Box::new(move |seen| encoder.flops(seen));
        Ok(Box::new(Classifier::new(&top, &self.head, vit, &parts, flops)?))
    }
}

#[cfg(test)]
mod tests {
    use mask_core::Clock;
    use mask_core::nn::Parameters;
    use mask_core::train::{AdamWConfig, Optimiser, OptimiserConfig};
    use tch::{Device, Kind, Tensor};

    use super::*;

    const DEPTH: usize = 3;

    fn built(encoder: VitConfig, head: HeadConfig) -> std::rc::Rc<Parameters> {
        let parameters = Parameters::new(Device::Cpu, 0);
        let config = ClassifyConfig { encoder, head, classes: 5, ..ClassifyConfig::default() };
        let _ = config.build(&parameters.root()).unwrap();
        parameters
    }

    fn mae() -> VitConfig {
        VitConfig { image: [16, 16], patch: [8, 8], ..VitConfig::mae(16, DEPTH, 2) }
    }

    fn beit() -> VitConfig {
        VitConfig { image: [16, 16], patch: [8, 8], ..VitConfig::beit(16, DEPTH, 2) }
    }

    /// Ledgers 081 and 000 BEiT: decay^(depth + 1) for patches, class token and positions, decay^(depth - i) for block i
    /// (from 0) with its own bias table, 1 for the rest. Measured: the first step of Adam moves every number by its rate.
    #[test]
    fn a_step_moves_each_layer_at_its_rate() {
        let heads = [HeadConfig::default(), HeadConfig { pool: Pool::Class, ..HeadConfig::default() }];
        for (encoder, head) in [(mae(), heads[0].clone()), (mae(), heads[1].clone()), (beit(), heads[0].clone())] {
            let parameters = built(encoder, head);
            let adamw =
                AdamWConfig { weight_decay: 0.0, layer_decay: Some(0.65), rate_per: None, ..AdamWConfig::default() };
            let optimiser = Optimiser::new(&OptimiserConfig::AdamW(adamw), &parameters).unwrap();
            let before: Vec<Tensor> = parameters.named().iter().map(|(_, tensor)| tensor.detach().copy()).collect();
            let sum = |sum: Tensor, (_, tensor): (String, Tensor)| sum + tensor.sum(Kind::Float);
            parameters.named().into_iter().fold(Tensor::from(0f32), sum).backward();
            let one = Tensor::from(1f32);
            let clock = Clock::at(0, 10, 1);
            tch::no_grad(|| optimiser.step(1e-2, &clock, &one, &one.zeros_like()).unwrap());
            for ((name, after), before) in parameters.named().into_iter().zip(before) {
                let layer = match name.strip_prefix("encoder.").map(|name| name.split('.').collect::<Vec<_>>()) {
                    Some(parts) if parts[0] == "block" => 1 + parts[1].parse::<usize>().unwrap(),
                    Some(parts) if parts[0] != "norm" => 0,
                    _ => DEPTH + 1,
                };
                let wanted = 1e-2 * 0.65f64.powi((DEPTH + 1 - layer) as i32);
                let moved = (before - after.detach()).to_kind(Kind::Double);
                let [low, high] = [moved.min(), moved.max()].map(|x| x.double_value(&[]));
                assert!((low - wanted).abs() < 1e-5 && (high - wanted).abs() < 1e-5, "{name}: {low} {high} {wanted}");
            }
        }
    }

    /// Class token, positions and what has one dimension are not decayed; tables of relative positions are.
    #[test]
    fn what_is_decayed_and_what_is_changed() {
        for (encoder, table) in [(mae(), "encoder.positions"), (beit(), "encoder.block.2.relative.table")] {
            let parameters = built(encoder, HeadConfig::default());
            let mut names = Vec::new();
            parameters.each(|parameter| {
                let name = parameter.name.as_str();
                let exempt =
                    parameter.tensor.dim() == 1 || name == "encoder.class_token" || name == "encoder.positions";
                assert!(parameter.trained && parameter.decay != exempt, "{name}");
                names.push(name.to_owned());
            });
            assert!(names.iter().any(|name| name == table), "{names:?}");
            assert!(!names.iter().any(|name| name.starts_with("encoder.norm") || name.starts_with("encoder.relative")));
        }
        // Left alone, the sine table stays frozen.
        let parameters = Parameters::new(Device::Cpu, 0);
        let config = ClassifyConfig { encoder: mae(), adapt: false, ..ClassifyConfig::default() };
        let _ = config.build(&parameters.root()).unwrap();
        let mut frozen = Vec::new();
        parameters.each(|parameter| frozen.extend((!parameter.trained).then(|| parameter.name.clone())));
        assert_eq!(frozen, ["encoder.positions"]);
    }
}
