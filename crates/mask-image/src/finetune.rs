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
