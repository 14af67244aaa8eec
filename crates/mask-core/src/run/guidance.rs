//! What the scores of a guided mask know about the data.

use serde::{Deserialize, Serialize};
use tch::Device;

use super::evaluate::rows;
use crate::Result;
use crate::data::{Front, STILL, whole};
use crate::method::Method;

/// Recipe keys of the rank correlation of scores.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GuidanceConfig {
    /// Every so many steps, and at the end; 0 = only at the end.
    pub every: u64,
    /// Held-out samples, at most.
    pub samples: u64,
}

impl Default for GuidanceConfig {
    fn default() -> Self {
        Self { every: 0, samples: 500 }
    }
}

/// The mean over held-out samples of Spearman's rank correlation between the scores of a sample's positions, of which
/// nothing is hidden, and their [`Front::salience`]. None where the method scores nothing or the data says nothing.
///
/// # Errors
/// Data that can't be read.
pub fn guidance(method: &dyn Method, front: &dyn Front, samples: u64, device: Device) -> Result<Option<f64>> {
    let (mut sum, mut count) = (0.0, 0);
    for prepared in whole(front, &rows(front, samples)) {
        let prepared = prepared?;
        let batch = prepared.to_device(device)?;
        let Some(view) = batch.views.first() else { return Ok(None) };
        let Some(scores) = tch::no_grad(|| method.scores(view, &STILL))? else { return Ok(None) };
        let scores: Vec<Vec<f32>> = Vec::try_from(scores.to_kind(tch::Kind::Float).to_device(Device::Cpu))?;
        for (item, scores) in prepared.items.iter().zip(&scores) {
            let Some(known) = front.salience(item)? else { return Ok(None) };
            if let Some(correlation) = spearman(scores, &known) {
                sum += correlation;
                count += 1;
            }
        }
    }
    Ok((count > 0).then(|| sum / f64::from(count)))
}

/// Spearman's rank correlation, ties sharing their mean rank; none where one side is constant.
fn spearman(a: &[f32], b: &[f32]) -> Option<f64> {
    if a.len() != b.len() {
        return None;
    }
    let [a, b] = [a, b].map(ranks);
    let mean = (a.len() as f64 - 1.0) / 2.0;
    let (mut product, mut squares) = (0.0, [0.0; 2]);
    for (x, y) in a.iter().zip(&b) {
        product += (x - mean) * (y - mean);
        squares[0] += (x - mean).powi(2);
        squares[1] += (y - mean).powi(2);
    }
    let scale = (squares[0] * squares[1]).sqrt();
    (scale > 0.0).then(|| product / scale)
}

/// The rank of each value from 0, the mean of their ranks for values that are equal.
fn ranks(values: &[f32]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|a, b| values[*a].total_cmp(&values[*b]));
    let mut ranks = vec![0.0; values.len()];
    let mut first = 0;
    while first < order.len() {
        let mut last = first;
        while last + 1 < order.len() && values[order[last + 1]] == values[order[first]] {
            last += 1;
        }
        order[first..=last].iter().for_each(|at| ranks[*at] = (first + last) as f64 / 2.0);
        first = last + 1;
    }
    ranks
}

#[cfg(test)]
mod tests {
    use super::*;

    /// scipy.stats.spearmanr.
    #[test]
    fn spearman_is_scipys() {
        let close = |a: &[f32], b: &[f32], pin: f64| (spearman(a, b).unwrap() - pin).abs() < 1e-6;
        assert!(close(&[1.0, 2.0, 3.0, 4.0], &[10.0, 20.0, 30.0, 40.0], 1.0));
        assert!(close(&[1.0, 2.0, 3.0, 4.0], &[4.0, 3.0, 2.0, 1.0], -1.0));
        assert!(close(&[1.0, 2.0, 2.0, 4.0, 0.5], &[0.0, 0.0, 3.0, 1.0, 0.2], 0.394_737));
        assert_eq!(spearman(&[1.0, 1.0], &[0.0, 3.0]), None);
    }
}
