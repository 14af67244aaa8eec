//! Which labels a model is fine-tuned on, and the front that gives them.

use ndarray::{ArrayD, IxDyn};
use serde::{Deserialize, Serialize};

use crate::data::{Array, Ask, Front, Item, MixConfig, PositionLabels};
use crate::stream::{Purpose, Stream};
use crate::{Error, Result};

/// All labels.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AllLabels {}

/// Recipe keys of so many labels of each class.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PerClassConfig {
    /// Samples of each class.
    pub count: u64,
    /// Keys which ones: the same for every arm and every seed of a run.
    pub seed: u64,
}

impl Default for PerClassConfig {
    fn default() -> Self {
        Self { count: 60, seed: 0 }
    }
}

/// Recipe keys of a share of the labels.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ShareConfig {
    /// Share of each class, 0 to 1; rounded, at least one sample.
    pub share: f64,
    /// Keys which ones: the same for every arm and every seed of a run.
    pub seed: u64,
}

impl Default for ShareConfig {
    fn default() -> Self {
        Self { share: 0.01, seed: 0 }
    }
}

crate::tagged! {
    /// Which training samples are used, by their labels.
    #[derive(PartialEq)]
    pub enum LabelsConfig {
        /// All of them.
        all => All(AllLabels),
        /// So many of each class.
        per_class => PerClass(PerClassConfig),
        /// A share of each class.
        share => Share(ShareConfig),
    }
    number: per_class.count
}

impl LabelsConfig {
    /// Checks the numbers.
    ///
    /// # Errors
    /// The first key that is out of range.
    pub fn check(&self) -> Result<()> {
        match self {
            Self::PerClass(config) if config.count == 0 => {
                Err(Error::value("labels.count", "0 is too small, it takes 1 or more"))
            }
            Self::Share(config) if !(config.share > 0.0 && config.share <= 1.0) => {
                Err(Error::value("labels.share", format!("{} is not a share above 0, up to 1", config.share)))
            }
            _ => Ok(()),
        }
    }

    /// The numbers of the chosen samples in ascending order; `labels` are those of all samples.
    ///
    /// # Errors
    /// A class with fewer samples than asked for.
    pub fn choose(&self, labels: &[u32]) -> Result<Vec<u32>> {
        let classes = labels.iter().max().map_or(0, |most| *most as usize + 1);
        let mut counts = vec![0u64; classes];
        labels.iter().for_each(|label| counts[*label as usize] += 1);
        let (mut left, seed): (Vec<u64>, u64) = match self {
            Self::All(_) => return Ok((0..labels.len() as u32).collect()),
            Self::PerClass(config) => {
                let short = counts.iter().position(|count| *count > 0 && *count < config.count);
                if let Some(class) = short {
                    let problem =
                        format!("class {class} has {} samples, {} of each are asked for", counts[class], config.count);
                    return Err(Error::value("labels.count", problem));
                }
                (vec![config.count; classes], config.seed)
            }
            Self::Share(config) => {
                let part = |count: &u64| ((*count as f64 * config.share).round() as u64).max(1);
                (counts.iter().map(part).collect(), config.seed)
            }
        };
        let order = Stream::keyed(seed, Purpose::Evaluate, 2, 0).permutation(labels.len());
        let mut chosen: Vec<u32> = order
            .into_iter()
            .filter(|id| {
                let left = &mut left[labels[*id as usize] as usize];
                let taken = *left > 0;
                *left -= u64::from(taken);
                taken
            })
            .collect();
        chosen.sort_unstable();
        Ok(chosen)
    }
}

/// Whole samples with their labels, few of them or all, mixed in training.
pub struct Labelled {
    front: Box<dyn Front>,
    /// Which samples of `front`; none = all.
    chosen: Option<Vec<u32>>,
    mix: MixConfig,
    /// The input that is mixed.
    input: &'static str,
    classes: u64,
    /// Whether labels are made up, where the data is.
    synthetic: bool,
}

impl Labelled {
    /// The samples of `front` that `labels` chooses, none of them hidden. In training their `input` is mixed.
    ///
    /// # Errors
    /// Data without classes, or with others than the `classes` of the model.
    pub fn build(
        front: Box<dyn Front>,
        labels: &LabelsConfig,
        mix: &MixConfig,
        input: &'static str,
        classes: u64,
    ) -> Result<Box<dyn Front>> {
        labels.check()?;
        mix.check().map_err(|error| error.within("mix"))?;
        let names = front.classes();
        if names.is_empty() {
            return Err(Error::value("data.source", "has no classes, and fine-tuning learns classes"));
        }
        if names.len() as u64 != classes {
            let problem = format!("the model has {classes}, the data has {}", names.len());
            return Err(Error::value("method.classes", problem));
        }
        let all: Option<Vec<u32>> = (0..front.len()).map(|id| front.label(id)).collect();
        let all = all.ok_or_else(|| Error::value("data.source", "has samples without a class"))?;
        let chosen = (*labels != LabelsConfig::default()).then(|| labels.choose(&all)).transpose()?;
        Ok(Box::new(Self { front, chosen, mix: mix.clone(), input, classes, synthetic: false }))
    }

    /// The same over values that are noise, with labels that are made up.
    #[must_use]
    pub fn synthetic(front: Box<dyn Front>, mix: &MixConfig, input: &'static str, classes: u64) -> Box<dyn Front> {
        Box::new(Self { front, chosen: None, mix: mix.clone(), input, classes: classes.max(1), synthetic: true })
    }

    fn inner(&self, id: u64) -> u64 {
        match &self.chosen {
            Some(chosen) => chosen.get(id as usize).map_or(u64::MAX, |id| u64::from(*id)),
            None => id,
        }
    }
}

fn set(item: &mut Item, name: &str, value: &Array) {
    for view in &mut item.views {
        view.inputs.insert(name.to_owned(), value.clone());
    }
}

fn id(value: i64) -> Array {
    Array::I64(ArrayD::from_elem(IxDyn(&[]), value))
}

fn share(value: f64) -> Array {
    Array::F32(ArrayD::from_elem(IxDyn(&[]), value as f32))
}

impl Front for Labelled {
    fn len(&self) -> u64 {
        self.chosen.as_ref().map_or_else(|| self.front.len(), |chosen| chosen.len() as u64)
    }

    fn plan(&self, global: &[u64], ask: &Ask<'_>) -> Result<Vec<Item>> {
        let inner: Vec<u64> = global.iter().map(|id| self.inner(*id)).collect();
        let mut items = self.front.plan(&inner, &Ask { masked: false, ..*ask })?;
        items.iter_mut().zip(global).for_each(|(item, id)| item.id = *id);
        Ok(items)
    }

    fn fill(&self, item: &mut Item, ask: &Ask<'_>) -> Result<()> {
        let own = item.id;
        item.id = self.inner(own);
        let filled = self.front.fill(item, ask);
        item.id = own;
        filled?;
        let label = self.label(own).ok_or_else(|| Error::value(self.name(own), "has no class"))?;
        set(item, "label", &id(i64::from(label)));
        Ok(())
    }

    /// Gives each sample its partner's label and the share of its own, and mixes their values in training.
    fn finish(&self, items: &mut [Item], ask: &Ask<'_>) -> Result<()> {
        self.front.finish(items, ask)?;
        let plane = items.first().and_then(|item| match item.views.first()?.inputs.get(self.input)? {
            Array::F32(values) => values.shape().last_chunk::<2>().copied(),
            _ => None,
        });
        let mixing = match plane.filter(|_| ask.train) {
            Some(plane) => self.mix.draw(plane, &mut Stream::keyed(ask.seed, Purpose::Mix, ask.clock.step, 0)),
            None => crate::data::Mixing::None,
        };
        mixing.apply(items, self.input)?;
        let labels: Vec<Option<Array>> =
            items.iter().map(|item| item.views.first()?.inputs.get("label").cloned()).collect();
        for (item, other) in items.iter_mut().zip(labels.iter().rev().flatten()) {
            set(item, "other", other);
            set(item, "share", &share(mixing.share()));
        }
        Ok(())
    }

    fn label(&self, id: u64) -> Option<u32> {
        if self.synthetic { Some((id % self.classes) as u32) } else { self.front.label(self.inner(id)) }
    }

    fn position_labels(&self, id: u64) -> Result<Option<PositionLabels>> {
        self.front.position_labels(self.inner(id))
    }

    fn classes(&self) -> Vec<String> {
        self.front.classes()
    }

    fn name(&self, id: u64) -> String {
        self.front.name(self.inner(id))
    }

    fn strict(&self) -> bool {
        self.front.strict()
    }

    fn raw(&self, item: &Item) -> Option<Vec<f32>> {
        self.front.raw(item)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::{ItemView, prepare};
    use crate::schedule::Clock;
    use crate::{Grid, Layout, Named};

    /// 70 samples of 2 x 2 numbers, 10 each of the classes 0 to 6 in turn.
    struct Toy;

    impl Front for Toy {
        fn len(&self) -> u64 {
            70
        }
        fn plan(&self, global: &[u64], ask: &Ask<'_>) -> Result<Vec<Item>> {
            assert!(!ask.masked);
            let view = || ItemView { layout: Layout::single(Grid::plane(1, 1)), draft: None, inputs: Named::new() };
            Ok(global.iter().map(|id| Item { id: *id, views: vec![view()] }).collect())
        }
        fn fill(&self, item: &mut Item, _: &Ask<'_>) -> Result<()> {
            let x = Array::F32(ArrayD::from_elem(IxDyn(&[2, 2]), item.id as f32));
            set(item, "x", &x);
            Ok(())
        }
        fn label(&self, id: u64) -> Option<u32> {
            (id < 70).then_some(id as u32 % 7)
        }
        fn classes(&self) -> Vec<String> {
            (0..7).map(|class| class.to_string()).collect()
        }
    }

    fn labels() -> Vec<u32> {
        (0..70).map(|id| id % 7).collect()
    }

    fn per_class(count: u64, seed: u64) -> LabelsConfig {
        LabelsConfig::PerClass(PerClassConfig { count, seed })
    }

    #[test]
    fn so_many_of_each_class() {
        for count in [1, 3, 10] {
            let chosen = per_class(count, 0).choose(&labels()).unwrap();
            let of = |class| chosen.iter().filter(|id| **id % 7 == class).count() as u64;
            assert!((0..7).all(|class| of(class) == count), "{chosen:?}");
            assert!(chosen.is_sorted());
        }
        // A larger choice holds the smaller one: labels are added, not exchanged.
        let [few, more] = [2, 5].map(|count| per_class(count, 4).choose(&labels()).unwrap());
        assert!(few.iter().all(|id| more.contains(id)));
        assert_ne!(few, per_class(2, 5).choose(&labels()).unwrap());
        let share = |share| LabelsConfig::Share(ShareConfig { share, seed: 0 }).choose(&labels()).unwrap().len();
        assert_eq!((share(0.01), share(0.25), share(1.0)), (7, 21, 70));
        let line = per_class(11, 0).choose(&labels()).unwrap_err().to_string();
        assert_eq!(line, "labels.count: class 0 has 10 samples, 11 of each are asked for");
        assert!(per_class(0, 0).check().is_err());
        assert!(LabelsConfig::Share(ShareConfig { share: 1.1, seed: 0 }).check().is_err());
    }

    /// The same samples whatever the run's seed, and the same values on any number of threads.
    #[test]
    fn all_arms_have_the_same_labels() {
        let mix = MixConfig { mixup: 0.8, cutmix: 1.0, ..MixConfig::default() };
        let front = Labelled::build(Box::new(Toy), &per_class(2, 0), &mix, "x", 7).unwrap();
        let ids: Vec<u64> = (0..front.len()).collect();
        let read = |seed, train, threads| {
            let (clock, state) = (Clock::at(3, 9, 3), Named::new());
            let ask = Ask { seed, clock: &clock, train, masked: true, state: &state, grid: None };
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| prepare(&*front, &ids, &ask).unwrap().items)
        };
        let input = |items: &[Item], name: &str| -> Vec<Array> {
            items.iter().map(|item| item.views[0].inputs[name].clone()).collect()
        };
        assert_eq!(ids.len(), 14);
        let (one, two) = (read(0, true, 1), read(0, true, 3));
        for name in ["x", "label", "other", "share"] {
            assert_eq!(input(&one, name), input(&two, name));
        }
        assert_eq!(input(&one, "label"), input(&read(1, true, 2), "label"));
        assert_ne!(input(&one, "x"), input(&read(1, true, 2), "x"), "mixed otherwise");
        let mut partners = input(&one, "label");
        partners.reverse();
        assert_eq!(partners, input(&one, "other"));
        // In evaluation nothing is mixed: the value of a sample is its number in the data, its class that number % 7.
        for item in read(0, false, 1) {
            let (x, label) = (&item.views[0].inputs["x"], &item.views[0].inputs["label"]);
            let (Array::F32(x), Array::I64(label)) = (x, label) else { panic!("kinds") };
            assert_eq!(x[[0, 0]] as i64 % 7, label[IxDyn(&[])]);
            assert_eq!(item.views[0].inputs["share"], share(1.0));
        }
    }

    #[test]
    fn classes_have_to_be_those_of_the_model() {
        let build =
            |classes| Labelled::build(Box::new(Toy), &LabelsConfig::default(), &MixConfig::default(), "x", classes);
        let line = build(10).err().unwrap().to_string();
        assert_eq!(line, "method.classes: the model has 10, the data has 7");
        assert_eq!(build(7).unwrap().len(), 70);
        let made_up = Labelled::synthetic(Box::new(Toy), &MixConfig::default(), "x", 3);
        assert_eq!((made_up.label(5), made_up.len()), (Some(2), 70));
    }
}
