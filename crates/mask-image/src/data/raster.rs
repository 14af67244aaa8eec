//! Decoded pictures: bytes, channel-last.

use mask_core::{Error, Result};

/// A picture of 8-bit values, channel-last and row-major as decoders give it: `data[(y * width + x) * channels + c]`.
///
/// One channel is grey, two are grey and alpha, three are RGB, four are RGB and alpha; any other number is what the
/// source says it is. No side is zero.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Raster {
    channels: usize,
    height: usize,
    width: usize,
    data: Vec<u8>,
}

impl Raster {
    /// A picture from its values.
    ///
    /// # Errors
    /// A side or the number of channels is zero, or `data` doesn't hold `height * width * channels` values.
    pub fn new(channels: usize, height: usize, width: usize, data: Vec<u8>) -> Result<Self> {
        let wanted = height.checked_mul(width).and_then(|n| n.checked_mul(channels));
        if wanted.is_none_or(|n| n == 0 || n != data.len()) {
            return Err(Error::value(
                "image",
                format!(
                    "{height}x{width} (height x width) with {channels} channels doesn't fit {} values; no side may be 0",
                    data.len()
                ),
            ));
        }
        Ok(Self { channels, height, width, data })
    }

    /// Number of values a pixel.
    #[must_use]
    pub fn channels(&self) -> usize {
        self.channels
    }

    /// Height in pixels.
    #[must_use]
    pub fn height(&self) -> usize {
        self.height
    }

    /// Width in pixels.
    #[must_use]
    pub fn width(&self) -> usize {
        self.width
    }

    /// The values, `[height, width, channels]`.
    #[must_use]
    pub fn data(&self) -> &[u8] {
        &self.data
    }

    /// The values, `[height, width, channels]`.
    pub(super) fn data_mut(&mut self) -> &mut [u8] {
        &mut self.data
    }

    /// The values, `[height, width, channels]`.
    #[must_use]
    pub fn into_data(self) -> Vec<u8> {
        self.data
    }

    /// Bytes a row.
    pub(super) fn stride(&self) -> usize {
        self.width * self.channels
    }

    /// The same picture with `wanted` channels.
    ///
    /// Grey becomes RGB by repetition; RGB becomes grey by `(19595 R + 38470 G + 7471 B + 32768) >> 16`, which is
    /// ITU-R 601 as Pillow's `convert("L")` rounds it; alpha is dropped, as `convert("RGB")` does.
    ///
    /// # Errors
    /// No such rule leads to `wanted` channels.
    pub fn to_channels(self, wanted: usize) -> Result<Self> {
        Ok(self.converted(wanted)?.unwrap_or(self))
    }

    /// As [`Self::to_channels`], `None` where nothing changes.
    pub(super) fn converted(&self, wanted: usize) -> Result<Option<Self>> {
        let data: Vec<u8> = match (self.channels, wanted) {
            (have, _) if have == wanted => return Ok(None),
            (1, 3) => self.data.iter().flat_map(|&v| [v; 3]).collect(),
            (2, 1) => self.data.chunks_exact(2).map(|p| p[0]).collect(),
            (2, 3) => self.data.chunks_exact(2).flat_map(|p| [p[0]; 3]).collect(),
            (3, 1) => self.data.chunks_exact(3).map(|p| luma(p[0], p[1], p[2])).collect(),
            (4, 1) => self.data.chunks_exact(4).map(|p| luma(p[0], p[1], p[2])).collect(),
            (4, 3) => self.data.chunks_exact(4).flat_map(|p| [p[0], p[1], p[2]]).collect(),
            (have, _) => return Err(no_rule(have, wanted)),
        };
        Ok(Some(Self { channels: wanted, data, ..*self }))
    }

    /// Mirrored left to right.
    #[must_use]
    pub fn flip(mut self) -> Self {
        let (stride, channels) = (self.stride(), self.channels);
        for row in self.data.chunks_exact_mut(stride) {
            let mut pixels = row.chunks_exact_mut(channels);
            while let (Some(left), Some(right)) = (pixels.next(), pixels.next_back()) {
                left.swap_with_slice(right);
            }
        }
        self
    }

    /// With `margin` black pixels more on each of the four sides.
    ///
    /// # Errors
    /// The sum is beyond the limit of [`MAX_SIDE`].
    pub fn pad(&self, margin: usize) -> Result<Self> {
        let grown = |side: usize| margin.checked_mul(2).and_then(|m| m.checked_add(side)).filter(|&s| s <= MAX_SIDE);
        let (Some(height), Some(width)) = (grown(self.height), grown(self.width)) else {
            return Err(Error::value(
                "pad",
                format!("{margin} pixels a side would make an image of more than {MAX_SIDE} a side"),
            ));
        };
        let mut data = vec![0; height * width * self.channels];
        let stride = self.stride();
        let rows = data.chunks_exact_mut(width * self.channels).skip(margin);
        for (to, from) in rows.zip(self.data.chunks_exact(stride)) {
            to[margin * self.channels..][..stride].copy_from_slice(from);
        }
        Ok(Self { channels: self.channels, height, width, data })
    }

    /// The part inside `area`.
    ///
    /// # Errors
    /// `area` leaves the picture or is empty.
    pub fn crop(&self, area: Area) -> Result<Self> {
        area.check(self)?;
        let mut data = Vec::with_capacity(area.height * area.width * self.channels);
        for row in self.rows(area) {
            data.extend_from_slice(row);
        }
        Ok(Self { channels: self.channels, height: area.height, width: area.width, data })
    }

    /// The rows of `area`, which was checked.
    pub(super) fn rows(&self, area: Area) -> impl Iterator<Item = &[u8]> {
        let (from, len) = (area.left * self.channels, area.width * self.channels);
        self.data.chunks_exact(self.stride()).skip(area.top).take(area.height).map(move |row| &row[from..][..len])
    }
}

/// The longest side of a picture that resizing and padding make.
pub const MAX_SIDE: usize = 65_535;

/// Part of a picture, in whole pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Area {
    /// First row.
    pub top: usize,
    /// First column.
    pub left: usize,
    /// Number of rows.
    pub height: usize,
    /// Number of columns.
    pub width: usize,
}

impl Area {
    /// All of `raster`.
    #[must_use]
    pub fn whole(raster: &Raster) -> Self {
        Self { top: 0, left: 0, height: raster.height, width: raster.width }
    }

    /// # Errors
    /// The area leaves `raster` or is empty.
    pub(super) fn check(&self, raster: &Raster) -> Result<()> {
        let inside = |from: usize, len: usize, side: usize| len > 0 && from.checked_add(len).is_some_and(|e| e <= side);
        if inside(self.top, self.height, raster.height) && inside(self.left, self.width, raster.width) {
            return Ok(());
        }
        let Self { top, left, height, width } = self;
        Err(Error::value(
            "crop",
            format!(
                "{height}x{width} (height x width) from row {top}, column {left} is empty or leaves the image of {}x{}",
                raster.height, raster.width
            ),
        ))
    }
}

/// Grey from red, green and blue, as Pillow rounds it.
pub(super) fn luma(r: u8, g: u8, b: u8) -> u8 {
    // The weights sum to 65536, so the shifted sum is at most 255.
    ((19_595 * u32::from(r) + 38_470 * u32::from(g) + 7_471 * u32::from(b) + 0x8000) >> 16) as u8
}

/// The error for channels that can't be had.
fn no_rule(have: usize, wanted: usize) -> Error {
    Error::value(
        "channels",
        format!(
            "the image has {have}, the recipe wants {wanted}; only 1 and 3 can be made from other numbers (1 to 4)"
        ),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn raster(channels: usize, height: usize, width: usize) -> Raster {
        let data = (0..channels * height * width).map(|i| (i * 37 % 251) as u8).collect();
        Raster::new(channels, height, width, data).unwrap()
    }

    #[test]
    fn luma_is_pillows() {
        // Image.new("RGB", (1, 1), colour).convert("L").getpixel((0, 0)) in Pillow
        for (rgb, grey) in
            [([255, 0, 0], 76), ([0, 255, 0], 150), ([0, 0, 255], 29), ([12, 200, 77], 130), ([255, 255, 255], 255)]
        {
            assert_eq!(Raster::new(3, 1, 1, rgb.to_vec()).unwrap().to_channels(1).unwrap().data(), [grey]);
        }
    }

    #[test]
    fn channels_are_repeated_dropped_or_refused() {
        let to = |from: &[u8], wanted| Raster::new(from.len(), 1, 1, from.to_vec()).unwrap().to_channels(wanted);
        assert_eq!(to(&[7], 3).unwrap().data(), [7, 7, 7]);
        assert_eq!(to(&[7, 9], 1).unwrap().data(), [7]);
        assert_eq!(to(&[7, 9], 3).unwrap().data(), [7, 7, 7]);
        assert_eq!(to(&[1, 2, 3, 4], 3).unwrap().data(), [1, 2, 3]);
        assert_eq!(to(&[1, 2, 3, 4, 5], 5).unwrap().data(), [1, 2, 3, 4, 5]);
        for (from, wanted) in [(&[1u8, 2, 3][..], 4), (&[1, 2, 3, 4, 5], 3), (&[1], 2)] {
            let line = to(from, wanted).unwrap_err().to_string();
            assert!(line.contains(&format!("has {}, the recipe wants {wanted}", from.len())), "{line}");
        }
    }

    #[test]
    fn lengths_are_checked() {
        assert!(Raster::new(3, 2, 2, vec![0; 11]).is_err());
        assert!(Raster::new(0, 2, 2, vec![]).is_err());
        assert!(Raster::new(usize::MAX, 2, 2, vec![]).is_err());
    }

    #[test]
    fn padding_puts_black_around() {
        let padded = Raster::new(1, 1, 2, vec![5, 6]).unwrap().pad(1).unwrap();
        assert_eq!((padded.height(), padded.width()), (3, 4));
        assert_eq!(padded.data(), [0, 0, 0, 0, 0, 5, 6, 0, 0, 0, 0, 0]);
        assert!(padded.pad(usize::MAX).is_err());
    }

    #[test]
    fn areas_outside_are_errors() {
        let picture = raster(1, 4, 6);
        for (top, left, height, width) in
            [(0, 0, 5, 1), (4, 0, 1, 1), (0, 6, 1, 1), (0, 0, 0, 1), (usize::MAX, 0, 2, 1)]
        {
            assert!(picture.crop(Area { top, left, height, width }).is_err());
        }
        assert_eq!(picture.crop(Area::whole(&picture)).unwrap(), picture);
    }

    proptest! {
        #[test]
        fn twice_flipped_is_unchanged(channels in 1usize..6, height in 1usize..9, width in 1usize..9) {
            let picture = raster(channels, height, width);
            let flipped = picture.clone().flip();
            let at = |r: &Raster, y: usize, x: usize| r.data()[(y * width + x) * channels..][..channels].to_vec();
            prop_assert_eq!(at(&picture, height - 1, 0), at(&flipped, height - 1, width - 1));
            prop_assert_eq!(flipped.flip(), picture);
        }

        #[test]
        fn crop_of_padded_gives_the_picture_back(channels in 1usize..5, h in 1usize..9, w in 1usize..9, margin in 0usize..5) {
            let picture = raster(channels, h, w);
            let padded = picture.pad(margin).unwrap();
            let area = Area { top: margin, left: margin, height: h, width: w };
            prop_assert_eq!(padded.crop(area).unwrap(), picture);
        }
    }
}
