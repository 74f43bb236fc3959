//! How a PNG file's pixels are stored: depth, channels, and the passes of an interlaced picture.

use super::super::decode::{ImageError, PictureFormat, undecodable};

/// What a pixel is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Colours {
    Gray,
    Rgb,
    Palette,
    GrayAlpha,
    Rgba,
}

/// The header's fields.
#[derive(Debug, Clone, Copy)]
pub(super) struct Layout {
    /// Of the picture.
    pub(super) canvas: [usize; 2],
    /// Where on the canvas the stored pixels belong: a frame of an animation may be smaller.
    pub(super) place: [usize; 2],
    /// Of the stored pixels.
    pub(super) width: usize,
    pub(super) height: usize,
    /// Bits of a sample.
    pub(super) depth: u8,
    pub(super) colours: Colours,
    is_interlaced: bool,
}

/// Rows that are stored together: the whole picture, or one pass over an interlaced one.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pass {
    /// The first pixel.
    pub(super) x: usize,
    pub(super) y: usize,
    /// From one pixel to the next.
    pub(super) across: usize,
    pub(super) down: usize,
    /// Bytes of a row, its filter not counted.
    pub(super) row: usize,
    pub(super) rows: usize,
}

/// First column and row, steps across and down.
const WHOLE: [[usize; 4]; 1] = [[0, 0, 1, 1]];
const INTERLACED: [[usize; 4]; 7] =
    [[0, 0, 8, 8], [4, 0, 8, 8], [0, 4, 4, 8], [2, 0, 4, 4], [0, 2, 2, 4], [1, 0, 2, 2], [0, 1, 1, 2]];

impl Layout {
    /// Reads the header chunk's data.
    pub(super) fn read(data: &[u8]) -> Result<Self, ImageError> {
        let broken = |fault: &str| undecodable(PictureFormat::Png, fault);
        let Some((sides, &[depth, kind, _, filters, interlaced, ..])) = data.split_first_chunk::<8>() else {
            return Err(broken("it ends within its header"));
        };
        let [width, height] =
            [0, 4].map(|at| u32::from_be_bytes(std::array::from_fn(|byte| sides[at + byte])) as usize);
        if filters != 0 {
            return Err(broken("its rows are filtered in an unknown way"));
        }
        let colours = match (kind, depth) {
            (0, 1 | 2 | 4 | 8 | 16) => Colours::Gray,
            (2, 8 | 16) => Colours::Rgb,
            (3, 1 | 2 | 4 | 8) => Colours::Palette,
            (4, 8 | 16) => Colours::GrayAlpha,
            (6, 8 | 16) => Colours::Rgba,
            _ => return Err(broken("its header states a depth and colour type that do not go together")),
        };
        let (canvas, place) = ([width, height], [0; 2]);
        Ok(Self { canvas, place, width, height, depth, colours, is_interlaced: interlaced != 0 })
    }

    /// Reads a frame's control chunk: the pixels that follow are that frame's.
    pub(super) fn set_frame(&mut self, data: &[u8]) -> Result<(), ImageError> {
        let broken = || undecodable(PictureFormat::Png, "it states a frame that does not fit its size");
        let (fields, _) = data.split_first_chunk::<26>().ok_or_else(broken)?;
        let [width, height, x, y] =
            [4, 8, 12, 16].map(|at| u32::from_be_bytes(std::array::from_fn(|byte| fields[at + byte])) as usize);
        if width == 0 || height == 0 || x + width > self.canvas[0] || y + height > self.canvas[1] {
            return Err(broken());
        }
        (self.width, self.height) = (width, height);
        // Pillow puts an interlaced frame at the corner.
        self.place = if self.is_interlaced { [0; 2] } else { [x, y] };
        Ok(())
    }

    pub(super) fn fills_the_canvas(&self) -> bool {
        self.canvas == [self.width, self.height]
    }

    pub(super) fn bits_per_pixel(&self) -> usize {
        let channels = match self.colours {
            Colours::Gray | Colours::Palette => 1,
            Colours::GrayAlpha => 2,
            Colours::Rgb => 3,
            Colours::Rgba => 4,
        };
        channels * usize::from(self.depth)
    }

    /// Bytes that a transparency chunk has at least.
    pub(super) fn shortest_transparency(&self) -> usize {
        match self.colours {
            Colours::Gray => 2,
            Colours::Rgb => 6,
            _ => 0,
        }
    }

    pub(super) fn passes(&self) -> impl Iterator<Item = Pass> {
        let table: &[[usize; 4]] = if self.is_interlaced { &INTERLACED } else { &WHOLE };
        let (width, height, bits) = (self.width, self.height, self.bits_per_pixel());
        let passes = table.iter().map(move |&[x, y, across, down]| {
            let [columns, rows] = [(width, x, across), (height, y, down)]
                .map(|(side, first, step)| side.saturating_sub(first).div_ceil(step));
            Pass { x, y, across, down, row: (columns * bits).div_ceil(8), rows }
        });
        passes.filter(|pass| pass.row > 0)
    }

    /// Bytes of all rows with their filters.
    pub(super) fn unpacked_size(&self) -> usize {
        self.passes().map(|pass| (pass.row + 1).saturating_mul(pass.rows)).fold(0, usize::saturating_add)
    }
}
