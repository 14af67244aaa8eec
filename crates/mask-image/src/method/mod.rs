//! The methods, one file each: each page is the method's manual.

pub mod attmask;
pub mod beit;
pub mod hpm;
pub mod mae;
pub mod simmim;

pub use attmask::{AttMask, AttMaskConfig};
pub use beit::{Beit, BeitConfig};
pub use hpm::{Hpm, HpmConfig};
pub use mae::{Mae, MaeConfig};
pub use simmim::{Simmim, SimmimConfig};
