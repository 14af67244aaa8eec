//! The methods, one file each: each page is the method's manual.

pub mod mae;
pub mod simmim;

pub use mae::{Mae, MaeConfig};
pub use simmim::{Simmim, SimmimConfig};
