//! The samples of a whole layer, put together of its tiles.

use super::super::decode::ImageError;
use super::super::limits::DecodeOptions;
use super::container::{Colours, Layer};
use super::stream::{self, Frame, Sampling};
use super::{damaged, unsupported};

/// Smallest side of a tile, where there are several.
const SMALLEST_TILE: u32 = 64;

/// Samples of luma and chroma, or of opacity.
pub(super) struct Planes {
    pub(super) width: usize,
    pub(super) height: usize,
    pub(super) depth: u32,
    pub(super) sampling: Sampling,
    /// What the first stream says of its colours.
    pub(super) colours: Colours,
    samples: [Vec<u16>; 3],
}

impl Planes {
    /// Decodes the streams of a layer one after the other. A plane of opacity has no chroma.
    pub(super) fn decode(
        layer: Layer,
        (width, height): (u32, u32),
        is_alpha: bool,
        options: &DecodeOptions,
    ) -> Result<Self, ImageError> {
        let pixels = u64::from(layer.width) * u64::from(layer.height);
        let is_grid = layer.tiles.len() > 1;
        if is_grid && layer.width.min(layer.height) < SMALLEST_TILE {
            return Err(damaged("its tiles are smaller than 64×64"));
        }
        let mut found: Option<Self> = None;
        for (index, tile) in layer.tiles.into_iter().enumerate() {
            options.check_time()?;
            let frame = stream::decode(tile.into_owned(), pixels)?;
            if (frame.width, frame.height) != (layer.width as usize, layer.height as usize) {
                return Err(damaged("an AV1 stream has another size than its item"));
            }
            if found.is_none() {
                found = Some(Self::new(&frame, (width as usize, height as usize), is_alpha));
            }
            let Some(planes) = &mut found else { break };
            let sampling = if is_alpha { Sampling::None } else { frame.sampling };
            if (planes.depth, planes.sampling) != (frame.depth, sampling) {
                return Err(damaged("its tiles have samples of different kinds"));
            }
            let sides = [layer.width, layer.height, width, height].map(|side| side % 2);
            let (is_narrow, is_low) =
                (sampling != Sampling::None && sampling != Sampling::Full, sampling == Sampling::Quarter);
            if is_grid && ((is_narrow && (sides[0], sides[2]) != (0, 0)) || (is_low && (sides[1], sides[3]) != (0, 0)))
            {
                return Err(unsupported("with tiles that share samples of chroma"));
            }
            let (column, row) = (index as u32 % layer.columns, index as u32 / layer.columns);
            planes.place(&frame, (column * layer.width) as usize, (row * layer.height) as usize);
        }
        found.ok_or_else(|| damaged("it has no AV1 stream"))
    }

    fn new(frame: &Frame, (width, height): (usize, usize), is_alpha: bool) -> Self {
        let sampling = if is_alpha { Sampling::None } else { frame.sampling };
        let mut planes =
            Self { width, height, depth: frame.depth, sampling, colours: frame.colours, samples: Default::default() };
        for plane in 0..if sampling == Sampling::None { 1 } else { 3 } {
            let (width, height) = planes.size(plane);
            planes.samples[plane] = vec![0; width * height];
        }
        planes
    }

    /// Width and height of a plane.
    fn size(&self, plane: usize) -> (usize, usize) {
        match (plane, self.sampling) {
            (0, _) | (_, Sampling::Full) => (self.width, self.height),
            (_, Sampling::None) => (0, 0),
            (_, Sampling::Half) => (self.width.div_ceil(2), self.height),
            (_, Sampling::Quarter) => (self.width.div_ceil(2), self.height.div_ceil(2)),
        }
    }

    /// Copies a frame to its place.
    fn place(&mut self, frame: &Frame, left: usize, top: usize) {
        for plane in 0..3 {
            let (width, height) = self.size(plane);
            if width == 0 {
                continue;
            }
            let part = |place: usize, whole: usize, side: usize| if whole == side { place } else { place.div_ceil(2) };
            let (left, top) = (part(left, self.width, width), part(top, self.height, height));
            let rows = part(frame.height, self.height, height).min(height - top.min(height));
            for row in 0..rows {
                let samples = frame.row(plane, row);
                let start = (top + row) * width + left;
                let end = (top + row) * width + (left + samples.len()).min(width);
                if let Some(to) = self.samples[plane].get_mut(start..end) {
                    to.iter_mut().zip(samples).for_each(|(to, sample)| *to = sample);
                }
            }
        }
    }

    /// The sample of a plane at a place of that plane; at its edge the last one counts on.
    pub(super) fn at(&self, plane: usize, x: usize, y: usize) -> u16 {
        let (width, height) = self.size(plane);
        let index = y.min(height.saturating_sub(1)) * width + x.min(width.saturating_sub(1));
        let most = ((1u32 << self.depth) - 1) as u16;
        self.samples[plane].get(index).copied().unwrap_or_default().min(most)
    }
}
