//! The build script of every crate here: lets programs and tests find libtorch without LD_LIBRARY_PATH.
//!
//! A link argument doesn't pass from a crate to those that depend on it, so each crate names this file.
//! torch-sys tells its direct dependents where it found libtorch (`DEP_TCH_LIBTORCH_LIB`).

use std::path::PathBuf;

/// Public, so that a crate with a build script of its own can include this file and call it.
pub fn main() {
    println!("cargo:rerun-if-env-changed=LIBTORCH");
    println!("cargo:rerun-if-env-changed=LIBTORCH_USE_PYTORCH");
    println!("cargo:rerun-if-env-changed=DEP_TCH_LIBTORCH_LIB");
    let Some(lib) = std::env::var_os("DEP_TCH_LIBTORCH_LIB") else { return };
    let lib = PathBuf::from(lib);
    // The link `libtorch` can come to point elsewhere unseen; the version file below it then differs. PyTorch's own
    // folder has none, and to watch a file that is missing would build everything anew each time.
    if let Some(version) = lib.parent().map(|folder| folder.join("build-version")).filter(|file| file.is_file()) {
        println!("cargo:rerun-if-changed={}", version.display());
    }
    let lib = lib.canonicalize().unwrap_or(lib);
    println!("cargo:rustc-link-arg=-Wl,-rpath,{}", lib.display());
    println!("cargo:rustc-link-arg=-Wl,--disable-new-dtags");
}
