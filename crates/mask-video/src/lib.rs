//! Masked modeling for video. Its binary has every verb already; methods follow.

use mask_core::run::Register;

/// What this crate registers.
pub const REGISTER: Register =
    Register::empty(env!("CARGO_PKG_NAME"), "masked modeling for video", "video", "raw pixels");
