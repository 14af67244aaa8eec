//! Masked modeling for audio. Its binary has every verb already; methods follow.

use mask_core::run::Register;

/// What this crate registers.
pub const REGISTER: Register = Register {
    name: env!("CARGO_PKG_NAME"),
    about: "masked modeling for audio",
    modality: "audio",
    raw: "raw samples",
    methods: &[],
    tasks: &[],
    tokenizers: &[],
    stages: &[],
    families: &[],
    layouts: &[],
    golden: "",
};
