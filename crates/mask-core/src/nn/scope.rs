//! Where parameters are made: named, initialised from their own stream, with layer number and decay group.

use std::cell::RefCell;
use std::rc::Rc;

use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use tch::{Device, Kind, Tensor};

use crate::grid::Grid;
use crate::stage::{Artefact, Artefacts};
use crate::stream::{Purpose, Stream, hash_name};
use crate::{Error, Result};

/// The law that an initial weight is drawn from.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Init {
    /// All the same.
    Constant(f64),
    /// Normal of this standard deviation.
    Normal(f64),
    /// Normal of a standard deviation, drawn again outside +-cut (an absolute value).
    Truncated {
        /// Standard deviation before the cut.
        std: f64,
        /// Largest absolute value.
        cut: f64,
    },
    /// Uniform on [-bound, bound).
    Uniform(f64),
}

impl Init {
    /// All zeros.
    pub const ZEROS: Self = Self::Constant(0.0);
    /// All ones.
    pub const ONES: Self = Self::Constant(1.0);

    /// Glorot's uniform law for a map of `fan_in` numbers to `fan_out`.
    #[must_use]
    pub fn xavier(fan_in: i64, fan_out: i64) -> Self {
        Self::Uniform((6.0 / (fan_in + fan_out) as f64).sqrt())
    }

    /// Every value times `factor`.
    #[must_use]
    pub fn scaled(self, factor: f64) -> Self {
        match self {
            Self::Constant(value) => Self::Constant(value * factor),
            Self::Normal(std) => Self::Normal(std * factor),
            Self::Truncated { std, cut } => Self::Truncated { std: std * factor, cut: cut * factor },
            Self::Uniform(bound) => Self::Uniform(bound * factor),
        }
    }

    fn draw(self, stream: &mut Stream) -> f32 {
        (match self {
            Self::Constant(value) => value,
            Self::Normal(std) => std * stream.normal(),
            Self::Truncated { std, cut } => loop {
                let value = std * stream.normal();
                if value.abs() <= cut {
                    break value;
                }
            },
            Self::Uniform(bound) => stream.between(-bound, bound),
        }) as f32
    }

    /// `count` values, the same whatever the number of threads; none where memory can't hold them.
    fn values(self, stream: &Stream, count: usize) -> Option<Vec<f32>> {
        const STRETCH: usize = 1 << 16;
        // Where the system promises more memory than there is, asking for it tells nothing.
        const MOST: usize = 1 << 33;
        if count > MOST {
            return None;
        }
        let mut values = Vec::new();
        values.try_reserve_exact(count).ok()?;
        values.resize(count, 0.0);
        values.par_chunks_mut(STRETCH).enumerate().for_each(|(stretch, values)| {
            let mut stream = stream.branch(stretch as u64);
            values.iter_mut().for_each(|value| *value = self.draw(&mut stream));
        });
        Some(values)
    }
}

/// How the papers initialise the linear maps and tokens of a transformer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum InitRule {
    /// Xavier-uniform maps, tokens normal 0.02 (MAE).
    Xavier,
    /// Everything normal 0.02, cut at +-2, which cuts nothing (I-JEPA, iBOT, Hugging Face).
    Normal,
    /// Everything normal 0.02 cut at +-0.02, and the last map of the branches of block i (from 1) divided by
    /// sqrt(2 i) (BEiT, SimMIM).
    NarrowRescaled,
}

impl InitRule {
    /// The law of a linear map.
    #[must_use]
    pub fn linear(self, fan_in: i64, fan_out: i64) -> Init {
        match self {
            Self::Xavier => Init::xavier(fan_in, fan_out),
            other => other.token(),
        }
    }

    /// The law of a token or a table.
    #[must_use]
    pub fn token(self) -> Init {
        match self {
            Self::Xavier | Self::Normal => Init::Normal(0.02),
            Self::NarrowRescaled => Init::Truncated { std: 0.02, cut: 0.02 },
        }
    }

    /// The law of the last map of a branch in block `block` (from 1).
    #[must_use]
    pub fn branch_end(self, fan_in: i64, fan_out: i64, block: usize) -> Init {
        match self {
            Self::NarrowRescaled => self.token().scaled(1.0 / (2.0 * block as f64).sqrt()),
            other => other.linear(fan_in, fan_out),
        }
    }
}

/// A parameter or a frozen table with what was recorded when it was made.
#[derive(Debug)]
pub struct Parameter {
    /// Our own name, for example `encoder.block.0.attention.qkv.weight`.
    pub name: String,
    /// The values; a leaf of the graph where it is trained.
    pub tensor: Tensor,
    /// For layer-wise rates: 0 = embedding and tokens, 1.. = blocks, depth + 1 = what comes after.
    pub layer: usize,
    /// Whether weight decay applies.
    pub decay: bool,
    /// Whether it is trained; frozen tables and teachers are not.
    pub trained: bool,
    /// Whether it is a teacher's: a copy, which no count of a model's parameters holds.
    pub teacher: bool,
    /// Of a table with a row a position: the positions' grid, and how many rows stand in front of them.
    pub grid: Option<(Grid, i64)>,
}

/// The parameters of a model, in the order in which they were made.
#[derive(Debug)]
pub struct Parameters {
    device: Device,
    seed: u64,
    made: Artefacts,
    list: RefCell<Vec<Parameter>>,
}

impl Parameters {
    /// No parameter yet. `seed` keys the initial weights: a parameter of the same name and shape starts with the same
    /// values whatever else the model holds.
    #[must_use]
    pub fn new(device: Device, seed: u64) -> Rc<Self> {
        Self::over(device, seed, Artefacts::none())
    }

    /// As [`Parameters::new`], for a model that is built over what stages made.
    #[must_use]
    pub fn over(device: Device, seed: u64, made: Artefacts) -> Rc<Self> {
        Rc::new(Self { device, seed, made, list: RefCell::default() })
    }

    /// The outermost scope.
    #[must_use]
    pub fn root(self: &Rc<Self>) -> Scope {
        Scope { parameters: Rc::clone(self), prefix: String::new(), layer: 0, trained: true }
    }

    /// The device.
    #[must_use]
    pub fn device(&self) -> Device {
        self.device
    }

    /// Calls `f` on each, in the order in which they were made.
    pub fn each(&self, mut f: impl FnMut(&Parameter)) {
        self.list.borrow().iter().for_each(&mut f);
    }

    /// Name and tensor of each (they share memory with the model).
    #[must_use]
    pub fn named(&self) -> Vec<(String, Tensor)> {
        self.list.borrow().iter().map(|p| (p.name.clone(), p.tensor.shallow_clone())).collect()
    }

    /// How many numbers there are without teachers: all of them, and those that are trained.
    #[must_use]
    pub fn count(&self) -> (u64, u64) {
        (self.numbers(|p| !p.teacher), self.numbers(|p| p.trained))
    }

    /// How many numbers the parameters hold that `which` picks.
    pub fn numbers(&self, which: impl Fn(&Parameter) -> bool) -> u64 {
        self.list.borrow().iter().filter(|p| which(p)).map(|p| p.tensor.numel() as u64).sum()
    }

    /// Overwrites parameters by name. With `strict` every one must be given, and nothing else.
    ///
    /// # Errors
    /// A missing or unknown name (with `strict`), or another shape.
    pub fn load(&self, values: &crate::Named<Tensor>, strict: bool) -> Result<()> {
        let list = self.list.borrow();
        let mut known = 0;
        for parameter in list.iter() {
            match values.get(&parameter.name) {
                Some(value) if value.size() == parameter.tensor.size() => {
                    known += 1;
                    let mut target = parameter.tensor.detach();
                    target.f_copy_(value)?;
                }
                Some(value) => {
                    return Err(Error::shape(&parameter.name, format!("{:?}", parameter.tensor.size()), &value.size()));
                }
                None if strict => return Err(Error::value(&parameter.name, "is missing from the weights")),
                None => {}
            }
        }
        if strict && known < values.len() {
            let known: Vec<&str> = list.iter().map(|p| p.name.as_str()).collect();
            let extra = values.keys().find(|name| !known.contains(&name.as_str()));
            return Err(Error::value(extra.cloned().unwrap_or_default(), "is in the weights but not in the model"));
        }
        Ok(())
    }
}

/// A place in a model's tree of names, where parameters are made.
#[derive(Clone, Debug)]
pub struct Scope {
    parameters: Rc<Parameters>,
    prefix: String,
    layer: usize,
    trained: bool,
}

impl Scope {
    /// The scope below.
    #[must_use]
    pub fn enter(&self, name: impl std::fmt::Display) -> Self {
        Self { prefix: self.full(&name.to_string()), ..self.clone() }
    }

    /// The same scope at a layer number (see [`Parameter::layer`]).
    #[must_use]
    pub fn at_layer(&self, layer: usize) -> Self {
        Self { layer, ..self.clone() }
    }

    /// The same scope, where nothing is trained: for teachers.
    #[must_use]
    pub fn frozen(&self) -> Self {
        Self { trained: false, ..self.clone() }
    }

    /// The model's parameters.
    #[must_use]
    pub fn parameters(&self) -> &Rc<Parameters> {
        &self.parameters
    }

    /// The device.
    #[must_use]
    pub fn device(&self) -> Device {
        self.parameters.device
    }

    /// What a stage of the recipe made.
    ///
    /// # Errors
    /// The recipe has no stage of that name, or what it makes isn't there.
    pub fn made(&self, name: &str) -> Result<&Artefact> {
        self.parameters.made.get(name)
    }

    /// The layer number of what is made here.
    #[must_use]
    pub fn layer(&self) -> usize {
        self.layer
    }

    /// The scope's own name, dots between; empty for the outermost.
    #[must_use]
    pub fn prefix(&self) -> String {
        self.prefix.clone()
    }

    fn full(&self, name: &str) -> String {
        if self.prefix.is_empty() { name.to_owned() } else { format!("{}.{name}", self.prefix) }
    }

    fn add(&self, name: &str, tensor: Tensor, decay: bool, trained: bool) -> Result<Tensor> {
        let name = self.full(name);
        let mut list = self.parameters.list.borrow_mut();
        if list.iter().any(|parameter| parameter.name == name) {
            return Err(Error::Defect(format!("the parameter {name} is made twice")));
        }
        let trained = trained && self.trained;
        let tensor = tensor.f_to_device(self.device())?.set_requires_grad(trained);
        let shared = tensor.shallow_clone();
        list.push(Parameter { name, tensor, layer: self.layer, decay, trained, teacher: !self.trained, grid: None });
        Ok(shared)
    }

    fn make(&self, name: &str, shape: &[i64], init: Init, decay: bool) -> Result<Tensor> {
        let count = shape.iter().try_fold(1i64, |count, side| if *side < 0 { None } else { count.checked_mul(*side) });
        let count = count.ok_or_else(|| Error::shape(self.full(name), "sides of at least 0", shape))?;
        let stream = Stream::keyed(self.parameters.seed, Purpose::Weights, hash_name(&self.full(name)), 0);
        let values = init.values(&stream, count as usize).ok_or_else(|| {
            let problem =
                format!("{} of {shape:?} numbers doesn't fit into memory: choose a smaller model", self.full(name));
            Error::value("width", problem)
        })?;
        let values = Tensor::from_slice(&values).view(shape);
        self.add(name, values, decay, true)
    }

    /// Records that a table of this scope has a row for each of `prefix` tokens and then for each position of `grid`.
    pub(super) fn over(&self, name: &str, grid: &Grid, prefix: i64) {
        let name = self.full(name);
        let mut list = self.parameters.list.borrow_mut();
        if let Some(parameter) = list.iter_mut().find(|parameter| parameter.name == name) {
            parameter.grid = Some((grid.clone(), prefix));
        }
    }

    /// A weight, to which weight decay applies.
    ///
    /// # Errors
    /// The name is taken.
    pub fn weight(&self, name: &str, shape: &[i64], init: Init) -> Result<Tensor> {
        self.make(name, shape, init, true)
    }

    /// A bias, gain or other vector that is not decayed.
    ///
    /// # Errors
    /// The name is taken.
    pub fn plain(&self, name: &str, shape: &[i64], init: Init) -> Result<Tensor> {
        self.make(name, shape, init, false)
    }

    /// As [`Scope::plain`], starting at given values.
    ///
    /// # Errors
    /// The name is taken.
    pub fn plain_from(&self, name: &str, values: Tensor) -> Result<Tensor> {
        self.add(name, values.to_kind(Kind::Float), false, true)
    }

    /// A table that is not trained, but kept with the weights.
    ///
    /// # Errors
    /// The name is taken.
    pub fn table(&self, name: &str, values: Tensor) -> Result<Tensor> {
        self.add(name, values.to_kind(Kind::Float), false, false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_hang_on_name_and_seed_alone() {
        let make = |seed, names: &[&str]| {
            let parameters = Parameters::new(Device::Cpu, seed);
            let tensors: Vec<Tensor> = names
                .iter()
                .map(|name| parameters.root().enter("a").weight(name, &[3, 5], Init::Normal(1.0)).unwrap())
                .collect();
            tensors.into_iter().next().unwrap()
        };
        assert_eq!(make(1, &["x"]), make(1, &["x", "y"]));
        assert_ne!(make(1, &["x"]), make(1, &["y"]));
        assert_ne!(make(1, &["x"]), make(2, &["x"]));
    }

    /// Ledger 000 BEiT: the real deviation of normal 0.02 cut at +-0.02 is 0.5396 * 0.02.
    #[test]
    fn laws_have_their_moments() {
        let std = |init: Init| {
            let values = init.values(&Stream::new(1), 200_000).unwrap();
            (values.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>() / values.len() as f64).sqrt()
        };
        assert!((std(InitRule::NarrowRescaled.token()) / 0.02 - 0.5396).abs() < 0.004);
        assert!((std(Init::Normal(0.02)) / 0.02 - 1.0).abs() < 0.01);
        assert!((std(Init::xavier(64, 128)) - (2.0f64 / 192.0).sqrt()).abs() < 0.001);
        assert!((std(InitRule::NarrowRescaled.branch_end(1, 1, 8)) / 0.02 - 0.5396 / 4.0).abs() < 0.002);
    }

    #[test]
    fn a_name_is_taken_once_and_loading_is_strict() {
        let parameters = Parameters::new(Device::Cpu, 0);
        let root = parameters.root();
        let _ = root.weight("w", &[2], Init::ZEROS).unwrap();
        assert!(root.plain("w", &[2], Init::ZEROS).is_err());
        let named = |pairs: &[(&str, i64)]| -> crate::Named<Tensor> {
            pairs.iter().map(|(name, n)| ((*name).to_owned(), Tensor::ones([*n], (Kind::Float, Device::Cpu)))).collect()
        };
        parameters.load(&named(&[("w", 2)]), true).unwrap();
        assert_eq!(Vec::<f32>::try_from(&parameters.named()[0].1.detach()).unwrap(), [1.0, 1.0]);
        assert!(parameters.load(&named(&[("w", 3)]), false).is_err());
        assert!(parameters.load(&named(&[]), true).is_err());
        assert!(parameters.load(&named(&[("w", 2), ("v", 2)]), true).is_err());
        parameters.load(&named(&[("v", 2)]), false).unwrap();
    }
}
