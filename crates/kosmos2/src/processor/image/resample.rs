//! Pillow's bicubic resize of 8-bit pictures, bit for bit.
//!
//! There are two passes, horizontal and vertical. Each rounds to bytes, so their order matters. Weights have a 22-bit
//! fraction. When shrinking, the filter is widened to cover all source pixels (antialiasing). A pass that would keep
//! its side is skipped.

use image::RgbImage;
use kernels::cpu::{RowFilter, filter_columns};

const CHANNELS: usize = 3;

/// Fraction bits of a weight: Pillow's `PRECISION_BITS`, what an i32 has left after 8 bits of pixel and 2 of headroom.
const FRACTION_BITS: u32 = 32 - 8 - 2;

/// Radius of the bicubic filter in source pixels, when not shrinking.
const SUPPORT: f64 = 2.0;

/// Resizes the picture to a square of `side` pixels. The aspect ratio is not kept.
pub(super) fn square(source: &RgbImage, side: u32) -> RgbImage {
    let resize_width =
        |picture: &RgbImage| if picture.width() == side { picture.clone() } else { horizontal(picture, side) };
    let resize_height =
        |picture: &RgbImage| if picture.height() == side { picture.clone() } else { vertical(picture, side) };
    if is_vertical_first(source, side) {
        resize_width(&resize_height(source))
    } else {
        resize_height(&resize_width(source))
    }
}

/// Whether the vertical pass comes first. Pillow 13 chooses the order that takes less work; the condition was found by
/// comparing results for sizes around each bound. Older releases always start with the horizontal pass.
fn is_vertical_first(source: &RgbImage, side: u32) -> bool {
    let (width, height, side) = (u64::from(source.width()), u64::from(source.height()), u64::from(side));
    height > side && height + side > 2 * width
}

/// For each target pixel, the index of its first source pixel and the weights from there on.
struct Weights {
    taps: Vec<(usize, Vec<i32>)>,
}

impl Weights {
    fn new(source: usize, target: usize) -> Self {
        let scale = source as f64 / target as f64;
        let stretch = scale.max(1.0);
        let reach = SUPPORT * stretch;
        let taps = |index: usize| {
            let center = (index as f64 + 0.5) * scale;
            let first = (center - reach + 0.5).max(0.0) as usize;
            let last = ((center + reach + 0.5) as usize).min(source);
            let weight = |at: usize| cubic((at as f64 - center + 0.5) * (1.0 / stretch));
            let weights: Vec<f64> = (first..last).map(weight).collect();
            let total: f64 = weights.iter().sum();
            (
                first,
                weights
                    .into_iter()
                    .map(|weight| fixed_point(if total == 0.0 { weight } else { weight / total }))
                    .collect(),
            )
        };
        Self { taps: (0..target).map(taps).collect() }
    }
}

/// Keys' cubic convolution with a = -0.5.
fn cubic(x: f64) -> f64 {
    const A: f64 = -0.5;
    let x = x.abs();
    if x < 1.0 {
        ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0
    } else if x < 2.0 {
        (((x - 5.0) * x + 8.0) * x - 4.0) * A
    } else {
        0.0
    }
}

/// The weight in fixed point, rounded half away from zero, as C's cast after adding ±0.5 does.
fn fixed_point(weight: f64) -> i32 {
    let scaled = weight * f64::from(1 << FRACTION_BITS);
    (scaled + if scaled < 0.0 { -0.5 } else { 0.5 }) as i32
}

fn horizontal(source: &RgbImage, width: u32) -> RgbImage {
    let weights = Weights::new(source.width() as usize, width as usize);
    let mut target = RgbImage::new(width, source.height());
    RowFilter::new(source.width() as usize, FRACTION_BITS, weights.taps).run(source.as_raw(), &mut target);
    target
}

fn vertical(source: &RgbImage, height: u32) -> RgbImage {
    let weights = Weights::new(source.height() as usize, height as usize);
    let stride = source.width() as usize * CHANNELS;
    let mut target = RgbImage::new(source.width(), height);
    filter_columns(source.as_raw(), stride, &weights.taps, FRACTION_BITS, &mut target);
    target
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_colour_stays_that_colour_at_any_size() {
        let source = RgbImage::from_pixel(37, 5, image::Rgb([255, 0, 77]));
        for side in [1, 3, 5, 37, 224] {
            let target = square(&source, side);
            assert_eq!(target.dimensions(), (side, side));
            assert!(target.pixels().all(|pixel| pixel.0 == [255, 0, 77]));
        }
    }

    #[test]
    fn weights_of_a_pixel_add_up_to_one() {
        for (source, target) in [(1, 224), (97, 224), (224, 224), (225, 224), (5000, 224)] {
            for (first, weights) in Weights::new(source, target).taps {
                assert!(first + weights.len() <= source);
                let off = weights.iter().map(|&w| i64::from(w)).sum::<i64>() - (1 << FRACTION_BITS);
                assert!(off.abs() <= weights.len() as i64);
            }
        }
    }
}
