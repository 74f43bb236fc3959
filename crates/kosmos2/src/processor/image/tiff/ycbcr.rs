//! Conversion of YCbCr to RGB, as in libtiff and in Pillow.

use super::super::error::ImageError;
use super::directory::Directory;
use super::error::{damaged, unsupported};

const COEFFICIENTS: u16 = 529;
const SUBSAMPLING: u16 = 530;
const REFERENCE_BLACK_WHITE: u16 = 532;
/// Fraction bits of the fixed-point tables.
const SHIFT: u32 = 16;

/// libtiff's conversion tables (`TIFFYCbCrToRGBInit`), and the chroma subsampling.
pub(super) struct YCbCr {
    /// Horizontal subsampling factor of chroma.
    across: usize,
    /// Vertical subsampling factor of chroma.
    down: usize,
    luma: [i32; 256],
    red: [i32; 256],
    blue: [i32; 256],
    green_of_red: [i32; 256],
    green_of_blue: [i32; 256],
}

impl YCbCr {
    /// Reads the fields that describe YCbCr, or takes their defaults.
    pub(super) fn new(directory: &Directory, is_planar: bool) -> Result<Self, ImageError> {
        let numbers = |tag, defaults: &[f32]| -> Vec<f32> {
            let values = directory.get(tag).filter(|values| values.len() >= defaults.len());
            let given = |(index, default): (usize, &f32)| values.map_or(Some(*default), |one| one.fraction(index));
            defaults.iter().enumerate().map(|one| given(one).unwrap_or(*one.1)).collect()
        };
        let luma = numbers(COEFFICIENTS, &[0.299, 0.587, 0.114]);
        let reference = numbers(REFERENCE_BLACK_WHITE, &[0.0, 255.0, 128.0, 255.0, 128.0, 255.0]);
        let subsampling = numbers(SUBSAMPLING, &[2.0, 2.0]);
        let (&[red, green, blue], &[black, white, low_blue, high_blue, low_red, high_red], &[across, down]) =
            (&luma[..], &reference[..], &subsampling[..])
        else {
            return Err(damaged("its YCbCr fields are incomplete"));
        };
        if green == 0.0 {
            return Err(damaged("its YCbCr coefficient of green is 0"));
        }
        let (across, down) = (across as usize, down as usize);
        let is_known = matches!((across, down), (1, 1 | 2) | (2, 1 | 2) | (4, 1 | 2 | 4));
        if !is_known || (is_planar && (across, down) != (1, 1)) {
            return Err(unsupported(format!("of YCbCr with {across}×{down} chroma subsampling")));
        }
        let (of_red, of_blue) = (2.0 - 2.0 * red, 2.0 - 2.0 * blue);
        let red_of_red = fixed_point(of_red);
        let red_of_green = -fixed_point(red * of_red / green);
        let blue_of_blue = fixed_point(of_blue);
        let blue_of_green = -fixed_point(blue * of_blue / green);
        let half = 1 << (SHIFT - 1);
        let chroma = |index: usize, low: f32, high: f32| scaled(index as f32 - 128.0, low - 128.0, high - 128.0, 127.0);
        let of_red = |index| chroma(index, low_red, high_red);
        let of_blue = |index| chroma(index, low_blue, high_blue);
        Ok(Self {
            across,
            down,
            luma: std::array::from_fn(|index| scaled(index as f32, black, white, 255.0)),
            red: std::array::from_fn(|index| (red_of_red.wrapping_mul(of_red(index)).wrapping_add(half)) >> SHIFT),
            blue: std::array::from_fn(|index| (blue_of_blue.wrapping_mul(of_blue(index)).wrapping_add(half)) >> SHIFT),
            green_of_red: std::array::from_fn(|index| red_of_green.wrapping_mul(of_red(index))),
            green_of_blue: std::array::from_fn(|index| blue_of_green.wrapping_mul(of_blue(index)).wrapping_add(half)),
        })
    }

    /// Bytes of a chunk of `rows` rows of `width` pixels.
    pub(super) fn chunk_bytes(&self, width: usize, rows: usize) -> usize {
        self.row_bytes(width) * rows.div_ceil(self.down)
    }

    /// Whether chroma is not subsampled.
    pub(super) fn is_not_subsampled(&self) -> bool {
        (self.across, self.down) == (1, 1)
    }

    /// Bytes of a row of data units.
    fn row_bytes(&self, width: usize) -> usize {
        width.div_ceil(self.across) * (self.across * self.down + 2)
    }

    /// The pixel at a position in a chunk, as RGB. A data unit has the luma samples of the pixels that share chroma,
    /// and then their Cb and Cr samples (TIFF 6.0, section 21).
    pub(super) fn pixel(&self, chunk: &[u8], width: usize, (x, y): (usize, usize)) -> [u8; 3] {
        let size = self.across * self.down;
        let unit = y / self.down * self.row_bytes(width) + x / self.across * (size + 2);
        let at = |offset: usize| chunk.get(unit + offset).copied().unwrap_or_default();
        self.rgb([at(y % self.down * self.across + x % self.across), at(size), at(size + 1)])
    }

    /// Converts luma and chroma to RGB.
    pub(super) fn rgb(&self, [luma, blue, red]: [u8; 3]) -> [u8; 3] {
        let (blue, red) = (usize::from(blue), usize::from(red));
        let luma = self.luma[usize::from(luma)];
        let green = self.green_of_blue[blue].wrapping_add(self.green_of_red[red]) >> SHIFT;
        [self.red[red], green, self.blue[blue]].map(|colour| luma.wrapping_add(colour).clamp(0, 255) as u8)
    }
}

fn fixed_point(factor: f32) -> i32 {
    (f64::from(factor.clamp(0.0, 2.0)) * f64::from(1 << SHIFT) + 0.5) as i32
}

/// libtiff's `Code2V`: scales a sample between the reference black and white, and clamps it.
fn scaled(code: f32, black: f32, white: f32, range: f32) -> i32 {
    let span = if white == black { 1.0 } else { white - black };
    let value = (code - black.trunc()) * range / span;
    value.clamp(-128.0 * 32.0, 128.0 * 32.0) as i32
}

/// Pillow's own conversion, which it uses for uncompressed YCbCr.
pub(super) fn pillow_ycbcr_to_rgb([luma, blue, red]: [u8; 3]) -> [u8; 3] {
    // The entries of Pillow's tables, with 6 fraction bits, each rounded.
    let entry = |factor: f64, code: u8| (factor * (f64::from(code) - 128.0) * 64.0 + 0.5) as i32;
    let luma = i32::from(luma);
    let colours =
        [entry(1.402, red) >> 6, (entry(-0.34414, blue) + entry(-0.71414, red)) >> 6, entry(1.772, blue) >> 6];
    colours.map(|colour| (luma + colour).clamp(0, 255) as u8)
}
