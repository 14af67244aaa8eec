//! `show` and `masks`.

use std::path::PathBuf;

use clap::Args;
use tch::{Device, Kind, Tensor};

use super::{Changes, Compute, say, session_or_noise};
use crate::data::{Ask, prepare};
use crate::grid::Grid;
use crate::method::{Split, Step};
use crate::plan::Draft;
use crate::report::{contact_sheet, png};
use crate::run::{Register, Resolved, Session};
use crate::schedule::Clock;
use crate::{Error, Named, Result, store};

#[derive(Args)]
pub(super) struct Show {
    /// A recipe, the folder of a run, or a checkpoint
    recipe: PathBuf,
    /// The picture to write, a PNG
    #[arg(long)]
    out: PathBuf,
    /// Samples
    #[arg(long, default_value_t = 6, value_parser = clap::value_parser!(u64).range(1..=64))]
    count: u64,
    #[command(flatten)]
    changes: Changes,
    #[command(flatten)]
    compute: Compute,
}

/// Is there a trained model behind this path?
fn is_run(path: &std::path::Path) -> bool {
    path.is_dir() || path.extension().is_some_and(|extension| extension == "safetensors")
}

impl Show {
    pub(super) fn run(self, register: &Register) -> Result<()> {
        self.compute.start();
        let device = self.compute.device;
        let overrides = self.changes.overrides();
        let session = if is_run(&self.recipe) {
            Session::open(register, &self.recipe, &overrides, device)?.0
        } else {
            let resolve = || Resolved::read(register, &self.recipe, &overrides);
            let (session, note) = session_or_noise(resolve, device)?;
            tracing::info!(
                "{}",
                note.unwrap_or_else(
                    || "a recipe has no weights yet: answers are those of an untrained model".to_owned()
                )
            );
            session
        };
        let sheet = session.sheet(self.count)?;
        let columns: Vec<&str> = sheet.columns.iter().map(String::as_str).collect();
        let picture = contact_sheet(&sheet.rows, &columns)?;
        store::write_bytes(&self.out, &png(&picture)?)?;
        say(format_args!("{}: {}", self.out.display(), sheet.caption));
        Ok(())
    }
}

#[derive(Args)]
pub(super) struct Masks {
    /// A recipe, or the folder of a run
    recipe: PathBuf,
    /// Plans
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u64).range(1..=10_000_000))]
    count: u64,
    /// Another grid than the recipe's, as H,W (or T, or T,H,W)
    #[arg(long, value_delimiter = ',')]
    grid: Option<Vec<usize>>,
    /// The safetensors file to write: hidden, queried, scored and valid, bool [N, grid..]
    #[arg(long)]
    out: PathBuf,
    #[command(flatten)]
    changes: Changes,
}

impl Masks {
    pub(super) fn run(self, register: &Register) -> Result<()> {
        let grid = self
            .grid
            .as_deref()
            .map(Grid::new)
            .transpose()
            .map_err(|_| Error::value("--grid", "takes one to three sizes of at least 1, as 14,14"))?;
        let resolved = Resolved::read(register, &self.recipe, &self.changes.overrides())?;
        let (seed, steps, batch) = (resolved.config.seed, resolved.config.train.steps, resolved.batch.size);
        let front = resolved.front(Split::Synthetic)?;
        let state = Named::new();
        let (mut masks, mut shape) = ([Vec::new(), Vec::new(), Vec::new(), Vec::new()], Vec::new());
        let ids: Vec<u64> = (0..self.count).collect();
        // In the recipe's batches, since some rules act on a batch.
        for (step, ids) in ids.chunks(batch as usize).enumerate() {
            let clock = Clock::at(step as u64, steps, u64::MAX);
            let ask = Ask { seed, clock: &clock, train: true, masked: true, state: &state, grid: grid.as_ref() };
            for item in front.plan(ids, &ask).map_err(|e| resolved.place(e, ""))? {
                let view = item.views.first().ok_or_else(|| Error::Defect("a plan without views".to_owned()))?;
                let Some(Draft::Ready(plan)) = &view.draft else {
                    return self.settled(register);
                };
                shape = view.layout.grid()?.dims().iter().map(|side| *side as i64).collect();
                let length = view.layout.len();
                let queried: Vec<u32> = plan.queried.iter().flatten().copied().collect();
                let valid: Vec<u32> = view.layout.free();
                for (mask, set) in masks.iter_mut().zip([&plan.hidden, &queried, &plan.scored, &valid]) {
                    let start = mask.len();
                    mask.resize(start + length, false);
                    set.iter().for_each(|position| mask[start + *position as usize] = true);
                }
            }
        }
        let mut size = vec![self.count as i64];
        size.extend(&shape);
        let views = masks.iter().map(|mask| Ok(Tensor::from_slice(mask).f_view(size.as_slice())?));
        self.write(views.collect::<Result<Vec<_>>>()?, &shape)
    }

    /// Plans of a trained model, whose scores choose what is hidden of the first training samples' first views, with
    /// schedules as they were at the checkpoint.
    fn settled(&self, register: &Register) -> Result<()> {
        let wrong = |problem: &str| Err(Error::value("masks", problem.to_owned()));
        if !is_run(&self.recipe) {
            return wrong("this method's masks come from a model's scores: give a run instead of a recipe");
        }
        if self.grid.is_some() {
            return wrong("a model's scores have the grid of its recipe: leave out --grid");
        }
        let (session, step) = Session::open(register, &self.recipe, &self.changes.overrides(), Device::Cpu)?;
        let (seed, steps) = (session.resolved.config.seed, session.resolved.config.train.steps);
        let batch = session.resolved.batch.size.min(256);
        let (state, samples) = (Named::new(), session.train.len().max(1));
        let (mut rows, mut shape) = ([Vec::new(), Vec::new(), Vec::new(), Vec::new()], Vec::new());
        let ids: Vec<u64> = (0..self.count).collect();
        for (part, ids) in ids.chunks(batch as usize).enumerate() {
            // Epochs count the draws; the step is that of the checkpoint.
            let clock = Clock { step: step.saturating_sub(1), steps, epoch: part as u64, steps_in_epoch: steps.max(1) };
            let ask = Ask { seed, clock: &clock, train: true, masked: true, state: &state, grid: None };
            let ids: Vec<u64> = ids.iter().map(|id| id % samples).collect();
            let prepared = prepare(&*session.train, &ids, &ask)?;
            let batch = prepared.to_device(Device::Cpu)?;
            let at = Step { clock: &clock, train: false, micro: 0 };
            let outcome = tch::no_grad(|| session.method.loss(&batch, &at))?;
            let Some(plan) = outcome.plans.first() else { return wrong("this method settles no plan") };
            shape = batch.views[0].layout.grid()?.dims().iter().map(|side| *side as i64).collect();
            let marked = |ids: &[&crate::plan::Ids]| {
                let mut mask = plan.hidden.zeros_like().view([-1]);
                ids.iter().for_each(|ids| drop(mask.index_fill_(0, &ids.flat, 1)));
                mask.view_as(&plan.hidden)
            };
            let queried: Vec<&crate::plan::Ids> = plan.queried.iter().map(|query| &query.ids).collect();
            let all = [plan.hidden.shallow_clone(), marked(&queried), marked(&[&plan.scored]), plan.hidden.ones_like()];
            rows.iter_mut().zip(all).for_each(|(rows, mask)| rows.push(mask));
        }
        let mut size = vec![self.count as i64];
        size.extend(&shape);
        let views = rows.iter().map(|rows| Ok(Tensor::f_cat(rows, 0)?.f_view(size.as_slice())?));
        self.write(views.collect::<Result<Vec<_>>>()?, &shape)
    }

    /// Writes hidden, queried, scored and valid, bool [N, grid..].
    fn write(&self, masks: Vec<Tensor>, shape: &[i64]) -> Result<()> {
        let names = ["hidden", "queried", "scored", "valid"].map(str::to_owned);
        let tensors: Vec<(String, Tensor)> = names.into_iter().zip(masks).collect();
        let share = tensors[0].1.to_kind(Kind::Float).to_device(Device::Cpu).mean(Kind::Double).double_value(&[]);
        store::write(&self.out, &tensors, &Named::new())?;
        say(format_args!(
            "{} plans on {shape:?}, {:.2} % hidden, in {}",
            self.count,
            100.0 * share,
            self.out.display()
        ));
        Ok(())
    }
}
