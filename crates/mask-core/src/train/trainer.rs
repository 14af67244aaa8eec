//! The training loop. Not generic: one for all methods.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use tch::{Device, Kind, Tensor};

use super::checkpoint::{Checkpoint, Checkpoints};
use super::config::{BatchConfig, ClipBy, NonFinite, OptimiserConfig, Precision, TrainConfig};
use super::feedback::Feedback;
use super::metrics::Journal;
use super::optimiser::Optimiser;
use super::progress::Progress;
use crate::data::{Front, Loader, Order, Prepared, WorkLimits, to_device};
use crate::method::{Batch, Count, Method, Outcome, Reduce, Step};
use crate::nn::Parameters;
use crate::report::Events;
use crate::schedule::Clock;
use crate::stream::{Purpose, Stream};
use crate::{Error, Named, Result};

static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// Lets Ctrl-C and SIGTERM end training after a checkpoint; a second one ends the program at once.
pub fn watch_signals() {
    // Fails only where a handler is set already, which is as good.
    let _ = ctrlc::set_handler(|| {
        if INTERRUPTED.swap(true, Ordering::SeqCst) {
            std::process::exit(130);
        }
    });
}

/// Whether a signal came.
#[must_use]
pub fn interrupted() -> bool {
    INTERRUPTED.load(Ordering::SeqCst)
}

/// Why training stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Halt {
    /// All steps are done.
    Finished,
    /// `--stop-at` was reached.
    Stopped,
}

/// What training gave.
#[derive(Clone, Debug)]
pub struct Trained {
    /// Why it stopped.
    pub halt: Halt,
    /// Steps done.
    pub step: u64,
    /// The loss of the last step that was read.
    pub loss: Option<f64>,
    /// Samples that could not be read, by step.
    pub skipped: u64,
}

/// Everything that trains, with its place on the disk.
pub struct Trainer {
    /// The method.
    pub method: Box<dyn Method>,
    /// Its parameters.
    pub parameters: Rc<Parameters>,
    /// The run's folder.
    pub folder: PathBuf,
    /// Keys of training.
    pub config: TrainConfig,
    /// Keys of the batch.
    pub batch: BatchConfig,
    /// The run's seed.
    pub seed: u64,
    /// The resolved recipe.
    pub recipe: String,
    /// What the loader may use.
    pub limits: WorkLimits,
    optimiser: Optimiser,
    checkpoints: Checkpoints,
    step: u64,
    best: Option<(u64, f64)>,
    feedback: Feedback,
}

/// Metrics of a step that still lie on the device.
struct Pending {
    step: u64,
    ids: Vec<u64>,
    host: Vec<(&'static str, f64)>,
    names: Vec<String>,
    device: Tensor,
}

/// Looks at a model while it trains: held-out loss, kNN. Rows go to the metrics; one named `held_out` chooses the best
/// checkpoint.
pub type Watch<'a> = &'a dyn Fn(&dyn Method, u64) -> Result<Vec<(String, f64)>>;

impl Trainer {
    /// A fresh run in `folder`.
    ///
    /// # Errors
    /// Keys out of range.
    #[expect(clippy::too_many_arguments, reason = "each is one part of a run, and there is one caller")]
    pub fn new(
        method: Box<dyn Method>,
        parameters: Rc<Parameters>,
        folder: &Path,
        config: TrainConfig,
        batch: BatchConfig,
        seed: u64,
        recipe: String,
        limits: WorkLimits,
    ) -> Result<Self> {
        config.check()?;
        batch.check()?;
        Ok(Self {
            optimiser: Optimiser::new(&config.optimiser, &parameters)?,
            checkpoints: Checkpoints::of(folder),
            folder: folder.to_owned(),
            step: 0,
            best: None,
            feedback: Feedback::default(),
            method,
            parameters,
            config,
            batch,
            seed,
            recipe,
            limits,
        })
    }

    /// Goes on from a checkpoint.
    ///
    /// # Errors
    /// A checkpoint of another model.
    pub fn resume(&mut self, from: &Checkpoint) -> Result<()> {
        self.parameters.load(&from.model, true)?;
        self.optimiser.load(&from.optimiser)?;
        self.step = from.step;
        self.best = from.best;
        self.feedback.load(&from.state);
        Ok(())
    }

    /// Steps done.
    #[must_use]
    pub fn step(&self) -> u64 {
        self.step
    }

    /// The peak rate at the global batch.
    #[must_use]
    pub fn peak_rate(&self) -> f64 {
        let OptimiserConfig::AdamW(adamw) = &self.config.optimiser;
        adamw.peak(self.batch.size)
    }

    /// Micro-batches of a full step.
    #[must_use]
    pub fn micro_batches(&self) -> u64 {
        self.batch.size.div_ceil(self.batch.micro.unwrap_or(self.batch.size))
    }

    /// Trains until the last step, `stop_at`, or a signal. `watch` is called where `due` says so, and at the end.
    ///
    /// # Errors
    /// Unreadable data, a loss that isn't finite, a full disk, an interruption (after a checkpoint was written).
    pub fn train(
        &mut self,
        front: Arc<dyn Front>,
        stop_at: Option<u64>,
        due: &dyn Fn(u64) -> bool,
        watch: Watch<'_>,
    ) -> Result<Trained> {
        let order = Order::new(self.seed, front.len(), self.batch.size)?;
        let in_epoch = order.steps_in_epoch();
        let last = stop_at.unwrap_or(self.config.steps).min(self.config.steps);
        let mut metrics = Journal::open(&self.folder.join("metrics.jsonl"), self.step)?;
        let mut timing = Journal::open(&self.folder.join("timing.jsonl"), self.step)?;
        let events = self.folder.join("events");
        let mut events = if self.step == 0 { Events::create(&events)? } else { Events::resume(&events, self.step)? };
        let mut trained = Trained { halt: Halt::Stopped, step: self.step, loss: None, skipped: 0 };
        if self.step < last {
            let steps = self.step..last;
            let loader =
                Loader::start(Arc::clone(&front), order, self.seed, steps.clone(), self.config.steps, self.limits)?;
            self.feedback.begin(front.lag(), self.step, &loader)?;
            let mut progress = Progress::new("training", self.step, last);
            let mut pending: VecDeque<Pending> = VecDeque::new();
            let (mut since, mut waited, mut samples, mut reported) = (Instant::now(), 0.0, 0.0, self.step);
            for step in steps {
                let asked = Instant::now();
                let prepared = loader.next()?;
                waited += asked.elapsed().as_secs_f64();
                samples += prepared.totals.samples;
                for problem in &prepared.skipped {
                    tracing::warn!("step {}: skipped a sample: {problem}", step + 1);
                }
                trained.skipped += prepared.skipped.len() as u64;
                let clock = Clock::at(step, self.config.steps, in_epoch);
                let (metrics_of_step, fed_back) = self.update(&clock, &prepared)?;
                pending.push_back(metrics_of_step);
                self.step = step + 1;
                self.feedback.push(self.step, &fed_back, &loader)?;

                let watching = due(self.step) || self.step == self.config.steps;
                let saving = self.step.is_multiple_of(self.config.checkpoint_every) || self.step == last;
                let stopping = interrupted();
                if self.step.is_multiple_of(self.config.log_every) || watching || saving || stopping {
                    trained.loss = self.write(&mut pending, &mut metrics, &mut events)?.or(trained.loss);
                    let seconds = since.elapsed().as_secs_f64().max(1e-9);
                    let steps = (self.step - reported).max(1) as f64;
                    let rows = [
                        ("seconds", seconds / steps),
                        ("samples_per_second", samples / seconds),
                        ("data_wait", waited / seconds),
                    ];
                    timing.row(self.step, &rows)?;
                    for (name, value) in rows {
                        events.scalar(name, self.step, value)?;
                    }
                    events.flush()?;
                    let loss = trained.loss.map_or_else(String::new, |loss| format!("loss {loss:.4} · "));
                    let speed = format!("{loss}{:.0} samples/s · data wait {:.0} %", rows[1].1, 100.0 * rows[2].1);
                    progress.at(self.step, &speed);
                    reported = self.step;
                    (since, waited, samples) = (Instant::now(), 0.0, 0.0);
                }
                if watching {
                    self.look(watch, &mut metrics, &mut events)?;
                    since = Instant::now();
                }
                if saving || stopping {
                    metrics.sync()?;
                    let path = self.save()?;
                    since = Instant::now();
                    if stopping {
                        progress.finish();
                        let checkpoint = format!("the state is saved in {}, go on with --resume", path.display());
                        return Err(Error::Interrupted { step: self.step, checkpoint });
                    }
                }
            }
            progress.finish();
        }
        trained.step = self.step;
        if self.step == self.config.steps {
            trained.halt = Halt::Finished;
        }
        Ok(trained)
    }

    fn look(&mut self, watch: Watch<'_>, metrics: &mut Journal, events: &mut Events) -> Result<()> {
        let seen = watch(&*self.method, self.step)?;
        if seen.is_empty() {
            return Ok(());
        }
        metrics.row(self.step, &seen.iter().map(|(name, value)| (name.as_str(), *value)).collect::<Vec<_>>())?;
        for (name, value) in &seen {
            events.scalar(name, self.step, *value)?;
        }
        events.flush()?;
        let held_out = seen.iter().find(|(name, _)| name == "held_out").map(|(_, value)| *value);
        if let Some(loss) = held_out.filter(|loss| self.best.is_none_or(|(_, best)| *loss < best)) {
            self.best = Some((self.step, loss));
            // The best one exists as a file, whatever `checkpoint_every` says.
            if !self.step.is_multiple_of(self.config.checkpoint_every) && self.step != self.config.steps {
                metrics.sync()?;
                self.save()?;
            }
        }
        Ok(())
    }

    /// One optimiser step over all micro-batches of a global batch: its metrics, and what it feeds back.
    fn update(&mut self, clock: &Clock, prepared: &Prepared) -> Result<(Pending, Named<Tensor>)> {
        let device = self.parameters.device();
        let size = self.batch.micro.unwrap_or(self.batch.size).min(prepared.items.len() as u64) as usize;
        let micros = prepared.items.len().div_ceil(size) as u32;
        mask_torch::drop_grads(self.optimiser.params())?;
        let mut sums: Named<(Tensor, Reduce)> = Named::new();
        let mut loss: Option<Tensor> = None;
        for micro in 0..micros {
            let first = micro as usize * size;
            let rows = first..(first + size).min(prepared.items.len());
            let step = Step { clock, train: true, micro };
            // libtorch's generator hangs on nothing but this key, so that nothing of it needs to be saved.
            let key = Stream::keyed(self.seed, Purpose::Forward, clock.step, u64::from(micro)).bits();
            tch::manual_seed((key >> 1) as i64);
            let batch = to_device(prepared, rows, device)?;
            let (outcome, value) = learn(&*self.method, batch, &step, micros, (device, self.config.precision))?;
            gather(&mut sums, &outcome, micros);
            loss = Some(match loss {
                Some(loss) => loss + value.detach(),
                None => value.detach(),
            });
        }
        let loss = loss.ok_or_else(|| Error::Defect("a step without micro-batches".to_owned()))?;
        self.optimiser.hold(&self.method.held(clock))?;
        let norm = mask_torch::grad_norm(&self.optimiser.grads())?;
        let dropped = (&loss + &norm).isfinite().logical_not().to_kind(Kind::Float);
        let scale = match (self.config.clip, self.config.clip_by) {
            // Gradients are divided by this; the 1e-6 is that of the usual clip.
            (Some(clip), ClipBy::Global) => ((&norm + 1e-6) / clip).clamp_min(1.0),
            (Some(clip), ClipBy::Parameter) => {
                self.optimiser.clip_each(clip)?;
                Tensor::ones_like(&norm)
            }
            (None, _) => Tensor::ones_like(&norm),
        };
        let rate = self.peak_rate() * self.config.schedule.at(clock);
        tch::no_grad(|| self.optimiser.step(rate, clock, &scale, &dropped))?;
        let notes: Named<Tensor> = sums.iter().map(|(name, (sum, _))| (name.clone(), sum.shallow_clone())).collect();
        let step = Step { clock, train: true, micro: 0 };
        let fresh = tch::no_grad(|| self.method.after_step(&notes, &step))?;

        let mut names = vec!["loss".to_owned(), "grad_norm".to_owned(), "dropped".to_owned()];
        let mut device_values = vec![loss, norm, dropped];
        for (name, (sum, _)) in sums {
            if sum.numel() == 1 {
                names.push(name);
                device_values.push(sum.view([]));
            }
        }
        let values: Vec<Tensor> =
            device_values.iter().map(|value| value.to_device(device).to_kind(Kind::Double)).collect();
        let [hidden, all] = prepared.totals.hidden;
        let mut host = vec![("rate", rate), ("masked", hidden / all.max(1.0))];
        if !prepared.skipped.is_empty() {
            host.push(("skipped", prepared.skipped.len() as f64));
        }
        let ids = prepared.items.iter().map(|item| item.id).collect();
        Ok((Pending { step: clock.step + 1, ids, host, names, device: Tensor::stack(&values, 0) }, fresh))
    }

    /// Reads metrics from the device and writes them; gives the last loss.
    fn write(
        &self,
        pending: &mut VecDeque<Pending>,
        metrics: &mut Journal,
        events: &mut Events,
    ) -> Result<Option<f64>> {
        let mut last = None;
        while let Some(row) = pending.pop_front() {
            let values = Vec::<f64>::try_from(&row.device)?;
            let mut all: Vec<(&str, f64)> = row.names.iter().map(String::as_str).zip(values).collect();
            let take = |all: &[(&str, f64)], name| all.iter().find(|(n, _)| *n == name).map_or(0.0, |(_, v)| *v);
            let dropped = take(&all, "dropped") > 0.0;
            last = Some(take(&all, "loss"));
            all.retain(|(name, _)| *name != "dropped");
            all.extend(&row.host);
            if dropped {
                all.push(("dropped", 1.0));
            }
            metrics.row(row.step, &all)?;
            for (name, value) in &all {
                events.scalar(name, row.step, *value)?;
            }
            if dropped {
                self.refuse(&row)?;
            }
        }
        Ok(last)
    }

    fn refuse(&self, row: &Pending) -> Result<()> {
        if self.config.nonfinite == NonFinite::Skip {
            tracing::warn!("step {}: the loss or the gradient is not finite, the update was dropped", row.step);
            return Ok(());
        }
        let checkpoint = match self.checkpoints.steps()?.last() {
            Some(step) => format!("the last good checkpoint is {}", self.checkpoints.path(*step).display()),
            None => "there is no checkpoint yet".to_owned(),
        };
        let mut samples: Vec<String> = row.ids.iter().take(16).map(u64::to_string).collect();
        if row.ids.len() > samples.len() {
            samples.push(format!("and {} more", row.ids.len() - samples.len()));
        }
        Err(Error::NonFinite { step: row.step, samples: samples.join(", "), checkpoint })
    }

    /// Writes a checkpoint of this moment.
    ///
    /// # Errors
    /// The disk is full or refuses.
    pub fn save(&self) -> Result<PathBuf> {
        let checkpoint = Checkpoint {
            step: self.step,
            model: self.parameters.named().into_iter().map(|(name, tensor)| (name, tensor.detach())).collect(),
            optimiser: self.optimiser.state().into_iter().collect(),
            state: self.feedback.save(),
            best: self.best,
            recipe: self.recipe.clone(),
        };
        self.checkpoints.save(&checkpoint, self.config.keep, self.config.keep_every)
    }
}

/// Forward and backward of one of `micros` micro-batches: gradients are added up, the outcome and its loss given.
pub(crate) fn learn(
    method: &dyn Method,
    batch: Batch,
    step: &Step<'_>,
    micros: u32,
    (device, precision): (Device, Precision),
) -> Result<(Outcome, Tensor)> {
    let (outcome, loss) = {
        let _autocast = autocast(device, precision);
        let outcome = method.loss(&batch, step)?;
        let loss = outcome.loss(micros)?;
        (outcome, loss)
    };
    drop(batch); // the backward needs none of it
    loss.f_backward()?;
    Ok((outcome, loss))
}

/// Autocast for the forward, where the recipe asks for it.
fn autocast(device: Device, precision: Precision) -> Option<mask_torch::Autocast> {
    match precision {
        Precision::Float32 => None,
        Precision::Bf16 => mask_torch::Autocast::enter(device, Some(Kind::BFloat16)).ok(),
    }
}

/// Adds a micro-batch's terms and notes to those of the step.
fn gather(sums: &mut Named<(Tensor, Reduce)>, outcome: &Outcome, micros: u32) {
    let mut add = |name: &str, value: Tensor, reduce: Reduce| {
        let value = match reduce {
            Reduce::Sum => value,
            Reduce::Mean => value / f64::from(micros),
        };
        match sums.get_mut(name) {
            Some((sum, _)) => *sum = &*sum + value,
            None => {
                sums.insert(name.to_owned(), (value, reduce));
            }
        }
    };
    for term in &outcome.terms {
        // A single term is the loss itself: no need to say it twice.
        if outcome.terms.len() > 1 {
            add(term.name, term.value(micros).detach(), Reduce::Sum);
        }
    }
    for (name, value, reduce) in &outcome.notes {
        add(name, value.detach(), *reduce);
    }
}

/// The loss of one batch in evaluation mode, first, then its terms where it has several, and its notes that are one
/// number each; and their weight in a mean over batches.
///
/// # Errors
/// A batch that doesn't fit.
pub(crate) fn evaluate(
    method: &dyn Method,
    batch: &Batch,
    clock: &Clock,
    seed: u64,
) -> Result<(Vec<(&'static str, f64)>, f64)> {
    tch::manual_seed((seed >> 1) as i64);
    tch::no_grad(|| {
        let outcome = method.loss(batch, &Step { clock, train: false, micro: 0 })?;
        let mut values = vec![("loss", f64::try_from(outcome.loss(1)?)?)];
        if outcome.terms.len() > 1 {
            for term in &outcome.terms {
                values.push((term.name, f64::try_from(term.value(1))?));
            }
        }
        for (name, note, _) in outcome.notes.iter().filter(|(_, note, _)| note.numel() == 1) {
            values.push((name, f64::try_from(note.view([]))?));
        }
        let weight = match outcome.terms.first().map(|term| &term.count) {
            Some(Count::Global(count)) => *count,
            _ => batch.totals.samples,
        };
        Ok((values, weight))
    })
}
