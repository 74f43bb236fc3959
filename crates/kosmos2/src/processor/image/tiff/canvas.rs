//! Decoded pixels and their conversion to RGB.

use image::RgbImage;

use super::super::error::ImageError;
use super::super::jpeg::cmyk_to_rgb;
use super::super::transparency::on_white;
use super::error::damaged;
use super::layout::Layout;
use super::modes::Mode;
use super::ycbcr::pillow_ycbcr_to_rgb;

/// Decoded pixels in a mode.
pub(super) struct Canvas {
    pub(super) bytes: Vec<u8>,
    pub(super) width: usize,
    pub(super) height: usize,
    pub(super) mode: Mode,
}

impl Canvas {
    /// A canvas of zeros.
    pub(super) fn new(width: usize, height: usize, mode: Mode) -> Self {
        Self { bytes: vec![0; width * height * mode.bytes()], width, height, mode }
    }

    /// Pixels of row `y` from column `x` on: `width` of them, or fewer at the right edge.
    pub(super) fn row(&mut self, x: usize, y: usize, width: usize) -> &mut [u8] {
        let pixel = self.mode.bytes();
        let start = (y * self.width + x) * pixel;
        let end = (y * self.width + (x + width).min(self.width)) * pixel;
        self.bytes.get_mut(start..end).unwrap_or_default()
    }

    /// Converts the pixels to RGB as Pillow does; transparent pixels are composited over white.
    pub(super) fn into_rgb(self, layout: &Layout) -> Result<RgbImage, ImageError> {
        let (width, height) = (layout.width, layout.height);
        let wrong_size = || damaged("its pixels do not match its size");
        let picture = |bytes: Vec<u8>| RgbImage::from_raw(width, height, bytes).ok_or_else(wrong_size);
        match self.mode {
            Mode::Rgb => picture(self.bytes),
            Mode::Rgba => picture(self.bytes.as_chunks::<4>().0.iter().flat_map(|&pixel| on_white(pixel)).collect()),
            Mode::Gray => picture(self.bytes.iter().flat_map(|&gray| [gray; 3]).collect()),
            Mode::GrayAlpha => {
                let pixels = self.bytes.as_chunks::<2>().0.iter();
                picture(pixels.flat_map(|&[gray, alpha]| on_white([gray, gray, gray, alpha])).collect())
            }
            Mode::Palette => {
                let palette = palette(layout)?;
                picture(self.bytes.iter().flat_map(|&index| palette[usize::from(index)]).collect())
            }
            Mode::PaletteAlpha => {
                let palette = palette(layout)?;
                let rgb = |[index, alpha]: [u8; 2]| {
                    let [red, green, blue] = palette[usize::from(index)];
                    on_white([red, green, blue, alpha])
                };
                picture(self.bytes.as_chunks::<2>().0.iter().flat_map(|&pixel| rgb(pixel)).collect())
            }
            Mode::Cmyk => {
                let pixels = self.bytes.as_chunks::<4>().0.iter();
                picture(pixels.flat_map(|inks| cmyk_to_rgb(&inks.map(|ink| 255 - ink))).collect())
            }
            Mode::YCbCr => {
                let pixels = self.bytes.as_chunks::<3>().0.iter();
                picture(pixels.flat_map(|&pixel| pillow_ycbcr_to_rgb(pixel)).collect())
            }
        }
    }
}

/// The colour map as 8-bit colours. It has all reds, then all greens, then all blues; Pillow takes their high bytes.
fn palette(layout: &Layout) -> Result<[[u8; 3]; 256], ImageError> {
    let map = layout.colour_map.ok_or_else(|| damaged("it has no colour map"))?;
    let count = map.len() / 3;
    let high_byte = |at: usize| map.get(at).map_or(0, |value| (value >> 8) as u8);
    Ok(std::array::from_fn(
        |index| {
            if index < count { [0, 1, 2].map(|band| high_byte(index + band * count)) } else { [0; 3] }
        },
    ))
}
