//! Decoding of JPEG, PNG and WebP.

use std::{
    fmt::Write as _,
    io::Cursor,
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
};

use image::{ColorType, ImageDecoder, ImageError, ImageFormat, ImageReader, Limits};
use mask_core::{Error, Result};

use super::raster::Raster;

/// The most bytes that one decoded picture may take: 89 million RGB pixels, where Pillow starts to warn.
const MAX_BYTES: u64 = 256 << 20;

/// Decodes a JPEG, PNG or WebP file from its bytes; the content says which, not `path`, which only names the file in
/// errors.
///
/// The channels are the file's: grey 1, with alpha 2, RGB 3, with alpha 4; palettes become RGB, CMYK becomes RGB.
/// Of 16 bits a value the high 8 are kept, as Pillow does for RGB. EXIF orientation is not applied, as torchvision's
/// `ImageFolder` doesn't. Of an animation the first frame counts.
///
/// # Errors
/// The bytes are none of these formats, are damaged or truncated, or would decode to more than 256 MiB.
pub fn decode(bytes: &[u8], path: &Path) -> Result<Raster> {
    guarded(path, || {
        let decoder = open(bytes)?;
        let [channels, height, width] = shape(&decoder)?;
        let wide = match decoder.color_type() {
            ColorType::L16 | ColorType::La16 | ColorType::Rgb16 | ColorType::Rgba16 => true,
            ColorType::L8 | ColorType::La8 | ColorType::Rgb8 | ColorType::Rgba8 => false,
            other => return Err(format!("its pixels are {other:?}: convert it to 8 bits a value")),
        };
        // `shape` has checked the size against the limit.
        let mut data = vec![0; decoder.total_bytes() as usize];
        decoder.read_image(&mut data).map_err(problem)?;
        if wide {
            // Values come in the machine's own byte order.
            data = data.as_chunks().0.iter().map(|&value| (u16::from_ne_bytes(value) >> 8) as u8).collect();
        }
        Raster::new(channels, height, width, data).map_err(|error| error.to_string())
    })
}

/// Channels, height and width as the header of a JPEG, PNG or WebP file has them.
///
/// # Errors
/// As for [`decode`], as far as the header shows it.
pub(super) fn size(bytes: &[u8], path: &Path) -> Result<[usize; 3]> {
    guarded(path, || shape(&open(bytes)?))
}

/// Runs `work` so that a decoder's panic on odd bytes is an error of this file alone.
fn guarded<T>(path: &Path, work: impl FnOnce() -> Result<T, String>) -> Result<T> {
    let done = catch_unwind(AssertUnwindSafe(work));
    done.unwrap_or_else(|_| Err("the decoder broke down on it: it is damaged".to_owned()))
        .map_err(|problem| Error::file(path, problem))
}

/// A decoder for what the bytes are.
fn open(bytes: &[u8]) -> Result<impl ImageDecoder, String> {
    if bytes.is_empty() {
        return Err("is empty (0 bytes): remove it or fetch it again".to_owned());
    }
    let mut reader = ImageReader::new(Cursor::new(bytes)).with_guessed_format().map_err(|error| error.to_string())?;
    match reader.format() {
        Some(ImageFormat::Png | ImageFormat::WebP) => {}
        Some(ImageFormat::Jpeg) if has_end(bytes) => {}
        Some(ImageFormat::Jpeg) => return Err("the JPEG data ends early: fetch it again or remove it".to_owned()),
        other => {
            let mut found =
                other.map_or_else(|| "starts with".to_owned(), |format| format!("is {format:?}, starts with"));
            for byte in bytes.iter().take(8) {
                // Writing to a string can't fail.
                let _ = write!(found, " {byte:02x}");
            }
            return Err(format!("is no JPEG, PNG or WebP image ({found}): convert or remove it"));
        }
    }
    let mut limits = Limits::default();
    limits.max_alloc = Some(2 * MAX_BYTES);
    reader.limits(limits);
    reader.into_decoder().map_err(problem)
}

/// Channels, height and width, checked against the limit.
fn shape(decoder: &impl ImageDecoder) -> Result<[usize; 3], String> {
    let (width, height) = decoder.dimensions();
    if decoder.total_bytes() > MAX_BYTES {
        return Err(format!(
            "{height}x{width} (height x width) takes {} MiB decoded, the limit is {}: make it smaller or remove it",
            decoder.total_bytes() >> 20,
            MAX_BYTES >> 20
        ));
    }
    Ok([usize::from(decoder.color_type().channel_count()), height as usize, width as usize])
}

/// Whether the end marker stands behind the first scan of a JPEG file. The decoder fills what a truncated file lacks
/// with grey; Pillow refuses such a file, and so do we.
fn has_end(bytes: &[u8]) -> bool {
    // The segments before the first scan are skipped, since thumbnails in them have end markers of their own.
    let mut rest = bytes.get(2..).unwrap_or_default();
    loop {
        match rest {
            // The scan: coded data holds no end marker by accident, as ff is followed by 00 there.
            [0xff, 0xda, scan @ ..] => return scan.windows(2).rev().any(|pair| pair == [0xff, 0xd9]),
            // Fill bytes, and markers that stand alone.
            [0xff, next @ 0xff, ..] if *next == 0xff => rest = &rest[1..],
            [0xff, 0x01 | 0xd0..=0xd8, after @ ..] => rest = after,
            [0xff, _, high, low, ..] => {
                let length = usize::from(u16::from_be_bytes([*high, *low]));
                match rest.get(2 + length..) {
                    Some(after) => rest = after,
                    None => return false,
                }
            }
            // Stray bytes between segments are skipped, as decoders do.
            [_, after @ ..] if after.len() > 1 => rest = after,
            _ => return false,
        }
    }
}

/// A decoder's error as one line.
fn problem(error: ImageError) -> String {
    let text = match error {
        ImageError::Limits(_) => {
            return format!("takes more than {} MiB to decode: make it smaller or remove it", MAX_BYTES >> 20);
        }
        other => other.to_string(),
    };
    format!("can't be decoded ({}): fetch it again or remove it", text.split_whitespace().collect::<Vec<_>>().join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use image::{ExtendedColorType, ImageEncoder, codecs};
    use proptest::prelude::*;

    fn encoded(kind: &str) -> Vec<u8> {
        let mut bytes = Vec::new();
        let pixels: Vec<u8> = (0..24 * 16 * 3).map(|i| (i * i % 251) as u8).collect();
        let (w, h, rgb) = (24, 16, ExtendedColorType::Rgb8);
        match kind {
            "jpg" => codecs::jpeg::JpegEncoder::new(&mut bytes).write_image(&pixels, w, h, rgb),
            "png" => codecs::png::PngEncoder::new(&mut bytes).write_image(&pixels, w, h, rgb),
            _ => codecs::webp::WebPEncoder::new_lossless(&mut bytes).write_image(&pixels, w, h, rgb),
        }
        .unwrap();
        bytes
    }

    fn line(bytes: &[u8]) -> String {
        let line = decode(bytes, Path::new("a.jpg")).unwrap_err().to_string();
        assert!(line.starts_with("a.jpg: ") && !line.contains('\n'), "{line}");
        line
    }

    #[test]
    fn content_decides_not_the_name() {
        for kind in ["jpg", "png", "webp"] {
            let bytes = encoded(kind);
            let raster = decode(&bytes, Path::new("a.jpg")).unwrap();
            assert_eq!([raster.channels(), raster.height(), raster.width()], [3, 16, 24]);
            assert_eq!(size(&bytes, Path::new("a.jpg")).unwrap(), [3, 16, 24]);
        }
        // Both without loss: the values written.
        assert_eq!(decode(&encoded("png"), Path::new("")).unwrap(), decode(&encoded("webp"), Path::new("")).unwrap());
    }

    #[test]
    fn channels_are_the_files_and_16_bits_lose_the_low_8() {
        let png = |pixels: &[u8], w, colour| {
            let mut bytes = Vec::new();
            codecs::png::PngEncoder::new(&mut bytes).write_image(pixels, w, 1, colour).unwrap();
            decode(&bytes, Path::new("")).unwrap()
        };
        assert_eq!(png(&[7, 8], 2, ExtendedColorType::L8).data(), [7, 8]);
        assert_eq!(png(&[7, 8], 1, ExtendedColorType::La8).channels(), 2);
        assert_eq!(png(&[1, 2, 3, 4], 1, ExtendedColorType::Rgba8).data(), [1, 2, 3, 4]);
        let wide: Vec<u8> = [0x12ffu16, 0x00fe].iter().flat_map(|v| v.to_ne_bytes()).collect();
        assert_eq!(png(&wide, 2, ExtendedColorType::L16), Raster::new(1, 1, 2, vec![0x12, 0]).unwrap());
    }

    #[test]
    fn what_is_no_picture_has_a_line() {
        assert!(line(b"").contains("is empty (0 bytes)"));
        assert!(line(b"hello, this is text").contains("is no JPEG, PNG or WebP image (starts with 68 65 6c"));
        assert!(line(b"GIF89a\0\0\0\0\0\0").contains("is Gif"));
        for kind in ["jpg", "png", "webp"] {
            let bytes = encoded(kind);
            for keep in [bytes.len() / 2, bytes.len() - 3] {
                // The checksum that ends a PNG file may be missing: nothing of the picture is.
                if kind != "png" || keep < bytes.len() - 12 {
                    line(&bytes[..keep]);
                }
            }
        }
    }

    #[test]
    fn a_truncated_jpeg_is_refused_though_a_thumbnail_ends() {
        let mut bytes = encoded("jpg");
        // An application segment with an end marker, as a thumbnail has.
        bytes.splice(2..2, [0xff, 0xe1, 0, 6, 1, 0xff, 0xd9, 2]);
        assert!(decode(&bytes, Path::new("")).is_ok());
        bytes.extend(b"trailing bytes do no harm");
        assert!(decode(&bytes, Path::new("")).is_ok());
        let half = bytes.len() / 2;
        assert!(line(&bytes[..half]).contains("ends early"));
    }

    #[test]
    fn lying_headers_are_refused_before_memory_is_taken() {
        let mut png = encoded("png");
        png[16..24].copy_from_slice(&[0, 1, 0, 0, 0, 1, 0, 0]); // 65,536 x 65,536: 12 GiB
        // The header's checksum: CRC-32, bit by bit.
        let crc = !png[12..29].iter().fold(!0u32, |crc, &byte| {
            (0..8).fold(crc ^ u32::from(byte), |c, _| if c & 1 == 1 { c >> 1 ^ 0xedb8_8320 } else { c >> 1 })
        });
        png[29..33].copy_from_slice(&crc.to_be_bytes());
        assert!(line(&png).contains("takes"));
        let mut jpg = encoded("jpg");
        let frame = jpg.windows(2).position(|pair| pair == [0xff, 0xc0]).unwrap();
        jpg[frame + 5..frame + 9].copy_from_slice(&[0xff, 0xf0, 0xff, 0xf0]);
        assert!(line(&jpg).contains("the limit is 256"));
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_are_an_error(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            prop_assert!(decode(&bytes, Path::new("")).is_err());
        }

        #[test]
        fn changed_bytes_never_panic(
            kind in 0usize..3, changes in proptest::collection::vec((0.0f64..1.0, any::<u8>()), 1..6), keep in 0.0f64..1.0, cut in any::<bool>(),
        ) {
            let mut bytes = encoded(["jpg", "png", "webp"][kind]);
            for (at, value) in changes {
                let at = (at * bytes.len() as f64) as usize;
                bytes[at] = value;
            }
            if cut {
                bytes.truncate((keep * bytes.len() as f64) as usize);
            }
            // Memory bombs would show as a failed test process.
            if let Ok(raster) = decode(&bytes, Path::new("")) {
                prop_assert!(raster.data().len() <= 256 << 20);
            }
        }
    }
}
