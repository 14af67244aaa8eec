//! Stages make what a run needs before it can begin, such as a tokenizer or clusters; what they made are artefacts.

mod artefact;

pub use artefact::{Artefact, Artefacts};
