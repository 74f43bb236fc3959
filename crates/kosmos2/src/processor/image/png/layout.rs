//! How a PNG file's pixels are stored: bit depth, colour type, and the passes of an interlaced picture.

use super::super::error::{ImageError, undecodable};
use super::super::format::PictureFormat;

/// The colour type of IHDR.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ColourType {
    Gray,
    Rgb,
    Palette,
    GrayAlpha,
    Rgba,
}

/// The fields of IHDR, and those of fcTL that apply to the default image.
#[derive(Debug, Clone, Copy)]
pub(super) struct Layout {
    /// Width and height of the picture.
    pub(super) canvas: [usize; 2],
    /// Offset of the stored pixels on the canvas: a frame of an animation may be smaller.
    pub(super) offset: [usize; 2],
    /// Width of the stored pixels.
    pub(super) width: usize,
    /// Height of the stored pixels.
    pub(super) height: usize,
    /// Bits per sample.
    pub(super) depth: u8,
    pub(super) colour_type: ColourType,
    is_interlaced: bool,
}

/// The whole picture or, if it is interlaced, one of its passes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pass {
    /// Column of the first pixel.
    pub(super) x: usize,
    /// Row of the first pixel.
    pub(super) y: usize,
    /// Columns from one pixel to the next.
    pub(super) column_step: usize,
    /// Rows from one scanline to the next.
    pub(super) row_step: usize,
    /// Bytes of a scanline without its filter byte.
    pub(super) scanline_bytes: usize,
    pub(super) scanlines: usize,
}

/// First column, first row, column step and row step of each pass.
const NOT_INTERLACED: [[usize; 4]; 1] = [[0, 0, 1, 1]];
const ADAM7: [[usize; 4]; 7] =
    [[0, 0, 8, 8], [4, 0, 8, 8], [0, 4, 4, 8], [2, 0, 4, 4], [0, 2, 2, 4], [1, 0, 2, 2], [0, 1, 1, 2]];

impl Layout {
    /// Reads the data of IHDR.
    pub(super) fn read(data: &[u8]) -> Result<Self, ImageError> {
        let damaged = |reason: &str| undecodable(PictureFormat::Png, reason);
        let Some((dimensions, &[depth, colour_type, _, filter_method, interlace_method, ..])) =
            data.split_first_chunk::<8>()
        else {
            return Err(damaged("its IHDR chunk is too short"));
        };
        let [width, height] =
            [0, 4].map(|at| u32::from_be_bytes(std::array::from_fn(|byte| dimensions[at + byte])) as usize);
        if filter_method != 0 {
            return Err(damaged("its filter method is unknown"));
        }
        let colour_type = match (colour_type, depth) {
            (0, 1 | 2 | 4 | 8 | 16) => ColourType::Gray,
            (2, 8 | 16) => ColourType::Rgb,
            (3, 1 | 2 | 4 | 8) => ColourType::Palette,
            (4, 8 | 16) => ColourType::GrayAlpha,
            (6, 8 | 16) => ColourType::Rgba,
            _ => return Err(damaged("its combination of bit depth and colour type is invalid")),
        };
        let (canvas, offset) = ([width, height], [0; 2]);
        Ok(Self { canvas, offset, width, height, depth, colour_type, is_interlaced: interlace_method != 0 })
    }

    /// Reads the data of an fcTL chunk before IDAT: the default image is then the animation's first frame.
    pub(super) fn set_frame(&mut self, data: &[u8]) -> Result<(), ImageError> {
        let damaged = || undecodable(PictureFormat::Png, "its first frame does not fit on its canvas");
        let (fields, _) = data.split_first_chunk::<26>().ok_or_else(damaged)?;
        let [width, height, x, y] =
            [4, 8, 12, 16].map(|at| u32::from_be_bytes(std::array::from_fn(|byte| fields[at + byte])) as usize);
        if width == 0 || height == 0 || x + width > self.canvas[0] || y + height > self.canvas[1] {
            return Err(damaged());
        }
        (self.width, self.height) = (width, height);
        // Pillow ignores the offset of an interlaced frame.
        self.offset = if self.is_interlaced { [0; 2] } else { [x, y] };
        Ok(())
    }

    pub(super) fn fills_the_canvas(&self) -> bool {
        self.canvas == [self.width, self.height]
    }

    pub(super) fn bits_per_pixel(&self) -> usize {
        let channels = match self.colour_type {
            ColourType::Gray | ColourType::Palette => 1,
            ColourType::GrayAlpha => 2,
            ColourType::Rgb => 3,
            ColourType::Rgba => 4,
        };
        channels * usize::from(self.depth)
    }

    /// Minimum length of a tRNS chunk.
    pub(super) fn min_transparency_bytes(&self) -> usize {
        match self.colour_type {
            ColourType::Gray => 2,
            ColourType::Rgb => 6,
            _ => 0,
        }
    }

    /// The passes that have pixels.
    pub(super) fn passes(&self) -> impl Iterator<Item = Pass> {
        let table: &[[usize; 4]] = if self.is_interlaced { &ADAM7 } else { &NOT_INTERLACED };
        let (width, height, bits) = (self.width, self.height, self.bits_per_pixel());
        let passes = table.iter().map(move |&[x, y, column_step, row_step]| {
            let [columns, scanlines] = [(width, x, column_step), (height, y, row_step)]
                .map(|(side, first, step)| side.saturating_sub(first).div_ceil(step));
            Pass { x, y, column_step, row_step, scanline_bytes: (columns * bits).div_ceil(8), scanlines }
        });
        passes.filter(|pass| pass.scanline_bytes > 0)
    }

    /// Bytes of all scanlines with their filter bytes.
    pub(super) fn decompressed_size(&self) -> usize {
        self.passes()
            .map(|pass| (pass.scanline_bytes + 1).saturating_mul(pass.scanlines))
            .fold(0, usize::saturating_add)
    }
}
