//! Conversion of decoded planes to RGB, composited over white.

use image::RgbImage;

use super::super::error::ImageError;
use super::super::limits::DecodeOptions;
use super::super::transparency::on_white;
use super::av1_stream::ChromaSubsampling;
use super::cicp::Cicp;
use super::planes::Planes;
use super::yuv_fixed_point::{FixedPointConverter, unpremultiply};
use super::yuv_float::FloatConverter;

/// Rows between two checks of the deadline.
const ROWS: usize = 64;

/// Converts planes to RGB as libavif does: in libyuv's fixed point where libavif uses it, or else in floating point.
pub(super) fn to_rgb(
    planes: &Planes,
    alpha: Option<&Planes>,
    is_premultiplied: bool,
    cicp: Cicp,
    options: &DecodeOptions,
) -> Result<RgbImage, ImageError> {
    let float = FloatConverter::new(planes, cicp)?;
    let fixed_point = FixedPointConverter::new(planes, cicp, alpha.is_some());
    let to_byte = |channel: f32| (0.5 + channel * 255.0) as u8;
    let is_subsampled = matches!(planes.subsampling, ChromaSubsampling::Yuv420 | ChromaSubsampling::Yuv422);
    // With subsampled chroma and without libyuv, libavif divides by alpha before it rounds to bytes.
    let divides_before_rounding = fixed_point.is_none() && is_subsampled;
    let mut rgb = RgbImage::new(planes.width as u32, planes.height as u32);
    for (y, row) in rgb.rows_mut().enumerate() {
        if y % ROWS == 0 {
            options.check_deadline()?;
        }
        for (x, pixel) in row.enumerate() {
            let Some(alpha) = alpha else {
                pixel.0 = match &fixed_point {
                    Some(converter) => converter.rgb(x, y),
                    None => float.rgb(x, y).map(to_byte),
                };
                continue;
            };
            let (alpha_sample, alpha_fraction) = alpha_at(alpha, x, y);
            let alpha_byte = match &fixed_point {
                Some(converter) if converter.truncates_alpha => (alpha_sample >> (alpha.depth - 8)).min(255) as u8,
                _ => to_byte(alpha_fraction),
            };
            let rgb = match &fixed_point {
                Some(converter) => converter.rgb(x, y),
                None if is_premultiplied && divides_before_rounding && alpha_sample == 0 => [0; 3],
                None if is_premultiplied && divides_before_rounding => {
                    float.rgb(x, y).map(|channel| to_byte((channel / alpha_fraction).min(1.0)))
                }
                None => float.rgb(x, y).map(to_byte),
            };
            let [red, green, blue] = if is_premultiplied && !divides_before_rounding {
                rgb.map(|channel| unpremultiply(channel, alpha_byte))
            } else {
                rgb
            };
            pixel.0 = on_white([red, green, blue, alpha_byte]);
        }
    }
    Ok(rgb)
}

/// The alpha sample, scaled to full range if the stream has limited range, and the same as a number from 0 to 1.
fn alpha_at(alpha: &Planes, x: usize, y: usize) -> (i32, f32) {
    let max = (1i32 << alpha.depth) - 1;
    let sample = i32::from(alpha.at(0, x, y));
    let sample = if alpha.cicp.is_full_range {
        sample
    } else {
        let (low, range) = (16 << (alpha.depth - 8), 219 << (alpha.depth - 8));
        (((sample - low) * max + range / 2) / range).clamp(0, max)
    };
    (sample, sample as f32 / max as f32)
}
