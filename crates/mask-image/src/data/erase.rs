//! Random erasing: a rectangle of noise in a picture that is ready for the model.

use super::crop::Draw;

/// Least and greatest share of the area that is erased, and the least aspect (the greatest is its reciprocal), as timm
/// has them.
const AREA: [f64; 2] = [0.02, 1.0 / 3.0];
const ASPECT: f64 = 0.3;

/// With probability `probability` fills one rectangle of a picture `[C, H, W]` of `channels` x `height` x `width` with
/// standard normal noise (timm's mode `pixel`): up to ten tries for one that fits. Without probability nothing is drawn.
pub(super) fn erase(values: &mut [f32], [channels, height, width]: [usize; 3], probability: f64, draw: &mut dyn Draw) {
    if probability <= 0.0 || draw.uniform() >= probability {
        return;
    }
    for _ in 0..10 {
        let within = |from: f64, to: f64, share: f64| from + (to - from) * share;
        let area = (height * width) as f64 * within(AREA[0], AREA[1], draw.uniform());
        let aspect = within(ASPECT.ln(), -ASPECT.ln(), draw.uniform()).exp();
        let (tall, wide) =
            ((area * aspect).sqrt().round_ties_even() as usize, (area / aspect).sqrt().round_ties_even() as usize);
        if tall >= height || wide >= width {
            continue;
        }
        let top = draw.below((height - tall + 1) as u64) as usize;
        let left = draw.below((width - wide + 1) as u64) as usize;
        for channel in 0..channels {
            for y in top..top + tall {
                let first = (channel * height + y) * width + left;
                for value in &mut values[first..first + wide] {
                    *value = normal(draw) as f32;
                }
            }
        }
        return;
    }
}

/// Standard normal (Box-Muller).
fn normal(draw: &mut dyn Draw) -> f64 {
    let radius = (-2.0 * (1.0 - draw.uniform()).ln()).sqrt();
    radius * (std::f64::consts::TAU * draw.uniform()).cos()
}

#[cfg(test)]
mod tests {
    use super::super::crop::tests::Toy;
    use super::*;

    #[test]
    fn one_rectangle_of_noise_in_all_channels() {
        let sides = [3, 32, 40];
        let (mut erased, mut sum, mut square) = (0usize, 0.0, 0.0);
        for seed in 1..200 {
            let mut values = vec![5.0f32; 3 * 32 * 40];
            erase(&mut values, sides, 1.0, &mut Toy(seed));
            let plane = |channel: usize| {
                let changed = values[channel * 1280..][..1280].iter().enumerate().filter(|(_, v)| **v != 5.0);
                changed.map(|(at, _)| (at / 40, at % 40)).collect::<Vec<_>>()
            };
            let first = plane(0);
            assert!(first == plane(1) && first == plane(2));
            let side = |of: fn(&(usize, usize)) -> usize| {
                let (low, high) = (first.iter().map(of).min(), first.iter().map(of).max());
                low.zip(high).map_or(0, |(low, high)| high + 1 - low)
            };
            let (tall, wide) = (side(|at| at.0), side(|at| at.1));
            assert_eq!(first.len(), tall * wide, "a rectangle");
            let share = first.len() as f64 / 1280.0;
            assert!(first.is_empty() || (0.01..0.37).contains(&share), "{share}");
            erased += first.len();
            for value in values.iter().filter(|value| **value != 5.0) {
                sum += f64::from(*value);
                square += f64::from(*value).powi(2);
            }
        }
        let count = 3.0 * erased as f64;
        assert!(erased > 20_000 && (sum / count).abs() < 0.02 && (square / count - 1.0).abs() < 0.03);
    }

    #[test]
    fn the_probability_counts_and_0_draws_nothing() {
        let mut draw = Toy(3);
        let mut values = [1.0f32; 64];
        erase(&mut values, [1, 8, 8], 0.0, &mut draw);
        assert!(values == [1.0; 64] && draw.uniform() == Toy(3).uniform());
        let hit = |seed| {
            let mut values = [1.0f32; 64];
            erase(&mut values, [1, 8, 8], 0.25, &mut Toy(seed));
            values != [1.0; 64]
        };
        let hits = (1..2000).filter(|seed| hit(*seed)).count();
        assert!((400..600).contains(&hits), "{hits}");
    }
}
