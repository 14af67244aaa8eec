//! The experiment binary for audio.

fn main() -> std::process::ExitCode {
    mask_core::cli::main(&mask_audio::REGISTER)
}
