//! Changes of colour, bit for bit as torchvision's transforms make them of 8-bit Pillow images.

use super::raster::{Raster, luma};

/// From `from` (a share of 0) by way of `to` (1) and beyond, in 32 bits and with the fraction dropped as Pillow's
/// `Image.blend` does it.
fn blend(from: u8, to: u8, share: f32) -> u8 {
    // The cast cuts to 0..=255.
    (f32::from(from) + share * (f32::from(to) - f32::from(from))) as u8
}

/// Replaces each value by what `rule` makes of it.
fn replace(raster: &mut Raster, rule: impl Fn(u8) -> u8) {
    let table: [u8; 256] = std::array::from_fn(|value| rule(value as u8));
    for value in raster.data_mut() {
        *value = table[usize::from(*value)];
    }
}

/// Values times `factor`.
pub(super) fn brightness(raster: &mut Raster, factor: f64) {
    replace(raster, |value| blend(0, value, factor as f32));
}

/// Distances to the mean grey times `factor`.
pub(super) fn contrast(raster: &mut Raster, factor: f64) {
    let sum: u64 = match raster.channels() {
        3 => raster.data().as_chunks().0.iter().map(|&[r, g, b]| u64::from(luma(r, g, b))).sum(),
        _ => raster.data().iter().map(|&value| u64::from(value)).sum(),
    };
    let mean = (sum as f64 / (raster.height() * raster.width()) as f64 + 0.5) as u8;
    replace(raster, |value| blend(mean, value, factor as f32));
}

/// Distances to each pixel's grey times `factor`.
pub(super) fn saturation(raster: &mut Raster, factor: f64) {
    if raster.channels() != 3 {
        return;
    }
    for pixel in raster.data_mut().as_chunks_mut().0 {
        let [r, g, b] = *pixel;
        let grey = luma(r, g, b);
        *pixel = pixel.map(|value| blend(grey, value, factor as f32));
    }
}

/// Each pixel's grey in all channels.
pub(super) fn grey(raster: &mut Raster) {
    if raster.channels() == 3 {
        for pixel in raster.data_mut().as_chunks_mut().0 {
            let [r, g, b] = *pixel;
            *pixel = [luma(r, g, b); 3];
        }
    }
}

/// Turns values of 128 and more upside down.
pub(super) fn solarise(raster: &mut Raster) {
    replace(raster, |value| if value < 128 { value } else { 255 - value });
}

/// Turns hues by `turn` of the colour circle, a multiple of 1/255 with its fraction dropped: to hue, saturation and
/// value of 8 bits and back. Sums and casts are Pillow's, 32 bits where it has `float` and 64 where C widens.
pub(super) fn hue(raster: &mut Raster, turn: f64) {
    if raster.channels() != 3 {
        return;
    }
    /// Which of value, least, falling and rising part is red, green and blue, for each sixth of the circle.
    const SIXTHS: [[usize; 3]; 6] = [[0, 3, 1], [2, 0, 1], [1, 0, 3], [1, 2, 0], [3, 1, 0], [0, 1, 2]];
    // Beyond 255 the circle begins anew, which the cast does.
    let turn = (turn * 255.0) as i32 as u8;
    let circle: [([usize; 3], f32); 256] = std::array::from_fn(|hue| {
        let place = f64::from((hue as u8).wrapping_add(turn)) * 6.0 / 255.0;
        (SIXTHS[place as usize % 6], (place - place.floor()) as f32)
    });
    let shares: [f32; 256] = std::array::from_fn(|saturation| (saturation as f64 / 255.0) as f32);
    for pixel in raster.data_mut().as_chunks_mut().0 {
        let [r, g, b] = *pixel;
        let (most, least) = (r.max(g).max(b), r.min(g).min(b));
        if most == least {
            continue;
        }
        // The sixth of the strongest channel, and what draws to the next and to the one before.
        let (third, next, before) = if r == most {
            (0.0, b, g)
        } else if g == most {
            (2.0, r, b)
        } else {
            (4.0, g, r)
        };
        let span = f32::from(most - least);
        let share = |value: u8| f64::from(f32::from(most - value) / span);
        let sixth = (third + share(next) - share(before)) as f32;
        let round = f64::from(sixth) / 6.0 + 1.0;
        let round = (if round >= 1.0 { round - 1.0 } else { round }) as f32;
        let (order, part) = circle[usize::from((f64::from(round) * 255.0) as u8)];
        let saturation = shares[usize::from((f64::from(span / f32::from(most)) * 255.0) as u8)];
        // Half away from zero, since nothing is below it.
        let scaled = |lost: f64| (f64::from(most) * (1.0 - lost) + 0.5) as u8;
        let falling = scaled(f64::from(saturation * part));
        let rising = scaled(f64::from(saturation) * (1.0 - f64::from(part)));
        let parts = [most, scaled(f64::from(saturation)), falling, rising];
        *pixel = order.map(|which| parts[which]);
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::blur::gaussian_blur;
    use super::*;

    /// The picture of the pins: smooth at first, then ever wilder.
    pub(crate) fn picture(channels: usize, height: usize, width: usize) -> Raster {
        let data = (0..channels * height * width).map(|i| (i * i / 7 % 256) as u8).collect();
        Raster::new(channels, height, width, data).unwrap()
    }

    pub(crate) fn crc(raster: &Raster) -> u32 {
        let mut sum = flate2::Crc::new();
        sum.update(raster.data());
        sum.sum()
    }

    type Change = fn(&mut Raster, f64);

    #[test]
    fn every_value_is_pillows_and_torchvisions() {
        // By Pillow 12.3 and torchvision 0.29, made by python -c '
        // from zlib import crc32; from PIL import Image, ImageFilter; from torchvision.transforms import functional as F
        // def grey(p, _): return F.to_grayscale(p, len(p.getbands()))
        // def blur(p, x): return p.filter(ImageFilter.GaussianBlur(x))
        // shapes = [(1, 5, 7), (1, 37, 53), (3, 5, 7), (3, 37, 53), (3, 48, 16)]
        // ps = [Image.frombytes(["L", "RGB"][c // 3], (w, h), bytes(i * i // 7 % 256 for i in range(c * h * w)))
        //     for c, h, w in shapes]
        // for f, *xs in [(F.adjust_brightness, .61, 1.4), (F.adjust_contrast, .61, 1.4),
        //         (F.adjust_saturation, .8, 1.7), (F.adjust_hue, .1, -.37), (grey, 0), (F.solarize, 128),
        //         (blur, .1, .9, 2, 30)]:
        //     print(f.__name__, *[(x, hex(crc32(b"".join(f(p, x).tobytes() for p in ps)))) for x in xs])'
        let pins: [(Change, &[(f64, u32)]); 7] = [
            (brightness, &[(0.61, 0x7162_255f), (1.4, 0xf164_242a)]),
            (contrast, &[(0.61, 0xd7a3_77b8), (1.4, 0xe0b7_a894)]),
            (saturation, &[(0.8, 0xc075_9764), (1.7, 0xc0ef_fc67)]),
            (hue, &[(0.1, 0x95be_85c2), (-0.37, 0x9bd9_9660)]),
            (|raster, _| grey(raster), &[(0.0, 0x4f7a_ee84)]),
            (|raster, _| solarise(raster), &[(128.0, 0xe2f4_7920)]),
            (gaussian_blur, &[(0.1, 0xcc7b_f3bb), (0.9, 0x141e_8a4e), (2.0, 0x44b9_1ecc), (30.0, 0x4541_b182)]),
        ];
        let shapes = [(1, 5, 7), (1, 37, 53), (3, 5, 7), (3, 37, 53), (3, 48, 16)];
        let pictures = shapes.map(|(channels, height, width)| picture(channels, height, width));
        for (which, (change, cases)) in pins.into_iter().enumerate() {
            for &(x, pin) in cases {
                let mut sum = flate2::Crc::new();
                for mut picture in pictures.clone() {
                    change(&mut picture, x);
                    sum.update(picture.data());
                }
                assert_eq!(sum.sum(), pin, "line {which}, {x}");
            }
        }
    }

    #[test]
    fn a_quarter_million_colours_turn_as_pillows() {
        // p = Image.frombytes("RGB", (512, 512), bytes(k >> s & 252 | 3 for k in range(0, 1 << 20, 4) for s in (12, 6, 0)))
        // [hex(crc32(f(p, x).tobytes())) for f, x in [(F.adjust_hue, .1), (F.adjust_saturation, 1.7)]]
        let data = (0..1 << 20).step_by(4).flat_map(|k| [12, 6, 0].map(|shift| (k >> shift & 252 | 3) as u8)).collect();
        let colours = Raster::new(3, 512, 512, data).unwrap();
        for (change, x, pin) in [(hue as Change, 0.1, 0xd02b_7cc6), (saturation, 1.7, 0xbcbc_3e69)] {
            let mut changed = colours.clone();
            change(&mut changed, x);
            assert_eq!(crc(&changed), pin);
        }
    }
}
