//! A line an arm while a table runs.

use std::io::IsTerminal;
use std::time::Instant;

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::file::Arm;
use super::work::Run;

/// Bars on a terminal, a line a finished run elsewhere.
pub(super) struct Lines {
    bars: Vec<ProgressBar>,
    all: MultiProgress,
    names: Vec<String>,
    terminal: bool,
    begun: Instant,
    /// Steps that were done before.
    before: u64,
    /// Steps of all runs.
    total: u64,
    left: usize,
    runs: Vec<Run>,
}

impl Lines {
    pub(super) fn new(arms: &[Arm], runs: &[Run]) -> Self {
        let terminal = std::io::stderr().is_terminal();
        let target = if terminal { ProgressDrawTarget::stderr_with_hz(4) } else { ProgressDrawTarget::hidden() };
        let all = MultiProgress::with_draw_target(target);
        let widest = arms.iter().map(|arm| arm.name.chars().count()).max().unwrap_or(0);
        let style = ProgressStyle::with_template("{prefix} {wide_bar} {pos}/{len} steps · {msg}");
        let mut bars = Vec::new();
        for (number, arm) in arms.iter().enumerate() {
            let steps = runs.iter().filter(|run| run.arm == number).map(|run| run.steps).sum();
            let bar = all.add(ProgressBar::new(steps));
            if let Ok(style) = &style {
                bar.set_style(style.clone().progress_chars("━╸ "));
            }
            bar.set_prefix(format!("{:widest$}", arm.name));
            bars.push(bar);
        }
        let mut lines = Self {
            bars,
            all,
            names: arms.iter().map(|arm| arm.name.clone()).collect(),
            terminal,
            begun: Instant::now(),
            before: 0,
            total: runs.iter().map(|run| run.steps).sum(),
            left: runs.iter().filter(|run| !run.done()).count(),
            runs: runs.to_vec(),
        };
        lines.before = lines.show(runs);
        lines
    }

    /// Shows where the runs stand; gives the steps of all that are done.
    pub(super) fn show(&self, runs: &[Run]) -> u64 {
        let mut done = 0;
        for (number, bar) in self.bars.iter().enumerate() {
            let mine = runs.iter().filter(|run| run.arm == number);
            let steps: Vec<u64> =
                mine.map(|run| if run.done() { run.steps } else { run.step().min(run.steps) }).collect();
            done += steps.iter().sum::<u64>();
            bar.set_position(steps.iter().sum());
        }
        let left = self.left(done);
        for bar in &self.bars {
            bar.set_message(left.clone());
        }
        done
    }

    /// The time left, evaluation not counted.
    fn left(&self, done: u64) -> String {
        let new = done.saturating_sub(self.before);
        if new == 0 || done >= self.total {
            return String::new();
        }
        let seconds = self.begun.elapsed().as_secs_f64() / new as f64 * (self.total - done) as f64;
        if seconds < 90.0 { format!("{seconds:.0} s left") } else { format!("{:.0} min left", seconds / 60.0) }
    }

    /// A run is finished.
    pub(super) fn done(&mut self, run: &Run) {
        self.left = self.left.saturating_sub(1);
        let left = self.left(self.show(&self.runs));
        if !self.terminal {
            let left = if left.is_empty() { left } else { format!(", {left}") };
            eprintln!("{}, seed {}: done; {} runs to go{left}", self.names[run.arm], run.seed, self.left);
        }
    }

    /// Takes the lines away.
    pub(super) fn finish(self) {
        for bar in &self.bars {
            bar.finish_and_clear();
        }
        let _ = self.all.clear();
    }
}
