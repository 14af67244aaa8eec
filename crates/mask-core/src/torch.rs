//! How libtorch's and its shim's own errors become ours.

use crate::Error;

impl From<tch::TchError> for Error {
    fn from(error: tch::TchError) -> Self {
        // The first line says what; the rest is libtorch's own back trace.
        Self::Torch(error.to_string().lines().next().unwrap_or_default().to_owned())
    }
}

impl From<mask_torch::Error> for Error {
    fn from(error: mask_torch::Error) -> Self {
        Self::Torch(error.to_string().lines().next().unwrap_or_default().to_owned())
    }
}
