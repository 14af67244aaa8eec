//! The experiment binary for images.

fn main() -> std::process::ExitCode {
    mask_core::cli::main(&mask_image::REGISTER)
}
