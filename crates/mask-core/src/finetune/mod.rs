//! Fine-tuning to classes: an ordinary recipe whose method is a [`Classifier`].
//!
//! A modality crate registers one such method (its encoder's keys, and the parts here), so that fine-tuning has the same
//! trainer, checkpoints, resume and report as pre-training, and any modality's encoder can be tuned.

mod classifier;
mod labels;

pub use classifier::{Classifier, HeadConfig, Parts};
pub use labels::{AllLabels, Labelled, LabelsConfig, PerClassConfig, ShareConfig};
