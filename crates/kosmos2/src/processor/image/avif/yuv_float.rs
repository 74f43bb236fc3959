//! Conversion of YUV to RGB in libavif's floating-point arithmetic.

use super::super::error::ImageError;
use super::av1_stream::ChromaSubsampling;
use super::cicp::Cicp;
use super::error::unsupported;
use super::planes::Planes;

/// Matrix coefficients: the planes are green, blue and red.
const IDENTITY: u16 = 0;
const YCGCO: u16 = 8;
/// For each value of `ColourPrimaries` other than BT.709: the chromaticities x and y of red, green, blue and white.
const CHROMATICITIES: [(u16, [f32; 8]); 10] = [
    (4, [0.67, 0.33, 0.21, 0.71, 0.14, 0.08, 0.310, 0.316]),
    (5, [0.64, 0.33, 0.29, 0.60, 0.15, 0.06, 0.3127, 0.3290]),
    (6, [0.630, 0.340, 0.310, 0.595, 0.155, 0.070, 0.3127, 0.3290]),
    (7, [0.630, 0.340, 0.310, 0.595, 0.155, 0.070, 0.3127, 0.3290]),
    (8, [0.681, 0.319, 0.243, 0.692, 0.145, 0.049, 0.310, 0.316]),
    (9, [0.708, 0.292, 0.170, 0.797, 0.131, 0.046, 0.3127, 0.3290]),
    (10, [1.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.3333, 0.3333]),
    (11, [0.680, 0.320, 0.265, 0.690, 0.150, 0.060, 0.314, 0.351]),
    (12, [0.680, 0.320, 0.265, 0.690, 0.150, 0.060, 0.3127, 0.3290]),
    (22, [0.630, 0.340, 0.295, 0.605, 0.155, 0.077, 0.3127, 0.3290]),
];
const BT709: [f32; 8] = [0.64, 0.33, 0.3, 0.6, 0.15, 0.06, 0.3127, 0.329];

/// Converts samples to RGB.
pub(super) struct FloatConverter<'a> {
    planes: &'a Planes,
    matrix: u16,
    /// Weights of red, green and blue in luma.
    weights: [f32; 3],
    /// Normalized luma for each sample value.
    luma: Vec<f32>,
    /// Normalized chroma for each sample value.
    chroma: Vec<f32>,
}

impl<'a> FloatConverter<'a> {
    pub(super) fn new(planes: &'a Planes, cicp: Cicp) -> Result<Self, ImageError> {
        let Cicp { primaries, matrix, is_full_range } = cicp;
        let is_identity = matrix == IDENTITY;
        let is_subsampled = matches!(planes.subsampling, ChromaSubsampling::Yuv422 | ChromaSubsampling::Yuv420);
        if matches!(matrix, 3 | 10 | 11 | 13..) || (matrix == YCGCO && !is_full_range) || (is_identity && is_subsampled)
        {
            return Err(unsupported(format!("with matrix coefficients {matrix}")));
        }
        let (red, blue) = match matrix {
            1 => (0.2126, 0.0722),
            4 => (0.30, 0.11),
            7 => (0.212, 0.087),
            9 => (0.2627, 0.0593),
            12 => derived_weights(primaries),
            _ => (0.299, 0.114),
        };
        let (depth, max) = (planes.depth, (1u32 << planes.depth) - 1);
        let levels = |bias: u32, range: u32| -> Vec<f32> {
            (0..=max).map(|sample| (sample as f32 - bias as f32) / range as f32).collect()
        };
        let (bias, range) = if is_full_range { (0, max) } else { (16 << (depth - 8), 219 << (depth - 8)) };
        let chroma_range = if is_full_range { max } else { 224 << (depth - 8) };
        let luma = levels(bias, range);
        let chroma = if is_identity { luma.clone() } else { levels(1 << (depth - 1), chroma_range) };
        Ok(Self { planes, matrix, weights: [red, 1.0 - red - blue, blue], luma, chroma })
    }

    /// The colour of a pixel; each channel is from 0 to 1.
    pub(super) fn rgb(&self, x: usize, y: usize) -> [f32; 3] {
        let luma = self.level(&self.luma, 0, x, y);
        if self.planes.subsampling == ChromaSubsampling::Monochrome {
            return [luma.clamp(0.0, 1.0); 3];
        }
        let (blue, red) = (self.chroma(1, x, y), self.chroma(2, x, y));
        let rgb = match self.matrix {
            IDENTITY => [red, luma, blue],
            YCGCO => [luma - blue + red, luma + blue, luma - blue - red],
            _ => {
                let [of_red, of_green, of_blue] = self.weights;
                [
                    luma + (2.0 * (1.0 - of_red)) * red,
                    luma - ((2.0 * ((of_red * (1.0 - of_red) * red) + (of_blue * (1.0 - of_blue) * blue))) / of_green),
                    luma + (2.0 * (1.0 - of_blue)) * blue,
                ]
            }
        };
        rgb.map(|channel| channel.clamp(0.0, 1.0))
    }

    fn level(&self, levels: &[f32], plane: usize, x: usize, y: usize) -> f32 {
        levels.get(usize::from(self.planes.at(plane, x, y))).copied().unwrap_or_default()
    }

    /// Chroma of a pixel. Subsampled chroma is interpolated bilinearly.
    fn chroma(&self, plane: usize, x: usize, y: usize) -> f32 {
        let level = |x, y| self.level(&self.chroma, plane, x, y);
        // The nearest sample, and the one on the other side of the pixel.
        let neighbours = |position: usize| {
            let near = position / 2;
            (near, if position.is_multiple_of(2) { near.saturating_sub(1) } else { near + 1 })
        };
        let (near_x, next_x) = neighbours(x);
        let (near_y, next_y) = match self.planes.subsampling {
            ChromaSubsampling::Yuv420 => neighbours(y),
            ChromaSubsampling::Yuv422 => (y, y),
            _ => return level(x, y),
        };
        level(near_x, near_y) * (9.0 / 16.0)
            + level(next_x, near_y) * (3.0 / 16.0)
            + level(near_x, next_y) * (3.0 / 16.0)
            + level(next_x, next_y) * (1.0 / 16.0)
    }
}

/// Weights of red and blue derived from the primaries (H.273, matrix coefficients 12).
fn derived_weights(primaries: u16) -> (f32, f32) {
    let found =
        CHROMATICITIES.iter().find(|(number, _)| *number == primaries).map(|(_, chromaticities)| *chromaticities);
    let [rx, ry, gx, gy, bx, by, wx, wy] = found.unwrap_or(BT709);
    let [rz, gz, bz, wz] = [(rx, ry), (gx, gy), (bx, by), (wx, wy)].map(|(x, y)| 1.0 - (x + y));
    let all = wy * (rx * (gy * bz - by * gz) + gx * (by * rz - ry * bz) + bx * (ry * gz - gy * rz));
    let red = ry * (wx * (gy * bz - by * gz) + wy * (bx * gz - gx * bz) + wz * (gx * by - bx * gy));
    let blue = by * (wx * (ry * gz - gy * rz) + wy * (gx * rz - rx * gz) + wz * (rx * gy - gx * ry));
    (red / all, blue / all)
}
