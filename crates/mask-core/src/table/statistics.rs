//! The rule of every table: means compared by an interval whose standard deviation is pooled over all arms.

use serde::{Deserialize, Serialize};
use statrs::distribution::{ContinuousCDF, StudentsT};

/// What is said of a comparison, a claim or a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// The interval lies beyond the margin.
    Reproduced,
    /// The interval lies on the other side of the margin.
    NotReproduced,
    /// The interval lies across the margin.
    Undecided,
    /// Nothing was measured yet.
    Untested,
}

impl Verdict {
    /// As `list` and the result files write it.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Reproduced => "reproduced",
            Self::NotReproduced => "not-reproduced",
            Self::Undecided => "undecided",
            Self::Untested => "untested",
        }
    }

    /// Where an interval lies about a margin.
    pub(super) fn of([low, high]: [f64; 2], margin: f64) -> Self {
        if low > margin {
            Self::Reproduced
        } else if high < margin {
            Self::NotReproduced
        } else {
            Self::Undecided
        }
    }

    /// Of several comparisons: reproduced when all are, not when one is refuted.
    pub(super) fn all(parts: impl IntoIterator<Item = Self>) -> Self {
        let mut parts = parts.into_iter().peekable();
        if parts.peek().is_none() {
            return Self::Untested;
        }
        parts.fold(Self::Reproduced, |all, part| match (all, part) {
            (Self::NotReproduced, _) | (_, Self::NotReproduced) => Self::NotReproduced,
            (Self::Untested, _) | (_, Self::Untested) => Self::Untested,
            (Self::Undecided, _) | (_, Self::Undecided) => Self::Undecided,
            _ => Self::Reproduced,
        })
    }
}

/// The two-sided 95 % quantile of Student's t.
fn t_95(degrees: usize) -> Option<f64> {
    let t = StudentsT::new(0.0, 1.0, degrees as f64).ok()?;
    Some(t.inverse_cdf(0.975)).filter(|t| t.is_finite())
}

/// The mean; none of nothing.
pub(super) fn mean(values: &[f64]) -> Option<f64> {
    (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
}

/// Sum of squared distances from the mean.
fn squares(values: &[f64]) -> f64 {
    let mean = mean(values).unwrap_or_default();
    values.iter().map(|value| (value - mean).powi(2)).sum()
}

/// The standard deviation of one arm (n - 1); none of fewer than two values.
pub(super) fn deviation(values: &[f64]) -> Option<f64> {
    (values.len() > 1).then(|| (squares(values) / (values.len() - 1) as f64).sqrt())
}

/// The spread of one metric within the arms of a table.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Pooled {
    /// The standard deviation over all arms, each about its own mean.
    pub sd: f64,
    /// Its degrees of freedom: runs less arms.
    pub degrees: usize,
    t: f64,
}

impl Pooled {
    /// None where no arm has two runs.
    pub fn of<'a>(arms: impl IntoIterator<Item = &'a [f64]>) -> Option<Self> {
        let (mut sum, mut degrees) = (0.0, 0);
        for arm in arms {
            sum += squares(arm);
            degrees += arm.len().saturating_sub(1);
        }
        Some(Self { sd: (sum / degrees.max(1) as f64).sqrt(), degrees, t: t_95(degrees)? })
    }

    /// Half of the 95 % interval of a mean of `n` runs.
    pub fn about(&self, n: usize) -> f64 {
        self.t * self.sd * (1.0 / n as f64).sqrt()
    }

    /// Half of the 95 % interval of the difference of the means of `n` and `m` runs: also the smallest difference that
    /// could have been told from none.
    pub fn between(&self, n: usize, m: usize) -> f64 {
        self.t * self.sd * (1.0 / n as f64 + 1.0 / m as f64).sqrt()
    }
}

/// The 95 % interval of the mean of paired differences, by their own spread; none of fewer than two.
pub(super) fn paired(differences: &[f64]) -> Option<(f64, [f64; 2])> {
    let (mean, sd) = (mean(differences)?, deviation(differences)?);
    let half = t_95(differences.len() - 1)? * sd / (differences.len() as f64).sqrt();
    Some((mean, [mean - half, mean + half]))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn close(found: f64, wanted: f64) {
        assert!((found - wanted).abs() < 1e-9 * wanted.abs().max(1.0), "{found} instead of {wanted}");
    }

    /// scipy.stats.t.ppf(0.975, degrees).
    #[test]
    fn quantiles() {
        let known = [
            (1, 12.706204736174694),
            (2, 4.302652729749462),
            (4, 2.7764451051977934),
            (6, 2.4469118511449786),
            (8, 2.306004135204166),
            (12, 2.1788128296672284),
            (30, 2.0422724563012378),
            (1000, 1.9623390808264083),
        ];
        for (degrees, wanted) in known {
            close(t_95(degrees).unwrap(), wanted);
        }
        assert_eq!(t_95(0), None);
    }

    /// By hand: squares 2, 8, 2 over 6 degrees, sd sqrt(2); t(6) = 2.446912, half = t * sqrt(2) * sqrt(2/3).
    #[test]
    fn three_arms_of_three() {
        let arms: [&[f64]; 3] = [&[1.0, 2.0, 3.0], &[4.0, 6.0, 8.0], &[7.0, 8.0, 9.0]];
        let pooled = Pooled::of(arms).unwrap();
        close(pooled.sd, 2f64.sqrt());
        assert_eq!(pooled.degrees, 6);
        close(pooled.between(3, 3), 2.4469118511449786 * (4.0f64 / 3.0).sqrt());
        close(pooled.about(3), 2.4469118511449786 * (2.0f64 / 3.0).sqrt());
        // 6 - 2 = 4 lies beyond 1 (4 - 2.825 = 1.175), across 2 and on the other side of 7.
        let interval = [4.0 - pooled.between(3, 3), 4.0 + pooled.between(3, 3)];
        assert_eq!(Verdict::of(interval, 1.0), Verdict::Reproduced);
        assert_eq!(Verdict::of(interval, 2.0), Verdict::Undecided);
        assert_eq!(Verdict::of(interval, 7.0), Verdict::NotReproduced);
    }

    /// Arms of 3, 2 and 1 runs: squares 2, 0.5, 0 over 2 + 1 + 0 degrees; t(3) = 3.182446305284263.
    #[test]
    fn arms_of_unequal_size() {
        let arms: [&[f64]; 3] = [&[1.0, 2.0, 3.0], &[4.0, 5.0], &[9.0]];
        let pooled = Pooled::of(arms).unwrap();
        close(pooled.sd, (2.5f64 / 3.0).sqrt());
        assert_eq!(pooled.degrees, 3);
        close(pooled.between(3, 2), 3.182446305284263 * (2.5f64 / 3.0 * (1.0 / 3.0 + 0.5)).sqrt());
        assert!(Pooled::of([[1.0].as_slice(), &[2.0]]).is_none() && Pooled::of([]).is_none());
    }

    /// scipy.stats.ttest_1samp([0.40, 0.45, 0.50, 0.47], 0).confidence_interval(0.95).
    #[test]
    fn paired_differences() {
        let (mean, interval) = paired(&[0.40, 0.45, 0.50, 0.47]).unwrap();
        close(mean, 0.455);
        close(interval[0], 0.38811813164499553);
        close(interval[1], 0.5218818683550045);
        assert_eq!(paired(&[1.0]), None);
    }

    #[test]
    fn several_comparisons() {
        use Verdict::{NotReproduced as No, Reproduced as Yes, Undecided as Open, Untested};
        for (parts, whole) in [
            (vec![Yes, Yes], Yes),
            (vec![Yes, Open], Open),
            (vec![Open, No, Yes], No),
            (vec![No, Untested], No),
            (vec![Yes, Untested, Open], Untested),
            (vec![], Untested),
        ] {
            assert_eq!(Verdict::all(parts.clone()), whole, "{parts:?}");
        }
    }

    fn runs() -> impl Strategy<Value = Vec<f64>> {
        prop::collection::vec(-100.0..100.0, 2..6)
    }

    fn interval(pooled: &Pooled, a: &[f64], b: &[f64]) -> [f64; 2] {
        let (apart, half) = (mean(a).unwrap() - mean(b).unwrap(), pooled.between(a.len(), b.len()));
        [apart - half, apart + half]
    }

    proptest! {
        #[test]
        fn swapped_arms_mirror_the_verdict(a in runs(), b in runs(), c in runs(), margin in -50.0..50.0) {
            let pooled = Pooled::of([a.as_slice(), &b, &c]).unwrap();
            let one = Verdict::of(interval(&pooled, &a, &b), margin);
            let other = Verdict::of(interval(&pooled, &b, &a), -margin);
            let mirrored = match one {
                Verdict::Reproduced => Verdict::NotReproduced,
                Verdict::NotReproduced => Verdict::Reproduced,
                same => same,
            };
            prop_assert_eq!(mirrored, other);
        }

        #[test]
        fn a_larger_margin_is_never_easier(a in runs(), b in runs(), margin in -50.0..50.0, more in 0.0..50.0) {
            let pooled = Pooled::of([a.as_slice(), &b]).unwrap();
            let interval = interval(&pooled, &a, &b);
            let rank = |margin| match Verdict::of(interval, margin) {
                Verdict::NotReproduced => 0,
                Verdict::Undecided => 1,
                _ => 2,
            };
            prop_assert!(rank(margin + more) <= rank(margin));
        }

        #[test]
        fn a_common_shift_and_scale_change_no_verdict(a in runs(), b in runs(), shift in -9.0f64..9.0, margin in -5.0f64..5.0) {
            let moved = |arm: &[f64]| arm.iter().map(|value| 4.0 * value + shift).collect::<Vec<_>>();
            let (c, d) = (moved(&a), moved(&b));
            let old = interval(&Pooled::of([a.as_slice(), &b]).unwrap(), &a, &b);
            let new = interval(&Pooled::of([c.as_slice(), &d]).unwrap(), &c, &d);
            // Away from the very edge, where rounding may decide.
            prop_assume!(old.iter().all(|end| (end - margin).abs() > 1e-6));
            prop_assert_eq!(Verdict::of(old, margin), Verdict::of(new, 4.0 * margin));
        }

        #[test]
        fn more_arms_of_the_same_spread_narrow_the_interval(a in runs()) {
            prop_assume!(deviation(&a).unwrap() > 1e-3);
            let two = Pooled::of([a.as_slice(), &a]).unwrap();
            let four = Pooled::of([a.as_slice(), &a, &a, &a]).unwrap();
            prop_assert!((two.sd - four.sd).abs() < 1e-9 && four.about(3) < two.about(3));
        }
    }
}
