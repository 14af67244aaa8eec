//! Training: optimiser, checkpoints, metrics and the loop that joins them.

mod checkpoint;
mod config;
mod feedback;
mod metrics;
mod optimiser;
mod progress;
mod trainer;

pub use checkpoint::{Checkpoint, Checkpoints};
pub use config::{AdamWConfig, BatchConfig, ClipBy, NonFinite, OptimiserConfig, Precision, TrainConfig, Unit};
pub use metrics::Journal;
pub use optimiser::Optimiser;
pub use progress::Progress;
pub use trainer::{Halt, Trained, Trainer, Watch, interrupted, watch_signals};
pub(crate) use trainer::{evaluate, learn};
