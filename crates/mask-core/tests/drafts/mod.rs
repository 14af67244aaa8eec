//! Drafts of six very different methods, and of a decoding loop, on the real traits. A change of a seam that breaks one
//! of them is a change of the architecture, and `ARCHITECTURE.md` has to say why.
//!
//! Each draft has its method's real masking rule, target and loss, on a small encoder of tokens; the full methods live
//! in the modality crates.

mod adamae;
mod feedback;
mod hubert;
mod ijepa;
mod maskgit;
mod patches;
mod teacher;
mod three_ml;
mod toy;
