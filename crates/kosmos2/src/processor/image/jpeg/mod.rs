//! JPEG by libjpeg's own arithmetic (mozjpeg, a branch of libjpeg-turbo): what Pillow decodes with, to the last bit.
//!
//! The decoders in Rust (zune-jpeg 0.5.16, jpeg-decoder 0.3.2) estimate chroma another way: on subsampled pictures up
//! to 37 % of the resized bytes differ from Pillow's, by up to 14 steps.

mod segments;

use std::cell::Cell;
use std::io::{self, BufRead, Read};
use std::panic::{AssertUnwindSafe, catch_unwind};

use image::RgbImage;
use mozjpeg::{ColorSpace, Decompress};

use super::decode::{Decoded, ImageError, PictureFormat, undecodable};
use super::limits::{DecodeOptions, Paced};
use segments::Segments;

/// How much of the file the decoder gets at a time: at most some twenty scans over the whole picture.
const PIECE: usize = 4 << 10;
/// Rows between two looks at the deadline.
const ROWS: usize = 64;

pub(super) fn decode(bytes: &[u8], options: &DecodeOptions) -> Result<Decoded, ImageError> {
    let segments = Segments::read(bytes);
    segments.check_kind()?;
    // The library reports some fatal errors by unwinding.
    let rgb = catch_unwind(AssertUnwindSafe(|| decompress(bytes, options)))
        .unwrap_or_else(|_| Err(undecodable(PictureFormat::Jpeg, "it does not follow the format")))?;
    Ok((rgb, segments.orientation()))
}

fn decompress(bytes: &[u8], options: &DecodeOptions) -> Result<RgbImage, ImageError> {
    let broken = |error: io::Error| undecodable(PictureFormat::Jpeg, error);
    let has_ended = Cell::new(false);
    let file = Watched { file: Paced::new(bytes, PIECE, options.deadline), has_ended: &has_ended };
    // A file that just stops would come out gray from there on. In Pillow that is an error, and so it is here; but the
    // end-of-image marker may be missing where no scan needs it.
    let check_end = || {
        if has_ended.get() {
            return Err(undecodable(PictureFormat::Jpeg, "it ends before its picture does"));
        }
        Ok(())
    };
    let decoder = Decompress::builder().from_reader(file).map_err(broken)?;
    let (width, height) = decoder.size();
    options.check_size(width as u64, height as u64)?;
    let four_inks = matches!(decoder.color_space(), ColorSpace::JCS_CMYK | ColorSpace::JCS_YCCK);
    let (target, colours) = if four_inks { (ColorSpace::JCS_CMYK, 4) } else { (ColorSpace::JCS_RGB, 3) };
    let mut scanlines = decoder.to_colorspace(target).map_err(broken)?;
    check_end()?;
    let mut samples = vec![0; width * height * colours];
    for rows in samples.chunks_mut((width * colours * ROWS).max(1)) {
        options.check_time()?;
        scanlines.read_scanlines_into(rows).map_err(broken)?;
        check_end()?;
    }
    scanlines.finish().map_err(broken)?;
    let pixels = if four_inks { samples.chunks_exact(4).flat_map(ink_to_light).collect() } else { samples };
    let rgb = RgbImage::from_raw(width as u32, height as u32, pixels);
    rgb.ok_or_else(|| undecodable(PictureFormat::Jpeg, "its pixels do not fill its size"))
}

/// A file that tells whether more of it was asked for than there is.
struct Watched<'a> {
    file: Paced<'a>,
    has_ended: &'a Cell<bool>,
}

impl Read for Watched<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.file.read(into)
    }
}

impl BufRead for Watched<'_> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        let rest = self.file.fill_buf()?;
        if rest.is_empty() {
            self.has_ended.set(true);
        }
        Ok(rest)
    }

    fn consume(&mut self, amount: usize) {
        self.file.consume(amount);
    }
}

/// Four inks, stored inverted as Adobe does and Pillow takes for granted, to RGB without a colour profile.
pub(super) fn ink_to_light(inverted: &[u8]) -> [u8; 3] {
    let scaled = |a: u32, b: u32| {
        let product = a * b + 128;
        ((product >> 8) + product) >> 8
    };
    let inks = [0, 1, 2, 3].map(|ink| 255 - u32::from(inverted[ink]));
    let light = 255 - inks[3];
    [0, 1, 2].map(|ink| light.saturating_sub(scaled(inks[ink], light)) as u8)
}
