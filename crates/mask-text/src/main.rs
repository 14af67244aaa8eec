//! The experiment binary for text.

fn main() -> std::process::ExitCode {
    mask_core::cli::main(&mask_text::REGISTER)
}
