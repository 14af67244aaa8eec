//! What a method is: the seam between loader, model and training loop.

use std::ops::Range;
use std::path::PathBuf;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tch::{Device, Kind, Tensor};

use crate::data::{DataConfig, Front};
use crate::grid::Layout;
use crate::hub::{ClassHead, Export};
use crate::nn::{Parameters, Scope};
use crate::plan::{DevicePlan, Draft, Plan};
use crate::recipe::{Tree, Value, typed_over};
use crate::report::Panel;
use crate::sampler::Sampler;
use crate::schedule::Clock;
use crate::stage::{Artefacts, Mention};
use crate::{Error, Named, Result};

/// What stands about a method in lists and documents.
#[derive(Clone, Copy, Debug)]
pub struct Card {
    /// The word in recipes, files and `list`.
    pub name: &'static str,
    /// The paper's title.
    pub title: &'static str,
    /// Year of the paper.
    pub year: u16,
    /// arXiv number.
    pub arxiv: Option<&'static str>,
    /// Numbers of its pages in the method ledger.
    pub ledger: &'static [u32],
    /// What is hidden and what is predicted, in one line.
    pub summary: &'static str,
}

/// Which part of the data a front reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Split {
    /// For training.
    Train,
    /// Never trained on.
    HeldOut,
    /// Nothing is opened: plans are drawn as usual, values are noise. For dry runs, mask statistics and benchmarks.
    Synthetic,
}

/// What a front is built from.
#[derive(Debug)]
pub struct Site<'a, D> {
    /// The recipe's data keys.
    pub data: &'a D,
    /// Which part of the data.
    pub split: Split,
    /// What the recipe's stages made.
    pub made: &'a Artefacts,
}

impl<'a, D> Site<'a, D> {
    /// A site without stages.
    #[must_use]
    pub fn new(data: &'a D, split: Split) -> Self {
        static NONE: Artefacts = Artefacts::none();
        Self { data, split, made: &NONE }
    }
}

/// Where a step of training or evaluation stands.
#[derive(Clone, Copy, Debug)]
pub struct Step<'a> {
    /// The clock.
    pub clock: &'a Clock,
    /// Whether dropout, stochastic depth and their like are on.
    pub train: bool,
    /// Micro-batch within the step.
    pub micro: u32,
}

/// One view of the samples of a micro-batch, on the device.
#[derive(Debug)]
pub struct View {
    /// What the model reads, by name (`pixels` [B, C, H, W]).
    pub inputs: Named<Tensor>,
    /// The layout that all rows share.
    pub layout: Layout,
    /// The plan, or what the loader could decide of it.
    pub draft: DeviceDraft,
}

/// [`Draft`] of a micro-batch on the device.
#[derive(Debug)]
pub enum DeviceDraft {
    /// Everything is decided.
    Ready(DevicePlan),
    /// Waits for scores; see [`crate::sampler::Sampler::select`].
    Open {
        /// [B, L], uniform.
        noise: Tensor,
        /// Counts of each row: first how many positions are hidden, then what the sampler wants.
        counts: Vec<Vec<u32>>,
    },
    /// The view is read whole.
    Whole,
}

impl View {
    /// An input by name.
    ///
    /// # Errors
    /// The front gave none of that name.
    pub fn input(&self, name: &str) -> Result<&Tensor> {
        self.inputs.get(name).ok_or_else(|| Error::Defect(format!("the loader gave no input '{name}'")))
    }

    /// The plan that the loader settled.
    ///
    /// # Errors
    /// The draft is open, or the view is read whole.
    pub fn plan(&self) -> Result<&DevicePlan> {
        match &self.draft {
            DeviceDraft::Ready(plan) => Ok(plan),
            _ => Err(Error::Defect("this view has no settled plan".to_owned())),
        }
    }

    /// The settled plan of this view: the loader's, or, where it left the draft open, what `sampler` selects by the
    /// scores [B, L] that are asked for then.
    ///
    /// # Errors
    /// The view is read whole, or `scores` fails.
    pub fn settle(&self, sampler: &dyn Sampler, scores: impl FnOnce() -> Result<Tensor>) -> Result<DevicePlan> {
        match &self.draft {
            DeviceDraft::Ready(plan) => Ok(plan.shallow_clone()),
            DeviceDraft::Open { noise, counts } => sampler.select(noise, counts, &scores()?.detach()),
            DeviceDraft::Whole => Err(Error::Defect("this view is read whole".to_owned())),
        }
    }
}

impl DeviceDraft {
    /// Joins the drafts of a micro-batch.
    ///
    /// # Errors
    /// Open and settled drafts mixed.
    pub fn collate(drafts: &[Option<&Draft>], length: usize, device: Device) -> Result<Self> {
        let mixed = || Error::value("plan", "a batch mixes settled, open and whole drafts");
        match drafts.first() {
            None | Some(None) => {
                if drafts.iter().any(Option::is_some) {
                    Err(mixed())
                } else {
                    Ok(Self::Whole)
                }
            }
            Some(Some(Draft::Ready(_))) => {
                let plan = |draft: &Option<&Draft>| match draft {
                    Some(Draft::Ready(plan)) => Ok(plan.clone()),
                    _ => Err(mixed()),
                };
                let plans: Vec<Plan> = drafts.iter().map(plan).collect::<Result<_>>()?;
                Ok(Self::Ready(DevicePlan::collate(&plans.iter().collect::<Vec<_>>(), length, device)?))
            }
            Some(Some(Draft::Open { .. })) => {
                let (mut all, mut rows) = (Vec::with_capacity(drafts.len() * length), Vec::with_capacity(drafts.len()));
                for draft in drafts {
                    match draft {
                        Some(Draft::Open { noise, counts }) if noise.len() == length => {
                            all.extend_from_slice(noise);
                            rows.push(counts.clone());
                        }
                        _ => return Err(mixed()),
                    }
                }
                let noise = Tensor::from_slice(&all).view([drafts.len() as i64, length as i64]).to_device(device);
                Ok(Self::Open { noise, counts: rows })
            }
        }
    }
}

/// Counts over the *global* batch, known before its first forward, so that micro-batches and ranks change nothing.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Totals {
    /// Samples.
    pub samples: f64,
    /// Scored positions of each view.
    pub scored: Vec<f64>,
    /// Hidden positions, and all positions, over the views that have a plan.
    pub hidden: [f64; 2],
}

/// A micro-batch on the device.
#[derive(Debug)]
pub struct Batch {
    /// The views, each with all samples of the micro-batch.
    pub views: Vec<View>,
    /// Numbers of the samples.
    pub ids: Vec<u64>,
    /// Counts over the global batch.
    pub totals: Totals,
}

impl Batch {
    /// The only view.
    ///
    /// # Errors
    /// There are several.
    pub fn only_view(&self) -> Result<&View> {
        match self.views.as_slice() {
            [view] => Ok(view),
            views => Err(Error::Defect(format!("the method reads one view, the loader gave {}", views.len()))),
        }
    }
}

/// What a term's sum is divided by.
#[derive(Debug)]
pub enum Count {
    /// A count over the global batch: accumulation changes nothing.
    Global(f64),
    /// A count that hangs on outputs of this micro-batch; micro-batches are averaged. `--dry-run` names such terms.
    Micro(Tensor),
}

/// One term of a loss: a sum and a count, both float32 or exact.
#[derive(Debug)]
pub struct Term {
    /// Its name in the metrics.
    pub name: &'static str,
    /// Its weight in the loss.
    pub weight: f64,
    /// The sum over this micro-batch, a scalar on the device.
    pub sum: Tensor,
    /// What it is divided by.
    pub count: Count,
}

/// How a note of several micro-batches becomes one number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reduce {
    /// Added.
    Sum,
    /// Averaged.
    Mean,
}

/// What a forward gave.
#[derive(Debug, Default)]
pub struct Outcome {
    /// The terms of the loss.
    pub terms: Vec<Term>,
    /// Numbers or tensors for `after_step` and, where they are scalars, for the metrics.
    pub notes: Vec<(&'static str, Tensor, Reduce)>,
    /// The predictions at the scored positions, [N, P].
    pub answers: Option<Tensor>,
    /// What they should have been, [N, P], or ids `[N]`.
    pub targets: Option<Tensor>,
    /// The plans of the first views, in order, where a forward settled what the loader had left open.
    pub plans: Vec<DevicePlan>,
}

impl Outcome {
    /// A loss of one term with a count over the global batch.
    #[must_use]
    pub fn one(name: &'static str, sum: Tensor, count: f64) -> Self {
        let term = Term { name, weight: 1.0, sum: sum.to_kind(Kind::Float), count: Count::Global(count) };
        Self { terms: vec![term], ..Self::default() }
    }

    /// With predictions and targets, for pictures and laws.
    #[must_use]
    pub fn with(mut self, answers: Tensor, targets: Tensor) -> Self {
        self.answers = Some(answers);
        self.targets = Some(targets);
        self
    }

    /// With the plans that this forward settled.
    #[must_use]
    pub fn under(mut self, plans: Vec<DevicePlan>) -> Self {
        self.plans = plans;
        self
    }

    /// The predictions, for pictures.
    ///
    /// # Errors
    /// The method kept none.
    pub fn predictions(&self) -> Result<&Tensor> {
        self.answers.as_ref().ok_or_else(|| Error::Defect("the method kept no answers".to_owned()))
    }

    /// The loss of this micro-batch, a scalar on the device. `micros` is the number of micro-batches of the step.
    ///
    /// # Errors
    /// No term.
    pub fn loss(&self, micros: u32) -> Result<Tensor> {
        let mut total: Option<Tensor> = None;
        for term in &self.terms {
            let value = term.value(micros) * term.weight;
            total = Some(match total {
                Some(total) => total + value,
                None => value,
            });
        }
        total.ok_or_else(|| Error::Defect("a method gave no loss term".to_owned()))
    }
}

impl Term {
    /// This micro-batch's share of the term's mean. A global count of 0 gives a sum over nothing, 0, not NaN.
    #[must_use]
    pub fn value(&self, micros: u32) -> Tensor {
        match &self.count {
            Count::Global(count) => &self.sum / if *count > 0.0 { *count } else { 1.0 },
            Count::Micro(count) => &self.sum / count / f64::from(micros),
        }
    }
}

/// What a caller wants of an encoder besides its output.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Want {
    /// Outputs of blocks, counted from 1 (the last block's output, after the final norm, always comes).
    pub layers: Vec<usize>,
    /// Rows (queries) of the last block's attention map.
    pub attention_of: Option<Range<i64>>,
}

impl Want {
    /// The output alone.
    #[must_use]
    pub fn last() -> Self {
        Self::default()
    }
}

/// Which features stand for a whole sample.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Pool {
    /// The mean of the tokens.
    Tokens,
    /// The class token.
    Class,
}

/// What an encoder gave.
#[derive(Debug)]
pub struct Features {
    /// The wanted layers in ascending order, the output last: [B, prefix + T, D].
    pub layers: Vec<Tensor>,
    /// Tokens in front that stand for no position (the class token).
    pub prefix: i64,
    /// [B, T], `true` = real; none = all.
    pub valid: Option<Tensor>,
    /// The wanted rows of the last attention map, [B, heads, rows, prefix + T].
    pub attention: Option<Tensor>,
}

impl Features {
    /// The output, prefix tokens in front: [B, prefix + T, D].
    #[must_use]
    pub fn last(&self) -> &Tensor {
        &self.layers[self.layers.len() - 1]
    }

    /// The output without prefix tokens: [B, T, D].
    #[must_use]
    pub fn tokens(&self) -> Tensor {
        self.last().slice(1, self.prefix, None, 1)
    }

    /// What stands for a whole sample: [B, D].
    ///
    /// # Errors
    /// The class token of an encoder that has none.
    pub fn of(&self, what: Pool) -> Result<Tensor> {
        match what {
            Pool::Tokens => Ok(self.pooled()),
            Pool::Class if self.prefix > 0 => Ok(self.last().select(1, 0)),
            Pool::Class => Err(Error::value("of", "class: this encoder has no class token; take tokens")),
        }
    }

    /// The mean of the real tokens, without prefix: [B, D].
    #[must_use]
    pub fn pooled(&self) -> Tensor {
        let tokens = self.tokens();
        match &self.valid {
            None => tokens.mean_dim(1, false, Kind::Float),
            Some(valid) => {
                let weight = valid.unsqueeze(2).to_kind(tokens.kind());
                let sum = (tokens * &weight).sum_dim_intlist(1, false, Kind::Float);
                sum / weight.sum_dim_intlist(1, false, Kind::Float).clamp_min(1.0)
            }
        }
    }
}

/// A representation model. The same `encode` serves pre-training, probes, teachers, fine-tuning and `--hf` folders.
pub trait Encoder {
    /// Reads a view; without a plan nothing is hidden.
    ///
    /// # Errors
    /// Inputs whose shape doesn't fit.
    fn encode(&self, view: &View, plan: Option<&DevicePlan>, want: &Want, step: &Step<'_>) -> Result<Features>;

    /// Blocks.
    fn depth(&self) -> usize;

    /// Numbers of a token.
    fn width(&self) -> i64;

    /// The encoder alone as an architecture of `transformers`.
    ///
    /// # Errors
    /// There is none that holds it; the error names what stands against it.
    fn export(&self) -> Result<Export> {
        Err(Export::refuse("encoder", "no table says how it stands on the Hub"))
    }

    /// The encoder with a classifier behind it.
    ///
    /// # Errors
    /// As [`Encoder::export`].
    fn export_classifier(&self, head: &ClassHead) -> Result<Export> {
        let _ = head;
        Err(Export::refuse("encoder", "no table says how it stands on the Hub with a classifier"))
    }
}

/// The head or decoder that answers for queried positions.
pub trait Predictor {
    /// Answers for one group of queries, [N queried, P].
    ///
    /// # Errors
    /// A plan that it can't answer for.
    fn answer(&self, from: &Features, plan: &DevicePlan, group: usize, step: &Step<'_>) -> Result<Tensor>;
}

/// A model that makes targets or scores: frozen, or following a student. Asked without gradient only.
#[derive(Debug)]
pub struct Teacher<N> {
    net: N,
    pairs: Vec<(Tensor, Tensor)>,
}

impl<N> Teacher<N> {
    /// Builds the teacher in a frozen scope `at` and lets it start as a copy of the student's parameters below
    /// `student` (for example `encoder`, or the outermost scope), whose names below the two scopes are the same. The
    /// student may have more, as a mask token.
    ///
    /// # Errors
    /// A parameter of the teacher that the student lacks.
    pub fn copy_of(student: &Scope, at: &Scope, build: impl FnOnce(&Scope) -> Result<N>) -> Result<Self> {
        let net = build(&at.frozen())?;
        // Names with their dot, so that `a` is no beginning of `ab`; the outermost scope has none.
        let dotted = |scope: &Scope| if scope.prefix().is_empty() { String::new() } else { scope.prefix() + "." };
        let (from, to) = (dotted(student), dotted(at));
        let all: Named<Tensor> = at.parameters().named().into_iter().collect();
        let mut pairs = Vec::new();
        for (name, tensor) in &all {
            if let Some(rest) = name.strip_prefix(&to) {
                let twin = all.get(&format!("{from}{rest}"));
                let twin =
                    twin.ok_or_else(|| Error::Defect(format!("the teacher's {name} has no twin in the student")))?;
                pairs.push((tensor.shallow_clone(), twin.detach()));
            }
        }
        let teacher = Self { net, pairs };
        teacher.follow(0.0);
        Ok(teacher)
    }

    /// A teacher that never changes.
    #[must_use]
    pub fn frozen(net: N) -> Self {
        Self { net, pairs: Vec::new() }
    }

    /// Exponential moving average: teacher = momentum * teacher + (1 - momentum) * student.
    pub fn follow(&self, momentum: f64) {
        tch::no_grad(|| {
            for (mine, student) in &self.pairs {
                let mut mine = mine.shallow_clone();
                let _ = mine.lerp_(student, 1.0 - momentum);
            }
        });
    }

    /// The model itself, to be probed or written out: whoever asks it for targets takes [`Teacher::ask`].
    #[must_use]
    pub fn model(&self) -> &N {
        &self.net
    }

    /// The only door to the teacher: no gradient is recorded inside. Ask with a [`Step`] that isn't training.
    ///
    /// # Errors
    /// What `f` returns.
    pub fn ask<R>(&self, f: impl FnOnce(&N) -> Result<R>) -> Result<R> {
        tch::no_grad(|| f(&self.net))
    }
}

/// A picture of what a method hides and answers: rows of panels under column titles.
#[derive(Debug, Default)]
pub struct Sheet {
    /// Titles of the columns.
    pub columns: Vec<String>,
    /// A row a sample.
    pub rows: Vec<Vec<Panel>>,
    /// What is to be seen, in words.
    pub caption: String,
}

/// Steps of iterative unmasking ask a model for logits.
pub trait Denoiser {
    /// Logits [B, Q, L, V] for `x` [B, Q, L] (Q codebooks or sub-tokens, 1 for plain tokens; the mask's id where
    /// hidden) at time `time`; `condition` `[B]` are class ids where the model has classes.
    ///
    /// # Errors
    /// Shapes that don't fit.
    fn logits(&self, x: &Tensor, time: f64, condition: Option<&Tensor>) -> Result<Tensor>;
}

/// A model that puts ids in the place of what stands at each position of a view.
pub trait Tokenizer {
    /// How many ids there are, of each of its Q columns.
    fn sizes(&self) -> Vec<u32>;

    /// The ids of a view read whole, [B, Q, L], int64. Ask without gradient.
    ///
    /// # Errors
    /// Inputs whose shape doesn't fit.
    fn ids(&self, view: &View) -> Result<Tensor>;

    /// What ids [B, Q, L] stand for, in the form of the view's input.
    ///
    /// # Errors
    /// Ids that don't fit the grid.
    fn decode(&self, ids: &Tensor) -> Result<Tensor>;
}

/// A method. Object-safe: loop, probes, laws and tables are compiled once for all of them.
pub trait Method {
    /// One forward. Changes nothing, reads no tensor back to the host.
    ///
    /// # Errors
    /// A batch that doesn't fit.
    fn loss(&self, batch: &Batch, step: &Step<'_>) -> Result<Outcome>;

    /// After each optimiser step, with the notes of all its micro-batches; returns the state for the loader.
    ///
    /// # Errors
    /// Notes that don't fit.
    fn after_step(&mut self, notes: &Named<Tensor>, step: &Step<'_>) -> Result<Named<Tensor>> {
        let _ = (notes, step);
        Ok(Named::new())
    }

    /// Beginnings of the names of parameters that get no update in this step: neither gradient nor decay.
    fn held(&self, clock: &Clock) -> Vec<&'static str> {
        let _ = clock;
        Vec::new()
    }

    /// The scores [B, L] that choose a guided mask, for a view of which nothing is hidden; none where no score does.
    ///
    /// # Errors
    /// A view that doesn't fit.
    fn scores(&self, view: &View, step: &Step<'_>) -> Result<Option<Tensor>> {
        let _ = (view, step);
        Ok(None)
    }

    /// The representation model.
    fn encoder(&self) -> &dyn Encoder;

    /// The model for iterative unmasking, where there is one.
    fn denoiser(&self) -> Option<&dyn Denoiser> {
        None
    }

    /// Logits of the classes [B, classes], where the method tells classes apart.
    ///
    /// # Errors
    /// A batch that doesn't fit.
    fn classify(&self, batch: &Batch, step: &Step<'_>) -> Result<Option<Tensor>> {
        let _ = (batch, step);
        Ok(None)
    }

    /// The model as a tokenizer, where it is one.
    fn tokenizer(&self) -> Option<&dyn Tokenizer> {
        None
    }

    /// What to look at: original, hidden, answer.
    ///
    /// # Errors
    /// A batch that doesn't fit.
    fn show(&self, batch: &Batch, step: &Step<'_>) -> Result<Sheet> {
        let _ = (batch, step);
        Ok(Sheet::default())
    }

    /// The model as an architecture of `transformers`: its encoder, unless there is one that holds more.
    ///
    /// # Errors
    /// As [`Encoder::export`].
    fn export(&self) -> Result<Export> {
        self.encoder().export()
    }

    /// Called once after weights came from elsewhere (`init`): teachers start as copies here.
    fn begin(&mut self) {}

    /// Operations of forward and backward for one sample with `seen` tokens read and `queried` ones answered for, a
    /// multiplication and an addition counted as two; none where the method doesn't say.
    fn flops(&self, seen: f64, queried: f64) -> Option<f64> {
        let _ = (seen, queried);
        None
    }
}

/// The recipe keys of a method: a plain struct whose `Default` is the paper's. One word in `methods!` registers it.
pub trait MethodConfig: Serialize + DeserializeOwned + Default + 'static {
    /// The recipe's data keys of this modality.
    type Data: DataConfig;

    /// What stands about it in lists.
    const CARD: Card;

    /// The loader's half.
    ///
    /// # Errors
    /// Data that can't be read, or that doesn't fit the model.
    fn front(&self, site: &Site<'_, Self::Data>) -> Result<Box<dyn Front>>;

    /// Keys that name stages of the recipe: their paths below `method`, and the names.
    fn stages(&self) -> Vec<Mention> {
        Vec::new()
    }

    /// The device's half; what stages made is found through the scope ([`Scope::made`]).
    ///
    /// # Errors
    /// Numbers that don't fit together.
    fn build(&self, at: &Scope) -> Result<Box<dyn Method>>;
}

/// A method with its keys read, its type forgotten.
pub trait Configured {
    /// See [`MethodConfig::front`]; the site's data are the resolved `data` tree.
    ///
    /// # Errors
    /// As there, and data keys that can't be read.
    fn front(&self, site: &Site<'_, Value>) -> Result<Box<dyn Front>>;

    /// See [`MethodConfig::build`]; the parameters keep what was made.
    ///
    /// # Errors
    /// As there.
    fn build(&self, parameters: &std::rc::Rc<Parameters>) -> Result<Box<dyn Method>> {
        self.build_at(&parameters.root())
    }

    /// See [`MethodConfig::build`].
    ///
    /// # Errors
    /// As there.
    fn build_at(&self, at: &Scope) -> Result<Box<dyn Method>>;

    /// See [`MethodConfig::stages`].
    fn stages(&self) -> Vec<Mention>;

    /// All keys, resolved.
    ///
    /// # Errors
    /// A value that YAML can't hold.
    fn value(&self) -> Result<Value>;
}

impl<C: MethodConfig> Configured for C {
    fn front(&self, site: &Site<'_, Value>) -> Result<Box<dyn Front>> {
        let data: C::Data = data_of(site.data)?;
        MethodConfig::front(self, &Site { data: &data, split: site.split, made: site.made })
    }

    fn build_at(&self, at: &Scope) -> Result<Box<dyn Method>> {
        MethodConfig::build(self, at)
    }

    fn stages(&self) -> Vec<Mention> {
        MethodConfig::stages(self)
    }

    fn value(&self) -> Result<Value> {
        serde_yaml::to_value(self).map_err(|e| Error::Defect(e.to_string()))
    }
}

/// A line of a modality crate's register.
#[derive(Clone, Copy)]
pub struct MethodEntry {
    /// What stands about it.
    pub card: Card,
    /// Its keys and the modality's data keys, with the defaults.
    pub defaults: fn() -> Result<(Value, Value)>,
    /// Reads the keys under `method`, without `kind`.
    pub read: fn(&Tree) -> Result<Box<dyn Configured>>,
    /// Reads the keys under `data`, to find mistakes before any work; gives them resolved.
    pub read_data: fn(&Tree) -> Result<Value>,
    /// See [`DataConfig::files`], for resolved data keys.
    pub files: fn(&Value) -> Result<Vec<PathBuf>>,
    /// See [`DataConfig::still`], for resolved data keys.
    pub still: fn(&Value) -> Result<Value>,
    /// See [`DataConfig::stages`], for resolved data keys.
    pub data_stages: fn(&Value) -> Result<Vec<Mention>>,
}

/// Registers the methods of a crate: `methods! { mae: MaeConfig, simmim: SimmimConfig }`.
#[macro_export]
macro_rules! methods {
    ($($name:ident : $config:ty),+ $(,)?) => {
        &[$($crate::method::entry::<$config>(stringify!($name))),+]
    };
}

/// The line of one method.
///
/// # Panics
/// At compile time, where the word isn't the card's name.
#[must_use]
pub const fn entry<C: MethodConfig>(word: &str) -> MethodEntry {
    let (a, b) = (word.as_bytes(), C::CARD.name.as_bytes());
    assert!(a.len() == b.len(), "the word in methods! must be the card's name");
    let mut i = 0;
    while i < a.len() {
        // `i-jepa` is written `i_jepa` as a word.
        assert!(a[i] == b[i] || (a[i] == b'_' && b[i] == b'-'), "the word in methods! must be the card's name");
        i += 1;
    }
    MethodEntry {
        card: C::CARD,
        defaults: || {
            let value = |v: std::result::Result<Value, serde_yaml::Error>| v.map_err(|e| Error::Defect(e.to_string()));
            Ok((value(serde_yaml::to_value(C::default()))?, value(serde_yaml::to_value(C::Data::default()))?))
        },
        read: |tree| Ok(Box::new(tree.read(&["method"], typed_over::<C>)?)),
        read_data: |tree| {
            let data = tree.read(&["data"], typed_over::<C::Data>)?;
            serde_yaml::to_value(&data).map_err(|e| Error::Defect(e.to_string()))
        },
        files: |data| data_of::<C::Data>(data)?.files(),
        still: |data| {
            let still = data_of::<C::Data>(data)?.still();
            serde_yaml::to_value(&still).map_err(|e| Error::Defect(e.to_string()))
        },
        data_stages: |data| Ok(data_of::<C::Data>(data)?.stages()),
    }
}

/// Resolved data keys, typed again.
fn data_of<D: DataConfig>(data: &Value) -> Result<D> {
    serde_yaml::from_value(data.clone()).map_err(|e| Error::value("data", e.to_string()))
}
