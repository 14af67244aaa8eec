//! From a data set to batches: fronts, which know a modality, and the loader, which doesn't.

mod labelled;
mod loader;
mod mix;
mod whole;

use std::path::PathBuf;

use ndarray::ArrayD;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::grid::{Grid, Layout};
use crate::plan::Draft;
use crate::schedule::Clock;
use crate::stage::Mention;
use crate::{Named, Result};

pub use labelled::LabelledFront;
pub use loader::{Loader, Order, Prepared, WorkLimits, prepare, to_device};
pub use mix::{MixConfig, Mixing};
pub use whole::{CHUNK, SEED, STILL, still, whole};

/// Numbers of one sample on their way to a tensor.
#[derive(Clone, Debug, PartialEq)]
pub enum Array {
    /// Real numbers.
    F32(ArrayD<f32>),
    /// Ids.
    I64(ArrayD<i64>),
    /// Bytes.
    U8(ArrayD<u8>),
}

/// One view of one sample.
#[derive(Clone, Debug)]
pub struct ItemView {
    /// The view's positions.
    pub layout: Layout,
    /// Its plan; none = read whole.
    pub draft: Option<Draft>,
    /// What the model reads, by name; filled by [`Front::fill`].
    pub inputs: Named<Array>,
}

impl ItemView {
    /// How many tokens are read, or, where a model has yet to choose, will not be hidden; and how many are queried.
    #[must_use]
    pub fn tokens(&self) -> [f64; 2] {
        let length = self.layout.len() as f64;
        match &self.draft {
            Some(Draft::Ready(plan)) => {
                [plan.seen.len() as f64, plan.queried.iter().map(Vec::len).sum::<usize>() as f64]
            }
            Some(Draft::Open { counts, .. }) => {
                let hidden = f64::from(counts.first().copied().unwrap_or(0));
                [length - hidden, hidden]
            }
            None => [length, 0.0],
        }
    }
}

/// One sample of a global batch.
#[derive(Clone, Debug)]
pub struct Item {
    /// Its number in the data set.
    pub id: u64,
    /// Its views.
    pub views: Vec<ItemView>,
}

/// Recipe keys of a modality's data.
pub trait DataConfig: Serialize + DeserializeOwned + Default {
    /// The files that these keys name, of all splits.
    ///
    /// # Errors
    /// They can't be found.
    fn files(&self) -> Result<Vec<PathBuf>>;

    /// The same keys with those left at their defaults that act on training alone: what evaluation and stages read
    /// hangs on nothing else.
    #[must_use]
    fn still(self) -> Self;

    /// Keys that name stages of the recipe.
    fn stages(&self) -> Vec<Mention> {
        Vec::new()
    }
}

/// For what a front is asked.
#[derive(Clone, Copy, Debug)]
pub struct Ask<'a> {
    /// The run's seed.
    pub seed: u64,
    /// The clock.
    pub clock: &'a Clock,
    /// Whether augmentation is on.
    pub train: bool,
    /// Whether plans are drawn; without them views are read whole.
    pub masked: bool,
    /// What training fed back, [`Front::lag`] steps old.
    pub state: &'a Named<Vec<f32>>,
    /// Another grid than the data's, for mask statistics.
    pub grid: Option<&'a Grid>,
}

/// Classes of the positions of a sample, where its data says what lies where.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PositionLabels {
    /// `[L]`: the class that covers at least half of a position, plus 1; 0 where none does (the background).
    pub classes: Vec<u32>,
    /// `[L]`: the share of a position that is not background.
    pub shares: Vec<f32>,
}

/// The loader's half of a method: which samples there are, their plans, their values. Knows its modality, no tensor.
pub trait Front: Send + Sync {
    /// Samples.
    fn len(&self) -> u64;

    /// Whether there is none.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Plans the whole global batch: light, before anything is decoded.
    ///
    /// # Errors
    /// A layout that the sampler can't work on.
    fn plan(&self, global: &[u64], ask: &Ask<'_>) -> Result<Vec<Item>>;

    /// Reads one sample: decodes, crops, corrupts. Called in parallel.
    ///
    /// # Errors
    /// A sample that can't be read; the loader counts and skips it, or stops where the recipe is `strict`.
    fn fill(&self, item: &mut Item, ask: &Ask<'_>) -> Result<()>;

    /// Rules over a whole global batch that need values, as the mixing of samples; after all of them were filled.
    ///
    /// # Errors
    /// Values that don't fit together.
    fn finish(&self, items: &mut [Item], ask: &Ask<'_>) -> Result<()> {
        let _ = (items, ask);
        Ok(())
    }

    /// The class of a sample, where the data has classes.
    fn label(&self, id: u64) -> Option<u32> {
        let _ = id;
        None
    }

    /// Classes of the positions of a sample as evaluation reads it, where the data says what lies where.
    ///
    /// # Errors
    /// A sample that can't be read.
    fn position_labels(&self, id: u64) -> Result<Option<PositionLabels>> {
        let _ = id;
        Ok(None)
    }

    /// How much the data itself says to lie at each position of a sample's first view, `[L]`, as evaluation reads it:
    /// what scores of guided masks are compared with.
    ///
    /// # Errors
    /// A sample that can't be read.
    fn salience(&self, item: &Item) -> Result<Option<Vec<f32>>> {
        let _ = item;
        Ok(None)
    }

    /// Names of the classes.
    fn classes(&self) -> Vec<String> {
        Vec::new()
    }

    /// What a sample is called in messages: a path, or `train-images#17`.
    fn name(&self, id: u64) -> String {
        format!("#{id}")
    }

    /// How many steps old the state is that `plan` reads: the plans of step n know what training fed back after step
    /// n - lag, exactly, whatever the loader prepares ahead. At least 1; none = the plans read no state.
    fn lag(&self) -> Option<u64> {
        None
    }

    /// Whether a sample that can't be read stops the run.
    fn strict(&self) -> bool {
        false
    }

    /// How samples are prepared, as `preprocessor_config.json` says it, where `transformers` has words for it.
    fn processor(&self) -> Option<serde_json::Value> {
        None
    }

    /// What a sample looks like in front of any model, `[D]` numbers: the raw baseline of probes.
    fn raw(&self, item: &Item) -> Option<Vec<f32>> {
        let _ = item;
        None
    }
}
