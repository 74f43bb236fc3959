//! JPEG, decoded by mozjpeg: a fork of libjpeg-turbo, with which Pillow decodes, with the same results bit for bit.
//!
//! The decoders written in Rust (zune-jpeg 0.5.16, jpeg-decoder 0.3.2) upsample chroma differently: on subsampled
//! pictures, up to 37 % of the resized bytes differ from Pillow's, by up to 14.

mod cmyk;
mod markers;
mod segments;

use std::cell::Cell;
use std::io::{self, BufRead, Read};
use std::panic::{AssertUnwindSafe, catch_unwind};

use image::RgbImage;
use mozjpeg::{ColorSpace, Decompress};

use super::deadline_reader::DeadlineReader;
use super::error::{ImageError, undecodable};
use super::format::PictureFormat;
use super::limits::DecodeOptions;
use super::picture::Decoded;
pub(super) use cmyk::cmyk_to_rgb;
pub(super) use markers::{FrameHeader, Markers};
use segments::Segments;

/// Bytes that the decoder reads between two checks of the deadline; they hold at most about twenty scans.
const READ_SIZE: usize = 4 << 10;
/// Rows between two checks of the deadline.
const ROWS: usize = 64;

pub(super) fn decode(bytes: &[u8], options: &DecodeOptions) -> Result<Decoded, ImageError> {
    let segments = Segments::read(bytes);
    segments.check_frame_type()?;
    // The library reports some fatal errors by panicking.
    let rgb = catch_unwind(AssertUnwindSafe(|| decompress(bytes, options)))
        .unwrap_or_else(|_| Err(undecodable(PictureFormat::Jpeg, "the decoder could not read it")))?;
    Ok((rgb, segments.orientation()))
}

fn decompress(bytes: &[u8], options: &DecodeOptions) -> Result<RgbImage, ImageError> {
    let damaged = |error: io::Error| undecodable(PictureFormat::Jpeg, error);
    let has_ended = Cell::new(false);
    let file = EndDetector { file: DeadlineReader::new(bytes, READ_SIZE, options.deadline), has_ended: &has_ended };
    // libjpeg fills the rest of a truncated picture with gray. Pillow reports an error instead, unless only the
    // end-of-image marker is missing.
    let check_end = || {
        if has_ended.get() {
            return Err(undecodable(PictureFormat::Jpeg, "its pixel data ends early"));
        }
        Ok(())
    };
    let decoder = Decompress::builder().from_reader(file).map_err(damaged)?;
    let (width, height) = decoder.size();
    options.check_size(width as u64, height as u64)?;
    let is_cmyk = matches!(decoder.color_space(), ColorSpace::JCS_CMYK | ColorSpace::JCS_YCCK);
    let (target, channels) = if is_cmyk { (ColorSpace::JCS_CMYK, 4) } else { (ColorSpace::JCS_RGB, 3) };
    let mut scanlines = decoder.to_colorspace(target).map_err(damaged)?;
    check_end()?;
    let mut samples = vec![0; width * height * channels];
    for rows in samples.chunks_mut((width * channels * ROWS).max(1)) {
        options.check_deadline()?;
        scanlines.read_scanlines_into(rows).map_err(damaged)?;
        check_end()?;
    }
    scanlines.finish().map_err(damaged)?;
    let pixels = if is_cmyk { samples.chunks_exact(4).flat_map(cmyk_to_rgb).collect() } else { samples };
    let rgb = RgbImage::from_raw(width as u32, height as u32, pixels);
    rgb.ok_or_else(|| undecodable(PictureFormat::Jpeg, "its pixels do not match its size"))
}

/// A reader that records whether the decoder tried to read past the end of the file.
struct EndDetector<'a> {
    file: DeadlineReader<'a>,
    has_ended: &'a Cell<bool>,
}

impl Read for EndDetector<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.file.read(buffer)
    }
}

impl BufRead for EndDetector<'_> {
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
