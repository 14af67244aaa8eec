//! Randomness as an argument: ChaCha streams, each keyed by what it is for.
//!
//! No part reads a global generator, so plans, crops and initial weights are the same whatever the number of threads,
//! workers, micro-batches or ranks, and a resumed run needs no generator state: the key is enough. ChaCha's output is
//! defined across platforms and versions; the few distributions here are written out so that theirs is, too.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

/// What a stream is for. Two purposes never share numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
pub enum Purpose {
    /// The plan and corruption of one sample: keyed (seed, epoch, sample).
    Sample = 1,
    /// Equal for all rows of a step: keyed (seed, step, 0).
    Step = 2,
    /// The order of samples in an epoch: keyed (seed, epoch, 0).
    Order = 3,
    /// Crops, flips and other augmentation of one view: keyed (seed, epoch, sample).
    Augment = 4,
    /// Initial weights: keyed (seed, hash of the parameter's name, 0).
    Weights = 5,
    /// Which rows an evaluation holds out or draws: keyed (seed, 0, 0).
    Evaluate = 6,
    /// What libtorch's own generators are re-seeded with before a forward: keyed (seed, step, micro-step and rank).
    Forward = 7,
    /// What a sample that is made from others is put together of: keyed (seed, part of the data, sample).
    Compose = 8,
    /// How the samples of a step are mixed: keyed (seed, step, 0).
    Mix = 9,
    /// What stages draw: keyed (the stage's seed, what for, a number).
    Stage = 10,
}

/// A stream of random numbers.
#[derive(Clone, Debug)]
pub struct Stream(ChaCha8Rng);

impl Stream {
    /// The stream of `purpose` for the key `(seed, a, b)`; what `a` and `b` are stands with [`Purpose`].
    #[must_use]
    pub fn keyed(seed: u64, purpose: Purpose, a: u64, b: u64) -> Self {
        let mut key = [0u8; 32];
        for (part, word) in key.chunks_exact_mut(8).zip([seed, purpose as u64, a, b]) {
            part.copy_from_slice(&word.to_le_bytes());
        }
        Self(ChaCha8Rng::from_seed(key))
    }

    /// A stream for tests and examples.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self::keyed(seed, Purpose::Sample, 0, 0)
    }

    /// An independent stream of the same key: ChaCha's own stream number `n`.
    #[must_use]
    pub fn branch(&self, n: u64) -> Self {
        let mut other = self.0.clone();
        other.set_stream(n);
        other.set_word_pos(0);
        Self(other)
    }

    /// The next 64 random bits.
    pub fn bits(&mut self) -> u64 {
        self.0.next_u64()
    }

    /// Uniform on [0, 1), a multiple of 2^-53.
    pub fn uniform(&mut self) -> f64 {
        (self.bits() >> 11) as f64 * (1.0 / (1u64 << 53) as f64)
    }

    /// Uniform on [low, high); on [high, low) when they are swapped, as Python's `random.uniform` does.
    pub fn between(&mut self, low: f64, high: f64) -> f64 {
        low + (high - low) * self.uniform()
    }

    /// Uniform on 0..n, without bias (rejection of the last incomplete stretch). `n` = 0 counts as 1.
    pub fn below(&mut self, n: u64) -> u64 {
        let n = n.max(1);
        let limit = u64::MAX - (u64::MAX % n + 1) % n;
        loop {
            let draw = self.bits();
            if draw <= limit {
                return draw % n;
            }
        }
    }

    /// Standard normal (Box-Muller; one of each pair is thrown away, so that a draw is two uniforms always).
    pub fn normal(&mut self) -> f64 {
        let radius = (-2.0 * (1.0 - self.uniform()).ln()).sqrt();
        radius * (std::f64::consts::TAU * self.uniform()).cos()
    }

    /// Beta with parameters above 0, from two gammas.
    pub fn beta(&mut self, a: f64, b: f64) -> f64 {
        let (x, y) = (self.gamma(a), self.gamma(b));
        // Both vanish where the parameters are tiny; the law is a coin then.
        if x + y > 0.0 { x / (x + y) } else { (self.uniform() * 2.0).floor() }
    }

    /// Gamma of a shape above 0 (Marsaglia and Tsang 2000).
    fn gamma(&mut self, shape: f64) -> f64 {
        if shape < 1.0 {
            let lift = (1.0 - self.uniform()).powf(1.0 / shape);
            return self.gamma(shape + 1.0) * lift;
        }
        let d = shape - 1.0 / 3.0;
        let c = 1.0 / (9.0 * d).sqrt();
        loop {
            let x = self.normal();
            let v = (1.0 + c * x).powi(3);
            let u = 1.0 - self.uniform();
            if v > 0.0 && u.ln() < 0.5 * x * x + d - d * v + d * v.ln() {
                return d * v;
            }
        }
    }

    /// A uniform permutation of 0..n (Fisher-Yates).
    pub fn permutation(&mut self, n: usize) -> Vec<u32> {
        let mut order: Vec<u32> = (0..n as u32).collect();
        for last in (1..n).rev() {
            order.swap(last, self.below(last as u64 + 1) as usize);
        }
        order
    }

    /// `count` noise values, uniform on [0, 1).
    pub fn noise(&mut self, count: usize) -> Vec<f32> {
        // 24 bits, so that every value is exact in f32 and below 1.
        (0..count).map(|_| (self.bits() >> 40) as f32 * (1.0 / (1u64 << 24) as f32)).collect()
    }
}

/// A stable hash of a name, for keys (FNV-1a).
#[must_use]
pub fn hash_name(name: &str) -> u64 {
    name.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_stream_is_that_of_today() {
        // A change here changes every plan and every initial weight of every run: it needs a new major version.
        let mut stream = Stream::keyed(1, Purpose::Sample, 2, 3);
        assert_eq!([stream.bits(), stream.bits()], [14_483_171_256_779_454_040, 14_042_188_402_261_770_878]);
    }

    #[test]
    fn purposes_and_keys_differ() {
        let first = |purpose, a, b| Stream::keyed(7, purpose, a, b).bits();
        let all = [
            first(Purpose::Sample, 0, 0),
            first(Purpose::Step, 0, 0),
            first(Purpose::Sample, 1, 0),
            first(Purpose::Sample, 0, 1),
        ];
        for (i, a) in all.iter().enumerate() {
            assert!(all[i + 1..].iter().all(|b| a != b));
        }
    }

    #[test]
    fn normal_has_mean_0_and_deviation_1() {
        let mut stream = Stream::new(5);
        let draws: Vec<f64> = (0..100_000).map(|_| stream.normal()).collect();
        let mean = draws.iter().sum::<f64>() / draws.len() as f64;
        let variance = draws.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / draws.len() as f64;
        assert!(mean.abs() < 0.012 && (variance - 1.0).abs() < 0.02, "{mean} {variance}");
    }

    /// Mean a / (a + b), variance ab / ((a + b)^2 (a + b + 1)).
    #[test]
    fn beta_has_its_moments() {
        for (a, b) in [(0.8, 0.8), (1.0, 1.0), (0.2, 0.2), (2.0, 5.0)] {
            let mut stream = Stream::new(3);
            let draws: Vec<f64> = (0..100_000).map(|_| stream.beta(a, b)).collect();
            let mean = draws.iter().sum::<f64>() / draws.len() as f64;
            let variance = draws.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / draws.len() as f64;
            let wanted = [a / (a + b), a * b / ((a + b).powi(2) * (a + b + 1.0))];
            assert!(
                (mean - wanted[0]).abs() < 0.005 && (variance / wanted[1] - 1.0).abs() < 0.02,
                "{a} {mean} {variance}"
            );
        }
        assert!((0..100).all(|_| [0.0, 1.0].contains(&Stream::new(1).beta(1e-300, 1e-300))));
    }

    proptest! {
        #[test]
        fn below_stays_below(seed: u64, n in 1u64..) {
            let mut stream = Stream::new(seed);
            for _ in 0..20 {
                prop_assert!(stream.below(n) < n);
            }
        }

        #[test]
        fn a_permutation_holds_everything_once(seed: u64, n in 0usize..200) {
            let mut order = Stream::new(seed).permutation(n);
            order.sort_unstable();
            prop_assert_eq!(order, (0..n as u32).collect::<Vec<_>>());
        }
    }
}
