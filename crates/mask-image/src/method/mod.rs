//! The methods, one file each.

mod mae;
mod simmim;

pub use mae::{Mae, MaeConfig};
pub use simmim::{Simmim, SimmimConfig};
