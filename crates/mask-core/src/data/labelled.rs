//! A front over another one: its views with labels as inputs.

use ndarray::Array1;

use super::{Array, Ask, Front, Item, PositionLabels};
use crate::method::{Site, Split};
use crate::stage::{Artefact, LabelStore, State};
use crate::stream::{Purpose, Stream};
use crate::{Error, Result};

/// A front that adds labels to what another one gives.
pub struct LabelledFront {
    inner: Box<dyn Front>,
    labels: Labels,
}

/// Labels that a stage made, as an input `codes` [L] of every view.
struct Labels {
    of: Source,
    split: Split,
    ids: u32,
}

enum Source {
    Store(LabelStore),
    /// Uniform ids: for dry runs, laws and benchmarks.
    Noise,
    /// Asked for at the first view with a plan only: who reads views whole needs no labels.
    Missing(Box<Artefact>),
}

impl LabelledFront {
    /// The views of `inner` with an input `codes`: the first column of the labels that the stage `name` made, `ids` of
    /// them, in the order of the view's positions.
    ///
    /// # Errors
    /// No such stage, labels of other samples, or another number of them.
    pub fn new<D>(inner: Box<dyn Front>, site: &Site<'_, D>, name: &str, ids: u32) -> Result<Self> {
        let artefact = site.made.get(name)?;
        let of = match artefact.state {
            _ if site.split == Split::Synthetic => Source::Noise,
            State::Imagined => Source::Noise,
            State::Missing => Source::Missing(Box::new(artefact.clone())),
            State::Made => {
                let store = LabelStore::open(&artefact.folder)?;
                let there = store.columns().first().map_or(0, |column| column.ids);
                if there != ids {
                    return Err(Error::value(
                        "ids",
                        format!("{ids} is not the number of ids of stage {name}, {there}"),
                    ));
                }
                store.check(site.split, &*inner)?;
                Source::Store(store)
            }
        };
        Ok(Self { inner, labels: Labels { of, split: site.split, ids } })
    }
}

impl Labels {
    fn of(&self, id: u64, length: usize, seed: u64) -> Result<Vec<i64>> {
        match &self.of {
            Source::Store(store) => {
                let labels = store.labels(self.split, id, 0)?;
                if labels.len() != length {
                    let problem = format!("sample {id} has {} labels for {length} positions", labels.len());
                    return Err(Error::value(
                        "data",
                        format!("{problem}: the stage and the method cut it differently"),
                    ));
                }
                Ok(labels)
            }
            Source::Noise => {
                let mut stream = Stream::keyed(seed, Purpose::Stage, 2, id);
                Ok((0..length).map(|_| stream.below(u64::from(self.ids)) as i64).collect())
            }
            Source::Missing(artefact) => Err(artefact.absent()),
        }
    }
}

impl Front for LabelledFront {
    fn len(&self) -> u64 {
        self.inner.len()
    }

    fn plan(&self, global: &[u64], ask: &Ask<'_>) -> Result<Vec<Item>> {
        self.inner.plan(global, ask)
    }

    fn fill(&self, item: &mut Item, ask: &Ask<'_>) -> Result<()> {
        self.inner.fill(item, ask)?;
        // Views that are read whole are encoded, nothing is predicted of them.
        for view in item.views.iter_mut().filter(|view| view.draft.is_some()) {
            let codes = self.labels.of(item.id, view.layout.len(), ask.seed)?;
            view.inputs.insert("codes".to_owned(), Array::I64(Array1::from_vec(codes).into_dyn()));
        }
        Ok(())
    }

    fn label(&self, id: u64) -> Option<u32> {
        self.inner.label(id)
    }

    fn finish(&self, items: &mut [Item], ask: &Ask<'_>) -> Result<()> {
        self.inner.finish(items, ask)
    }

    fn position_labels(&self, id: u64) -> Result<Option<PositionLabels>> {
        self.inner.position_labels(id)
    }

    fn salience(&self, item: &Item) -> Result<Option<Vec<f32>>> {
        self.inner.salience(item)
    }

    fn processor(&self) -> Option<serde_json::Value> {
        self.inner.processor()
    }

    fn classes(&self) -> Vec<String> {
        self.inner.classes()
    }

    fn name(&self, id: u64) -> String {
        self.inner.name(id)
    }

    fn lag(&self) -> Option<u64> {
        self.inner.lag()
    }

    fn strict(&self) -> bool {
        self.inner.strict()
    }

    fn raw(&self, item: &Item) -> Option<Vec<f32>> {
        self.inner.raw(item)
    }
}
