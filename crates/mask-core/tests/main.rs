//! The integration tests of the core.

mod drafts;
mod laws;
