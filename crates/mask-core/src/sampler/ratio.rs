//! How many positions are hidden.

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::schedule::{Clock, Ramp};
use crate::stream::Stream;
use crate::{Error, Result};

/// How a share becomes a whole number. Papers differ, and some positions hang on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Rounding {
    /// `int(L * (1 - r))` stay visible (MAE).
    KeepFloor,
    /// `int(L * r)` are hidden.
    HideFloor,
    /// `ceil(L * r)` are hidden (SimMIM).
    HideCeil,
    /// `round(L * r)` are hidden, halves to even.
    HideRound,
    /// `floor(L * r + u)` with u uniform on [0, 1) are hidden (fairseq).
    HideStochastic,
}

impl Rounding {
    /// The number hidden of `length` at share `ratio`.
    fn hidden(self, length: usize, ratio: f64, sample: &mut Stream) -> usize {
        let wanted = length as f64 * ratio;
        let hidden = match self {
            Self::KeepFloor => return length - ((length as f64 * (1.0 - ratio)) as usize).min(length),
            Self::HideFloor => wanted as usize,
            Self::HideCeil => wanted.ceil() as usize,
            Self::HideRound => wanted.round_ties_even() as usize,
            // floor(wanted + u), without its rounding: a whole number stays.
            Self::HideStochastic => wanted as usize + usize::from(sample.uniform() >= 1.0 - wanted.fract()),
        };
        hidden.min(length)
    }

    /// The smallest and the largest number hidden.
    fn range(self, length: usize, [low, high]: [f64; 2]) -> [usize; 2] {
        let mut unused = Stream::new(0);
        match self {
            Self::HideStochastic => {
                [(length as f64 * low) as usize, ((length as f64 * high).ceil() as usize).min(length)]
            }
            exact => [exact.hidden(length, low, &mut unused), exact.hidden(length, high, &mut unused)],
        }
    }
}

/// For what a share is drawn anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Per {
    /// Every sample has its own.
    Sample,
    /// One for all samples of a step.
    Step,
}

/// The mask ratio: a number in a recipe, or a mapping with `kind`.
#[derive(Clone, Debug, PartialEq)]
pub enum Ratio {
    /// Always the same share: `ratio: 0.75`.
    Fixed(f64),
    /// A number of positions (of cells, where the sampler draws cells): `{ kind: count, hidden: 75 }`.
    Count(usize),
    /// Moves over training: `{ kind: ramp, from: 0.15, to: 0.3, curve: linear }`.
    Ramp(Ramp),
    /// Drawn uniformly: `{ kind: uniform, low: 0.5, high: 1.0, per: sample }`.
    Uniform {
        /// The least share.
        low: f64,
        /// The greatest share.
        high: f64,
        /// For what it is drawn.
        per: Per,
    },
}

impl Ratio {
    /// Checks the numbers.
    ///
    /// # Errors
    /// A share outside 0 to 1.
    pub fn check(&self) -> Result<()> {
        let shares = match self {
            Self::Fixed(share) => [*share; 2],
            Self::Count(_) => [0.0; 2],
            Self::Ramp(ramp) => return ramp.check("ratio", 0.0..=1.0),
            Self::Uniform { low, high, .. } if low <= high => [*low, *high],
            Self::Uniform { low, high, .. } => {
                return Err(Error::value("ratio", format!("low {low} lies above high {high}")));
            }
        };
        match shares.iter().find(|share| !(0.0..=1.0).contains(*share)) {
            Some(share) => Err(Error::value("ratio", format!("{share} is not a share from 0 to 1"))),
            None => Ok(()),
        }
    }

    /// The number hidden of `length`. `step` gives the draws that are equal for all rows.
    pub fn hidden(
        &self,
        length: usize,
        rounding: Rounding,
        clock: &Clock,
        sample: &mut Stream,
        step: &mut Stream,
    ) -> usize {
        if let Self::Count(hidden) = self {
            return (*hidden).min(length);
        }
        let share = self.share(length, clock, sample, step);
        rounding.hidden(length, share, sample)
    }

    /// The share of `length`. `step` gives the draws that are equal for all rows.
    pub fn share(&self, length: usize, clock: &Clock, sample: &mut Stream, step: &mut Stream) -> f64 {
        match self {
            Self::Fixed(share) => *share,
            Self::Count(hidden) => (*hidden).min(length) as f64 / length.max(1) as f64,
            Self::Ramp(ramp) => ramp.at(clock),
            Self::Uniform { low, high, per: Per::Sample } => sample.between(*low, *high),
            Self::Uniform { low, high, per: Per::Step } => step.between(*low, *high),
        }
    }

    /// As [`Ratio::range`], without counts that a drawn share gives at its very ends alone, which is next to never.
    #[must_use]
    pub fn usual(&self, length: usize, rounding: Rounding, clock: &Clock) -> [usize; 2] {
        match self {
            Self::Uniform { low, high, .. } => {
                let edge = (high - low) * 1e-9;
                rounding.range(length, [low + edge, high - edge])
            }
            other => other.range(length, rounding, clock),
        }
    }

    /// The smallest and the largest number hidden of `length` at the clock.
    #[must_use]
    pub fn range(&self, length: usize, rounding: Rounding, clock: &Clock) -> [usize; 2] {
        match self {
            Self::Fixed(share) => rounding.range(length, [*share; 2]),
            Self::Count(hidden) => [(*hidden).min(length); 2],
            Self::Ramp(ramp) => rounding.range(length, [ramp.at(clock); 2]),
            Self::Uniform { low, high, .. } => rounding.range(length, [*low, *high]),
        }
    }
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct CountKeys {
    hidden: usize,
}

impl Default for CountKeys {
    fn default() -> Self {
        Self { hidden: 1 }
    }
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct UniformKeys {
    low: f64,
    high: f64,
    per: Per,
}

impl Default for UniformKeys {
    fn default() -> Self {
        Self { low: 0.5, high: 1.0, per: Per::Sample }
    }
}

crate::tagged! {
    /// The forms of a ratio that are mappings.
    enum Form {
        /// A number of positions.
        count => Count(CountKeys),
        /// Moves over training.
        ramp => Ramp(Ramp),
        /// Drawn uniformly, for each sample or once a step.
        uniform => Uniform(UniformKeys),
    }
}

impl Serialize for Ratio {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.clone() {
            Self::Fixed(share) => serializer.serialize_f64(share),
            Self::Count(hidden) => Form::Count(CountKeys { hidden }).serialize(serializer),
            Self::Ramp(ramp) => Form::Ramp(ramp).serialize(serializer),
            Self::Uniform { low, high, per } => Form::Uniform(UniformKeys { low, high, per }).serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for Ratio {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl<'de> serde::de::Visitor<'de> for Visitor {
            type Value = Ratio;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a number from 0 to 1, or a mapping with kind count, ramp or uniform")
            }
            fn visit_f64<E>(self, share: f64) -> Result<Ratio, E> {
                Ok(Ratio::Fixed(share))
            }
            fn visit_u64<E>(self, share: u64) -> Result<Ratio, E> {
                Ok(Ratio::Fixed(share as f64))
            }
            fn visit_i64<E>(self, share: i64) -> Result<Ratio, E> {
                Ok(Ratio::Fixed(share as f64))
            }
            fn visit_map<A: serde::de::MapAccess<'de>>(self, map: A) -> Result<Ratio, A::Error> {
                let form = Form::deserialize(serde::de::value::MapAccessDeserializer::new(map))?;
                Ok(match form {
                    Form::Count(keys) => Ratio::Count(keys.hidden),
                    Form::Ramp(ramp) => Ratio::Ramp(ramp),
                    Form::Uniform(UniformKeys { low, high, per }) => Ratio::Uniform { low, high, per },
                })
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schedule::Curve;

    fn hidden(length: usize, ratio: f64, rounding: Rounding) -> usize {
        rounding.hidden(length, ratio, &mut Stream::new(0))
    }

    /// Ledger 081: K = int(L * (1 - r)), float traps included.
    #[test]
    fn maes_counts() {
        let pins = [
            (196, 0.75, 49),
            (256, 0.75, 64),
            (196, 0.6, 78),
            (196, 0.9, 19),
            (49, 0.75, 12), //
            (100, 0.9, 9),
            (50, 0.8, 9),
            (10, 0.9, 0),
        ];
        for (length, ratio, kept) in pins {
            assert_eq!(length - hidden(length, ratio, Rounding::KeepFloor), kept, "{length} {ratio}");
        }
    }

    /// Ledger 007: ceil(cells * ratio).
    #[test]
    fn simmims_counts() {
        for (cells, ratio, expected) in [(36, 0.6, 22), (49, 0.6, 30), (144, 0.6, 87), (2304, 0.6, 1383), (36, 0.5, 18)]
        {
            assert_eq!(hidden(cells, ratio, Rounding::HideCeil), expected, "{cells} {ratio}");
        }
    }

    #[test]
    fn forms_round_trip_and_check() {
        let forms = [
            ("0.75", Ratio::Fixed(0.75)),
            ("{kind: count, hidden: 75}", Ratio::Count(75)),
            ("{kind: ramp, from: 0.1, to: 0.4}", Ratio::Ramp(Ramp::new(0.1, 0.4, Curve::Linear))),
            ("{per: step, kind: uniform}", Ratio::Uniform { low: 0.5, high: 1.0, per: Per::Step }),
        ];
        for (text, ratio) in forms {
            let read: Ratio = serde_yaml::from_str(text).unwrap();
            assert_eq!(read, ratio, "{text}");
            assert_eq!(serde_yaml::from_value::<Ratio>(serde_yaml::to_value(&ratio).unwrap()).unwrap(), ratio);
            ratio.check().unwrap();
        }
        assert!(Ratio::Fixed(1.5).check().is_err());
        assert!(Ratio::Fixed(f64::NAN).check().is_err());
        assert!(serde_yaml::from_str::<Ratio>("[1]").is_err());
    }
}
