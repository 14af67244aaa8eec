//! What image methods predict.

mod pixels;

pub use pixels::{Normalise, PatchOrder, PatchPixels};
