//! Masked modeling for images: hide patches, learn by predicting them.
//!
//! A method and its paper: [`method`]. Its parts: [`mask_core`]. Your own data: [`data`]. Numbers: `experiments/`.

pub mod data;
pub mod finetune;
pub mod method;
pub mod model;
mod picture;
pub mod stage;
pub mod target;
pub mod tokenizer;

use mask_core::run::Register;

/// What this crate registers: its methods, and the Hugging Face folders that it reads.
pub const REGISTER: Register = Register {
    name: env!("CARGO_PKG_NAME"),
    about: "masked modeling for images",
    modality: "image",
    raw: "raw pixels",
    methods: mask_core::methods! {
        attmask: method::AttMaskConfig,
        beit: method::BeitConfig,
        hpm: method::HpmConfig,
        mae: method::MaeConfig,
        simmim: method::SimmimConfig,
    },
    tasks: mask_core::methods! { classify: finetune::ClassifyConfig },
    tokenizers: mask_core::methods! {
        vq_tokenizer: tokenizer::VqConfig,
    },
    stages: mask_core::stages! {
        patches: stage::PatchesConfig = "the raw numbers of every patch",
    },
    golden: include_str!("../tests/golden/index.yaml"),
    families: &[&model::VIT_MAE, &model::VIT, &model::BEIT, &model::IJEPA],
    layouts: &model::LAYOUTS,
};
