//! The integration tests of the image crate.

mod pins;
mod worked;
