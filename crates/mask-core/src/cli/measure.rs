//! `probe`, `eval`, `embed`, `forward`.

use std::path::PathBuf;

use clap::Args;
use tch::{Device, Tensor};

use super::{Changes, Compute, say, say_json};
use crate::eval::{AttentiveConfig, DenseConfig};
use crate::method::{Encoder, Pool, Split};
use crate::report::score_title;
use crate::run::{
    Embedded, EvaluateConfig, FinetuneConfig, KnnConfig, LinearConfig, Register, Scores, Session, Work, embed,
    held_out, score,
};
use crate::{Error, Named, Result, store};

#[derive(Args)]
pub(super) struct Probe {
    /// A run's folder, or one of its checkpoints
    #[arg(required_unless_present = "hf")]
    run: Option<PathBuf>,
    /// A Hugging Face folder instead of a run
    #[arg(long, conflicts_with = "run", requires_all = ["train", "test"])]
    hf: Option<PathBuf>,
    /// Labelled data to learn the probe on, with --hf
    #[arg(long)]
    train: Option<PathBuf>,
    /// Labelled data to test it on, with --hf
    #[arg(long)]
    test: Option<PathBuf>,
    /// Which probes, commas between
    #[arg(long, value_delimiter = ',', default_value = "linear,knn",
          value_parser = ["linear", "knn", "attentive", "dense", "finetune"])]
    kind: Vec<String>,
    /// Also a random-initialised encoder and the raw samples
    #[arg(long)]
    baselines: bool,
    /// JSON instead of a table
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    changes: Changes,
    #[command(flatten)]
    compute: Compute,
}

impl Probe {
    /// The recipe's own settings of the wanted kinds, else the usual ones.
    fn wanted(&self, own: &[EvaluateConfig]) -> Vec<EvaluateConfig> {
        let usual = [
            EvaluateConfig::Linear(LinearConfig::default()),
            EvaluateConfig::Knn(KnnConfig::default()),
            EvaluateConfig::Attentive(AttentiveConfig::default()),
            EvaluateConfig::Dense(DenseConfig::default()),
            EvaluateConfig::Finetune(FinetuneConfig::default()),
        ];
        let of = |kind: &String| own.iter().chain(&usual).find(|config| config.kind() == kind).cloned();
        self.kind.iter().filter_map(of).collect()
    }

    pub(super) fn run(self, register: &Register) -> Result<()> {
        let threads = self.compute.start();
        let device = self.compute.device;
        let scores = match (&self.run, &self.hf, &self.train, &self.test) {
            (Some(run), ..) => {
                let (session, _) = Session::open(register, run, &self.changes.overrides(), device)?;
                let wanted = self.wanted(&session.resolved.config.evaluate);
                // A probe leaves its run as it was.
                let folder = std::env::temp_dir().join(format!("mask-probe-{}", std::process::id()));
                let scores = session.scores(&wanted, self.baselines, &Work { folder: folder.clone(), threads });
                let _ = std::fs::remove_dir_all(&folder);
                scores?
            }
            (None, Some(_), ..) if self.kind.iter().any(|kind| kind == "finetune") => {
                return Err(Error::value("--kind finetune", "trains the encoder of a run, not one of a folder"));
            }
            (None, Some(hf), Some(train), Some(test)) => {
                let hosted = register.open_hosted(hf, device)?;
                let fronts = [hosted.front(train)?, hosted.front(test)?];
                let raw = self.baselines.then_some(register.raw);
                let name = hf.display().to_string();
                score(&name, hosted.encoder(), [&*fronts[0], &*fronts[1]], &self.wanted(&[]), device, raw)?
            }
            _ => return Err(Error::value("probe", "takes a run, or --hf with --train and --test")),
        };
        if scores.is_empty() {
            return Err(Error::value("probe", "the data has no classes that these probes learn"));
        }
        if self.json {
            return say_json(&scores);
        }
        print_scores(&scores);
        Ok(())
    }
}

/// A table of accuracies.
pub(super) fn print_scores(scores: &[Scores]) {
    let Some(first) = scores.first() else { return };
    let kinds: Vec<&str> = first.scores.iter().map(|score| score.kind).collect();
    let head: Vec<String> = kinds.iter().map(|kind| format!("{:>14}", score_title(kind))).collect();
    say(format_args!("{:28}{}", "accuracy", head.join("")));
    for row in scores {
        // Not everything can be measured of every encoder.
        let cell = |kind: &&str| {
            let score = row.scores.iter().find(|score| score.kind == *kind);
            format!("{:>14}", score.map_or("-".to_owned(), |score| format!("{:.1} %", 100.0 * score.accuracy)))
        };
        say(format_args!("{:28}{}", row.encoder, kinds.iter().map(cell).collect::<String>()));
    }
}

#[derive(Args)]
pub(super) struct Eval {
    /// A run's folder, or one of its checkpoints
    run: PathBuf,
    /// Held-out samples, at most
    #[arg(long, default_value_t = 2000, value_parser = clap::value_parser!(u64).range(1..))]
    samples: u64,
    /// JSON instead of lines
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    changes: Changes,
    #[command(flatten)]
    compute: Compute,
}

impl Eval {
    pub(super) fn run(self, register: &Register) -> Result<()> {
        self.compute.start();
        let (session, step) = Session::open(register, &self.run, &self.changes.overrides(), self.compute.device)?;
        let steps = session.resolved.config.train.steps;
        let held = held_out(&*session.method, &*session.held_out, self.samples, steps, self.compute.device)?;
        let loss = held.loss;
        let samples = self.samples.min(session.held_out.len());
        if self.json {
            let notes: Named<f64> = held.notes.iter().map(|(name, value)| ((*name).to_owned(), *value)).collect();
            return say_json(
                &serde_json::json!({ "step": step, "held_out": loss, "samples": samples, "notes": notes }),
            );
        }
        for (name, value) in &held.notes {
            say(format_args!("{name} {value:.5}"));
        }
        say(format_args!("held-out loss {loss:.5} over {samples} samples, after step {step}"));
        Ok(())
    }
}

#[derive(Args)]
pub(super) struct Embed {
    /// A run's folder, or one of its checkpoints
    #[arg(required_unless_present = "hf")]
    run: Option<PathBuf>,
    /// A Hugging Face folder instead of a run
    #[arg(long, conflicts_with = "run")]
    hf: Option<PathBuf>,
    /// The folder of your files
    #[arg(long)]
    data: PathBuf,
    /// The safetensors file to write: features [N, D]; the files' names stand in its metadata
    #[arg(long)]
    out: PathBuf,
    #[command(flatten)]
    compute: Compute,
}

impl Embed {
    pub(super) fn run(self, register: &Register) -> Result<()> {
        self.compute.start();
        let device = self.compute.device;
        let embedded = match (&self.run, &self.hf) {
            (Some(run), _) => {
                let path = serde_json::to_string(&self.data.display().to_string());
                let path = path.map_err(|error| Error::Defect(error.to_string()))?;
                let changes =
                    Changes { sets: vec![format!("data.source={{kind: folder, path: {path}}}")], ..Changes::default() };
                let splits = [Split::Train, Split::Synthetic];
                let (session, _) = Session::open_over(splits, register, run, &changes.overrides(), device)?;
                embed_all(session.method.encoder(), &*session.train, device)?
            }
            (None, Some(hf)) => {
                let hosted = register.open_hosted(hf, device)?;
                embed_all(hosted.encoder(), &*hosted.front(&self.data)?, device)?
            }
            (None, None) => return Err(Error::value("embed", "takes a run or --hf")),
        };
        for problem in &embedded.skipped {
            tracing::warn!("skipped: {problem}");
        }
        let names = serde_json::to_string(&embedded.names).map_err(|error| Error::Defect(error.to_string()))?;
        let mut tensors: Vec<(String, Tensor)> = Vec::new();
        tensors.extend(embedded.features.iter().map(|(_, rows)| ("features".to_owned(), rows.shallow_clone())));
        let size = tensors.first().map_or_else(|| vec![0, 0], |(_, rows)| rows.size());
        if let Some(labels) = &embedded.labels {
            let labels: Vec<i64> = labels.iter().map(|label| i64::from(*label)).collect();
            tensors.push(("labels".to_owned(), Tensor::from_slice(&labels)));
        }
        store::write(&self.out, &tensors, &Named::from([("names".to_owned(), names)]))?;
        let [rows, width] = [size[0], size[1]];
        say(format_args!("{rows} x {width} features in {}; {} skipped", self.out.display(), embedded.skipped.len()));
        Ok(())
    }
}

fn embed_all(encoder: &dyn Encoder, front: &dyn crate::data::Front, device: Device) -> Result<Embedded> {
    let ids: Vec<u64> = (0..front.len()).collect();
    embed(encoder, front, &ids, device, Some("embedding"), &[Pool::Tokens])
}

#[derive(Args)]
pub(super) struct Forward {
    /// The Hugging Face folder: config.json and model.safetensors
    #[arg(long)]
    hf: PathBuf,
    /// The inputs, by the names that transformers uses
    #[arg(long)]
    inputs: PathBuf,
    /// The file to write
    #[arg(long)]
    out: PathBuf,
    #[command(flatten)]
    compute: Compute,
}

impl Forward {
    pub(super) fn run(self, register: &Register) -> Result<()> {
        self.compute.start();
        let device = self.compute.device;
        let hosted = register.open_hosted(&self.hf, device)?;
        let inputs: Named<Tensor> = store::read(&self.inputs)?
            .tensors
            .into_iter()
            .map(|(name, tensor)| (name, tensor.to_device(device)))
            .collect();
        let outputs = hosted.forward(&inputs).map_err(|error| match error {
            Error::Value { what, problem } => Error::file(&self.inputs, format!("{what}: {problem}")),
            Error::Shape { .. } => Error::file(&self.inputs, error.to_string()),
            other => other,
        })?;
        let tensors: Vec<(String, Tensor)> =
            outputs.into_iter().map(|(name, tensor)| (name, tensor.to_device(Device::Cpu).contiguous())).collect();
        for (name, tensor) in &tensors {
            say(format_args!("{name} {:?}", tensor.size()));
        }
        store::write(&self.out, &tensors, &Named::new())
    }
}
