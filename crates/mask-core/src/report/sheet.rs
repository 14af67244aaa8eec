//! Contact sheets: a labelled grid of small pictures as one picture.

use std::io::Cursor;

use image::{ImageFormat, Rgb, RgbImage};

use super::font;
use crate::error::{Error, Result};

/// Panels are enlarged so that their longer side comes near this many dots.
const NEAR: u32 = 112;
/// Beside larger panels smaller ones are enlarged further, but not beyond this.
const FAR: u32 = 224;
/// A sheet may not have more dots than this to a side, nor more than [`AREA`] in all.
const LARGEST: u64 = 16_384;
const AREA: u64 = 1 << 26;
const GAP: u32 = 8;
const LINE: u32 = 12;
/// Narrow columns are widened to this, to have room for their labels.
const COLUMN: u32 = 48;
const CAPTION_LINES: usize = 2;

const PAPER: Rgb<u8> = Rgb([255; 3]);
const EDGE: Rgb<u8> = Rgb([205, 209, 215]);
const INK: Rgb<u8> = Rgb([40, 44, 52]);
const DIM: Rgb<u8> = Rgb([95, 102, 114]);

/// One small picture of a [`contact_sheet`].
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Panel {
    /// Dots across.
    pub width: u32,
    /// Dots down.
    pub height: u32,
    /// 1 for grey, 3 for red, green and blue.
    pub channels: u32,
    /// Row by row from the top, `height * width * channels` values.
    pub data: Vec<u8>,
    /// What stands below it, may be empty: at most two lines, the rest is cut off.
    pub caption: String,
}

impl Panel {
    /// How often the panel's dots are repeated to come near `target` dots for its longer side.
    fn factor(&self, target: u32) -> u32 {
        let side = self.width.max(self.height).max(1);
        ((target + side / 2) / side).max(1)
    }

    fn dot(&self, x: u32, y: u32) -> Option<Rgb<u8>> {
        let at = (y as usize * self.width as usize + x as usize) * self.channels as usize;
        match *self.data.get(at..at + self.channels as usize)? {
            [grey] => Some(Rgb([grey; 3])),
            [red, green, blue] => Some(Rgb([red, green, blue])),
            _ => None,
        }
    }

    fn check(&self) -> Result<()> {
        let want = u128::from(self.width) * u128::from(self.height) * u128::from(self.channels);
        if !matches!(self.channels, 1 | 3) || self.data.len() as u128 != want || want == 0 {
            let found = [self.height, self.width, self.channels].map(i64::from);
            let expected = format!("1 or 3 channels and as many values as it has data ({})", self.data.len());
            return Err(Error::shape(format!("panel '{}'", self.caption), expected, &found));
        }
        Ok(())
    }
}

/// Lays panels out as a grid, one list a row, with titles above the columns and captions below the panels. Small
/// panels are enlarged by a whole factor without smoothing (28 x 28 dots become 112 x 112); rows may differ in length.
///
/// # Errors
/// A panel is empty or has another number of values than its shape says, or the sheet would have more than 16384 dots
/// to a side or 67 million in all.
pub fn contact_sheet(rows: &[Vec<Panel>], column_titles: &[&str]) -> Result<RgbImage> {
    let panels = || rows.iter().flatten();
    panels().try_for_each(Panel::check)?;
    let longest = panels().map(|panel| panel.width.max(panel.height)).max().unwrap_or(0);
    let target = longest.clamp(NEAR, FAR);
    let size = |panel: &Panel| {
        let factor = panel.factor(target);
        [panel.width.saturating_mul(factor), panel.height.saturating_mul(factor)]
    };

    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let widths: Vec<u32> = (0..columns)
        .map(|column| rows.iter().filter_map(|row| Some(size(row.get(column)?)[0])).max().unwrap_or(0).max(COLUMN))
        .collect();
    let label = |text: &str, column: usize| {
        font::wrapped(text, 1, widths.get(column).copied().unwrap_or(COLUMN), CAPTION_LINES)
    };
    let titles: Vec<Vec<String>> = (0..columns).zip(column_titles).map(|(n, title)| label(title, n)).collect();
    let captions: Vec<Vec<Vec<String>>> =
        rows.iter().map(|row| row.iter().enumerate().map(|(n, panel)| label(&panel.caption, n)).collect()).collect();
    let lines = |labels: &[Vec<String>]| labels.iter().map(|label| label.len() as u32).max().unwrap_or(0) * LINE;

    let tall = |row: &[Panel]| row.iter().map(|panel| size(panel)[1]).max().unwrap_or(0);
    let width = u64::from(GAP) + widths.iter().map(|width| u64::from(*width) + u64::from(GAP)).sum::<u64>();
    let below = |labels: &[Vec<String>]| match lines(labels) {
        0 => 0,
        some => some + 4,
    };
    let height = u64::from(GAP + lines(&titles))
        + rows.iter().zip(&captions).map(|(row, c)| u64::from(tall(row)) + u64::from(below(c) + GAP)).sum::<u64>();
    if width > LARGEST || height > LARGEST || width * height > AREA {
        let most = format!("at most {LARGEST} to a side and {AREA} in all");
        let problem = format!("would have {width} x {height} dots, {most}: show fewer or smaller panels");
        return Err(Error::value("contact sheet", problem));
    }
    let mut sheet = RgbImage::from_pixel(width.max(1) as u32, height.max(1) as u32, PAPER);

    let lefts: Vec<u32> = widths
        .iter()
        .scan(GAP, |left, width| {
            let here = *left;
            *left += width + GAP;
            Some(here)
        })
        .collect();
    let mut top = GAP;
    let title_height = lines(&titles);
    for (left, title) in lefts.iter().zip(&titles) {
        // Titles of one line stand right above their panels.
        let from = top + title_height - LINE * title.len() as u32;
        write_lines(&mut sheet, [*left, from], INK, title);
    }
    top += title_height;
    for (row, labels) in rows.iter().zip(&captions) {
        for ((panel, label), left) in row.iter().zip(labels).zip(&lefts) {
            paint(&mut sheet, [*left, top], panel, panel.factor(target));
            write_lines(&mut sheet, [*left, top + size(panel)[1] + 4], DIM, label);
        }
        top += tall(row) + below(labels) + GAP;
    }
    Ok(sheet)
}

fn write_lines(sheet: &mut RgbImage, [left, top]: [u32; 2], colour: Rgb<u8>, lines: &[String]) {
    for (number, line) in (0..).zip(lines) {
        font::draw(sheet, [left, top + number * LINE], 1, colour, line);
    }
}

/// Draws a panel and a thin edge around it, so that white panels end somewhere.
fn paint(sheet: &mut RgbImage, [left, top]: [u32; 2], panel: &Panel, factor: u32) {
    let [width, height] = [panel.width * factor, panel.height * factor];
    for y in 0..height + 2 {
        for x in 0..width + 2 {
            let inside = (1..=width).contains(&x) && (1..=height).contains(&y);
            let colour = if inside { panel.dot((x - 1) / factor, (y - 1) / factor) } else { Some(EDGE) };
            let place = sheet.get_pixel_mut_checked((left + x).saturating_sub(1), (top + y).saturating_sub(1));
            if let (Some(colour), Some(dot)) = (colour, place) {
                *dot = colour;
            }
        }
    }
}

/// A picture as the bytes of a PNG file.
///
/// # Errors
/// The picture is too large for the format.
pub fn png(picture: &RgbImage) -> Result<Vec<u8>> {
    let mut bytes = Cursor::new(Vec::new());
    picture
        .write_to(&mut bytes, ImageFormat::Png)
        .map_err(|error| Error::value("picture", format!("can't be written as PNG: {error}")))?;
    Ok(bytes.into_inner())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn panel(width: u32, height: u32, channels: u32, value: u8) -> Panel {
        let data = vec![value; (width * height * channels) as usize];
        Panel { width, height, channels, data, caption: String::new() }
    }

    #[test]
    fn small_panels_are_enlarged_by_whole_factors() {
        let factors = [(28, 4), (32, 4), (14, 8), (64, 2), (96, 1), (224, 1), (1, 112), (5000, 1)];
        for (side, factor) in factors {
            assert_eq!(panel(side, 1, 1, 0).factor(NEAR), factor, "{side}");
        }
        let sheet = contact_sheet(&[vec![panel(28, 28, 1, 7), panel(28, 28, 3, 9)]], &[]).unwrap();
        assert_eq!(sheet.dimensions(), (3 * GAP + 2 * 112, 2 * GAP + 112));
        let values = [sheet.get_pixel(GAP, GAP).0, sheet.get_pixel(GAP + 111, GAP + 111).0];
        assert_eq!(values, [[7; 3]; 2]);
        assert_eq!(sheet.get_pixel(2 * GAP + 112, GAP).0, [9; 3]);
        assert_eq!([sheet.get_pixel(GAP - 1, GAP).0, sheet.get_pixel(0, 0).0], [EDGE.0, PAPER.0]);
    }

    #[test]
    fn a_mask_beside_a_picture_is_as_large() {
        let sheet = contact_sheet(&[vec![panel(224, 224, 3, 0), panel(14, 14, 1, 0)]], &[]).unwrap();
        assert_eq!(sheet.width(), 3 * GAP + 2 * 224);
    }

    #[test]
    fn labels_take_room_and_leave_ink() {
        let bare = contact_sheet(&[vec![panel(28, 28, 1, 255)]], &[]).unwrap();
        let labelled = Panel { caption: "hidden 75 %".into(), ..panel(28, 28, 1, 255) };
        let sheet = contact_sheet(&[vec![labelled]], &["input"]).unwrap();
        assert_eq!(sheet.height(), bare.height() + 2 * LINE + 4);
        assert!(sheet.pixels().any(|dot| *dot == INK) && sheet.pixels().any(|dot| *dot == DIM));
    }

    #[test]
    fn ragged_and_empty_sheets() {
        assert!(contact_sheet(&[], &["title"]).is_ok());
        assert!(contact_sheet(&[vec![], vec![panel(3, 500, 1, 1)], vec![panel(4, 4, 3, 1); 3]], &["a", "b"]).is_ok());
    }

    #[test]
    fn bad_panels_are_refused() {
        let short = Panel { data: vec![0; 5], ..panel(2, 3, 1, 0) };
        let huge = Panel { width: u32::MAX, height: u32::MAX, channels: 3, ..Panel::default() };
        for bad in [short, huge, panel(2, 2, 2, 0), panel(2, 2, 4, 0), Panel::default()] {
            assert!(matches!(contact_sheet(&[vec![bad]], &[]), Err(Error::Shape { .. })));
        }
        assert!(contact_sheet(&vec![vec![panel(28, 28, 1, 0)]; 200], &[]).is_err());
    }

    #[test]
    fn png_round_trip() {
        let sheet = contact_sheet(&[vec![panel(3, 5, 3, 77)]], &[]).unwrap();
        assert_eq!(image::load_from_memory(&png(&sheet).unwrap()).unwrap().into_rgb8(), sheet);
        assert!(png(&RgbImage::new(0, 0)).is_err());
    }
}
