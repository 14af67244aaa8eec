//! Values that move over training.

use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// Where training is. Schedules read it; some move a step, some an epoch, some by absolute steps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Clock {
    /// Optimiser steps done, from 0.
    pub step: u64,
    /// Steps of the whole run.
    pub steps: u64,
    /// Epoch, from 0.
    pub epoch: u64,
    /// Steps of an epoch.
    pub steps_in_epoch: u64,
}

impl Clock {
    /// The clock at a step.
    #[must_use]
    pub fn at(step: u64, steps: u64, steps_in_epoch: u64) -> Self {
        let steps_in_epoch = steps_in_epoch.max(1);
        Self { step, steps, epoch: step / steps_in_epoch, steps_in_epoch }
    }

    /// Share of training done, 0 to 1.
    #[must_use]
    pub fn progress(&self) -> f64 {
        self.step as f64 / self.steps.max(1) as f64
    }

    /// Epochs of the whole run, the last one counted whole.
    #[must_use]
    pub fn epochs(&self) -> u64 {
        self.steps.div_ceil(self.steps_in_epoch.max(1)).max(1)
    }

    /// The same clock one step and one epoch later, for rules that count from 1.
    #[must_use]
    pub fn next(&self) -> Self {
        Self { step: self.step + 1, epoch: self.epoch + 1, ..*self }
    }
}

/// A value as a function of the clock.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Curve {
    /// Straight from `from` to `to`.
    Linear,
    /// Half a cosine from `from` to `to`.
    Cosine,
}

/// When a value moves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Tick {
    /// At every step.
    Step,
    /// At every epoch, and not within one.
    Epoch,
}

/// Recipe keys of a stretch at the beginning of training.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Stretch {
    /// What is counted.
    pub tick: Tick,
    /// How many.
    pub ticks: u64,
}

impl Stretch {
    /// Whether the clock is still within it.
    #[must_use]
    pub fn holds(&self, clock: &Clock) -> bool {
        let now = match self.tick {
            Tick::Step => clock.step,
            Tick::Epoch => clock.epoch,
        };
        now < self.ticks
    }
}

/// Recipe keys of a value that moves from one number to another over training.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ramp {
    /// The value at the beginning.
    pub from: f64,
    /// The value at the end.
    pub to: f64,
    /// How it moves in between.
    pub curve: Curve,
    /// When it moves.
    pub tick: Tick,
    /// The number of ticks that it takes, the last of which has `to`, where it stays; none = all of training, whose
    /// end has `to`.
    pub ticks: Option<u64>,
}

impl Default for Ramp {
    fn default() -> Self {
        Self { from: 0.15, to: 0.75, curve: Curve::Linear, tick: Tick::Step, ticks: None }
    }
}

impl Ramp {
    /// A value that stays.
    #[must_use]
    pub fn constant(value: f64) -> Self {
        Self::new(value, value, Curve::Linear)
    }

    /// A value that moves at every step of training.
    #[must_use]
    pub fn new(from: f64, to: f64, curve: Curve) -> Self {
        Self { from, to, curve, ..Self::default() }
    }

    /// Checks both numbers against a range.
    ///
    /// # Errors
    /// The one that lies outside, by its key below `key`; a ramp of no tick.
    pub fn check(&self, key: &str, range: std::ops::RangeInclusive<f64>) -> Result<()> {
        let [low, high] = [range.start(), range.end()];
        for (end, value) in [("from", self.from), ("to", self.to)] {
            if !range.contains(&value) {
                return Err(Error::value(format!("{key}.{end}"), format!("{value} lies outside {low} to {high}")));
            }
        }
        if self.ticks == Some(0) {
            return Err(Error::value(format!("{key}.ticks"), "0 is too small, it takes 1 or more"));
        }
        Ok(())
    }

    /// The value at the clock; at the end of training exactly `to`.
    #[must_use]
    pub fn at(&self, clock: &Clock) -> f64 {
        // At the end of training every epoch is over, whatever the clock counts as one.
        let over = clock.step >= clock.steps;
        let (now, all) = match self.tick {
            Tick::Step => (clock.step, clock.steps),
            Tick::Epoch if over => (clock.epochs(), clock.epochs()),
            Tick::Epoch => (clock.epoch, clock.epochs()),
        };
        let share = match self.ticks {
            _ if over => 1.0,
            None => now as f64 / all.max(1) as f64,
            Some(ticks) if now + 1 >= ticks => 1.0,
            Some(ticks) => now as f64 / (ticks - 1) as f64,
        };
        between(self.curve, self.from, self.to, share)
    }
}

/// A value between two, at a share 0 to 1 of the way.
fn between(curve: Curve, from: f64, to: f64, share: f64) -> f64 {
    let share = share.clamp(0.0, 1.0);
    match curve {
        Curve::Linear => from + (to - from) * share,
        Curve::Cosine => to + (from - to) * 0.5 * (1.0 + (std::f64::consts::PI * share).cos()),
    }
}

/// How the rate falls after its warm-up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Decay {
    /// Half a cosine down to `last`, whose clock starts after the warm-up (MAE).
    Cosine,
    /// Half a cosine down to `last`, whose clock runs from step 0, so that the rate drops where the warm-up ends
    /// (timm without a warm-up prefix: SimMIM).
    CosineFromStart,
    /// Straight down to `last`.
    Linear,
    /// The peak up to `drop_at` of training, then `last` (SimMIM's long recipe).
    Step,
    /// No decay.
    Constant,
}

/// Recipe keys of the rate over training: a straight warm-up, then a decay. Reached once a step.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RateConfig {
    /// Steps of warm-up.
    pub warmup_steps: u64,
    /// The rate at step 0, as a share of the peak.
    pub first: f64,
    /// How it falls.
    pub decay: Decay,
    /// The rate at the end, as a share of the peak.
    pub last: f64,
    /// Where `step` drops, as a share of training.
    pub drop_at: f64,
}

impl Default for RateConfig {
    fn default() -> Self {
        Self { warmup_steps: 0, first: 0.0, decay: Decay::Cosine, last: 0.0, drop_at: 0.875 }
    }
}

impl RateConfig {
    /// Checks the numbers.
    ///
    /// # Errors
    /// A share outside 0 to 1.
    pub fn check(&self) -> Result<()> {
        for (key, share) in [("first", self.first), ("last", self.last), ("drop_at", self.drop_at)] {
            if !(0.0..=1.0).contains(&share) {
                return Err(Error::value(
                    format!("train.schedule.{key}"),
                    format!("{share} is not a share from 0 to 1"),
                ));
            }
        }
        Ok(())
    }

    /// The factor on the peak rate at the clock.
    #[must_use]
    pub fn at(&self, clock: &Clock) -> f64 {
        let warmup = self.warmup_steps.min(clock.steps);
        if clock.step < warmup {
            return self.first + (1.0 - self.first) * clock.step as f64 / warmup as f64;
        }
        let after = (clock.step - warmup) as f64 / (clock.steps - warmup).max(1) as f64;
        match self.decay {
            Decay::Cosine => between(Curve::Cosine, 1.0, self.last, after),
            Decay::CosineFromStart => between(Curve::Cosine, 1.0, self.last, clock.progress()),
            Decay::Linear => between(Curve::Linear, 1.0, self.last, after),
            Decay::Step if clock.progress() >= self.drop_at => self.last,
            Decay::Step | Decay::Constant => 1.0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Ledger 081: the rate of batch 4096 (2.4e-3) over 40 of 800 epochs of warm-up, a step an epoch here.
    #[test]
    fn maes_rate() {
        let config = RateConfig { warmup_steps: 40, ..RateConfig::default() };
        let rate = |step| 2.4e-3 * config.at(&Clock::at(step, 800, 1));
        assert_eq!(rate(0), 0.0);
        assert!((rate(20) - 1.2e-3).abs() < 1e-12);
        assert_eq!(rate(40), 2.4e-3);
        assert!(rate(800).abs() < 1e-12);
    }

    /// Ledger 007: at 10 warm-up epochs of 100 the rate drops to 0.9755 of the peak.
    #[test]
    fn simmims_rate() {
        let config = RateConfig { warmup_steps: 10, decay: Decay::CosineFromStart, ..RateConfig::default() };
        assert!((config.at(&Clock::at(10, 100, 1)) - 0.97553).abs() < 1e-5);
        assert!((config.at(&Clock::at(9, 100, 1)) - 0.9).abs() < 1e-12);
        // The 800-epoch recipe: a tenth from epoch 700.
        let long = RateConfig { warmup_steps: 10, decay: Decay::Step, last: 0.1, ..RateConfig::default() };
        assert_eq!([699, 700].map(|epoch| long.at(&Clock::at(epoch, 800, 1))), [1.0, 0.1]);
    }

    /// Ledger I-JEPA: a weight decay from 0.04 to 0.4 by half a cosine.
    #[test]
    fn ijepas_weight_decay() {
        let ramp = Ramp::new(0.04, 0.4, Curve::Cosine);
        for (step, decay) in [(0, 0.04), (25, 0.09272), (50, 0.22), (75, 0.34728), (100, 0.4)] {
            assert!((ramp.at(&Clock::at(step, 100, 1)) - decay).abs() < 1e-5);
        }
    }

    /// Ledger 070: temperatures linspace(0.04, 0.07, 30) by epoch, then constant; the EMA's cosine over all steps.
    #[test]
    fn attmasks_temperature_and_momentum() {
        let ramp = Ramp { tick: Tick::Epoch, ticks: Some(30), ..Ramp::new(0.04, 0.07, Curve::Linear) };
        let at = |epoch: u64| ramp.at(&Clock::at(epoch * 10 + 3, 1000, 10));
        assert_eq!([at(0), at(29), at(50)], [0.04, 0.07, 0.07]);
        assert!((at(1) - (0.04 + 0.03 / 29.0)).abs() < 1e-12);
        let momentum = Ramp::new(0.996, 1.0, Curve::Cosine);
        let at = |step| momentum.at(&Clock::at(step, 100, 10));
        assert!((at(0) - 0.996).abs() < 1e-12 && (at(50) - 0.998).abs() < 1e-12 && at(99) < 1.0);
        assert_eq!(at(100), 1.0);
    }

    /// Ledger 021: the decay 0.999 + e/100 * 0.0009 up to epoch 100, 0.9999 after.
    #[test]
    fn hpms_momentum() {
        let ramp = Ramp { tick: Tick::Epoch, ticks: Some(101), ..Ramp::new(0.999, 0.9999, Curve::Linear) };
        for (epoch, decay) in [(0, 0.999), (50, 0.99945), (99, 0.999_891), (100, 0.9999), (150, 0.9999)] {
            assert!((ramp.at(&Clock::at(epoch, 200, 1)) - decay).abs() < 1e-12, "{epoch}");
        }
    }

    #[test]
    fn a_stretch_ends() {
        let at = |tick, ticks, step| Stretch { tick, ticks }.holds(&Clock::at(step, 100, 10));
        assert_eq!([at(Tick::Step, 10, 9), at(Tick::Step, 10, 10), at(Tick::Step, 0, 0)], [true, false, false]);
        assert_eq!([at(Tick::Epoch, 1, 9), at(Tick::Epoch, 1, 10)], [true, false]);
    }

    #[test]
    fn an_epoch_is_counted() {
        assert_eq!(Clock::at(25, 100, 10).epoch, 2);
        assert_eq!(Clock::at(25, 100, 0).epoch, 25);
    }

    proptest! {
        #[test]
        fn the_rate_stays_between_0_and_the_peak(step in 0u64..2000, steps in 1u64..1000, warmup in 0u64..2000) {
            for decay in [Decay::Cosine, Decay::CosineFromStart, Decay::Linear, Decay::Step, Decay::Constant] {
                let config = RateConfig { warmup_steps: warmup, first: 0.1, decay, last: 0.01, drop_at: 0.5 };
                let factor = config.at(&Clock::at(step, steps, 7));
                prop_assert!((0.0..=1.0).contains(&factor), "{}", factor);
            }
        }
    }
}
