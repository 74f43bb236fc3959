//! Conversion of YUV to RGB in libyuv's fixed-point arithmetic, which libavif uses for common formats.

use super::av1_stream::ChromaSubsampling;
use super::cicp::Cicp;
use super::planes::Planes;

/// Factors of chroma with 6 fraction bits: U in blue, U in green, V in green, V in red. libyuv limits them to 128.
#[derive(Debug, Clone, Copy)]
struct Factors {
    blue: i32,
    green_of_blue: i32,
    green_of_red: i32,
    red: i32,
}

/// Factor of luma with 22 fraction bits, and the bias with 6 fraction bits.
const LIMITED: (u32, i32) = (18_997, -1_160);
const LIMITED_2020: (u32, i32) = (19_003, -1_160);
const FULL: (u32, i32) = (16_320, 32);

/// When samples of more than 8 bits are reduced to 8 bits, which depends on the libyuv function that libavif calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reduction {
    /// Before chroma is upsampled.
    Before,
    /// After chroma is upsampled.
    After,
    /// After chroma is upsampled without interpolation.
    AfterNearest,
}

/// Converts samples to RGB.
pub(super) struct FixedPointConverter<'a> {
    planes: &'a Planes,
    luma: (u32, i32),
    factors: Factors,
    reduction: Reduction,
    /// Whether alpha is truncated to 8 bits instead of rounded.
    pub(super) truncates_alpha: bool,
}

impl<'a> FixedPointConverter<'a> {
    /// `None` if libavif does not use libyuv for the format.
    pub(super) fn new(planes: &'a Planes, cicp: Cicp, has_alpha: bool) -> Option<Self> {
        if planes.subsampling == ChromaSubsampling::Monochrome && !has_alpha {
            return None;
        }
        let (luma, factors) = factors(planes, cicp)?;
        let is_monochrome = planes.subsampling == ChromaSubsampling::Monochrome;
        let reduction = match (planes.depth, planes.subsampling, has_alpha) {
            (10, _, true) if !is_monochrome => Reduction::After,
            (12, ChromaSubsampling::Yuv420, true) => Reduction::AfterNearest,
            _ => Reduction::Before,
        };
        let truncates_alpha = reduction != Reduction::AfterNearest && !is_monochrome;
        Some(Self { planes, luma, factors, reduction, truncates_alpha })
    }

    /// The colour of a pixel.
    pub(super) fn rgb(&self, x: usize, y: usize) -> [u8; 3] {
        let (factor, bias) = self.luma;
        let sample = u32::from(self.planes.at(0, x, y));
        // Extended to 16 bits by repeating the high bits.
        let wide = match self.reduction {
            Reduction::Before => (sample >> (self.planes.depth - 8)) * 0x0101,
            Reduction::After => sample << 6 | sample >> 4,
            Reduction::AfterNearest => sample << 4 | sample >> 8,
        };
        let luma = ((wide * factor) >> 16) as i32 + bias;
        let clip = |channel: i32| (channel >> 6).clamp(0, 255) as u8;
        if self.planes.subsampling == ChromaSubsampling::Monochrome {
            return [clip(luma); 3];
        }
        let (blue, red) = (self.chroma(1, x, y) - 128, self.chroma(2, x, y) - 128);
        let factors = self.factors;
        [
            clip(luma + red * factors.red),
            clip(luma - (blue * factors.green_of_blue + red * factors.green_of_red)),
            clip(luma + blue * factors.blue),
        ]
    }

    /// Chroma of a pixel as an 8-bit sample.
    fn chroma(&self, plane: usize, x: usize, y: usize) -> i32 {
        let shift = self.planes.depth - 8;
        let (first, last) = if self.reduction == Reduction::Before { (shift, 0) } else { (0, shift) };
        let at = |x, y| i32::from(self.planes.at(plane, x, y) >> first);
        let is_420 = self.planes.subsampling == ChromaSubsampling::Yuv420;
        let upsampled = match self.planes.subsampling {
            ChromaSubsampling::Monochrome | ChromaSubsampling::Yuv444 => at(x, y),
            _ if self.reduction == Reduction::AfterNearest => at(x / 2, if is_420 { y / 2 } else { y }),
            _ => {
                let (near_x, next_x) = neighbour_columns(x, self.planes.width);
                let (near_y, next_y) = if is_420 { neighbour_rows(y, self.planes.height) } else { (y, y) };
                // At the upper and lower edge, only one row of chroma is used.
                if near_y == next_y {
                    (3 * at(near_x, near_y) + at(next_x, near_y) + 2) >> 2
                } else {
                    (9 * at(near_x, near_y) + 3 * at(next_x, near_y) + 3 * at(near_x, next_y) + at(next_x, next_y) + 8)
                        >> 4
                }
            }
        };
        (upsampled >> last).min(255)
    }
}

/// The nearest column of chroma, and the one on the other side of the pixel. The first and the last pixel use only one.
fn neighbour_columns(position: usize, side: usize) -> (usize, usize) {
    let near = position / 2;
    if position == 0 || position + 1 == side {
        (near, near)
    } else {
        (near, if position.is_multiple_of(2) { near - 1 } else { near + 1 })
    }
}

/// The same for rows, except that the last pixel uses two rows if the height is odd.
fn neighbour_rows(position: usize, side: usize) -> (usize, usize) {
    if position > 0 && position + 1 == side && !side.is_multiple_of(2) {
        (position / 2, position / 2 - 1)
    } else {
        neighbour_columns(position, side)
    }
}

/// libyuv's constants for luma and chroma; `None` if it has none for the matrix coefficients.
fn factors(planes: &Planes, cicp: Cicp) -> Option<((u32, i32), Factors)> {
    let Cicp { primaries, matrix, is_full_range } = cicp;
    let matrix = match matrix {
        0 if planes.subsampling == ChromaSubsampling::Monochrome => 6,
        12 => match primaries {
            1 | 2 => 1,
            5 | 6 => 6,
            9 => 9,
            _ => return None,
        },
        matrix => matrix,
    };
    let of = |blue, green_of_blue, green_of_red, red| Factors { blue, green_of_blue, green_of_red, red };
    let factors = match (matrix, is_full_range) {
        (1, true) => of(119, 12, 30, 101),
        (2 | 5 | 6, true) => of(113, 22, 46, 90),
        (9, true) => of(120, 11, 37, 94),
        (1, false) => of(128, 14, 34, 115),
        (2 | 5 | 6, false) => of(128, 25, 52, 102),
        (9, false) => of(128, 12, 42, 107),
        _ => return None,
    };
    let luma = match (matrix, is_full_range) {
        (_, true) => FULL,
        (9, false) => LIMITED_2020,
        (_, false) => LIMITED,
    };
    Some((luma, factors))
}

/// Divides a premultiplied channel by alpha, as libyuv's `ARGBUnattenuate` does.
pub(super) fn unpremultiply(colour: u8, alpha: u8) -> u8 {
    let inverse = match alpha {
        0 => return 0,
        1 => 0xffff,
        255 => return colour,
        _ => 0x1_0000 / u32::from(alpha),
    };
    ((u32::from(colour) * 0x0101 * inverse) >> 16).min(255) as u8
}
