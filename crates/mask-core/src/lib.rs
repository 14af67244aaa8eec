//! Masked modeling on libtorch: hide part of the input, learn by predicting it, or generate by filling it in.
//!
//! A sample becomes tokens on a [`Grid`]; a [`Plan`] hides some; an encoder reads what is left; a predictor answers
//! for what is queried; an objective weighs the answers against a target. A [`Method`] is a choice of these parts, a
//! [`recipe`] is a method with its numbers, data and optimiser. This crate knows no modality.

mod error;
mod grid;
mod plan;
mod stream;
mod torch;

pub mod cli;
pub mod data;
pub mod eval;
pub mod finetune;
pub mod hub;
pub mod method;
pub mod nn;
pub mod objective;
pub mod recipe;
pub mod report;
pub mod run;
pub mod sampler;
pub mod schedule;
pub mod stage;
pub mod store;
pub mod table;
pub mod train;

pub use error::{Error, Result};
pub use grid::{Grid, Layout};
pub use method::{
    Batch, Card, Encoder, Features, Method, MethodConfig, Outcome, Predictor, Site, Split, Step, Teacher, Term, Totals,
    View, Want,
};
pub use plan::{DevicePlan, Draft, Fill, Ids, Plan, Positions, Query};
pub use sampler::{Hints, Sampler, SamplerConfig};
pub use schedule::{Clock, Ramp};
pub use stage::{Artefact, Artefacts};
pub use stream::{Purpose, Stream};

/// Things by name, in the order of names.
pub type Named<T> = std::collections::BTreeMap<String, T>;
