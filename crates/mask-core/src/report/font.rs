//! A small bitmap font for labels in pictures, so that they look the same everywhere.

use std::sync::LazyLock;

use image::{Rgb, RgbImage};

/// Rows of a glyph: seven above the base line, two below.
pub(super) const HEIGHT: u32 = 9;
/// The glyphs of ASCII 32 to 126 in bands of sixteen: 5 x 9 cells, `#` is ink, one column and one row between cells.
const ART: &str = include_str!("font.txt");
const WIDTH: usize = 5;
const BAND: usize = 16;

#[derive(Clone, Copy, Default)]
struct Glyph {
    /// Bit `x` of row `y` is ink.
    rows: [u8; HEIGHT as usize],
    width: u32,
}

static GLYPHS: LazyLock<Vec<Glyph>> = LazyLock::new(|| (b' '..=b'~').map(glyph).collect());

/// Cuts the glyph of `code` out of the art; letters keep only the columns that they use, digits all, to stand in line.
fn glyph(code: u8) -> Glyph {
    let (band, column) = ((code - b' ') as usize / BAND, (code - b' ') as usize % BAND);
    let mut rows = [0u8; HEIGHT as usize];
    for (row, line) in rows.iter_mut().zip(ART.lines().skip(band * (HEIGHT as usize + 1))) {
        let cell = line.bytes().skip(column * (WIDTH + 1)).take(WIDTH);
        *row = cell.enumerate().filter(|(_, ink)| *ink == b'#').fold(0, |bits, (x, _)| bits | 1 << x);
    }
    let ink = rows.iter().fold(0, |all, row| all | row);
    if ink == 0 {
        return Glyph { rows, width: 3 };
    }
    if code.is_ascii_digit() {
        return Glyph { rows, width: WIDTH as u32 };
    }
    let empty = ink.trailing_zeros();
    Glyph { rows: rows.map(|row| row >> empty), width: 8 - ink.leading_zeros() - empty }
}

fn of(character: char) -> Glyph {
    let plain = match character {
        '–' | '—' | '−' | '‐' | '‑' => '-',
        '×' => 'x',
        '·' | '•' => '.',
        '…' => '~',
        '‘' | '’' => '\'',
        '“' | '”' => '"',
        '\t' | '\u{a0}' | '\u{202f}' => ' ',
        other => other,
    };
    let index = (plain as usize).wrapping_sub(' ' as usize);
    let unknown = '?' as usize - ' ' as usize;
    GLYPHS.get(index).or_else(|| GLYPHS.get(unknown)).copied().unwrap_or_default()
}

/// Width of a line of text at `scale`, without the space behind it.
pub(super) fn width(text: &str, scale: u32) -> u32 {
    text.chars().map(|c| of(c).width + 1).sum::<u32>().saturating_sub(1).saturating_mul(scale)
}

/// Draws a line of text whose upper left corner is `(left, top)`; what leaves the picture is cut off.
pub(super) fn draw(picture: &mut RgbImage, [left, top]: [u32; 2], scale: u32, colour: Rgb<u8>, text: &str) {
    let mut x = left;
    for glyph in text.chars().map(of) {
        for (row, bits) in (0..).zip(glyph.rows) {
            for column in (0..glyph.width).filter(|column| bits >> column & 1 == 1) {
                for (dx, dy) in (0..scale).flat_map(|dx| (0..scale).map(move |dy| (dx, dy))) {
                    if let Some(dot) = picture.get_pixel_mut_checked(x + column * scale + dx, top + row * scale + dy) {
                        *dot = colour;
                    }
                }
            }
        }
        x += (glyph.width + 1) * scale;
    }
}

/// Breaks `text` into at most `most` lines of at most `room` dots; what doesn't fit ends in `..`.
pub(super) fn wrapped(text: &str, scale: u32, room: u32, most: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split_whitespace() {
        match lines.last_mut() {
            Some(line) if width(line, scale) + width(word, scale) + 5 * scale <= room => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    let cut = lines.len() > most;
    lines.truncate(most);
    let last = lines.len().saturating_sub(1);
    for (number, line) in lines.iter_mut().enumerate() {
        if cut && number == last || width(line, scale) > room {
            while !line.is_empty() && width(line, scale) + 6 * scale > room {
                line.pop();
            }
            line.push_str("..");
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_character_has_its_own_glyph() {
        assert_eq!(GLYPHS.len(), 95);
        for (number, one) in GLYPHS.iter().enumerate() {
            assert_eq!(one.rows == [0; 9], number == 0, "only the space is empty");
            assert!((1..=5).contains(&one.width));
            let same = GLYPHS[..number].iter().position(|other| other.rows == one.rows);
            assert_eq!(same, None, "{:?}", (b' ' + number as u8) as char);
        }
        assert_eq!(GLYPHS[(b'T' - b' ') as usize].rows[..2], [0b11111, 0b00100]);
    }

    #[test]
    fn text_is_as_wide_as_drawn() {
        for scale in [1, 2] {
            let text = "Hidden: 75 %, kNN = 0.74 (g, y)";
            let mut picture = RgbImage::new(600, 20);
            draw(&mut picture, [0, 0], scale, Rgb([255; 3]), text);
            let last = picture.enumerate_pixels().filter(|(_, _, dot)| dot.0[0] > 0).map(|(x, _, _)| x).max();
            assert_eq!(last.map(|x| x + 1), Some(width(text, scale)));
        }
        draw(&mut RgbImage::new(3, 3), [1, 1], 3, Rgb([1; 3]), "cut off: \u{1F600}é");
    }

    #[test]
    fn long_text_wraps_and_is_cut() {
        assert_eq!(wrapped("", 1, 50, 2), Vec::<String>::new());
        assert_eq!(wrapped("one two", 1, 200, 2), ["one two"]);
        for text in
            ["a word and a word and a word", "averyverylongwordthatneverends", "x averyverylongwordthatneverends y"]
        {
            let lines = wrapped(text, 1, 60, 2);
            assert!(lines.len() <= 2 && lines.iter().all(|line| width(line, 1) <= 60), "{lines:?}");
            assert!(lines.last().unwrap().ends_with(".."), "{lines:?}");
        }
    }
}
