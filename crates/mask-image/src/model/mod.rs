//! Encoders for images.

mod hub;
mod vit;

pub use hub::{BEIT, IJEPA, LAYOUTS, VIT, VIT_MAE};
pub(crate) use hub::{export_beit, export_mae, export_masked_vit, processor, refuse_mask_tokens};
pub use vit::{Vit, VitConfig};
