//! One run: its folder, its parts, its training.

use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;

use tch::Device;

use super::evaluate::{EvaluateConfig, Score, Scores, held_out, score, top1};
use super::finetune::finetuned;
use super::guidance::guidance;
use super::resolve::{Overrides, Register, Resolved};
use super::result::{self, RANDOM};
use super::summary;
use crate::data::{Ask, Front, WorkLimits, prepare};
use crate::method::{Method, Sheet, Split, Step};
use crate::nn::Parameters;
use crate::recipe::{Tree, Value, differences};
use crate::schedule::Clock;
use crate::stage::{self, Depot, Keyed, artefacts_folder};
use crate::train::{Checkpoint, Checkpoints, Halt, TrainConfig, Trained, Trainer};
use crate::{Error, Named, Result, store};

/// What the command line decides about a run.
#[derive(Clone, Debug)]
pub struct Options {
    /// Changes to the recipe.
    pub overrides: Overrides,
    /// The run's folder; none = the next free one below `runs`.
    pub out: Option<PathBuf>,
    /// Whether to go on from the last checkpoint.
    pub resume: bool,
    /// Ends training early without touching schedules.
    pub stop_at: Option<u64>,
    /// The device.
    pub device: Device,
    /// Threads of the loader.
    pub threads: usize,
}

/// A recipe with its parts built.
pub struct Session {
    /// The recipe.
    pub resolved: Resolved,
    /// The loader's half, over the training samples.
    pub train: Arc<dyn Front>,
    /// The loader's half, over the held-out samples.
    pub held_out: Arc<dyn Front>,
    /// The device's half.
    pub method: Box<dyn Method>,
    /// Its parameters.
    pub parameters: Rc<Parameters>,
    /// The device.
    pub device: Device,
    /// What probes call samples in front of any model.
    pub raw: &'static str,
}

impl Session {
    /// Builds everything that a recipe names.
    ///
    /// # Errors
    /// Data that can't be read, numbers that don't fit together.
    pub fn build(resolved: Resolved, device: Device) -> Result<Self> {
        Self::over([Split::Train, Split::HeldOut], resolved, device)
    }

    /// As [`Session::build`], over chosen parts of the data.
    ///
    /// # Errors
    /// As there.
    pub fn over(splits: [Split; 2], mut resolved: Resolved, device: Device) -> Result<Self> {
        if splits == [Split::Synthetic; 2] && resolved.made.is_empty() {
            resolved.made = stage::imagine(&resolved.stages, &resolved.register)?;
        }
        let front = |split| -> Result<Arc<dyn Front>> { Ok(Arc::from(resolved.front(split)?)) };
        let (train, held_out) = (front(splits[0])?, front(splits[1])?);
        let parameters = resolved.parameters(device);
        let method = resolved.method.build(&parameters).map_err(|error| resolved.place(error, ""))?;
        let raw = resolved.register.raw;
        Ok(Self { resolved, train, held_out, method, parameters, device, raw })
    }

    /// Builds the model of a run with the weights of its best or last checkpoint.
    ///
    /// # Errors
    /// No run, no checkpoint, or a damaged one.
    pub fn open(register: &Register, run: &Path, overrides: &Overrides, device: Device) -> Result<(Self, u64)> {
        Self::open_over([Split::Train, Split::HeldOut], register, run, overrides, device)
    }

    /// As [`Session::open`], over chosen parts of the data.
    ///
    /// # Errors
    /// As there.
    pub fn open_over(
        splits: [Split; 2],
        register: &Register,
        run: &Path,
        overrides: &Overrides,
        device: Device,
    ) -> Result<(Self, u64)> {
        let (mut resolved, checkpoint) = Self::stored(register, run, overrides)?;
        if !resolved.stages.is_empty() {
            // A checkpoint lies two folders below its run's.
            let folder = if run.is_dir() { Some(run) } else { run.parent().and_then(Path::parent) };
            resolved.made = stage::recall(&resolved.stages, register, folder)?;
        }
        let session = Self::over(splits, resolved, device)?;
        session.parameters.load(&checkpoint.model, true)?;
        Ok((session, checkpoint.step))
    }

    /// The recipe of a run's folder or of one of its checkpoints.
    ///
    /// # Errors
    /// No run, no checkpoint, or a damaged one.
    pub fn recipe_of(register: &Register, run: &Path) -> Result<Resolved> {
        Self::stored(register, run, &Overrides::default()).map(|(resolved, _)| resolved)
    }

    /// What lies on the disk of a run.
    fn stored(register: &Register, run: &Path, overrides: &Overrides) -> Result<(Resolved, Checkpoint)> {
        if run.is_dir() {
            let checkpoint = Checkpoints::of(run).last()?;
            Ok((Resolved::read(register, run, overrides)?, checkpoint))
        } else {
            let checkpoint = Checkpoints::read(run)?;
            let value: Value = serde_yaml::from_str(&checkpoint.recipe)
                .map_err(|error| Error::file(run, format!("holds a recipe that can't be read: {error}")))?;
            let label = format!("{} (its recipe)", run.display());
            Ok((Resolved::of(register, Tree::from_value(value, label), overrides)?, checkpoint))
        }
    }

    /// Probes the model, and, with `baselines`, a random-initialised encoder and the raw samples.
    ///
    /// # Errors
    /// Data that can't be read, features that aren't finite.
    pub fn scores(&self, wanted: &[EvaluateConfig], baselines: bool, work: &Work) -> Result<Vec<Scores>> {
        let fronts = [&*self.train, &*self.held_out];
        let raw = baselines.then_some(self.raw);
        let of = |name: &str, method: &dyn Method, weights: Option<&Parameters>, raw: Option<&str>| {
            let mut all = score(name, method.encoder(), fronts, wanted, self.device, raw)?;
            let more = self.more_scores(method, weights, wanted, work)?;
            match all.first_mut().filter(|first| first.encoder == name) {
                Some(first) => first.scores.extend(more),
                None if more.is_empty() => {}
                None => all.insert(0, Scores { encoder: name.to_owned(), scores: more }),
            }
            Ok::<_, Error>(all)
        };
        let name = if self.resolved.is_task() { "model" } else { "pre-trained encoder" };
        let mut all = of(name, &*self.method, Some(&self.parameters), raw)?;
        if baselines && !all.is_empty() {
            let parameters = self.resolved.parameters(self.device);
            let fresh = self.resolved.method.build(&parameters)?;
            // Fine-tuned, it is a model trained from scratch.
            let scores = of(RANDOM, &*fresh, None, None)?;
            all.splice(1..1, scores);
        }
        Ok(all)
    }

    /// What is measured of the whole method rather than of its encoder's features.
    fn more_scores(
        &self,
        method: &dyn Method,
        weights: Option<&Parameters>,
        wanted: &[EvaluateConfig],
        work: &Work,
    ) -> Result<Vec<Score>> {
        let mut scores = Vec::new();
        for config in wanted {
            match config {
                EvaluateConfig::Top1(config) if weights.is_some() => {
                    scores.extend(top1(method, &*self.held_out, config.samples, self.device)?);
                }
                EvaluateConfig::Finetune(config) => {
                    let name = if weights.is_some() { "finetune" } else { "finetune-from-scratch" };
                    scores.extend(finetuned(self, weights, config, &work.folder.join(name), work.threads)?);
                }
                _ => {}
            }
        }
        Ok(scores)
    }
}

/// What a measurement that trains may use.
#[derive(Clone, Debug)]
pub struct Work {
    /// A folder for what it writes.
    pub folder: PathBuf,
    /// Threads of its loader.
    pub threads: usize,
}

impl Session {
    /// What the method hides and answers on its first held-out samples, under the masks of the held-out loss.
    ///
    /// # Errors
    /// Data that can't be read.
    pub fn sheet(&self, count: u64) -> Result<Sheet> {
        let steps = self.resolved.config.train.steps;
        let clock = Clock { step: steps, steps, epoch: 0, steps_in_epoch: 1 };
        let state = Named::new();
        let ask = Ask { seed: 0, clock: &clock, train: false, masked: true, state: &state, grid: None };
        let ids: Vec<u64> = (0..self.held_out.len().min(count)).collect();
        let prepared = prepare(&*self.held_out, &ids, &ask)?;
        let batch = prepared.to_device(self.device)?;
        tch::no_grad(|| self.method.show(&batch, &Step { clock: &clock, train: false, micro: 0 }))
    }
}

/// What `--dry-run` prints of the stages: which artefacts are there, and which would be made.
///
/// # Errors
/// Data that can't be read.
pub fn plan_of_stages(resolved: &Resolved) -> Result<Vec<(String, String)>> {
    if resolved.stages.is_empty() {
        return Ok(Vec::new());
    }
    let keyed = Depot::at(artefacts_folder()).keys(&resolved.stages)?;
    let line = |keyed: &Keyed| {
        let state = if keyed.is_there() { "is there" } else { "would be made" };
        (format!("stage {}", keyed.name), format!("{} {state}", keyed.folder.display()))
    };
    Ok(keyed.iter().map(line).collect())
}

/// What `--dry-run` prints: everything is built, nothing is trained.
///
/// # Errors
/// As [`Session::build`].
pub fn plan_of(session: &Session) -> Result<Vec<(String, String)>> {
    let config = &session.resolved.config;
    let batch = &session.resolved.batch;
    let ids: Vec<u64> = (0..session.train.len().min(8)).collect();
    let clock = Clock::at(0, config.train.steps, 1);
    let state = Named::new();
    let ask = Ask { seed: config.seed, clock: &clock, train: true, masked: true, state: &state, grid: None };
    let items = session.train.plan(&ids, &ask)?;
    let (all, trained) = session.parameters.count();
    let copies = session.parameters.numbers(|p| p.teacher);
    let teacher = if copies > 0 { format!(", and a teacher of {copies}") } else { String::new() };
    let rows = items.len().max(1) as f64;
    let mut tokens = [0.0; 3];
    let mut open = false;
    for view in items.iter().flat_map(|item| &item.views) {
        open |= matches!(view.draft, Some(crate::plan::Draft::Open { .. }));
        let [seen, queried] = view.tokens();
        for (sum, part) in tokens.iter_mut().zip([view.layout.len() as f64, seen, queried]) {
            *sum += part / rows;
        }
    }
    let read = if open { "left to see" } else { "read by the encoder" };
    let crate::train::OptimiserConfig::AdamW(adamw) = &config.train.optimiser;
    let micro = batch.micro.unwrap_or(batch.size).min(batch.size);
    let in_epoch = (session.train.len() / batch.size).max(1);
    let mut lines = vec![
        ("method".to_owned(), session.resolved.entry.card.title.to_owned()),
        ("parameters".to_owned(), format!("{all} ({trained} trained){teacher}")),
        ("samples".to_owned(), format!("{} to train on, {} held out", session.train.len(), session.held_out.len())),
        ("tokens a sample".to_owned(), format!("{:.1}, {:.1} {read}, {:.1} queried", tokens[0], tokens[1], tokens[2])),
        (
            "batch".to_owned(),
            format!(
                "{} samples = {} micro-batches of at most {micro} x 1 rank",
                batch.size,
                batch.size.div_ceil(micro)
            ),
        ),
        ("peak rate".to_owned(), format!("{:.4e}", adamw.peak(batch.size))),
        (
            "steps".to_owned(),
            format!("{} = {:.1} epochs of {in_epoch}", config.train.steps, config.train.steps as f64 / in_epoch as f64),
        ),
    ];
    if let Some(flops) = session.method.flops(tokens[1], tokens[2]) {
        lines.push(("operations a step".to_owned(), format!("{:.1} GFLOP", flops * batch.size as f64 / 1e9)));
    }
    // Weights, gradients and two moments in float32.
    let fixed = (all + copies + 3 * trained) as f64 * 4.0 / 1e6;
    lines.push((
        "memory".to_owned(),
        format!("{fixed:.0} MB for weights, gradients and moments; activations come on top"),
    ));
    Ok(lines)
}

/// What `pretrain` gave.
#[derive(Clone, Debug)]
pub struct Pretrained {
    /// The run's folder.
    pub folder: PathBuf,
    /// What training gave.
    pub trained: Trained,
    /// Probes at the end.
    pub scores: Vec<Scores>,
    /// The report, where training finished.
    pub report: Option<PathBuf>,
}

/// A folder that no second run may use. The lock goes with the process, however it ends.
pub(crate) struct Lock(#[expect(dead_code, reason = "holds the lock for as long as it lives")] File);

impl Lock {
    pub(crate) fn take(folder: &Path) -> Result<Self> {
        let path = folder.join(".lock");
        let file = File::create(&path).map_err(Error::io(&path, "making the lock"))?;
        match file.try_lock() {
            Ok(()) => Ok(Self(file)),
            Err(TryLockError::WouldBlock) => {
                Err(Error::file(folder, "another run is using this folder; wait for it or choose another with --out"))
            }
            Err(TryLockError::Error(error)) => Err(Error::io(&path, "locking")(error)),
        }
    }
}

/// The folder of a new run: `--out`, or the first free one below `runs`.
fn new_folder(out: Option<&Path>, recipe: &Path) -> Result<PathBuf> {
    let Some(out) = out else {
        let stem = recipe.file_stem().map_or_else(|| "run".to_owned(), |stem| stem.to_string_lossy().into_owned());
        let name = |n: u32| Path::new("runs").join(if n == 1 { stem.clone() } else { format!("{stem}-{n}") });
        let free = (1..).map(name).find(|folder| !folder.exists());
        return Ok(free.unwrap_or_else(|| name(1)));
    };
    let taken = |file: &str| out.join(file).exists();
    if out.exists() && !out.is_dir() {
        return Err(Error::file(out, "is a file, --out takes a folder"));
    }
    if taken("recipe.yaml") || taken("checkpoints") {
        return Err(Error::file(out, "holds a run already; go on with --resume, or choose another folder with --out"));
    }
    Ok(out.to_owned())
}

/// The folder to go on in: `--out`, or the newest one below `runs` that the recipe's name fits.
fn old_folder(out: Option<&Path>, recipe: &Path) -> Result<PathBuf> {
    if let Some(out) = out {
        if out.exists() && !out.is_dir() {
            return Err(Error::file(out, "is a file, --out takes a folder"));
        }
        return Ok(out.to_owned());
    }
    if recipe.is_dir() {
        return Ok(recipe.to_owned());
    }
    let stem = recipe.file_stem().map_or_else(|| "run".to_owned(), |stem| stem.to_string_lossy().into_owned());
    let number = |name: &str| match name.strip_prefix(&stem)? {
        "" => Some(1),
        rest => rest.strip_prefix('-')?.parse::<u32>().ok(),
    };
    let runs = Path::new("runs");
    let names =
        std::fs::read_dir(runs).into_iter().flatten().filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let newest = names.filter_map(|name| Some((number(&name)?, name))).max();
    let problem = format!("holds no run of {stem} to resume; name its folder with --out");
    newest.map(|(_, name)| runs.join(name)).ok_or_else(|| Error::file(runs, problem))
}

/// The keys in which a recipe differs from that of a run's folder, but for those that change no number.
pub(crate) fn changed_keys(folder: &Path, register: &Register, resolved: &Resolved) -> Result<Vec<String>> {
    let old = Resolved::read(register, folder, &Overrides::default())?;
    let changed = differences(&old.value, &resolved.value);
    Ok(changed.into_iter().filter(|key| !TrainConfig::FREE.contains(&key.as_str())).collect())
}

/// The recipe of the folder must be that of the resumed run.
fn same_recipe(folder: &Path, register: &Register, resolved: &Resolved) -> Result<()> {
    let changed = changed_keys(folder, register, resolved)?;
    if changed.is_empty() {
        return Ok(());
    }
    let problem =
        format!("was begun with another recipe: {} differ; --resume goes on with the same one", changed.join(", "));
    Err(Error::file(folder, problem))
}

/// Trains a recipe whose stages are made in a folder that nobody else uses, and goes on where an earlier attempt ended.
///
/// # Errors
/// As [`pretrain`].
pub(crate) fn train_in(resolved: Resolved, folder: &Path, device: Device, threads: usize) -> Result<Pretrained> {
    let mut session = Session::build(resolved, device)?;
    let checkpoints = Checkpoints::of(folder);
    let checkpoint = if checkpoints.steps()?.is_empty() { None } else { Some(checkpoints.last()?) };
    if checkpoint.is_none() {
        let register = session.resolved.register;
        session.init(&register)?;
    }
    let text = session.resolved.text();
    store::write_bytes(&folder.join("recipe.yaml"), text.as_bytes())?;
    stage::note(folder, &session.resolved.made)?;
    let options = Options { overrides: Overrides::default(), out: None, resume: true, stop_at: None, device, threads };
    train(session, folder.to_owned(), text, checkpoint.as_ref(), &options)
}

/// Trains a recipe, measures it, writes its report.
///
/// # Errors
/// What a user can mend, in one line; see [`Error`].
pub fn pretrain(register: &Register, recipe: &Path, options: &Options) -> Result<Pretrained> {
    pretrain_resolved(register, Resolved::read(register, recipe, &options.overrides)?, recipe, options)
}

/// As [`pretrain`], of a recipe that was read; `recipe` is where it came from, and names the run.
///
/// # Errors
/// As there.
pub fn pretrain_resolved(
    register: &Register,
    resolved: Resolved,
    recipe: &Path,
    options: &Options,
) -> Result<Pretrained> {
    let folder = if options.resume {
        let folder = old_folder(options.out.as_deref(), recipe)?;
        if Checkpoints::of(&folder).steps()?.is_empty() && !folder.join("recipe.yaml").is_file() {
            return Err(Error::file(&folder, "holds no run to resume; start it without --resume"));
        }
        folder
    } else {
        new_folder(options.out.as_deref(), recipe)?
    };
    // Everything that can be wrong with recipe and data is found before a stage is made, and before the folder is.
    let mut resolved = resolved;
    if !resolved.stages.is_empty() {
        resolved.rehearse()?;
        let depot = Depot::at(artefacts_folder());
        if options.resume {
            stage::same_artefacts(&folder, &depot.keys(&resolved.stages)?)?;
        }
        let by = (options.device, options.threads);
        resolved.made = depot.make(&resolved.stages, register, &resolved.data, by)?;
    }
    let mut session = Session::build(resolved, options.device)?;
    // A checkpoint wins over where the run's first weights came from, which need not be there any more.
    if !options.resume || Checkpoints::of(&folder).steps()?.is_empty() {
        session.init(register)?;
    }
    std::fs::create_dir_all(&folder).map_err(Error::io(&folder, "making the run's folder"))?;
    let _lock = Lock::take(&folder)?;
    let mut checkpoint: Option<Checkpoint> = None;
    if options.resume {
        same_recipe(&folder, register, &session.resolved)?;
        // Killed before its first checkpoint, a run begins again.
        if !Checkpoints::of(&folder).steps()?.is_empty() {
            checkpoint = Some(Checkpoints::of(&folder).last()?);
        }
    }
    let text = session.resolved.text();
    store::write_bytes(&folder.join("recipe.yaml"), text.as_bytes())?;
    stage::note(&folder, &session.resolved.made)?;
    train(session, folder, text, checkpoint.as_ref(), options)
}

fn train(
    session: Session,
    folder: PathBuf,
    text: String,
    checkpoint: Option<&Checkpoint>,
    options: &Options,
) -> Result<Pretrained> {
    let Session { resolved, train, held_out: held, method, parameters, device, raw } = session;
    let config = resolved.config.train.clone();
    let limits = WorkLimits { threads: options.threads, ahead: 2 };
    let (steps, seed) = (config.steps, resolved.config.seed);
    let evaluate = resolved.config.evaluate.clone();
    let batch = resolved.batch.clone();
    let mut trainer = Trainer::new(method, Rc::clone(&parameters), &folder, config, batch, seed, text, limits)?;
    if let Some(checkpoint) = checkpoint {
        trainer.resume(checkpoint)?;
        tracing::info!("going on after step {}", checkpoint.step);
    }
    tracing::info!(
        "{}: {} samples in {} micro-batch(es) a step, peak rate {:.3e}, run folder {}",
        resolved.entry.card.name,
        trainer.batch.size,
        trainer.micro_batches(),
        trainer.peak_rate(),
        folder.display()
    );
    let due = |step: u64| evaluate.iter().any(|e| e.every() > 0 && step.is_multiple_of(e.every()));
    let watch = |method: &dyn Method, step: u64| -> Result<Vec<(String, f64)>> {
        let mut seen = Vec::new();
        for config in &evaluate {
            if step != steps && (config.every() == 0 || !step.is_multiple_of(config.every())) {
                continue;
            }
            match config {
                EvaluateConfig::HeldOut(c) => {
                    seen.extend(held_out(method, &*held, c.samples, steps, device)?.metrics());
                }
                EvaluateConfig::Knn(_) => {
                    let fronts = [&*train, &*held];
                    let only = std::slice::from_ref(config);
                    let scores = score("kNN", method.encoder(), fronts, only, device, None)?;
                    seen.extend(scores.iter().flat_map(|s| &s.scores).map(|s| (s.kind.to_owned(), s.accuracy)));
                }
                EvaluateConfig::Guidance(c) => {
                    let found = guidance(method, &*held, c.samples, device)?;
                    seen.extend(found.map(|value| ("guidance".to_owned(), value)));
                }
                EvaluateConfig::Top1(c) => {
                    let score = top1(method, &*held, c.samples, device)?;
                    seen.extend(score.map(|score| (score.kind.to_owned(), score.accuracy)));
                }
                _ => {}
            }
        }
        Ok(seen)
    };
    let trained = trainer.train(Arc::clone(&train), options.stop_at, &due, &watch)?;
    let Trainer { method, .. } = trainer;
    let session = Session { resolved, train, held_out: held, method, parameters, device, raw };
    if trained.halt == Halt::Stopped {
        return Ok(Pretrained { folder, trained, scores: Vec::new(), report: None });
    }
    let work = Work { folder: folder.clone(), threads: options.threads };
    let scores = session.scores(&session.resolved.config.evaluate, true, &work)?;
    let report = summary::write(&session, &folder, &trained, &scores)?;
    result::write(&session, &folder, &scores, options.threads)?;
    Ok(Pretrained { folder, trained, scores, report: Some(report) })
}
