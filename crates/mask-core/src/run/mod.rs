//! A recipe put to work: resolved, built, trained, looked at.

mod evaluate;
mod init;
mod resolve;
mod session;
mod summary;

pub use evaluate::{
    Embedded, EvaluateConfig, HeldOutConfig, KnnConfig, LinearConfig, Score, Scores, embed, held_out, score,
};
pub use init::InitConfig;
pub use resolve::{Overrides, RecipeConfig, Register, Resolved};
pub use session::{Options, Pretrained, Session, plan_of, pretrain};
pub use summary::{commit, machine};
