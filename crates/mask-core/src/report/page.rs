//! The report of a run as one HTML page.

use std::fs;
use std::path::{Path, PathBuf};

use super::metrics::Metrics;
use super::view;
use crate::error::{Error, Result};

/// What one run is and what came out of it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Run {
    /// Name of the run's folder.
    pub name: String,
    /// Commit of the source that ran; what is empty or `None` here and below is left out.
    pub commit: String,
    /// The machine: processor, memory.
    pub machine: String,
    /// The device that trained, for example `cpu` or `cuda:0`.
    pub device: String,
    /// The seed.
    pub seed: Option<u64>,
    /// How many numbers were trained.
    pub parameters: Option<u64>,
    /// The measurements: `metrics.jsonl` and `timing.jsonl` together.
    pub metrics: Metrics,
    /// The resolved recipe, as YAML.
    pub recipe: String,
    /// What was measured at the end, 0 to 1, by kind; where there is no `knn` the last one of the metrics stands in.
    pub scores: Vec<(String, f64)>,
}

impl Run {
    /// Reads the files of a run folder: `recipe.yaml` and `metrics.jsonl`, which must be there, and `timing.jsonl`.
    /// The rest is left empty but for the name.
    ///
    /// # Errors
    /// A file can't be read, or a line of one (which is named) is damaged.
    pub fn read(folder: impl AsRef<Path>) -> Result<Self> {
        let folder = folder.as_ref();
        let recipe = folder.join("recipe.yaml");
        let mut metrics = Metrics::read(folder.join("metrics.jsonl"))?;
        let timing = folder.join("timing.jsonl");
        if timing.exists() {
            metrics.merge(Metrics::read(timing)?);
        }
        // `.` and `..` have no name of their own.
        let named = folder.file_name().map(ToOwned::to_owned);
        let name = named.or_else(|| fs::canonicalize(folder).ok()?.file_name().map(ToOwned::to_owned));
        Ok(Self {
            name: name.map(|name| name.to_string_lossy().into_owned()).unwrap_or_default(),
            recipe: fs::read_to_string(&recipe).map_err(Error::io(&recipe, "reading the recipe"))?,
            metrics,
            ..Self::default()
        })
    }

    /// A score by its kind; of kNN, the last one of the metrics where it wasn't measured at the end.
    pub(super) fn score(&self, kind: &str) -> Option<f64> {
        let own = self.scores.iter().find(|(name, _)| name == kind).map(|(_, value)| *value);
        own.or_else(|| self.metrics.last(kind).filter(|_| kind == "knn"))
    }
}

/// What a run is measured against, for example a randomly initialised encoder.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Baseline {
    /// Its name.
    pub name: String,
    /// What was measured of it, 0 to 1, by kind.
    pub scores: Vec<(String, f64)>,
}

/// What a kind of score is called.
#[must_use]
pub fn score_title(kind: &str) -> &str {
    match kind {
        "linear" => "linear probe",
        "knn" => "kNN",
        "attentive" => "attentive",
        "dense" => "dense, mIoU",
        "dense_accuracy" => "dense",
        "finetune" => "fine-tuned",
        "top1" => "top-1",
        other => other,
    }
}

/// A picture of the report.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Picture {
    /// Its title.
    pub title: String,
    /// What it shows, may be empty.
    pub caption: String,
    /// The bytes of a PNG, JPEG, GIF or WebP file.
    pub bytes: Vec<u8>,
}

/// The report of a run, alone or beside a second one: one HTML page that needs no other file, no network and no
/// script, follows the reader's light or dark colours and prints.
/// ```
/// # use mask_core::report::{Report, Run};
/// let report = Report { title: "Blinds".into(), run: Run { name: "first".into(), ..Run::default() }, ..Report::default() };
/// assert!(report.render()?.starts_with("<!doctype html>"));
/// # Ok::<(), mask_core::Error>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Report {
    /// The method's title.
    pub title: String,
    /// The paper: authors, title, year.
    pub paper: String,
    /// The paper's arXiv number, which becomes a link.
    pub arxiv: Option<String>,
    /// The run.
    pub run: Run,
    /// A second run: its curves are laid over those of the first, and the keys in which the recipes differ are listed.
    pub against: Option<Run>,
    /// What the accuracies are compared with.
    pub baselines: Vec<Baseline>,
    /// Pictures, in order.
    pub pictures: Vec<Picture>,
    /// What a reader must know: skipped files, dropped steps, deviations.
    pub notes: Vec<String>,
}

impl Report {
    /// The page as HTML.
    ///
    /// # Errors
    /// A picture is of no known format.
    pub fn render(&self) -> Result<String> {
        view::render(self)
    }

    /// Writes the page; a page that stood there is replaced at once or not at all.
    ///
    /// # Errors
    /// As [`Report::render`], or the file can't be written.
    pub fn write(&self, path: impl AsRef<Path>) -> Result<()> {
        let path = path.as_ref();
        let page = self.render()?;
        let name = path.file_name().ok_or_else(|| Error::value("report", "needs the name of a file to write"))?;
        let mut beside = std::ffi::OsString::from(".");
        beside.push(name);
        beside.push(format!(".{}.part", std::process::id()));
        let part: PathBuf = path.with_file_name(beside);
        let done = fs::write(&part, page).and_then(|()| fs::rename(&part, path));
        if done.is_err() {
            let _ = fs::remove_file(&part); // the first failure is the one to report
        }
        done.map_err(Error::io(path, "writing the report"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_folder_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let run = folder.path().join("blinds-0");
        fs::create_dir(&run).unwrap();
        assert!(matches!(Run::read(&run), Err(Error::Io { .. })));
        fs::write(run.join("metrics.jsonl"), "{\"step\":1,\"loss\":2}\n{\"step\":1,\"knn\":0.5}\n").unwrap();
        fs::write(run.join("recipe.yaml"), "seed: 0\n").unwrap();
        let found = Run::read(&run).unwrap();
        assert_eq!(
            (found.name.as_str(), found.recipe.as_str(), found.score("knn")),
            ("blinds-0", "seed: 0\n", Some(0.5))
        );
        fs::write(run.join("timing.jsonl"), "{\"step\":1,\"samples_per_second\":812.0,\"data_wait\":0.02}\n").unwrap();
        assert_eq!(Run::read(run.join(".")).unwrap().metrics.last("data_wait"), Some(0.02));
        fs::write(run.join("timing.jsonl"), "nonsense\n").unwrap();
        assert!(matches!(Run::read(&run), Err(Error::File { .. })));
    }

    #[test]
    fn a_page_is_replaced_as_a_whole() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("report.html");
        fs::write(&path, "before").unwrap();
        let bad = Picture { title: "x".into(), ..Picture::default() };
        assert!(Report { pictures: vec![bad], ..Report::default() }.write(&path).is_err());
        assert_eq!(fs::read_to_string(&path).unwrap(), "before");
        Report::default().write(&path).unwrap();
        assert!(fs::read_to_string(&path).unwrap().starts_with("<!doctype html>"));
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "nothing is left beside it");
        assert!(Report::default().write(folder.path().join("absent/report.html")).is_err());
        assert!(Report::default().write("/").is_err());
    }
}
