//! What image methods predict.

mod codes;
mod pixels;

pub use codes::{Codes, CodesConfig};
pub use pixels::{Normalise, PatchOrder, PatchPixels};
