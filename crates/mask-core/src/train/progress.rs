//! What a person sees while training runs.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// A progress bar on a terminal; a plain line now and then elsewhere.
pub struct Progress {
    bar: ProgressBar,
    what: String,
    total: u64,
    terminal: bool,
    begun: Instant,
    first: u64,
    last_line: Instant,
}

impl Progress {
    /// Starts at `first` of `total`.
    #[must_use]
    pub fn new(what: &str, first: u64, total: u64) -> Self {
        let terminal = std::io::stderr().is_terminal();
        let target = if terminal { ProgressDrawTarget::stderr_with_hz(8) } else { ProgressDrawTarget::hidden() };
        let bar = ProgressBar::with_draw_target(Some(total), target);
        if let Ok(style) = ProgressStyle::with_template("{prefix} {wide_bar} {pos}/{len} · {msg} · {eta} left") {
            bar.set_style(style.progress_chars("━╸ "));
        }
        bar.set_prefix(what.to_owned());
        bar.set_position(first);
        bar.reset_eta();
        let now = Instant::now();
        Self { bar, what: what.to_owned(), total, terminal, begun: now, first, last_line: now }
    }

    /// Shows where the work stands.
    pub fn at(&mut self, position: u64, message: &str) {
        self.bar.set_position(position);
        self.bar.set_message(message.to_owned());
        if !self.terminal && (self.last_line.elapsed() > Duration::from_secs(15) || position == self.total) {
            self.last_line = Instant::now();
            let done = position.saturating_sub(self.first).max(1);
            let left = self.begun.elapsed().as_secs_f64() / done as f64 * self.total.saturating_sub(position) as f64;
            eprintln!("{} {position}/{} · {message} · {left:.0} s left", self.what, self.total);
        }
    }

    /// Takes the bar away.
    pub fn finish(self) {
        self.bar.finish_and_clear();
    }
}
