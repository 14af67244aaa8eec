//! The attentive probe: a learned query looks at all tokens of a frozen encoder, and a linear map tells the class.
//!
//! The form, fixed once. Tokens x_1 .. x_T without class token, each of their D numbers standardised by its mean and
//! deviation over all training tokens. With H heads: keys K x_t and values V x_t without bias, one learned query q of D
//! numbers; head h weighs token t by softmax over t of q_h . (K x_t)_h / sqrt(D / H); the heads' weighted values one
//! after another are y, the logits W y + b. There is no other layer, so that the probe says what the tokens hold and not
//! what a block behind them could make of it (the form of AIM, El-Nouby et al. 2024; V-JEPA's has a whole block).
//!
//! Trained by AdamW with a short warm-up and a cosine, one probe for each of a few rates side by side on the same
//! batches; the best on the validation rows (the last tenth of the training rows, never trained on) is tested.

use serde::{Deserialize, Serialize};
use std::rc::Rc;
use tch::{Device, Kind, Tensor};

use super::{ClassCount, classes, count, places};
use crate::nn::{Init, Linear, Parameters};
use crate::schedule::{Clock, RateConfig};
use crate::stream::{Purpose, Stream};
use crate::train::{AdamWConfig, Optimiser, OptimiserConfig};
use crate::{Error, Result};

/// Recipe keys of the attentive probe.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AttentiveConfig {
    /// Training samples, at most.
    pub train: u64,
    /// Held-out samples, at most.
    pub test: u64,
    /// Heads; they divide the encoder's width.
    pub heads: u64,
    /// Times that the training samples are read.
    pub epochs: u64,
    /// Samples of a step.
    pub batch: u64,
    /// Rates that are tried.
    pub rates: Vec<f64>,
    /// Weight decay of the maps.
    pub weight_decay: f64,
}

impl Default for AttentiveConfig {
    fn default() -> Self {
        Self {
            train: 10_000,
            test: 5000,
            heads: 4,
            epochs: 20,
            batch: 256,
            rates: vec![1e-3, 3e-3, 1e-2],
            weight_decay: 0.05,
        }
    }
}

impl AttentiveConfig {
    /// Checks the numbers.
    ///
    /// # Errors
    /// The first key that is out of range.
    pub fn check(&self) -> Result<()> {
        for (key, number) in [
            ("train", self.train),
            ("test", self.test),
            ("heads", self.heads),
            ("epochs", self.epochs),
            ("batch", self.batch),
        ] {
            if !(1..=1 << 32).contains(&number) {
                return Err(Error::value(key, format!("{number} is too small or too large, it takes 1 or more")));
            }
        }
        if self.rates.is_empty() || self.rates.len() > 32 {
            return Err(Error::value("rates", format!("{} rates are none or too many: 1 to 32", self.rates.len())));
        }
        if let Some(rate) = self.rates.iter().find(|rate| !(**rate > 0.0 && **rate <= 10.0)) {
            return Err(Error::value("rates", format!("{rate} is no rate above 0, up to 10")));
        }
        if !(0.0..=1e3).contains(&self.weight_decay) {
            return Err(Error::value("weight_decay", format!("{} lies outside 0 to 1000", self.weight_decay)));
        }
        Ok(())
    }
}

/// What the probe gave.
#[derive(Clone, Debug, PartialEq)]
pub struct AttentiveResult {
    /// Share of the test rows that were classified right.
    pub accuracy: f64,
    /// The chosen rate.
    pub rate: f64,
    /// Accuracy on the validation rows under it; NaN where there was nothing to choose by.
    pub validation: f64,
    /// The accuracy for each class of the test rows, in order.
    pub classes: Vec<ClassCount>,
}

/// Tokens of some rows, [n, T, D]; asked for several times where they don't fit into memory.
pub type Tokens<'a> = &'a dyn Fn(&[usize]) -> Result<Tensor>;

/// Rows that go through the probe at once where nothing is learned.
const CHUNK: usize = 512;

/// One probe with its optimiser.
struct Candidate {
    rate: f64,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    head: Linear,
    heads: i64,
    optimiser: Optimiser,
}

impl Candidate {
    fn new(rate: f64, config: &AttentiveConfig, width: i64, classes: i64, device: Device) -> Result<Self> {
        let parameters: Rc<Parameters> = Parameters::new(device, 0);
        let at = parameters.root();
        let adamw = AdamWConfig {
            rate,
            rate_per: None,
            betas: [0.9, 0.999],
            weight_decay: config.weight_decay,
            ..AdamWConfig::default()
        };
        Ok(Self {
            rate,
            query: at.plain("query", &[1, 1, width], Init::Normal(0.02))?,
            key: at.weight("key", &[width, width], Init::xavier(width, width))?,
            value: at.weight("value", &[width, width], Init::xavier(width, width))?,
            head: Linear::new(&at.enter("head"), width, classes, Init::Normal(0.01))?,
            heads: config.heads as i64,
            optimiser: Optimiser::new(&OptimiserConfig::AdamW(adamw), &parameters)?,
        })
    }

    /// Standardised tokens [n, T, D] to logits [n, C].
    fn forward(&self, tokens: &Tensor) -> Result<Tensor> {
        let (rows, length, width) = tokens.size3()?;
        let split = |x: Tensor, length: i64| x.view([-1, length, self.heads, width / self.heads]).transpose(1, 2);
        let key = split(mask_torch::linear(tokens, &self.key, None)?, length);
        let value = split(mask_torch::linear(tokens, &self.value, None)?, length);
        let query = split(self.query.expand([rows, 1, width], false).contiguous(), 1);
        let mixed =
            Tensor::scaled_dot_product_attention(&query, &key, &value, None::<&Tensor>, 0.0, false, None, false);
        Ok(self.head.forward(&mixed.transpose(1, 2).reshape([rows, width])))
    }

    fn learn(&self, tokens: &Tensor, target: &Tensor, factor: f64, clock: &Clock) -> Result<()> {
        mask_torch::drop_grads(self.optimiser.params())?;
        let loss = crate::objective::cross_entropy(&self.forward(tokens)?, target, 0.0)?.mean(Kind::Float);
        loss.f_backward()?;
        let one = Tensor::ones([] as [i64; 0], (Kind::Float, tokens.device()));
        tch::no_grad(|| self.optimiser.step(self.rate * factor, clock, &one, &one.zeros_like()))
    }
}

/// Each number's mean and the reciprocal of its deviation, [1, 1, D]; one that is constant becomes 0.
struct Standard {
    mean: Tensor,
    scale: Tensor,
}

impl Standard {
    fn of(tokens: Tokens<'_>, rows: usize) -> Result<Self> {
        let (mut sum, mut square, mut count) = (None::<Tensor>, None::<Tensor>, 0.0);
        for chunk in chunks(rows) {
            let x = tokens(&chunk)?.to_kind(Kind::Double);
            count += (x.size()[0] * x.size()[1]) as f64;
            let add =
                |all: Option<Tensor>, part: Tensor| Some(all.map_or_else(|| part.shallow_clone(), |all| all + &part));
            sum = add(sum, x.sum_dim_intlist([0i64, 1].as_slice(), true, Kind::Double));
            square = add(square, x.square().sum_dim_intlist([0i64, 1].as_slice(), true, Kind::Double));
        }
        let (Some(sum), Some(square)) = (sum, square) else {
            return Err(Error::value("attentive probe", "has no training rows"));
        };
        let mean = sum / count;
        let variance = square / count - mean.square();
        if !f64::try_from((&mean + &variance).abs().max())?.is_finite() {
            return Err(Error::value(
                "attentive probe",
                "the tokens are not finite, so the encoder or its input isn't",
            ));
        }
        // What is left of a constant by rounding is no deviation.
        let varies = variance.gt_tensor(&(mean.square() * 1e-12 + 1e-30));
        let scale = variance.clamp_min(1e-30).rsqrt() * varies.to_kind(Kind::Double);
        Ok(Self { mean: mean.to_kind(Kind::Float), scale: scale.to_kind(Kind::Float) })
    }

    fn apply(&self, tokens: &Tensor) -> Tensor {
        (tokens.to_kind(Kind::Float) - &self.mean) * &self.scale
    }
}

fn chunks(rows: usize) -> impl Iterator<Item = Vec<usize>> {
    (0..rows).step_by(CHUNK).map(move |first| (first..rows.min(first + CHUNK)).collect())
}

/// Learns `train_labels` from the tokens of the training rows and tests on those of the test rows; the head of the file
/// says how. The rows are in random order. The same thread count gives the same bits.
///
/// # Errors
/// Tokens that aren't finite, heads that don't divide the width, a single class.
pub fn attentive_probe(
    train: Tokens<'_>,
    train_labels: &[u32],
    test: Tokens<'_>,
    test_labels: &[u32],
    config: &AttentiveConfig,
    device: Device,
) -> Result<AttentiveResult> {
    config.check()?;
    let known = classes(train_labels);
    if known.len() < 2 || test_labels.is_empty() {
        let problem = format!("{} classes in training, {} test rows: too few", known.len(), test_labels.len());
        return Err(Error::value("attentive probe", problem));
    }
    let (rows, validating) = (train_labels.len(), train_labels.len() / 10);
    let standard = tch::no_grad(|| Standard::of(train, rows))?;
    let width = standard.mean.size()[2];
    if width % config.heads as i64 != 0 {
        let problem = format!("{} heads don't divide the encoder's width {width}", config.heads);
        return Err(Error::value("heads", problem));
    }
    let read = |of: Tokens<'_>, rows: &[usize]| tch::no_grad(|| Ok::<_, Error>(standard.apply(&of(rows)?)));
    let candidate = |rate: &f64| Candidate::new(*rate, config, width, known.len() as i64, device);
    let candidates: Vec<Candidate> = config.rates.iter().map(candidate).collect::<Result<_>>()?;
    let targets = places(train_labels, &known, &standard.mean);
    let (fitted, batch) = (rows - validating, config.batch as usize);
    let steps = fitted.div_ceil(batch) as u64 * config.epochs;
    let schedule = RateConfig { warmup_steps: steps / 20, ..RateConfig::default() };
    let mut step = 0;
    for epoch in 0..config.epochs {
        let order = Stream::keyed(0, Purpose::Evaluate, 3, epoch).permutation(fitted);
        for ids in order.chunks(batch) {
            let ids: Vec<usize> = ids.iter().map(|id| *id as usize).collect();
            let tokens = read(train, &ids)?;
            let at = Tensor::from_slice(&ids.iter().map(|id| *id as i64).collect::<Vec<_>>()).to_device(device);
            let target = targets.index_select(0, &at);
            // The schedule's first rate is 0: a step later, so that no step is without effect.
            let clock = Clock::at((step + 1).min(steps - 1), steps, 1);
            let factor = schedule.at(&clock);
            for candidate in &candidates {
                candidate.learn(&tokens, &target, factor, &clock)?;
            }
            step += 1;
        }
    }
    let predict = |candidate: &Candidate, of: Tokens<'_>, ids: &[usize]| -> Result<Vec<u32>> {
        let mut predicted = Vec::with_capacity(ids.len());
        for ids in ids.chunks(CHUNK) {
            let tokens = read(of, ids)?;
            let best = tch::no_grad(|| Ok::<_, Error>(candidate.forward(&tokens)?.argmax(1, false)))?;
            predicted.extend(Vec::<i64>::try_from(best)?.into_iter().map(|place| known[place as usize]));
        }
        Ok(predicted)
    };
    let held: Vec<usize> = (fitted..rows).collect();
    let mut best = (f64::NAN, &candidates[candidates.len() / 2]);
    for candidate in candidates.iter().filter(|_| !held.is_empty()) {
        let (accuracy, _) = count(&predict(candidate, train, &held)?, &train_labels[fitted..]);
        if best.0.is_nan() || accuracy > best.0 {
            best = (accuracy, candidate);
        }
    }
    let (validation, chosen) = best;
    let (accuracy, classes) = count(&predict(chosen, test, &(0..test_labels.len()).collect::<Vec<_>>())?, test_labels);
    Ok(AttentiveResult { accuracy, rate: chosen.rate, validation, classes })
}

#[cfg(test)]
mod tests {
    use super::*;

    const FLOAT: (Kind, Device) = (Kind::Float, Device::Cpu);

    /// 900 + 100 samples of 6 tokens of 8 numbers of noise; with `signal` the class (of 3) is marked in one token at a
    /// place that changes, so that the mean over tokens hides it among the noise of the others.
    fn data(signal: bool) -> ([Tensor; 2], [Vec<u32>; 2]) {
        tch::manual_seed(4);
        let parts = [900i64, 100].map(|rows| {
            let tokens = Tensor::randn([rows, 6, 8], FLOAT) * 3.0;
            let labels: Vec<u32> = (0..rows).map(|row| (row * 7 % 3) as u32).collect();
            for row in 0..rows {
                if signal {
                    let token = tokens.get(row).get(row * 5 % 6);
                    let _ = token.narrow(0, 0, 4).fill_(0.0);
                    let _ = token.get(i64::from(labels[row as usize])).fill_(40.0);
                }
            }
            (tokens, labels)
        });
        let [(train, train_labels), (test, test_labels)] = parts;
        ([train, test], [train_labels, test_labels])
    }

    fn run(signal: bool, config: &AttentiveConfig) -> Result<AttentiveResult> {
        let ([train, test], labels) = data(signal);
        let of = |all: Tensor| {
            move |ids: &[usize]| {
                let ids = Tensor::from_slice(&ids.iter().map(|id| *id as i64).collect::<Vec<_>>());
                Ok(all.index_select(0, &ids))
            }
        };
        attentive_probe(&of(train), &labels[0], &of(test), &labels[1], config, Device::Cpu)
    }

    fn small() -> AttentiveConfig {
        AttentiveConfig { epochs: 40, batch: 50, heads: 2, ..AttentiveConfig::default() }
    }

    #[test]
    fn a_marked_token_is_found_and_noise_is_chance() {
        let found = run(true, &small()).unwrap();
        assert_eq!(found.accuracy, 1.0);
        assert!(small().rates.contains(&found.rate) && found.validation == 1.0);
        let noise = run(false, &small()).unwrap();
        // A hundred rows of three classes: a third within three deviations.
        assert!((noise.accuracy - 1.0 / 3.0).abs() < 0.15, "{}", noise.accuracy);
        assert_eq!(noise, run(false, &small()).unwrap());
    }

    #[test]
    fn keys_and_tokens_are_checked() {
        let refused = |config: AttentiveConfig, key: &str| {
            let line = run(true, &config).unwrap_err().to_string();
            assert!(line.starts_with(key), "{line}");
        };
        refused(AttentiveConfig { heads: 3, ..small() }, "heads: 3 heads don't divide the encoder's width 8");
        refused(AttentiveConfig { rates: vec![], ..small() }, "rates");
        refused(AttentiveConfig { rates: vec![f64::NAN], ..small() }, "rates");
        refused(AttentiveConfig { epochs: 0, ..small() }, "epochs");
        refused(AttentiveConfig { weight_decay: -1.0, ..small() }, "weight_decay");
        let nan = |ids: &[usize]| Ok(Tensor::full([ids.len() as i64, 2, 4], f64::NAN, FLOAT));
        let error = attentive_probe(&nan, &[0, 1], &nan, &[0], &small(), Device::Cpu).unwrap_err();
        assert!(error.to_string().contains("not finite"), "{error}");
        let one = |ids: &[usize]| Ok(Tensor::ones([ids.len() as i64, 2, 4], FLOAT));
        assert!(attentive_probe(&one, &[1, 1], &one, &[1], &small(), Device::Cpu).is_err());
        // Constant tokens say nothing, and break nothing.
        let constant = attentive_probe(&one, &[0, 1], &one, &[0, 1], &small(), Device::Cpu).unwrap();
        assert_eq!(constant.accuracy, 0.5);
    }
}
