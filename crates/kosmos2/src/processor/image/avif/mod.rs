//! AVIF, as Pillow reads it: of an animated file the first picture.
//!
//! Boxes are read here; AV1 streams are decoded by rav1d, a port of dav1d, which Pillow decodes with, and colours are
//! converted in the arithmetic of libavif.

mod av1_header;
mod boxes;
mod colours;
mod container;
mod fixed;
mod items;
mod planes;
mod sequence;
mod stream;

use std::borrow::Cow;

use image::RgbImage;
use image::metadata::Orientation;

pub(super) use container::{Description, is_avif};

use super::decode::{Decoded, ImageError, PictureFormat, undecodable};
use super::limits::DecodeOptions;
use super::transparency::on_white;
use super::{exif, orientation};
use colours::Converter;
use container::Colours;
use planes::Planes;
use stream::Sampling;

/// Bytes before the block within an item of EXIF.
const EXIF_OFFSET: usize = 4;
/// Rows between two looks at the deadline.
const ROWS: usize = 64;

pub(super) fn decode(file: &[u8], options: &DecodeOptions) -> Result<Decoded, ImageError> {
    let found = Description::read(file)?;
    let orientation = found.orientation();
    let size = (found.width, found.height);
    let planes = Planes::decode(found.colour, size, false, options)?;
    let alpha = found.alpha.map(|layer| Planes::decode(layer, size, true, options)).transpose()?;
    if alpha.as_ref().is_some_and(|alpha| alpha.depth != planes.depth) {
        return Err(damaged("its opacity has another depth"));
    }
    let colours = found.colours.unwrap_or(planes.colours);
    let rgb = to_rgb(&planes, alpha.as_ref(), found.is_premultiplied, colours, options)?;
    Ok((rgb, orientation))
}

fn to_rgb(
    planes: &Planes,
    alpha: Option<&Planes>,
    is_premultiplied: bool,
    colours: Colours,
    options: &DecodeOptions,
) -> Result<RgbImage, ImageError> {
    let exact = Converter::new(planes, colours)?;
    let fixed = fixed::Converter::new(planes, colours, alpha.is_some());
    let byte = |part: f32| (0.5 + part * 255.0) as u8;
    // Shared chroma is divided by opacity before it is rounded, unless libyuv has rounded it before.
    let is_early = fixed.is_none() && matches!(planes.sampling, Sampling::Half | Sampling::Quarter);
    let mut rgb = RgbImage::new(planes.width as u32, planes.height as u32);
    for (y, row) in rgb.rows_mut().enumerate() {
        if y % ROWS == 0 {
            options.check_time()?;
        }
        for (x, pixel) in row.enumerate() {
            let Some(alpha) = alpha else {
                pixel.0 = match &fixed {
                    Some(fixed) => fixed.colour(x, y),
                    None => exact.colour(x, y).map(byte),
                };
                continue;
            };
            let opacity = opacity(alpha, x, y);
            let shown = match &fixed {
                Some(fixed) if fixed.cuts_opacity => (opacity.0 >> (alpha.depth - 8)).min(255) as u8,
                _ => byte(opacity.1),
            };
            let colour = match &fixed {
                Some(fixed) => fixed.colour(x, y),
                None if is_premultiplied && is_early && opacity.0 == 0 => [0; 3],
                None if is_premultiplied && is_early => {
                    exact.colour(x, y).map(|part| byte((part / opacity.1).min(1.0)))
                }
                None => exact.colour(x, y).map(byte),
            };
            let is_to_divide = is_premultiplied && !is_early;
            let [red, green, blue] = if is_to_divide { colour.map(|part| fixed::divided(part, shown)) } else { colour };
            pixel.0 = on_white([red, green, blue, shown]);
        }
    }
    Ok(rgb)
}

/// A sample of opacity and what it is from 0 to 1; a stream of limited range is stretched first.
fn opacity(alpha: &Planes, x: usize, y: usize) -> (i32, f32) {
    let most = (1i32 << alpha.depth) - 1;
    let sample = i32::from(alpha.at(0, x, y));
    let sample = if alpha.colours.is_full_range {
        sample
    } else {
        let (low, range) = (16 << (alpha.depth - 8), 219 << (alpha.depth - 8));
        (((sample - low) * most + range / 2) / range).clamp(0, most)
    };
    (sample, sample as f32 / most as f32)
}

impl Description<'_> {
    /// How to turn the picture. Its own properties come first; where they leave it, an orientation of EXIF counts for
    /// nothing, and one of XMP only where EXIF has none. So it is in Pillow.
    fn orientation(&self) -> Orientation {
        let stated = match (self.turns, self.mirror) {
            (Some(1), None) => 8,
            (Some(1), Some(0)) => 5,
            (Some(1), Some(_)) => 7,
            (Some(2), None) => 3,
            (Some(2), Some(0)) => 2,
            (Some(2), Some(_)) => 4,
            (Some(3), None) => 6,
            (Some(3), Some(0)) => 7,
            (Some(3), Some(_)) => 5,
            (_, Some(0)) => 4,
            (_, Some(_)) => 2,
            _ => exif::UPRIGHT,
        };
        if stated != exif::UPRIGHT {
            return Orientation::from_exif(stated).unwrap_or(Orientation::NoTransforms);
        }
        let block = |item: &Cow<'_, [u8]>| item.get(EXIF_OFFSET..).and_then(exif::orientation);
        if self.exif.as_ref().and_then(block).is_some() {
            return Orientation::NoTransforms;
        }
        orientation::of_metadata(None, self.xmp.as_deref())
    }

    /// Most bytes that decoding takes: the frames of one stream at a time, of which one may be copied for its grain,
    /// with what the decoder keeps of them; the planes put together; and the pixels on their way to upright RGB.
    pub(super) fn memory(&self) -> Result<u64, ImageError> {
        let mut memory = 0u64;
        let pixels = u64::from(self.width).saturating_mul(self.height.into());
        let mut kept = 0u64;
        for layer in [Some(&self.colour), self.alpha.as_ref()].into_iter().flatten() {
            // Frames are filled up to whole blocks.
            let filled = |side: u32| u64::from(side).next_multiple_of(128) + 128;
            let tile = filled(layer.width).saturating_mul(filled(layer.height));
            let (mut decoding, mut plane) = (0, 3);
            for stream in &layer.tiles {
                let cost = stream::cost(stream)?;
                let samples = if cost.is_full_chroma { 6 } else { 3 };
                plane = plane.max(samples);
                decoding = decoding.max((samples * (cost.frames.max(1) + 1) + OVERHEAD).saturating_mul(tile));
            }
            kept = kept.saturating_add(pixels.saturating_mul(plane));
            memory = memory.max(kept.saturating_add(decoding));
        }
        let turned = pixels.saturating_mul(3 + 3);
        Ok(memory.max(kept.saturating_add(turned)).saturating_add(DECODER))
    }
}

/// What the decoder keeps beside a frame's samples: for each pixel, and in all.
const OVERHEAD: u64 = 3;
const DECODER: u64 = 4 << 20;

fn damaged(reason: impl std::fmt::Display) -> ImageError {
    undecodable(PictureFormat::Avif, reason)
}

fn unsupported(what: impl Into<String>) -> ImageError {
    ImageError::Unsupported { what: format!("AVIF {}", what.into()) }
}
