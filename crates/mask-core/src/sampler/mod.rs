//! Mask samplers: which positions of a view are hidden.
//!
//! A sampler is one file and one word in [`SamplerConfig`]; with that it has its YAML name, its line in the help and
//! the laws of `tests/laws.rs` (its claims hold, same stream same mask, any number of threads).

mod block;
mod guided;
mod lattice;
mod ratio;
mod uniform;

use std::ops::{Range, RangeInclusive};

use rayon::prelude::*;
use tch::Tensor;

pub use block::{Block, BlockConfig};
pub use guided::{Guided, GuidedConfig, Which};
pub use lattice::{Lattice, LatticeConfig};
pub use ratio::{Per, Ratio, Rounding};
pub use uniform::{Uniform, UniformConfig};

use crate::grid::Layout;
use crate::plan::{DevicePlan, Draft};
use crate::schedule::Clock;
use crate::stream::{Purpose, Stream};
use crate::{Error, Named, Result};

/// What a guided sampler may look at besides the layout.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Hints {
    /// A score a position: motion, similarity to a text, PMI.
    pub scores: Option<Vec<f32>>,
    /// A score a pair of neighbouring positions.
    pub pairs: Option<Vec<f32>>,
    /// Boundaries of words, phonemes or segments, as ranges of positions.
    pub units: Option<Vec<Range<u32>>>,
}

/// Where a plan is drawn.
#[derive(Clone, Copy, Debug)]
pub struct Site<'a> {
    /// The view's positions.
    pub layout: &'a Layout,
    /// Side information.
    pub hints: &'a Hints,
    /// The row in the global batch.
    pub row: u32,
    /// Rows of the global batch.
    pub rows: u32,
    /// Where training is.
    pub clock: &'a Clock,
    /// What training fed back, as it was `Front::lag` steps ago.
    pub state: &'a Named<Vec<f32>>,
}

/// What a sampler promises about its plans on a layout; the laws hold it to that.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claims {
    /// How many positions are hidden; one number as a range for an exact count.
    pub hidden: RangeInclusive<usize>,
    /// Every position that may be hidden is hidden in some draw, and visible in some.
    pub every_position: bool,
}

impl Claims {
    /// Exactly `hidden` positions, each reachable (unless it's none or all of them).
    #[must_use]
    pub fn exactly(hidden: usize) -> Self {
        Self { hidden: hidden..=hidden, every_position: true }
    }
}

/// Draws plans. All its randomness comes from the two streams.
pub trait Sampler: Send + Sync {
    /// Decides about one row. `sample` is this row's own stream, `step` starts equal for all rows of a step.
    ///
    /// # Errors
    /// A layout that the sampler can't work on.
    fn draft(&self, site: &Site<'_>, sample: &mut Stream, step: &mut Stream) -> Result<Draft>;

    /// Rules over the global batch, after all rows are drafted: thinning, a cut to the shortest.
    ///
    /// # Errors
    /// A batch that breaks the rule's conditions.
    fn settle(&self, global: &mut [Draft], step: &mut Stream) -> Result<()> {
        let _ = (global, step);
        Ok(())
    }

    /// Settles open drafts from scores [B, L]: a pure function of noise [B, L], the counts of each row and scores,
    /// without random call or copy to the host. What is hidden is dropped.
    ///
    /// # Errors
    /// A sampler whose drafts are never open.
    fn select(&self, noise: &Tensor, counts: &[Vec<u32>], scores: &Tensor) -> Result<DevicePlan> {
        let _ = (noise, counts, scores);
        Err(Error::Defect("this sampler decides everything in the loader".to_owned()))
    }

    /// What its plans hold on a layout.
    ///
    /// # Errors
    /// A layout that the sampler can't work on.
    fn claims(&self, layout: &Layout, clock: &Clock) -> Result<Claims>;
}

crate::tagged! {
    /// Which positions are hidden.
    pub enum SamplerConfig {
        /// Positions, or square cells of them, without replacement: an exact count.
        uniform => Uniform(UniformConfig),
        /// Rectangular blocks until a count is reached (BEiT).
        block => Block(BlockConfig),
        /// Keeps one position of every square cell, always the same (MAE's grid ablation).
        grid => Grid(LatticeConfig),
        /// Positions of the highest or lowest scores that a model gave, a share of them uniform (AttMask, HPM).
        guided => Guided(GuidedConfig),
    }
}

impl SamplerConfig {
    /// The sampler.
    ///
    /// # Errors
    /// A number out of range.
    pub fn build(&self) -> Result<Box<dyn Sampler>> {
        Ok(match self {
            Self::Uniform(config) => Box::new(config.build()?),
            Self::Block(config) => Box::new(config.build()?),
            Self::Grid(config) => Box::new(config.build()?),
            Self::Guided(config) => Box::new(config.build()?),
        })
    }
}

/// One row of a global batch that wants a plan.
#[derive(Clone, Debug)]
pub struct Row {
    /// Number of the sample in its data set.
    pub id: u64,
    /// The view's positions.
    pub layout: Layout,
    /// Side information.
    pub hints: Hints,
}

/// What the plans of a step are keyed by.
#[derive(Clone, Copy, Debug)]
pub struct Moment<'a> {
    /// The run's seed.
    pub seed: u64,
    /// Where training is.
    pub clock: &'a Clock,
    /// What training fed back.
    pub state: &'a Named<Vec<f32>>,
}

/// Plans a whole global batch of one view, in parallel: the same drafts whatever the number of threads.
///
/// # Errors
/// The first row's that fails.
pub fn draw(sampler: &dyn Sampler, rows: &[Row], view: u64, moment: &Moment<'_>) -> Result<Vec<Draft>> {
    let clock = moment.clock;
    let step = Stream::keyed(moment.seed, Purpose::Step, clock.step, 0).branch(view);
    let mut drafts = rows
        .par_iter()
        .enumerate()
        .map(|(row, Row { id, layout, hints })| {
            let mut sample = Stream::keyed(moment.seed, Purpose::Sample, clock.epoch, *id).branch(view);
            let (row, rows) = (row as u32, rows.len() as u32);
            let site = Site { layout, hints, row, rows, clock, state: moment.state };
            let draft = sampler.draft(&site, &mut sample, &mut step.clone())?;
            if let Draft::Ready(plan) = &draft {
                plan.check(layout)?;
            }
            Ok(draft)
        })
        .collect::<Result<Vec<_>>>()?;
    // The batch rule has a branch of its own, so that it never repeats numbers of the rows.
    sampler.settle(&mut drafts, &mut step.branch(view + (1 << 32)))?;
    Ok(drafts)
}
