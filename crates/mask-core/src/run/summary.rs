//! The report of a run.

use std::path::{Path, PathBuf};

use tch::Device;

use super::evaluate::Scores;
use super::session::Session;
use crate::Result;
use crate::report::{Baseline, Picture, Report, Run, contact_sheet, png};
use crate::train::Trained;

/// What a figure was made on.
#[must_use]
pub fn machine(device: Device) -> String {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = info.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": ").map(|(_, name)| name));
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let cpu = format!("{} ({cores} cores)", model.unwrap_or("unknown processor"));
    match device {
        Device::Cuda(index) => format!("CUDA device {index}, {cpu}"),
        _ => cpu,
    }
}

/// The commit that a program runs from, where its folder is a checkout.
#[must_use]
pub fn commit() -> Option<String> {
    let git = |arguments: &[&str]| {
        let out =
            std::process::Command::new("git").args(arguments).stderr(std::process::Stdio::null()).output().ok()?;
        let text = String::from_utf8(out.stdout).ok()?;
        out.status.success().then(|| text.trim().to_owned())
    };
    let head = git(&["rev-parse", "--short=12", "HEAD"])?;
    let clean = git(&["status", "--porcelain", "--untracked-files=no"])?.is_empty();
    Some(if clean { head } else { format!("{head} with changes") })
}

/// Scores of one encoder by kind.
fn by_kind(scores: &Scores) -> Vec<(String, f64)> {
    scores.scores.iter().map(|score| (score.kind.to_owned(), score.accuracy)).collect()
}

/// Writes `report.html` into the run's folder.
///
/// # Errors
/// Metrics that can't be read, a disk that refuses.
pub(super) fn write(session: &Session, folder: &Path, trained: &Trained, scores: &[Scores]) -> Result<PathBuf> {
    let card = session.resolved.entry.card;
    let mut run = Run::read(folder)?;
    run.commit = commit().unwrap_or_default();
    run.machine = machine(session.device);
    run.device = match session.device {
        Device::Cuda(index) => format!("cuda:{index}"),
        _ => "cpu".to_owned(),
    };
    run.seed = Some(session.resolved.config.seed);
    run.parameters = Some(session.parameters.count().0);
    if let Some(first) = scores.first() {
        run.scores = by_kind(first);
    }
    let baseline = |scores: &Scores| Baseline { name: scores.encoder.clone(), scores: by_kind(scores) };
    let mut notes = Vec::new();
    if trained.skipped > 0 {
        notes.push(format!("{} samples could not be read and were skipped; the log names them.", trained.skipped));
    }
    let sheet = session.sheet(8)?;
    let mut pictures = Vec::new();
    if !sheet.rows.is_empty() {
        let columns: Vec<&str> = sheet.columns.iter().map(String::as_str).collect();
        let bytes = png(&contact_sheet(&sheet.rows, &columns)?)?;
        let title = "Held-out samples under masks that training never saw".to_owned();
        pictures.push(Picture { title, caption: sheet.caption, bytes });
    }
    let report = Report {
        title: card.title.to_owned(),
        paper: format!("{}, {}", card.name, card.year),
        arxiv: card.arxiv.map(str::to_owned),
        run,
        baselines: scores.iter().skip(1).map(baseline).collect(),
        pictures,
        notes,
        ..Report::default()
    };
    let path = folder.join("report.html");
    report.write(&path)?;
    Ok(path)
}
