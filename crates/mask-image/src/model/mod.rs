//! Encoders for images.

mod hub;
mod vit;

pub use hub::{VIT, VIT_MAE};
pub use vit::{Vit, VitConfig};
