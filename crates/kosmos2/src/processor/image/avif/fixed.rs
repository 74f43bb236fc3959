//! Luma and chroma to 8-bit colours in the fixed point of libyuv, with which libavif converts the usual kinds.

use super::container::Colours;
use super::planes::Planes;
use super::stream::Sampling;

/// Factors of 6 bits' fraction: chroma of blue to blue, both to green, that of red to red. None is above 128.
#[derive(Debug, Clone, Copy)]
struct Factors {
    blue: i32,
    green_of_blue: i32,
    green_of_red: i32,
    red: i32,
}

/// Of luma, with 16 bits more, and what is added to it.
const LIMITED: (u32, i32) = (18_997, -1_160);
const LIMITED_2020: (u32, i32) = (19_003, -1_160);
const FULL: (u32, i32) = (16_320, 32);

/// How samples are brought to 8 bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Depth {
    /// Before pixels share them out.
    First,
    /// After that.
    Last,
    /// After each pixel took the nearest ones.
    Nearest,
}

/// Turns samples into colours.
pub(super) struct Converter<'a> {
    planes: &'a Planes,
    luma: (u32, i32),
    factors: Factors,
    depth: Depth,
    /// Whether opacity loses its low bits instead of being rounded.
    pub(super) cuts_opacity: bool,
}

impl<'a> Converter<'a> {
    /// For the kinds that are converted in this way; `None` for others.
    pub(super) fn new(planes: &'a Planes, colours: Colours, has_alpha: bool) -> Option<Self> {
        if planes.sampling == Sampling::None && !has_alpha {
            return None;
        }
        let (luma, factors) = factors(planes, colours)?;
        let depth = match (planes.depth, planes.sampling, has_alpha) {
            (10, Sampling::Full | Sampling::Half | Sampling::Quarter, true) => Depth::Last,
            (12, Sampling::Quarter, true) => Depth::Nearest,
            _ => Depth::First,
        };
        let cuts_opacity = depth != Depth::Nearest && planes.sampling != Sampling::None;
        Some(Self { planes, luma, factors, depth, cuts_opacity })
    }

    /// The colour at a place.
    pub(super) fn colour(&self, x: usize, y: usize) -> [u8; 3] {
        let (factor, bias) = self.luma;
        let sample = u32::from(self.planes.at(0, x, y));
        // Sixteen bits, the high ones repeated below.
        let wide = match self.depth {
            Depth::First => (sample >> (self.planes.depth - 8)) * 0x0101,
            Depth::Last => sample << 6 | sample >> 4,
            Depth::Nearest => sample << 4 | sample >> 8,
        };
        let luma = ((wide * factor) >> 16) as i32 + bias;
        let clip = |part: i32| (part >> 6).clamp(0, 255) as u8;
        if self.planes.sampling == Sampling::None {
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

    /// Chroma of a pixel in 8 bits.
    fn chroma(&self, plane: usize, x: usize, y: usize) -> i32 {
        let shift = self.planes.depth - 8;
        let (first, last) = if self.depth == Depth::First { (shift, 0) } else { (0, shift) };
        let at = |x, y| i32::from(self.planes.at(plane, x, y) >> first);
        let is_low = self.planes.sampling == Sampling::Quarter;
        let mixed = match self.planes.sampling {
            Sampling::Half | Sampling::Quarter if self.depth == Depth::Nearest => {
                at(x / 2, if is_low { y / 2 } else { y })
            }
            Sampling::Half | Sampling::Quarter => {
                let (near_x, next_x) = pair(x, self.planes.width);
                // Rows at the edges lie alone.
                let (near_y, next_y) = if is_low { rows(y, self.planes.height) } else { (y, y) };
                if near_y == next_y {
                    (3 * at(near_x, near_y) + at(next_x, near_y) + 2) >> 2
                } else {
                    (9 * at(near_x, near_y) + 3 * at(next_x, near_y) + 3 * at(near_x, next_y) + at(next_x, next_y) + 8)
                        >> 4
                }
            }
            _ => at(x, y),
        };
        (mixed >> last).min(255)
    }
}

/// The nearest sample, and the next one on the pixel's other side. The first and the last pixel have only one.
fn pair(place: usize, side: usize) -> (usize, usize) {
    let near = place / 2;
    if place == 0 || place + 1 == side {
        (near, near)
    } else {
        (near, if place.is_multiple_of(2) { near - 1 } else { near + 1 })
    }
}

/// The same of rows, of which the last one lies alone only where their number is even.
fn rows(place: usize, side: usize) -> (usize, usize) {
    if place > 0 && place + 1 == side && !side.is_multiple_of(2) {
        (place / 2, place / 2 - 1)
    } else {
        pair(place, side)
    }
}

fn factors(planes: &Planes, colours: Colours) -> Option<((u32, i32), Factors)> {
    let Colours { primaries, matrix, is_full_range } = colours;
    let matrix = match matrix {
        0 if planes.sampling == Sampling::None => 6,
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

/// A colour that was multiplied with its opacity, as it was before.
pub(super) fn divided(colour: u8, alpha: u8) -> u8 {
    let inverse = match alpha {
        0 => return 0,
        1 => 0xffff,
        255 => return colour,
        _ => 0x1_0000 / u32::from(alpha),
    };
    ((u32::from(colour) * 0x0101 * inverse) >> 16).min(255) as u8
}
