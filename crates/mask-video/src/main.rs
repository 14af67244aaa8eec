//! The experiment binary for video.

fn main() -> std::process::ExitCode {
    mask_core::cli::main(&mask_video::REGISTER)
}
