//! Batches in order, prepared ahead of the step that needs them.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;

use ndarray::ArrayD;
use rayon::prelude::*;
use tch::{Device, Tensor};

use super::{Array, Ask, Front, Item};
use crate::method::{Batch, DeviceDraft, Totals, View};
use crate::plan::Draft;
use crate::schedule::Clock;
use crate::stream::{Purpose, Stream};
use crate::{Error, Named, Result};

/// Which samples a step reads: a permutation an epoch, keyed (seed, epoch), so that a step number says it all. The
/// samples that don't fill a last batch are left out of that epoch; a data set smaller than a batch is repeated.
#[derive(Clone, Debug)]
pub struct Order {
    seed: u64,
    samples: u64,
    batch: u64,
}

impl Order {
    /// An order over `samples` samples in batches of `batch`.
    ///
    /// # Errors
    /// No sample, or a batch of 0.
    pub fn new(seed: u64, samples: u64, batch: u64) -> Result<Self> {
        if samples == 0 || batch == 0 {
            return Err(Error::value("data", format!("{samples} samples in batches of {batch} make no batch")));
        }
        if samples > u64::from(u32::MAX) {
            return Err(Error::value("data", format!("{samples} samples are more than the 4294967295 supported")));
        }
        Ok(Self { seed, samples, batch })
    }

    /// Steps of an epoch.
    #[must_use]
    pub fn steps_in_epoch(&self) -> u64 {
        (self.samples / self.batch).max(1)
    }

    /// The samples of consecutive steps. The last epoch's permutation is kept between calls.
    fn ids(&self, step: u64, kept: &mut Option<(u64, Vec<u32>)>) -> Vec<u64> {
        let epoch = step / self.steps_in_epoch();
        let order = match kept {
            Some((of, order)) if *of == epoch => order,
            _ => {
                let order = Stream::keyed(self.seed, Purpose::Order, epoch, 0).permutation(self.samples as usize);
                &mut kept.insert((epoch, order)).1
            }
        };
        let first = step % self.steps_in_epoch() * self.batch;
        (first..first + self.batch).map(|at| u64::from(order[(at % self.samples) as usize])).collect()
    }
}

/// A global batch on the host, samples in order.
#[derive(Debug)]
pub struct Prepared {
    /// The step it is for.
    pub step: u64,
    /// What could be read.
    pub items: Vec<Item>,
    /// Counts over `items`.
    pub totals: Totals,
    /// What could not be read, with the reason.
    pub skipped: Vec<String>,
}

impl Prepared {
    /// All of its rows as tensors.
    ///
    /// # Errors
    /// As [`to_device`].
    pub fn to_device(&self, device: Device) -> Result<Batch> {
        to_device(self, 0..self.items.len(), device)
    }
}

/// Plans and reads a global batch. The same result whatever the number of threads.
///
/// # Errors
/// A plan that can't be drawn; a sample that can't be read, where the front is strict or nothing is left.
pub fn prepare(front: &dyn Front, ids: &[u64], ask: &Ask<'_>) -> Result<Prepared> {
    let items = front.plan(ids, ask)?;
    let filled: Vec<Result<Item>> = items
        .into_par_iter()
        .map(|mut item| {
            front.fill(&mut item, ask)?;
            Ok(item)
        })
        .collect();
    let (mut items, mut skipped) = (Vec::with_capacity(ids.len()), Vec::new());
    for item in filled {
        match item {
            Ok(item) => items.push(item),
            Err(error) if front.strict() => return Err(error),
            Err(error) => skipped.push(error.to_string()),
        }
    }
    if items.is_empty() {
        let first = skipped.first().cloned().unwrap_or_default();
        return Err(Error::value("data", format!("no sample of a batch of {} could be read: {first}", ids.len())));
    }
    front.finish(&mut items, ask)?;
    let totals = count(&items);
    Ok(Prepared { step: ask.clock.step, items, totals, skipped })
}

fn count(items: &[Item]) -> Totals {
    let mut totals = Totals { samples: items.len() as f64, ..Totals::default() };
    for item in items {
        totals.scored.resize(item.views.len(), 0.0);
        for (view, scored) in item.views.iter().zip(&mut totals.scored) {
            if view.draft.is_some() {
                totals.hidden[1] += view.layout.len() as f64;
            }
            match &view.draft {
                Some(Draft::Ready(plan)) => {
                    *scored += plan.scored.len() as f64;
                    totals.hidden[0] += plan.hidden.len() as f64;
                }
                Some(Draft::Open { counts, .. }) => {
                    // By the convention of `Draft::Open`.
                    let hidden = f64::from(counts.first().copied().unwrap_or(0));
                    *scored += hidden;
                    totals.hidden[0] += hidden;
                }
                None => {}
            }
        }
    }
    totals
}

/// Turns rows of a prepared batch into tensors: the one place where that happens.
///
/// # Errors
/// Rows whose shapes or layouts differ.
pub fn to_device(prepared: &Prepared, rows: Range<usize>, device: Device) -> Result<Batch> {
    let items = prepared.items.get(rows).filter(|items| !items.is_empty());
    let items = items.ok_or_else(|| Error::Defect("a micro-batch without rows".to_owned()))?;
    let views = (0..items[0].views.len()).map(|view| view_to_device(items, view, device)).collect::<Result<_>>()?;
    Ok(Batch { views, ids: items.iter().map(|item| item.id).collect(), totals: prepared.totals.clone() })
}

fn view_to_device(items: &[Item], view: usize, device: Device) -> Result<View> {
    let of = |item: &Item| item.views.get(view).map(|view| view.layout.clone());
    let layout = of(&items[0]).ok_or_else(|| Error::Defect("samples with different numbers of views".to_owned()))?;
    if items.iter().any(|item| of(item).as_ref().is_none_or(|other| other.len() != layout.len())) {
        return Err(Error::value("data", "the samples of a batch have different numbers of tokens"));
    }
    let mut inputs = Named::new();
    for (name, first) in &items[0].views[view].inputs {
        let arrays = items.iter().map(|item| item.views[view].inputs.get(name)).collect::<Option<Vec<_>>>();
        let arrays = arrays.ok_or_else(|| Error::Defect(format!("a sample lacks the input '{name}'")))?;
        inputs.insert(name.clone(), stack(name, first, &arrays)?.to_device(device));
    }
    let drafts: Vec<Option<&Draft>> = items.iter().map(|item| item.views[view].draft.as_ref()).collect();
    Ok(View { inputs, draft: DeviceDraft::collate(&drafts, layout.len(), device)?, layout })
}

fn stack(name: &str, first: &Array, arrays: &[&Array]) -> Result<Tensor> {
    fn join<T: tch::kind::Element + Copy>(
        name: &str,
        shape: &[usize],
        arrays: &[&Array],
        pick: impl Fn(&Array) -> Option<&ArrayD<T>>,
    ) -> Result<Tensor> {
        let mut all = Vec::with_capacity(arrays.len() * shape.iter().product::<usize>());
        for array in arrays {
            let array = pick(array).filter(|array| array.shape() == shape);
            let array = array.ok_or_else(|| {
                Error::value(
                    "data",
                    format!("the samples of a batch differ in the shape of '{name}' ({shape:?} and another)"),
                )
            })?;
            match array.as_slice() {
                Some(slice) => all.extend_from_slice(slice),
                None => all.extend(array.iter().copied()),
            }
        }
        let mut size = vec![arrays.len() as i64];
        size.extend(shape.iter().map(|side| *side as i64));
        Ok(Tensor::from_slice(&all).f_view(size.as_slice())?)
    }
    match first {
        Array::F32(a) => join(name, a.shape(), arrays, |x| if let Array::F32(x) = x { Some(x) } else { None }),
        Array::I64(a) => join(name, a.shape(), arrays, |x| if let Array::I64(x) = x { Some(x) } else { None }),
        Array::U8(a) => join(name, a.shape(), arrays, |x| if let Array::U8(x) = x { Some(x) } else { None }),
    }
}

/// How much the loader may use.
#[derive(Clone, Copy, Debug)]
pub struct WorkLimits {
    /// Threads that read samples.
    pub threads: usize,
    /// Batches that wait at most.
    pub ahead: usize,
}

/// What training fed back, by the number of steps done then, for as long as a plan may ask for it.
#[derive(Default)]
struct Fed {
    states: Mutex<States>,
    news: Condvar,
}

#[derive(Default)]
struct States {
    by_step: BTreeMap<u64, Named<Vec<f32>>>,
    closed: bool,
}

impl Fed {
    fn with<R>(&self, f: impl FnOnce(&mut States) -> R) -> R {
        // A panic elsewhere leaves the map as it was: it is only ever inserted into or trimmed.
        f(&mut self.states.lock().unwrap_or_else(std::sync::PoisonError::into_inner))
    }

    /// The state after `step` steps, once it is there; none when nobody wants it any more. Older ones are forgotten.
    fn after(&self, step: u64) -> Option<Named<Vec<f32>>> {
        let mut states = self.states.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        loop {
            if states.closed {
                return None;
            }
            if let Some(state) = states.by_step.get(&step).cloned() {
                states.by_step = states.by_step.split_off(&step);
                return Some(state);
            }
            states = self.news.wait(states).unwrap_or_else(std::sync::PoisonError::into_inner);
        }
    }
}

/// Prepares batches in a thread of its own, at most `ahead` of them, in the order of steps.
pub struct Loader {
    batches: Option<Receiver<Result<Prepared>>>,
    thread: Option<JoinHandle<()>>,
    fed: Arc<Fed>,
}

impl Loader {
    /// Starts at step `first` and goes on to `steps`.
    ///
    /// # Errors
    /// The system gives no thread.
    pub fn start(
        front: Arc<dyn Front>,
        order: Order,
        seed: u64,
        steps: Range<u64>,
        span: u64,
        limits: WorkLimits,
    ) -> Result<Self> {
        let (sender, batches) = sync_channel(limits.ahead.max(1));
        let fed: Arc<Fed> = Arc::default();
        let shared = Arc::clone(&fed);
        let no_thread =
            |e: &dyn std::fmt::Display| Error::value("--threads", format!("the system gives no thread: {e}"));
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(limits.threads.max(1))
            .thread_name(|i| format!("loader-{i}"))
            .build()
            .map_err(|e| no_thread(&e))?;
        let work = move || pool.install(|| produce(&*front, &order, seed, steps, span, &shared, &sender));
        let thread = std::thread::Builder::new().name("loader".to_owned()).spawn(work).map_err(|e| no_thread(&e))?;
        Ok(Self { batches: Some(batches), thread: Some(thread), fed })
    }

    /// The next batch.
    ///
    /// # Errors
    /// What [`prepare`] returned.
    pub fn next(&self) -> Result<Prepared> {
        let next = self.batches.as_ref().map(Receiver::recv);
        next.and_then(std::result::Result::ok)
            .ok_or_else(|| Error::Defect("the loader stopped without a reason".to_owned()))?
    }

    /// Hands the loader what training fed back after `step` steps. A front with a lag waits for every step's.
    pub fn feed(&self, step: u64, state: Named<Vec<f32>>) {
        self.fed.with(|states| states.by_step.insert(step, state));
        self.fed.news.notify_all();
    }
}

impl Drop for Loader {
    fn drop(&mut self) {
        // A closed channel ends the thread at its next send, or while it waits for a state.
        self.batches = None;
        self.fed.with(|states| states.closed = true);
        self.fed.news.notify_all();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn produce(
    front: &dyn Front,
    order: &Order,
    seed: u64,
    steps: Range<u64>,
    span: u64,
    fed: &Fed,
    sender: &SyncSender<Result<Prepared>>,
) {
    if front.lag() == Some(0) {
        let _ = sender.send(Err(Error::Defect("a front's lag is at least 1".to_owned())));
        return;
    }
    let mut kept = None;
    for step in steps {
        let clock = Clock::at(step, span, order.steps_in_epoch());
        let ids = order.ids(step, &mut kept);
        let state = match front.lag() {
            None => Named::new(),
            Some(lag) => match fed.after(step.saturating_sub(lag)) {
                Some(state) => state,
                None => return,
            },
        };
        let ask = Ask { seed, clock: &clock, train: true, masked: true, state: &state, grid: None };
        let work = std::panic::AssertUnwindSafe(|| prepare(front, &ids, &ask));
        let batch = std::panic::catch_unwind(work)
            .unwrap_or_else(|_| Err(Error::Defect(format!("the loader panicked while reading step {step}"))));
        let failed = batch.is_err();
        if sender.send(batch).is_err() || failed {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn an_epoch_reads_each_sample_once() {
        let order = Order::new(5, 10, 3).unwrap();
        assert_eq!(order.steps_in_epoch(), 3);
        let mut kept = None;
        let mut ids: Vec<u64> = (0..3).flat_map(|step| order.ids(step, &mut kept)).collect();
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(ids.len(), 9);
        assert_ne!(order.ids(0, &mut kept), order.ids(3, &mut kept)); // another epoch, another order
        assert!(Order::new(0, 0, 3).is_err());
    }

    proptest! {
        #[test]
        fn a_step_hangs_on_nothing_before_it(samples in 1u64..50, batch in 1u64..60, step in 0u64..200) {
            let order = Order::new(1, samples, batch).unwrap();
            let mut kept = None;
            let walked = (0..=step).map(|step| order.ids(step, &mut kept)).last();
            prop_assert_eq!(walked.unwrap(), order.ids(step, &mut None));
        }
    }
}
