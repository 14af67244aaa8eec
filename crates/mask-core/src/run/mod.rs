//! A recipe put to work: resolved, built, trained, looked at.

mod evaluate;
mod resolve;
mod result;
mod session;
mod summary;

pub use evaluate::{
    Embedded, EvaluateConfig, HeldOutConfig, KnnConfig, LinearConfig, Score, Scores, embed, held_out, score,
};
pub use resolve::{Overrides, RecipeConfig, Register, Resolved};
pub(crate) use result::operations;
pub use result::{History, Numbers, RANDOM, RunResult};
pub(crate) use session::{Lock, changed_keys};
pub use session::{Options, Pretrained, Session, plan_of, pretrain};
pub use summary::{commit, machine};
