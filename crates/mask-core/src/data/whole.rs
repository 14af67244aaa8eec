//! Samples as evaluation reads them: nothing hidden, no augmentation, always the same.

use super::{Ask, Front, Prepared, prepare};
use crate::method::Step;
use crate::schedule::Clock;
use crate::{Named, Result};

/// Samples that go through a model at once.
pub const CHUNK: usize = 256;

/// The seed of everything in evaluation, so that runs of all seeds see the same masks and rows.
pub const SEED: u64 = 0;

/// The step of a model that is asked rather than trained.
pub const STILL: Step<'static> =
    Step { clock: &Clock { step: 0, steps: 1, epoch: 0, steps_in_epoch: 1 }, train: false, micro: 0 };

/// For what a front is asked there; `state` is empty.
#[must_use]
pub fn still(state: &Named<Vec<f32>>) -> Ask<'_> {
    Ask { seed: SEED, clock: STILL.clock, train: false, masked: false, state, grid: None }
}

/// Reads samples by their numbers, chunk after chunk.
pub fn whole<'a>(front: &'a dyn Front, ids: &'a [u64]) -> impl Iterator<Item = Result<Prepared>> + 'a {
    ids.chunks(CHUNK).map(move |ids| prepare(front, ids, &still(&Named::new())))
}
