//! What can go wrong, with the data that a user needs to act on it.

use std::path::{Path, PathBuf};

/// The result of everything fallible here.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Everything that can go wrong. Printed once, in `main`, as one line; see [`Error::exit_code`].
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A recipe that can't be read; `place` is `file:line:column` as far as it is known.
    #[error("{place}: {problem}")]
    Recipe {
        /// `file:line:column`, or the `--set` option that the key came from.
        place: String,
        /// What is wrong, and what would be accepted.
        problem: String,
    },
    /// A file or folder that is missing, damaged or not what it claims to be.
    #[error("{}: {problem}", .path.display())]
    File {
        /// The file or folder.
        path: PathBuf,
        /// What is wrong and what to do.
        problem: String,
    },
    /// The operating system refused to read or write.
    #[error("{}: {doing} failed: {source}", .path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What was being done, for example `writing the checkpoint`.
        doing: &'static str,
        /// The system's own word.
        source: std::io::Error,
    },
    /// A value that was given on the command line or in an API call and can't be used.
    #[error("{what}: {problem}")]
    Value {
        /// The option, key or argument.
        what: String,
        /// What is wrong and what would be accepted.
        problem: String,
    },
    /// A tensor or grid that doesn't have the shape that was asked for.
    #[error("{what} has shape {found:?}, expected {expected}")]
    Shape {
        /// Which tensor.
        what: String,
        /// What was expected, in words or numbers.
        expected: String,
        /// What was found.
        found: Vec<i64>,
    },
    /// The loss or the gradient stopped being finite.
    #[error(
        "step {step}: the loss or the gradient is not finite (samples {samples}); {checkpoint}. Look at the named samples; go on without such steps by --resume --set train.nonfinite=skip, or begin anew with a lower train.optimiser.rate or a train.clip"
    )]
    NonFinite {
        /// The first step (from 1) whose update was dropped.
        step: u64,
        /// Numbers of the samples in that step.
        samples: String,
        /// Where the last good checkpoint is.
        checkpoint: String,
    },
    /// Ctrl-C or SIGTERM, after the state was saved.
    #[error("interrupted at step {step}; {checkpoint}")]
    Interrupted {
        /// Steps done.
        step: u64,
        /// What was saved, where.
        checkpoint: String,
    },
    /// Ctrl-C or SIGTERM in work of several runs, after each of them saved its state.
    #[error("interrupted; {0}")]
    Halted(String),
    /// libtorch refused an operation: a defect of ours unless a caller turned it into something better.
    #[error("libtorch: {0}")]
    Torch(String),
    /// A defect of ours.
    #[error("{0} (this is a defect of mask: please report it)")]
    Defect(String),
}

impl Error {
    /// A file or folder that is missing, damaged or not what it claims to be.
    pub fn file(path: impl AsRef<Path>, problem: impl Into<String>) -> Self {
        Self::File { path: path.as_ref().to_owned(), problem: problem.into() }
    }

    /// The operating system refused; for use as `map_err(Error::io(path, "reading"))`.
    pub fn io(path: impl AsRef<Path>, doing: &'static str) -> impl FnOnce(std::io::Error) -> Self {
        move |source| Self::Io { path: path.as_ref().to_owned(), doing, source }
    }

    /// A value that can't be used.
    pub fn value(what: impl Into<String>, problem: impl Into<String>) -> Self {
        Self::Value { what: what.into(), problem: problem.into() }
    }

    /// The same problem, seen from the part around: `ratio` within `mask` is `mask.ratio`, which a recipe can find.
    #[must_use]
    pub fn within(self, part: &str) -> Self {
        match self {
            Self::Value { what, problem } => Self::Value { what: format!("{part}.{what}"), problem },
            other => other,
        }
    }

    /// A tensor that doesn't have the shape that was asked for.
    pub fn shape(what: impl Into<String>, expected: impl Into<String>, found: &[i64]) -> Self {
        Self::Shape { what: what.into(), expected: expected.into(), found: found.to_vec() }
    }

    /// 2 for bad input, 70 for a defect of ours, 130 for an interruption.
    #[must_use]
    pub fn exit_code(&self) -> i32 {
        match self {
            Self::Interrupted { .. } | Self::Halted(_) => 130,
            Self::Torch(_) | Self::Defect(_) => 70,
            _ => 2,
        }
    }
}
