//! What libtorch refused.

use std::fmt;

/// The result of what libtorch may refuse.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What libtorch said, without its back trace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error(String);

impl Error {
    pub(crate) fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }
}

impl fmt::Display for Error {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.0.trim_end())
    }
}

impl std::error::Error for Error {}
