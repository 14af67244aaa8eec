//! Compiles the C++ files against libtorch's headers, and does what the shared build script does.

#[path = "../../build/rpath.rs"]
mod rpath;

use std::path::PathBuf;

fn main() {
    rpath::main();
    println!("cargo:rerun-if-changed=src/shim.cpp");
    println!("cargo:rerun-if-changed=src/linear.cpp");
    println!("cargo:rerun-if-env-changed=LIBTORCH_INCLUDE");
    println!("cargo:rerun-if-env-changed=LIBTORCH_CXX11_ABI");
    // Absent only where torch-sys was told to build documentation alone.
    let Some(lib) = std::env::var_os("DEP_TCH_LIBTORCH_LIB") else { return };
    let include = match std::env::var_os("LIBTORCH_INCLUDE") {
        Some(root) => PathBuf::from(root).join("include"),
        None => PathBuf::from(lib).join("../include"),
    };
    // The same flags as torch-sys, whose objects are linked with ours.
    let abi = std::env::var("LIBTORCH_CXX11_ABI").unwrap_or_else(|_| "1".to_owned());
    cc::Build::new()
        .cpp(true)
        .std("c++17")
        .define("_GLIBCXX_USE_CXX11_ABI", abi.as_str())
        .flag("-isystem")
        .flag(include)
        .file("src/shim.cpp")
        .file("src/linear.cpp")
        .compile("mask_torch_shim");
    // dlopen and dladdr, a library of their own before glibc 2.34.
    println!("cargo:rustc-link-lib=dl");
}
