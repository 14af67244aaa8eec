//! Axes: the range, round positions for ticks and their labels.

/// Values beyond this are treated as not finite, so that no difference of two overflows.
const LIMIT: f64 = 1e300;

/// A range of values with its ticks.
#[derive(Clone, Debug)]
pub(super) struct Axis {
    lo: f64,
    hi: f64,
    log: bool,
    /// Values and labels, rising; labels differ from each other.
    pub(super) ticks: Vec<(f64, String)>,
}

impl Axis {
    /// A linear axis over `range` with at most `most + 2` ticks; `whole` widens the range to the outer ticks.
    pub(super) fn linear(range: [f64; 2], most: usize, whole: bool) -> Self {
        let [lo, hi] = widened(range);
        let step = round_step((hi - lo) / most.max(1) as f64);
        let (first, last) =
            if whole { ((lo / step).floor(), (hi / step).ceil()) } else { ((lo / step).ceil(), (hi / step).floor()) };
        let count = ((last - first).max(0.0) as usize).min(4 * most);
        let values: Vec<f64> = (0..=count).map(|i| (first + i as f64) * step).collect();
        let [lo, hi] = if whole { [lo.min(first * step), hi.max(last * step)] } else { [lo, hi] };
        Self { lo, hi, log: false, ticks: labelled(values, step) }
    }

    /// A logarithmic axis over a `range` of values that are [`positive`].
    pub(super) fn logarithmic(range: [f64; 2], most: usize) -> Self {
        // In powers of ten throughout: a quotient of two values could overflow.
        let [mut lo, mut hi] = range.map(f64::log10);
        if hi - lo < 1e-3 {
            (lo, hi) = (lo - 0.3, hi + 0.3);
        }
        let pad = 0.04 * (hi - lo);
        let (lo, hi) = (lo - pad, hi + pad);
        let powers = |every: i32| (lo.floor() as i32..=hi.ceil() as i32).filter(move |power| power % every == 0);
        let mut values: Vec<f64> = if hi - lo >= 3.0 {
            powers(((hi - lo) / (most + 2) as f64).ceil() as i32).map(|e| 10f64.powi(e)).collect()
        } else {
            powers(1).flat_map(|e| [1.0, 2.0, 5.0].map(|m| m * 10f64.powi(e))).collect()
        };
        values.retain(|value| (lo..=hi).contains(&value.log10()));
        let ticks = if values.len() >= 3 {
            values.into_iter().map(|value| (value, short(value))).collect()
        } else {
            Self::linear([lo, hi].map(|power| 10f64.powf(power)), most, false).ticks
        };
        Self { lo, hi, log: true, ticks }
    }

    /// Where `value` lies on the axis, 0 at its start and 1 at its end; `None` for what can't be shown.
    pub(super) fn at(&self, value: f64) -> Option<f64> {
        if !usable(value) || self.log && !positive(value) {
            return None;
        }
        let value = if self.log { value.log10() } else { value };
        Some((value - self.lo) / (self.hi - self.lo))
    }
}

/// Whether a value can be drawn at all.
pub(super) fn usable(value: f64) -> bool {
    value.abs() < LIMIT
}

/// Whether a value can be drawn on a logarithmic axis.
pub(super) fn positive(value: f64) -> bool {
    usable(value) && value > 1e-290
}

/// The least and the largest usable value.
pub(super) fn range(values: impl Iterator<Item = f64>) -> Option<[f64; 2]> {
    values.filter(|value| usable(*value)).fold(None, |range, value| match range {
        None => Some([value, value]),
        Some([lo, hi]) => Some([lo.min(value), hi.max(value)]),
    })
}

/// A range with some width: a constant stands in its middle.
fn widened([lo, hi]: [f64; 2]) -> [f64; 2] {
    let size = lo.abs().max(hi.abs());
    if hi - lo > 1e-9 * size && hi - lo > 1e-290 {
        return [lo, hi];
    }
    let pad = if size > 1e-280 { 0.1 * size } else { 1.0 };
    [lo - pad, hi + pad]
}

/// The smallest of 1, 2, 2.5 and 5 times a power of ten that is not below `raw`.
fn round_step(raw: f64) -> f64 {
    let power = 10f64.powf(raw.log10().floor());
    [1.0, 2.0, 2.5, 5.0].into_iter().map(|m| m * power).find(|step| *step >= raw * (1.0 - 1e-9)).unwrap_or(10.0 * power)
}

/// Labels for ticks that are `step` apart, all with the same number of decimals.
fn labelled(values: Vec<f64>, step: f64) -> Vec<(f64, String)> {
    let largest = values.iter().fold(0.0, |most: f64, value| most.max(value.abs()));
    let label = |value: f64| {
        if value.abs() < 0.5 * step {
            return "0".to_owned();
        }
        // Digits behind the first one that still differ from tick to tick, plus one for steps of 2.5.
        let digits = (value.abs().log10().floor() - step.log10().floor()).max(0.0) as usize + 1;
        if !(1e-3..1e15).contains(&largest) {
            return scientific(value, digits);
        }
        let decimals = |scale: f64| {
            let exact = |d: &usize| {
                let scaled = step / scale * 10f64.powi(*d as i32);
                (scaled - scaled.round()).abs() < 1e-6 * scaled
            };
            (0..=14).find(exact).unwrap_or(14)
        };
        // A unit that would need many decimals shortens nothing.
        let (scale, unit) = [(1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")]
            .into_iter()
            .find(|(scale, _)| largest >= 10.0 * scale)
            .filter(|(scale, _)| decimals(*scale) <= 2)
            .unwrap_or((1.0, ""));
        let decimals = decimals(scale);
        format!("{:.decimals$}{unit}", value / scale)
    };
    values.into_iter().map(|value| (value, label(value))).collect()
}

/// `2.5e-5`: at most `digits` decimals, without zeros at the end.
fn scientific(value: f64, digits: usize) -> String {
    let text = format!("{value:.digits$e}", digits = digits.min(12));
    match text.split_once('e') {
        Some((mantissa, exponent)) if mantissa.contains('.') => {
            format!("{}e{exponent}", mantissa.trim_end_matches('0').trim_end_matches('.'))
        }
        _ => text,
    }
}

/// A number in four significant digits, as short as that goes: `0.8312`, `812`, `12.5k`, `1.2e-5`.
pub(super) fn short(value: f64) -> String {
    let size = value.abs();
    if value == 0.0 || !value.is_finite() {
        return value.to_string();
    }
    if !(1e-3..1e15).contains(&size) {
        return scientific(value, 3);
    }
    let (scale, unit) = [(1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")]
        .into_iter()
        .find(|(scale, _)| size >= if *scale < 1e4 { 9999.5 } else { 0.99995 * scale })
        .unwrap_or((1.0, ""));
    let decimals = (3.0 - (size / scale).log10().floor()).clamp(0.0, 6.0) as usize;
    let text = format!("{:.decimals$}", value / scale);
    let text = if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.') } else { &text };
    format!("{text}{unit}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(axis: &Axis) -> Vec<&str> {
        axis.ticks.iter().map(|(_, label)| label.as_str()).collect()
    }

    #[test]
    fn ticks_are_round() {
        assert_eq!(labels(&Axis::linear([0.0, 2000.0], 5, false)), ["0", "500", "1000", "1500", "2000"]);
        assert_eq!(labels(&Axis::linear([0.31, 0.83], 6, true)), ["0.3", "0.4", "0.5", "0.6", "0.7", "0.8", "0.9"]);
        assert_eq!(labels(&Axis::linear([0.0, 800_000.0], 4, false)), ["0", "200k", "400k", "600k", "800k"]);
        assert_eq!(labels(&Axis::linear([0.0, 1e-4], 4, true)), ["0", "2.5e-5", "5e-5", "7.5e-5", "1e-4"]);
        assert_eq!(labels(&Axis::linear([-1.0, 1.0], 4, true)), ["-1.0", "-0.5", "0", "0.5", "1.0"]);
        let close = labels(&Axis::linear([1e9, 1e9 + 30.0], 3, true)).join(" ");
        assert_eq!(close, "1000000000 1000000010 1000000020 1000000030");
        assert_eq!(labels(&Axis::logarithmic([1e-3, 1e3], 6)).len(), 7);
        assert_eq!(labels(&Axis::logarithmic([0.9, 60.0], 6)), ["1", "2", "5", "10", "20", "50"]);
    }

    #[test]
    fn every_range_has_a_few_different_labels() {
        let values =
            [-1e299, -1e9, -1.0, -1e-300, 0.0, 5e-324, 1e-290, 1e-12, 0.1, 1.0, 1.0 + 1e-8, 1e9, 1e9 + 1e-3, 1e299];
        for lo in values {
            for hi in values.into_iter().filter(|hi| *hi >= lo) {
                for axis in [Axis::linear([lo, hi], 5, true), Axis::linear([lo, hi], 5, false)] {
                    let labels = labels(&axis);
                    assert!((1..=9).contains(&labels.len()), "{lo} {hi} {labels:?}");
                    assert!(labels.windows(2).all(|two| two[0] != two[1]), "{lo} {hi} {labels:?}");
                    assert!([lo, hi].iter().all(|v| (-1e-6..=1.0 + 1e-6).contains(&axis.at(*v).unwrap())), "{lo} {hi}");
                    assert!(labels.iter().all(|label| label.len() <= 20), "{lo} {hi} {labels:?}");
                }
                if positive(lo) {
                    let axis = Axis::logarithmic([lo, hi], 5);
                    assert!((1..=12).contains(&axis.ticks.len()), "{lo} {hi} {:?}", axis.ticks);
                    assert!(axis.at(lo).is_some_and(|at| (0.0..=1.0).contains(&at)), "{lo} {hi}");
                }
            }
        }
    }

    #[test]
    fn what_cannot_be_shown_has_no_place() {
        let axis = Axis::linear([0.0, 1.0], 5, true);
        assert!([f64::NAN, f64::INFINITY, -1e305].iter().all(|value| axis.at(*value).is_none()));
        assert!(Axis::logarithmic([1.0, 10.0], 5).at(0.0).is_none());
        assert_eq!(range([f64::NAN, 2.0, f64::INFINITY, -1.0].into_iter()), Some([-1.0, 2.0]));
        assert_eq!(range([f64::NAN].into_iter()), None);
    }

    #[test]
    fn short_numbers() {
        let cases = [(0.83121, "0.8312"), (812.04, "812"), (12_500.0, "12.5k"), (1.2e-5, "1.2e-5"), (2000.0, "2000")];
        assert!(cases.iter().all(|(value, text)| short(*value) == *text), "{:?}", cases.map(|(v, _)| short(v)));
        assert_eq!([short(0.0), short(f64::NAN), short(-0.5), short(9999.9)], ["0", "NaN", "-0.5", "10k"]);
        assert_eq!(short(5_717_416.0), "5.717M");
    }
}
