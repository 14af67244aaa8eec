//! Probes that read the tokens of an encoder one by one.

use tch::{Device, Kind, Tensor};

use super::evaluate::{EvaluateConfig, Score, rows};
use crate::data::{Front, STILL, whole};
use crate::eval::{AttentiveConfig, DenseConfig, attentive_probe, dense_probe};
use crate::method::{Encoder, Want};
use crate::{Error, Result};

/// Tokens of at most so many bytes are kept; others are made anew each time they are read.
const KEPT: usize = 1 << 31;

/// Scores of the attentive and the dense probe, where they are wanted and the data has what they learn.
pub(super) fn scores(
    encoder: &dyn Encoder,
    fronts: [&dyn Front; 2],
    wanted: &[EvaluateConfig],
    device: Device,
) -> Result<Vec<Score>> {
    let mut scores = Vec::new();
    for config in wanted {
        match config {
            EvaluateConfig::Attentive(config) if fronts.iter().all(|front| front.label(0).is_some()) => {
                scores.push(attentive(encoder, fronts, config, device)?);
            }
            EvaluateConfig::Dense(config) if fronts[0].position_labels(0)?.is_some() => {
                scores.extend(dense(encoder, fronts, config, device)?);
            }
            _ => {}
        }
    }
    Ok(scores)
}

/// The tokens of some samples, nothing hidden, no augmentation: [n, T, D].
fn tokens(encoder: &dyn Encoder, front: &dyn Front, ids: &[u64], device: Device) -> Result<Tensor> {
    let mut all = Vec::new();
    for prepared in whole(front, ids) {
        let prepared = prepared?;
        if let Some(problem) = prepared.skipped.first() {
            return Err(Error::value("data", format!("a probe of tokens needs every sample: {problem}")));
        }
        let batch = prepared.to_device(device)?;
        let view = batch.views.first().ok_or_else(|| Error::Defect("a batch without views".to_owned()))?;
        let features = tch::no_grad(|| encoder.encode(view, None, &Want::last(), &STILL))?;
        if features.valid.is_some() {
            return Err(Error::value("data", "a probe of tokens needs samples of one length"));
        }
        all.push(features.tokens().to_kind(Kind::Float));
    }
    Ok(Tensor::f_cat(&all, 0)?)
}

/// The tokens of samples by their places in a list: kept where they fit, made anew elsewhere.
struct Bank<'a> {
    encoder: &'a dyn Encoder,
    front: &'a dyn Front,
    ids: Vec<u64>,
    device: Device,
    kept: Option<Tensor>,
}

impl<'a> Bank<'a> {
    fn new(encoder: &'a dyn Encoder, front: &'a dyn Front, count: u64, device: Device) -> Result<Self> {
        let ids = rows(front, count);
        let first = tokens(encoder, front, &ids[..ids.len().min(1)], device)?;
        let kept = match first.numel().saturating_mul(ids.len()).saturating_mul(4) {
            bytes if bytes <= KEPT => Some(tokens(encoder, front, &ids, device)?),
            _ => None,
        };
        Ok(Self { encoder, front, ids, device, kept })
    }

    fn labels(&self) -> Result<Vec<u32>> {
        let label = |id: &u64| self.front.label(*id);
        let labels: Option<Vec<u32>> = self.ids.iter().map(label).collect();
        labels.ok_or_else(|| Error::value("data", "has samples without a class"))
    }

    fn read(&self, places: &[usize]) -> Result<Tensor> {
        if let Some(kept) = &self.kept {
            let places = Tensor::from_slice(&places.iter().map(|place| *place as i64).collect::<Vec<_>>());
            return Ok(kept.f_index_select(0, &places.to_device(self.device))?);
        }
        let ids: Vec<u64> = places.iter().map(|place| self.ids[*place]).collect();
        tokens(self.encoder, self.front, &ids, self.device)
    }
}

fn attentive(
    encoder: &dyn Encoder,
    [train, test]: [&dyn Front; 2],
    config: &AttentiveConfig,
    device: Device,
) -> Result<Score> {
    let (bank, held) =
        (Bank::new(encoder, train, config.train, device)?, Bank::new(encoder, test, config.test, device)?);
    let (labels, test_labels) = (bank.labels()?, held.labels()?);
    let (of, held) = (|places: &[usize]| bank.read(places), |places: &[usize]| held.read(places));
    let result = attentive_probe(&of, &labels, &held, &test_labels, config, device)?;
    Ok(Score { kind: "attentive", accuracy: result.accuracy, train: labels.len(), test: test_labels.len() })
}

fn dense(
    encoder: &dyn Encoder,
    [train, test]: [&dyn Front; 2],
    config: &DenseConfig,
    device: Device,
) -> Result<Vec<Score>> {
    let of = |front: &dyn Front, count| -> Result<(Tensor, Vec<u32>)> {
        let ids = rows(front, count);
        let mut labels = Vec::new();
        for id in &ids {
            let own = front.position_labels(*id)?;
            labels.extend(own.ok_or_else(|| Error::value("data", "has samples without classes of positions"))?.classes);
        }
        Ok((tokens(encoder, front, &ids, device)?.to_device(Device::Cpu), labels))
    };
    let ((tokens, labels), (test_tokens, test_labels)) = (of(train, config.train)?, of(test, config.test)?);
    let result = dense_probe(&tokens, &labels, &test_tokens, &test_labels)?;
    let [train, test] = [tokens.size()[0], test_tokens.size()[0]].map(|rows| rows as usize);
    Ok([("dense", result.mean_iou), ("dense_accuracy", result.accuracy)]
        .map(|(kind, accuracy)| Score { kind, accuracy, train, test })
        .to_vec())
}
