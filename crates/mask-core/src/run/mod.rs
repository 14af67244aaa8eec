//! A recipe put to work: resolved, built, trained, looked at.

mod evaluate;
mod finetune;
mod guidance;
mod init;
mod resolve;
mod result;
mod session;
mod summary;
mod tokens;

pub use evaluate::{
    Embedded, EvaluateConfig, HeldOut, HeldOutConfig, KnnConfig, LinearConfig, Score, Scores, Top1Config, embed,
    held_out, score, top1,
};
pub use finetune::FinetuneConfig;
pub use guidance::{GuidanceConfig, guidance};
pub use init::InitConfig;
pub use resolve::{Overrides, RecipeConfig, Register, Resolved};
pub(crate) use result::operations;
pub use result::{History, Numbers, RANDOM, RunResult};
pub(crate) use session::{Lock, changed_keys, train_in};
pub use session::{Options, Pretrained, Session, Work, plan_of, plan_of_stages, pretrain, pretrain_resolved};
pub use summary::{commit, machine};
