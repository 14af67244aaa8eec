//! What is measured of a model: held-out loss, kNN, linear probe.

use serde::{Deserialize, Serialize};
use tch::{Device, Tensor};

use super::finetune::FinetuneConfig;
use super::guidance::GuidanceConfig;
use super::tokens;
use crate::data::{Ask, CHUNK, Front, SEED, STILL, prepare, whole};
use crate::eval::{AttentiveConfig, DenseConfig, knn, linear_probe};
use crate::method::{Encoder, Method, Pool, Want};
use crate::schedule::Clock;
use crate::stream::{Purpose, Stream};
use crate::train::Progress;
use crate::{Error, Named, Result};

/// Recipe keys of the held-out loss.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HeldOutConfig {
    /// Every so many steps, and at the end; 0 = only at the end.
    pub every: u64,
    /// Samples, at most.
    pub samples: u64,
}

impl Default for HeldOutConfig {
    fn default() -> Self {
        Self { every: 200, samples: 512 }
    }
}

/// Recipe keys of kNN: cosine similarity, weights exp(similarity / temperature).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KnnConfig {
    /// Every so many steps, and at the end; 0 = only at the end.
    pub every: u64,
    /// Training samples in the bank, at most.
    pub train: u64,
    /// Held-out samples that are classified, at most.
    pub test: u64,
    /// Neighbours.
    pub k: u64,
    /// Temperature of the weights.
    pub temperature: f64,
    /// Which features.
    pub of: Pool,
}

impl Default for KnnConfig {
    fn default() -> Self {
        Self { every: 200, train: 2000, test: 500, k: 20, temperature: 0.07, of: Pool::Tokens }
    }
}

/// Recipe keys of the linear probe, at the end: multinomial logistic regression on standardised features.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LinearConfig {
    /// Training samples, at most.
    pub train: u64,
    /// Held-out samples, at most.
    pub test: u64,
    /// Which features.
    pub of: Pool,
}

impl Default for LinearConfig {
    fn default() -> Self {
        Self { train: 10_000, test: 5000, of: Pool::Tokens }
    }
}

/// Recipe keys of the accuracy of a model that names classes itself, as a fine-tuned one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Top1Config {
    /// Every so many steps, and at the end; 0 = only at the end.
    pub every: u64,
    /// Held-out samples, at most.
    pub samples: u64,
}

impl Default for Top1Config {
    fn default() -> Self {
        Self { every: 200, samples: 5000 }
    }
}

crate::tagged! {
    /// What is measured. Probes need classes and are left out where the data has none.
    pub enum EvaluateConfig {
        /// The loss on held-out samples under masks that never change.
        held_out => HeldOut(HeldOutConfig),
        /// Weighted nearest neighbours.
        knn => Knn(KnnConfig),
        /// Logistic regression, at the end.
        linear => Linear(LinearConfig),
        /// A learned query over all tokens, then a linear map, at the end.
        attentive => Attentive(AttentiveConfig),
        /// Logistic regression on each token, where positions have classes: mean intersection over union, at the end.
        dense => Dense(DenseConfig),
        /// The whole encoder trained to classes, at the end: held-out accuracy.
        finetune => Finetune(FinetuneConfig),
        /// Held-out accuracy of a model that names classes.
        top1 => Top1(Top1Config),
        /// Rank correlation of the scores that choose a guided mask with what the data says of each position.
        guidance => Guidance(GuidanceConfig),
    }
}

impl EvaluateConfig {
    /// Held-out loss and accuracy, for models that name classes.
    #[must_use]
    pub fn of_classes() -> Vec<Self> {
        vec![Self::HeldOut(HeldOutConfig::default()), Self::Top1(Top1Config::default())]
    }

    /// Held-out loss, kNN and linear probe.
    #[must_use]
    pub fn usual() -> Vec<Self> {
        vec![
            Self::HeldOut(HeldOutConfig::default()),
            Self::Knn(KnnConfig::default()),
            Self::Linear(LinearConfig::default()),
        ]
    }

    /// Checks the numbers, before any work is done that they would make useless.
    ///
    /// # Errors
    /// The first key that is out of range.
    pub fn check(&self) -> Result<()> {
        let (counts, temperature): (&[(&str, u64)], f64) = match self {
            Self::HeldOut(config) => (&[("samples", config.samples)], 1.0),
            Self::Knn(c) => (&[("train", c.train), ("test", c.test), ("k", c.k)], c.temperature),
            Self::Linear(config) => (&[("train", config.train), ("test", config.test)], 1.0),
            Self::Dense(config) => (&[("train", config.train), ("test", config.test)], 1.0),
            Self::Top1(config) => (&[("samples", config.samples)], 1.0),
            Self::Guidance(config) => (&[("samples", config.samples)], 1.0),
            Self::Attentive(config) => return config.check(),
            Self::Finetune(config) => return config.check(),
        };
        if let Some((key, _)) = counts.iter().find(|(_, count)| *count == 0) {
            return Err(Error::value(*key, "0 is too small, it takes 1 or more"));
        }
        if !(temperature > 0.0 && temperature.is_finite()) {
            return Err(Error::value("temperature", format!("{temperature} is not a positive number")));
        }
        Ok(())
    }

    /// How often it is measured during training; 0 = only at the end.
    #[must_use]
    pub fn every(&self) -> u64 {
        match self {
            Self::HeldOut(config) => config.every,
            Self::Knn(config) => config.every,
            Self::Top1(config) => config.every,
            Self::Guidance(config) => config.every,
            Self::Linear(_) | Self::Attentive(_) | Self::Dense(_) | Self::Finetune(_) => 0,
        }
    }
}

/// What a method makes of held-out samples.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct HeldOut {
    /// The mean loss.
    pub loss: f64,
    /// Means of its terms, where it has several, and of what the method notes, by their names.
    pub notes: Vec<(&'static str, f64)>,
}

impl HeldOut {
    /// As metrics: `held_out`, and `held_out.NAME` for each note.
    #[must_use]
    pub fn metrics(&self) -> Vec<(String, f64)> {
        let notes = self.notes.iter().map(|(name, value)| (format!("held_out.{name}"), *value));
        std::iter::once(("held_out".to_owned(), self.loss)).chain(notes).collect()
    }
}

/// The means over held-out samples under fixed masks: those of seed 0 at the end of training.
///
/// # Errors
/// Data that can't be read.
pub fn held_out(method: &dyn Method, front: &dyn Front, samples: u64, steps: u64, device: Device) -> Result<HeldOut> {
    // Epoch 0 at the last step: schedules are at their end, and the masks are the same at every call.
    let clock = Clock { step: steps, steps, epoch: 0, steps_in_epoch: 1 };
    let ids: Vec<u64> = (0..front.len().min(samples.max(1))).collect();
    let (mut sums, mut weight): (Vec<(&'static str, f64)>, f64) = (Vec::new(), 0.0);
    for (chunk, ids) in ids.chunks(CHUNK).enumerate() {
        let state = Named::new();
        let ask = Ask { seed: SEED, clock: &clock, train: false, masked: true, state: &state, grid: None };
        let prepared = prepare(front, ids, &ask)?;
        let batch = prepared.to_device(device)?;
        let (values, count) = crate::train::evaluate(method, &batch, &clock, chunk as u64)?;
        for (index, (name, value)) in values.into_iter().enumerate() {
            match sums.get_mut(index) {
                Some((_, sum)) => *sum += value * count,
                None => sums.push((name, value * count)),
            }
        }
        weight += count;
    }
    let mut means = sums.into_iter().map(|(name, sum)| (name, sum / weight.max(1e-300)));
    let loss = means.next().map_or(0.0, |(_, loss)| loss);
    Ok(HeldOut { loss, notes: means.collect() })
}

/// The share of held-out samples whose class a model names; none where it names none or the data has none.
///
/// # Errors
/// Data that can't be read.
pub fn top1(method: &dyn Method, front: &dyn Front, samples: u64, device: Device) -> Result<Option<Score>> {
    // Folders are sorted by class: the first samples would be of one.
    let ids = rows(front, samples);
    let (mut right, mut count) = (0, 0);
    for prepared in whole(front, &ids) {
        let prepared = prepared?;
        let batch = prepared.to_device(device)?;
        let Some(logits) = tch::no_grad(|| method.classify(&batch, &STILL))? else { return Ok(None) };
        let named = Vec::<i64>::try_from(logits.argmax(1, false))?;
        for (item, named) in prepared.items.iter().zip(named) {
            let Some(label) = front.label(item.id) else { return Ok(None) };
            right += usize::from(named == i64::from(label));
            count += 1;
        }
    }
    Ok(Some(Score { kind: "top1", accuracy: right as f64 / f64::from(count.max(1)), train: 0, test: count as usize }))
}

/// Features of samples, with what is known about them.
#[derive(Debug)]
pub struct Embedded {
    /// [N, D] after the final norm, one a wanted [`Pool`] in their order.
    pub features: Vec<(Pool, Tensor)>,
    /// [N, D'], what the samples look like in front of any model; none where the data doesn't say.
    pub raw: Option<Tensor>,
    /// Classes, where the data has them.
    pub labels: Option<Vec<u32>>,
    /// Names of the samples.
    pub names: Vec<String>,
    /// Samples that could not be read, with the reason.
    pub skipped: Vec<String>,
}

/// Runs samples through an encoder, nothing hidden, no augmentation.
///
/// # Errors
/// Data that can't be read.
pub fn embed(
    encoder: &dyn Encoder,
    front: &dyn Front,
    ids: &[u64],
    device: Device,
    what: Option<&str>,
    pools: &[Pool],
) -> Result<Embedded> {
    let mut progress = what.map(|what| Progress::new(what, 0, ids.len() as u64));
    let mut features: Vec<(Pool, Vec<Tensor>)> = pools.iter().map(|pool| (*pool, Vec::new())).collect();
    let (mut raw, mut labels, mut names) = (Some(Vec::new()), Some(Vec::new()), Vec::new());
    let (mut skipped, mut done) = (Vec::new(), 0);
    for prepared in whole(front, ids) {
        let prepared = prepared?;
        let batch = prepared.to_device(device)?;
        let view = batch.views.first().ok_or_else(|| Error::Defect("a batch without views".to_owned()))?;
        tch::no_grad(|| {
            let given = encoder.encode(view, None, &Want::last(), &STILL)?;
            for (pool, all) in &mut features {
                all.push(given.of(*pool)?.to_kind(tch::Kind::Float).to_device(Device::Cpu));
            }
            Ok::<_, Error>(())
        })?;
        for item in &prepared.items {
            raw = raw.zip(front.raw(item)).map(|(mut all, row)| {
                all.push(Tensor::from_slice(&row));
                all
            });
            labels = labels.zip(front.label(item.id)).map(|(mut all, label)| {
                all.push(label);
                all
            });
            names.push(front.name(item.id));
        }
        done += prepared.items.len() + prepared.skipped.len();
        skipped.extend(prepared.skipped);
        if let Some(progress) = &mut progress {
            progress.at(done as u64, "");
        }
    }
    if let Some(progress) = progress {
        progress.finish();
    }
    if features.iter().any(|(_, rows)| rows.is_empty()) {
        return Err(Error::value("data", "there is no sample to embed"));
    }
    let joined = |(pool, rows): (Pool, Vec<Tensor>)| Ok((pool, Tensor::f_cat(&rows, 0)?));
    let stacked = |rows: Vec<Tensor>| Tensor::f_stack(&rows, 0);
    Ok(Embedded {
        features: features.into_iter().map(joined).collect::<Result<_>>()?,
        raw: raw.filter(|rows| !rows.is_empty()).map(stacked).transpose()?,
        labels,
        names,
        skipped,
    })
}

/// One measured number of an encoder.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Score {
    /// What was measured, by its kind in recipes; `dense` is the mean intersection over union, `dense_accuracy` the
    /// share of positions.
    pub kind: &'static str,
    /// The number, 0 to 1: an accuracy but for `dense`.
    pub accuracy: f64,
    /// Training samples.
    pub train: usize,
    /// Held-out samples.
    pub test: usize,
}

/// Scores of one encoder.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Scores {
    /// What was measured: `pre-trained`, `random-initialised encoder`, `raw pixels`.
    pub encoder: String,
    /// Its scores.
    pub scores: Vec<Score>,
}

/// Rows of a data set by a permutation that never changes.
pub(super) fn rows(front: &dyn Front, count: u64) -> Vec<u64> {
    let order = Stream::keyed(SEED, Purpose::Evaluate, 0, 0).permutation(front.len() as usize);
    order.into_iter().take(count as usize).map(u64::from).collect()
}

/// Probes an encoder, and, where `raw_name` says what to call it, the raw samples. Empty where the data has no classes.
///
/// # Errors
/// Data that can't be read, features that aren't finite.
pub fn score(
    name: &str,
    encoder: &dyn Encoder,
    [train, test]: [&dyn Front; 2],
    wanted: &[EvaluateConfig],
    device: Device,
    raw_name: Option<&str>,
) -> Result<Vec<Scores>> {
    let (mut most, mut pools) = ([0, 0], Vec::new());
    for config in wanted {
        let (sizes, pool) = match config {
            EvaluateConfig::Knn(config) => ([config.train, config.test], config.of),
            EvaluateConfig::Linear(config) => ([config.train, config.test], config.of),
            _ => continue,
        };
        most = [most[0].max(sizes[0]), most[1].max(sizes[1])];
        if !pools.contains(&pool) {
            pools.push(pool);
        }
    }
    let mut all = vec![Scores { encoder: name.to_owned(), scores: Vec::new() }];
    if !pools.is_empty() && train.label(0).is_some() && test.label(0).is_some() {
        let of = |front, count, what: &str| {
            embed(encoder, front, &rows(front, count), device, Some(&format!("{name}: {what} features")), &pools)
        };
        let (bank, held) = (of(train, most[0], "training")?, of(test, most[1], "held-out")?);
        let features = |e: &Embedded, pool| e.features.iter().find(|(p, _)| *p == pool).map(|(_, x)| x.shallow_clone());
        all[0].scores = probe(&bank, &held, wanted, features)?;
        if let Some(raw_name) = raw_name.filter(|_| bank.raw.is_some() && held.raw.is_some()) {
            let scores = probe(&bank, &held, wanted, |e, _| e.raw.as_ref().map(Tensor::shallow_clone))?;
            all.push(Scores { encoder: raw_name.to_owned(), scores });
        }
    }
    all[0].scores.extend(tokens::scores(encoder, [train, test], wanted, device)?);
    all.retain(|scores| !scores.scores.is_empty());
    Ok(all)
}

fn probe(
    bank: &Embedded,
    held: &Embedded,
    wanted: &[EvaluateConfig],
    of: impl Fn(&Embedded, Pool) -> Option<Tensor>,
) -> Result<Vec<Score>> {
    let (Some(y), Some(test_y)) = (&bank.labels, &held.labels) else { return Ok(Vec::new()) };
    let pair = |pool, [n, m]: [usize; 2]| {
        let rows = |e: &Embedded, count: usize| of(e, pool).map(|x| x.narrow(0, 0, count as i64));
        let features = rows(bank, n).zip(rows(held, m));
        features.ok_or_else(|| Error::Defect("features that nobody embedded".to_owned()))
    };
    let mut scores = Vec::new();
    for config in wanted {
        let sizes = |train: u64, test: u64| [(train as usize).min(y.len()), (test as usize).min(test_y.len())];
        let (kind, [n, m], accuracy) = match config {
            EvaluateConfig::Knn(config) => {
                let [n, m] = sizes(config.train, config.test);
                let (a, b) = pair(config.of, [n, m])?;
                let k = config.k as usize;
                ("knn", [n, m], knn(&a, &y[..n], &b, &test_y[..m], k, config.temperature)?.accuracy)
            }
            EvaluateConfig::Linear(config) => {
                let [n, m] = sizes(config.train, config.test);
                let (a, b) = pair(config.of, [n, m])?;
                // The rows are in random order already: the last tenth chooses the penalty.
                let validation: Vec<usize> = (n - n / 10..n).collect();
                ("linear", [n, m], linear_probe(&a, &y[..n], &b, &test_y[..m], &validation)?.accuracy)
            }
            _ => continue,
        };
        scores.push(Score { kind, accuracy, train: n, test: m });
    }
    Ok(scores)
}
