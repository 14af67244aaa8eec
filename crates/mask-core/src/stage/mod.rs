//! Stages make what a run needs before it can begin, such as a tokenizer or clusters; what they made are artefacts.
//!
//! ```text
//! stages:
//!   patches:  { kind: patches }                              # the numbers of every patch
//!   clusters: { kind: kmeans, from: patches, clusters: 128 } # centres
//!   codes:    { kind: labels, columns: [{ features: patches, clusters: clusters }] }
//! method: { kind: beit, target: { codes: codes, ids: 128 } }
//! ```
//!
//! A stage names others in its keys, so that the stages of a recipe are a graph without circles. What a stage makes is
//! an artefact: a folder `<kind>-<first 16 digits of its key>` of [`artefacts_folder`], shared by all runs. The key is
//! the SHA-256 of the stage's resolved keys, the keys of its inputs, the contents of the files that it reads, and a
//! format version: what changes any of these is another artefact, and nothing else is. `artefact.json` in it says what
//! it was made of and what its files hold; whoever uses it compares first, and refuses bytes that have changed.
//!
//! An artefact is filled in a folder `.part` beside its place and moved there when it is complete. A killed stage goes
//! on in that folder; a lock lets a second process wait for the first.

mod artefact;
mod checksum;
mod cluster;
mod codes;
mod depot;
mod entry;
mod features;
mod graph;
mod kmeans;
mod labels;
mod noted;
mod origin;
mod record;
mod shards;
mod statistics;
mod store;
#[cfg(test)]
mod tests;
mod train;

pub use artefact::{Artefact, Artefacts, Model, State};
pub use checksum::{Checksums, hash_file, hash_text};
pub use cluster::{Clusters, Kmeans, Residual};
pub use codes::CodesConfig;
pub use depot::{Depot, Keyed, artefacts_folder, imagine};
pub use entry::{Measured, Mention, Reading, Stage, StageConfig, StageEntry, Workbench, read_plain};
pub use features::{FeaturesConfig, Rows};
pub use graph::{Node, Stages};
pub use kmeans::KmeansConfig;
pub use labels::{ColumnConfig, LabelsConfig};
pub(crate) use noted::{note, recall, same_artefacts};
pub use shards::{BatchRows, SPLITS, Shape, Shards, split_name, write_rows};
pub use statistics::StatisticsConfig;
pub use store::{Column, LabelStore, usage};
pub use train::TrainStage;

/// The kinds of stages that know no modality.
pub const KINDS: &[StageEntry] = &{
    let [features, kmeans, labels, codes, statistics] = *crate::stages! {
        features: FeaturesConfig = "what an encoder makes of every sample: a layer's tokens or their mean",
        kmeans: KmeansConfig = "cluster centres of features",
        labels: LabelsConfig = "the nearest centre of every position of every sample",
        codes: CodesConfig = "a trained tokenizer's ids of every sample",
        statistics: StatisticsConfig = "counts of labels, or mean and variance of features",
    };
    let train = StageEntry { kind: "train", about: "a model trained by a recipe of its own", read: train::read };
    [train, features, kmeans, labels, codes, statistics]
};
