//! The integration tests of the image crate.

mod worked;
