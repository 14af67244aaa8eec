//! The experiment binary for speech.

fn main() -> std::process::ExitCode {
    mask_core::cli::main(&mask_speech::REGISTER)
}
