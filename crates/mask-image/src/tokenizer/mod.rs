//! Tokenizers: models that put an id in the place of each patch. They are trained like methods, most often by a stage.

pub mod vq;

pub use vq::{Vq, VqConfig};
