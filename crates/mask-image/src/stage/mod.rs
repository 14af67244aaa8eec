//! Kinds of stages that know images.

mod patches;

pub use patches::PatchesConfig;
