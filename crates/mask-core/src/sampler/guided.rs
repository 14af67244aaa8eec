//! Positions by the scores that a model gives them: AttMask's most attended patches, HPM's hardest ones.

use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor};

use super::{Claims, Ratio, Rounding, Sampler, Site};
use crate::grid::Layout;
use crate::plan::{DevicePlan, Draft};
use crate::schedule::{Clock, Ramp};
use crate::stream::Stream;
use crate::{Error, Result};

/// Which scores are hidden first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Which {
    /// The highest.
    Highest,
    /// The lowest.
    Lowest,
}

/// Recipe keys of [`Guided`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GuidedConfig {
    /// Share hidden.
    pub ratio: Ratio,
    /// How the share becomes a whole number.
    pub rounding: Rounding,
    /// Which scores are hidden first.
    pub which: Which,
    /// Share of the hidden positions that the scores choose, rounded down; the rest is uniform over the others. Its
    /// clock counts from 1, so that training ends with the ramp's end (HPM).
    pub share: Ramp,
    /// Probability that a sample is not masked at all (AttMask: 0.5).
    pub whole: f64,
    /// Share of all positions, those hidden first, some of which are shown again: the mask ratio of them, drawn a
    /// second time (AttMask-Hint: 0.1).
    pub hint: f64,
}

impl Default for GuidedConfig {
    /// The share of MAE, all of it by the highest scores.
    fn default() -> Self {
        Self {
            ratio: Ratio::Fixed(0.75),
            rounding: Rounding::HideFloor,
            which: Which::Highest,
            share: Ramp::constant(1.0),
            whole: 0.0,
            hint: 0.0,
        }
    }
}

impl GuidedConfig {
    /// The sampler.
    ///
    /// # Errors
    /// A share outside 0 to 1.
    pub fn build(&self) -> Result<Guided> {
        self.ratio.check()?;
        self.share.check("share", 0.0..=1.0)?;
        for (key, share) in [("whole", self.whole), ("hint", self.hint)] {
            if !(0.0..=1.0).contains(&share) {
                return Err(Error::value(key, format!("{share} is not a share from 0 to 1")));
            }
        }
        Ok(Guided(self.clone()))
    }
}

/// The loader decides how many positions a row hides and draws their noise; a model's scores decide which ones.
///
/// Ties go to the lower position. `select` reads nothing back and draws nothing: each position's noise orders the
/// uniform rest, and, among the positions hidden first, those that are shown again.
///
/// AttMask (arXiv 2203.12719, section 3.3; official `attmask.py`), HPM (arXiv 2304.05919, section 3.3). Deviations:
/// hints come only from what the scores hid, so that a count is known before the scores are (official: also where a
/// ratio below `hint` hid fewer); HPM's official sort lets a tie go to the higher position.
pub struct Guided(GuidedConfig);

/// Noise of positions that may not be hidden: it comes after all other noise.
const FIXED: f32 = 2.0;

impl Sampler for Guided {
    fn draft(&self, site: &Site<'_>, sample: &mut Stream, step: &mut Stream) -> Result<Draft> {
        let GuidedConfig { ratio, rounding, share, whole, hint, .. } = &self.0;
        let free = site.layout.free().len();
        let mut chosen = ratio.hidden(free, *rounding, site.clock, sample, step);
        // Drawn whatever the keys say, so that arms that differ in them share all other draws.
        let again = ratio.share(free, site.clock, sample, step);
        if sample.uniform() < *whole {
            chosen = 0;
        }
        let by_score = (chosen as f64 * share.at(&site.clock.next())) as usize;
        let pool = ((free as f64 * hint) as usize).min(by_score);
        let shown = ((hint * again * free as f64) as usize).min(pool);
        let mut noise = sample.noise(site.layout.len());
        site.layout.fixed().iter().for_each(|position| noise[*position as usize] = FIXED);
        let counts = [chosen - shown, by_score, pool, shown].map(|count| count as u32).to_vec();
        Ok(Draft::Open { noise, counts })
    }

    fn select(&self, noise: &Tensor, counts: &[Vec<u32>], scores: &Tensor) -> Result<DevicePlan> {
        if counts.iter().any(|row| row.len() != 4) || scores.size() != noise.size() {
            return Err(Error::shape("scores", format!("{:?}", noise.size()), &scores.size()));
        }
        let column = |which: fn(&[u32]) -> u32| {
            let numbers: Vec<i64> = counts.iter().map(|row| i64::from(which(row))).collect();
            Tensor::from_slice(&numbers).view([-1, 1]).to_device(noise.device())
        };
        // The place of each position in an ascending stable order.
        let place = |key: &Tensor| key.argsort_stable(true, 1, false).argsort(1, false);
        let fixed = noise.ge(1.0);
        let key = match self.0.which {
            Which::Highest => -scores,
            Which::Lowest => scores.shallow_clone(),
        };
        let order = place(&key.to_kind(Kind::Float).masked_fill(&fixed, f64::INFINITY)); // [B, L]
        let by_score = order.less_tensor(&column(|row| row[1]));
        let chosen = place(&noise.masked_fill(&by_score, -1.0)).less_tensor(&column(|row| row[0] + row[3]));
        let outside = order.greater_equal_tensor(&column(|row| row[2]));
        let shown = place(&noise.masked_fill(&outside, 3.0)).less_tensor(&column(|row| row[3]));
        let hidden = chosen.logical_and(&shown.logical_not());
        let hidden_counts: Vec<u32> = counts.iter().map(|row| row[0]).collect();
        Ok(DevicePlan::hiding(hidden, &hidden_counts))
    }

    fn claims(&self, layout: &Layout, clock: &Clock) -> Result<Claims> {
        let GuidedConfig { ratio, rounding, whole, hint, .. } = &self.0;
        let free = layout.free().len();
        let [low, high] = ratio.range(free, *rounding, clock);
        // Hints take away at most all that are hidden by score.
        let most_shown = (free as f64 * hint) as usize;
        let least = if *whole > 0.0 { 0 } else { low.saturating_sub(most_shown) };
        let [low, high_usual] = ratio.usual(free, *rounding, clock);
        let every_position = *hint == 0.0 && *whole < 1.0 && (low < free || *whole > 0.0) && high_usual > 0 && free > 1;
        Ok(Claims { hidden: least..=if *whole < 1.0 { high } else { 0 }, every_position })
    }
}

#[cfg(test)]
mod pins {
    use super::*;
    use crate::grid::Grid;
    use crate::sampler::{Moment, Per, Row, draw};
    use crate::schedule::{Curve, Tick};
    use tch::Device;

    fn hidden(config: &GuidedConfig, scores: &[f32], noise: &[f32], counts: [u32; 4]) -> Vec<i64> {
        let row = |numbers: &[f32]| Tensor::from_slice(numbers).view([1, -1]);
        let plan = config.build().unwrap().select(&row(noise), &[counts.to_vec()], &row(scores)).unwrap();
        assert_eq!(plan.hidden.sum(Kind::Int64), Tensor::from(i64::from(counts[0])));
        Vec::try_from(plan.scored.flat).unwrap()
    }

    fn counts(config: &GuidedConfig, length: usize, clock: &Clock, rows: u64) -> Vec<Vec<u32>> {
        let layout = Layout::single(Grid::line(length));
        let rows: Vec<Row> =
            (0..rows).map(|id| Row { id, layout: layout.clone(), hints: Default::default() }).collect();
        let state = Default::default();
        let drafts = draw(&config.build().unwrap(), &rows, 0, &Moment { seed: 5, clock, state: &state }).unwrap();
        drafts
            .into_iter()
            .map(|draft| match draft {
                Draft::Open { counts, .. } => counts,
                Draft::Ready(_) => panic!("a guided draft is open"),
            })
            .collect()
    }

    const SCORES: [f32; 8] = [0.05, 0.20, 0.10, 0.30, 0.02, 0.08, 0.15, 0.10];

    /// Ledger 070: High and Low of the worked scores; ids 2 and 7 tie.
    #[test]
    fn attmask_high_and_low() {
        let high = GuidedConfig::default();
        let low = GuidedConfig { which: Which::Lowest, ..high.clone() };
        let noise = Stream::new(1).noise(8);
        assert_eq!(hidden(&high, &SCORES, &noise, [2, 2, 0, 0]), [1, 3]);
        assert_eq!(hidden(&low, &SCORES, &noise, [2, 2, 0, 0]), [0, 4]);
        assert_eq!(hidden(&high, &SCORES, &noise, [4, 4, 0, 0]), [1, 2, 3, 6]);
        assert_eq!(hidden(&low, &SCORES, &noise, [4, 4, 0, 0]), [0, 2, 4, 5]);
        // Any strictly increasing map of the scores leaves the mask as it is.
        let mapped = SCORES.map(|score| (10.0 * score).exp());
        assert_eq!(hidden(&high, &mapped, &noise, [4, 4, 0, 0]), [1, 2, 3, 6]);
        assert_eq!(hidden(&high, &SCORES, &noise, [0, 0, 0, 0]), [0i64; 0]);
    }

    /// Ledger 070: Hint is High without some of the very top, chosen by noise.
    #[test]
    fn attmask_hint() {
        let config = GuidedConfig::default();
        let noise = [0.9, 0.1, 0.5, 0.2, 0.5, 0.5, 0.5, 0.5];
        // The top two are 3 and 1; of them 1 has the smaller noise.
        assert_eq!(hidden(&config, &SCORES, &noise, [3, 4, 2, 1]), [2, 3, 6]);
        assert_eq!(hidden(&config, &SCORES, &noise, [2, 4, 2, 2]), [2, 6]);
    }

    /// Ledger 070: counts at L = 196 for one ratio a step from 0.1 to 0.5, half of the rows whole, T = 19.
    #[test]
    fn attmask_counts() {
        let ratio = Ratio::Uniform { low: 0.1, high: 0.5, per: Per::Step };
        let config = GuidedConfig { ratio, whole: 0.5, hint: 0.1, ..GuidedConfig::default() };
        let (mut sum, mut shown, mut masked, mut rows) = (0.0, 0.0, 0.0, 0.0);
        for step in 0..2000 {
            let counts = counts(&config, 196, &Clock::at(step, 2000, 1), 8);
            let on: Vec<&Vec<u32>> = counts.iter().filter(|row| row[1] > 0).collect();
            assert!(on.iter().all(|row| row == &on[0]), "one ratio a step");
            for row in &on {
                assert!((19..=98).contains(&row[1]) && row[2] == 19 && (1..=9).contains(&row[3]));
                assert_eq!(row[0] + row[3], row[1]);
                (sum, shown) = (sum + f64::from(row[1]), shown + f64::from(row[3]));
            }
            (masked, rows) = (masked + on.len() as f64, rows + counts.len() as f64);
        }
        assert!((masked / rows - 0.5).abs() < 0.02);
        assert!((sum / masked - 58.30).abs() < 1.5 && (shown / masked - 5.388).abs() < 0.12);
    }

    /// Ledger 021: how many of the M hidden are the hardest ones, by epoch and by step.
    #[test]
    fn hpm_counts() {
        let share = Ramp { tick: Tick::Epoch, ..Ramp::new(0.0, 0.5, Curve::Linear) };
        let config = GuidedConfig { rounding: Rounding::KeepFloor, share, ..GuidedConfig::default() };
        let at = |epoch: u64, epochs: u64, length| {
            counts(&config, length, &Clock::at(epoch * 3, epochs * 3, 3), 1).remove(0)
        };
        for (epoch, hard) in [(0, 0), (1, 0), (2, 1), (49, 18), (99, 36), (199, 73)] {
            assert_eq!(at(epoch, 200, 196)[..2], [147, hard], "epoch {epoch}");
        }
        assert_eq!([9, 10, 799].map(|epoch| at(epoch, 800, 196)[1]), [0, 1, 73]);
        let by_step = GuidedConfig { share: Ramp::new(0.0, 0.5, Curve::Linear), ..config.clone() };
        let at = |step| counts(&by_step, 49, &Clock::at(step, 500, 46), 1).remove(0);
        assert_eq!([26, 27, 249, 499].map(|step| at(step)[1]), [0, 1, 9, 18]);
        assert_eq!(at(0)[0], 37);
        // All of them by score in the last epoch of a share up to 1: exactly the top M.
        let all = GuidedConfig { share: Ramp::new(0.0, 1.0, Curve::Linear), ..by_step };
        assert_eq!(counts(&all, 49, &Clock::at(499, 500, 46), 1).remove(0)[..2], [37, 37]);
    }

    /// Ledger 021: a position outside the top H is hidden with probability (M - H) / (L - H), 74/123 at H = 73.
    #[test]
    fn hpm_fills_uniformly() {
        let (rows, length) = (4000i64, 196i64);
        let noise = Tensor::from_slice(&Stream::new(2).noise((rows * length) as usize)).view([rows, length]);
        let scores = Tensor::arange(length, (Kind::Float, Device::Cpu)).expand([rows, length], false);
        let counts = vec![vec![147, 73, 0, 0]; rows as usize];
        let plan = GuidedConfig::default().build().unwrap().select(&noise, &counts, &scores).unwrap();
        let share: Vec<f64> =
            Vec::try_from(plan.hidden.to_kind(Kind::Double).mean_dim(0, false, Kind::Double)).unwrap();
        for (position, share) in share.into_iter().enumerate() {
            let wanted = if position >= 123 { 1.0 } else { 74.0 / 123.0 };
            assert!((share - wanted).abs() < 0.035, "{position}: {share}"); // 4.5 standard deviations
        }
    }
}
