//! JPEG by libjpeg's own arithmetic (mozjpeg, a branch of libjpeg-turbo): what Pillow decodes with, to the last bit.
//!
//! The decoders in Rust (zune-jpeg 0.5.16, jpeg-decoder 0.3.2) estimate chroma another way: on subsampled pictures up
//! to 37 % of the resized bytes differ from Pillow's, by up to 14 steps.

use std::panic::{AssertUnwindSafe, catch_unwind};

use image::RgbImage;
use mozjpeg::{ColorSpace, Decompress, Marker};

use super::decode::{Decoded, ImageError, PictureFormat, check_size, undecodable};

/// The segment that holds EXIF data.
const EXIF_SEGMENT: Marker = Marker::APP(1);

pub(super) fn decode(bytes: &[u8], max_pixels: u64) -> Result<Decoded, ImageError> {
    // A file that just stops would come out gray from there on. That is an error, as it is in Pillow.
    if !reaches_its_end(bytes) {
        return Err(undecodable(PictureFormat::Jpeg, "it ends before its picture does"));
    }
    // The library reports some fatal errors by unwinding.
    catch_unwind(AssertUnwindSafe(|| decompress(bytes, max_pixels)))
        .unwrap_or_else(|_| Err(undecodable(PictureFormat::Jpeg, "it does not follow the format")))
}

fn decompress(bytes: &[u8], max_pixels: u64) -> Result<Decoded, ImageError> {
    let broken = |error: std::io::Error| undecodable(PictureFormat::Jpeg, error);
    let decoder = Decompress::builder().with_markers(&[EXIF_SEGMENT]).from_mem(bytes).map_err(broken)?;
    let (width, height) = decoder.size();
    check_size((width as u64, height as u64), max_pixels)?;
    let exif =
        decoder.markers().map(|marker| marker.data).find(|data| data.starts_with(b"Exif\0\0")).map(<[u8]>::to_vec);
    let four_inks = matches!(decoder.color_space(), ColorSpace::JCS_CMYK | ColorSpace::JCS_YCCK);
    let target = if four_inks { ColorSpace::JCS_CMYK } else { ColorSpace::JCS_RGB };
    let mut scanlines = decoder.to_colorspace(target).map_err(broken)?;
    let samples: Vec<u8> = scanlines.read_scanlines().map_err(broken)?;
    scanlines.finish().map_err(broken)?;
    let pixels = if four_inks { samples.chunks_exact(4).flat_map(ink_to_light).collect() } else { samples };
    let rgb = RgbImage::from_raw(width as u32, height as u32, pixels);
    Ok((rgb.ok_or_else(|| undecodable(PictureFormat::Jpeg, "its pixels do not fill its size"))?, exif))
}

/// Four inks, stored inverted as Adobe does and Pillow takes for granted, to RGB without a colour profile.
fn ink_to_light(inverted: &[u8]) -> [u8; 3] {
    let scaled = |a: u32, b: u32| {
        let product = a * b + 128;
        ((product >> 8) + product) >> 8
    };
    let inks = [0, 1, 2, 3].map(|ink| 255 - u32::from(inverted[ink]));
    let light = 255 - inks[3];
    [0, 1, 2].map(|ink| light.saturating_sub(scaled(inks[ink], light)) as u8)
}

/// Whether an end-of-image marker follows the start of the scan. Thumbnails in the segments before have one of their own.
fn reaches_its_end(jpeg: &[u8]) -> bool {
    const START_OF_SCAN: u8 = 0xda;
    const END_OF_IMAGE: [u8; 2] = [0xff, 0xd9];
    let mut rest = jpeg.get(2..).unwrap_or_default();
    while let [0xff, marker, tail @ ..] = rest {
        if *marker == START_OF_SCAN {
            return tail.windows(2).any(|pair| pair == END_OF_IMAGE);
        }
        // Fill bytes may stand before a marker; every other segment here tells its length.
        rest = match (marker, tail) {
            (0xff, _) => &rest[1..],
            (_, [high, low, ..]) => {
                tail.get(usize::from(u16::from_be_bytes([*high, *low])).max(2)..).unwrap_or_default()
            }
            _ => return false,
        };
    }
    false
}
