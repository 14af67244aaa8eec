//! What training feeds back to the loader, with a lag that is exact through prefetching and resume.

use std::collections::VecDeque;

use tch::{Kind, Tensor};

use crate::data::Loader;
use crate::{Error, Named, Result};

/// The states after the last `lag` + 1 numbers of steps: what plans that are still to be drawn may ask for.
#[derive(Debug, Default)]
pub(super) struct Feedback {
    /// None where the front reads no state, so that none is read from the device either.
    lag: Option<u64>,
    /// The oldest first.
    states: VecDeque<Named<Tensor>>,
}

impl Feedback {
    /// Begins training after `step` steps, for a front with this lag.
    pub(super) fn begin(&mut self, lag: Option<u64>, step: u64, loader: &Loader) -> Result<()> {
        self.lag = lag;
        let Some(lag) = lag else {
            self.states.clear();
            return Ok(());
        };
        if self.states.is_empty() && step == 0 {
            self.states.push_back(Named::new());
        }
        if (self.states.len() as u64) < lag.min(step) + 1 {
            let problem = format!("holds the feedback of {} steps, the recipe's lag asks for {lag}", self.states.len());
            return Err(Error::value("the checkpoint", problem));
        }
        let first = step + 1 - self.states.len() as u64;
        for (after, state) in (first..).zip(&self.states) {
            loader.feed(after, host(state)?);
        }
        Ok(())
    }

    /// Takes what changed in the step that made `step` steps done.
    pub(super) fn push(&mut self, step: u64, fresh: &Named<Tensor>, loader: &Loader) -> Result<()> {
        let Some(lag) = self.lag else { return Ok(()) };
        let newest = self.states.back().into_iter().flatten();
        let mut state: Named<Tensor> = newest.map(|(name, tensor)| (name.clone(), tensor.shallow_clone())).collect();
        // A copy: the method may go on changing its own.
        state.extend(fresh.iter().map(|(name, tensor)| (name.clone(), tensor.detach().copy())));
        loader.feed(step, host(&state)?);
        self.states.push_back(state);
        while self.states.len() as u64 > lag + 1 {
            self.states.pop_front();
        }
        Ok(())
    }

    /// For a checkpoint: `AGO.NAME`, where 0 is the newest.
    pub(super) fn save(&self) -> Named<Tensor> {
        let mut all = Named::new();
        for (ago, state) in self.states.iter().rev().enumerate() {
            // Every state has an entry, so that an empty one is counted, too.
            all.insert(format!("{ago}."), Tensor::from(state.len() as i64).view([1]));
            all.extend(state.iter().map(|(name, tensor)| (format!("{ago}.{name}"), tensor.shallow_clone())));
        }
        all
    }

    /// From a checkpoint.
    pub(super) fn load(&mut self, saved: &Named<Tensor>) {
        self.states.clear();
        for ago in 0.. {
            let prefix = format!("{ago}.");
            if !saved.contains_key(&prefix) {
                break;
            }
            let of = saved.iter().filter_map(|(name, tensor)| Some((name.strip_prefix(&prefix)?, tensor)));
            let state = of.filter(|(name, _)| !name.is_empty());
            self.states.push_front(state.map(|(name, tensor)| (name.to_owned(), tensor.shallow_clone())).collect());
        }
    }
}

/// A state as the loader reads it.
fn host(state: &Named<Tensor>) -> Result<Named<Vec<f32>>> {
    let read = |(name, tensor): (&String, &Tensor)| {
        let flat = tensor.to_kind(Kind::Float).view([-1]);
        Ok((name.clone(), Vec::<f32>::try_from(&flat)?))
    };
    state.iter().map(read).collect()
}
