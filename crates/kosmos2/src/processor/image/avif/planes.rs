//! The samples of a whole picture, assembled from its tiles.

use super::super::error::ImageError;
use super::super::limits::DecodeOptions;
use super::av1_stream::{self, ChromaSubsampling, Frame};
use super::cicp::Cicp;
use super::description::TileStreams;
use super::error::{damaged, unsupported};

/// Minimum width and height of the tiles of a grid (MIAF, ISO/IEC 23000-22, 7.3.11.4.2).
const MIN_TILE_SIDE: u32 = 64;

/// Samples of luma and chroma, or of alpha.
pub(super) struct Planes {
    pub(super) width: usize,
    pub(super) height: usize,
    /// Bits per sample.
    pub(super) depth: u32,
    pub(super) subsampling: ChromaSubsampling,
    /// The colour description of the first stream.
    pub(super) cicp: Cicp,
    samples: [Vec<u16>; 3],
}

impl Planes {
    /// Decodes streams one after the other. If `is_alpha` is set, chroma is ignored.
    pub(super) fn decode(
        streams: TileStreams,
        (width, height): (u32, u32),
        is_alpha: bool,
        options: &DecodeOptions,
    ) -> Result<Self, ImageError> {
        let tile_pixels = u64::from(streams.width) * u64::from(streams.height);
        let is_grid = streams.tiles.len() > 1;
        if is_grid && streams.width.min(streams.height) < MIN_TILE_SIDE {
            return Err(damaged("its tiles are smaller than 64×64"));
        }
        let mut assembled: Option<Self> = None;
        for (index, tile) in streams.tiles.into_iter().enumerate() {
            options.check_deadline()?;
            let frame = av1_stream::decode(tile.into_owned(), tile_pixels)?;
            if (frame.width, frame.height) != (streams.width as usize, streams.height as usize) {
                return Err(damaged("an AV1 stream and its item have different sizes"));
            }
            if assembled.is_none() {
                assembled = Some(Self::new(&frame, (width as usize, height as usize), is_alpha));
            }
            let Some(planes) = &mut assembled else { break };
            let subsampling = if is_alpha { ChromaSubsampling::Monochrome } else { frame.subsampling };
            if (planes.depth, planes.subsampling) != (frame.depth, subsampling) {
                return Err(damaged("its tiles have different bit depths or chroma subsampling"));
            }
            let is_odd = |tile: u32, picture: u32| !tile.is_multiple_of(2) || !picture.is_multiple_of(2);
            let shares_chroma = match subsampling {
                ChromaSubsampling::Monochrome | ChromaSubsampling::Yuv444 => false,
                ChromaSubsampling::Yuv422 => is_odd(streams.width, width),
                ChromaSubsampling::Yuv420 => is_odd(streams.width, width) || is_odd(streams.height, height),
            };
            if is_grid && shares_chroma {
                return Err(unsupported("with subsampled chroma and a grid with an odd width or height"));
            }
            let (column, row) = (index as u32 % streams.columns, index as u32 / streams.columns);
            planes.copy_tile(&frame, (column * streams.width) as usize, (row * streams.height) as usize);
        }
        assembled.ok_or_else(|| damaged("it has no AV1 stream"))
    }

    fn new(frame: &Frame, (width, height): (usize, usize), is_alpha: bool) -> Self {
        let subsampling = if is_alpha { ChromaSubsampling::Monochrome } else { frame.subsampling };
        let mut planes =
            Self { width, height, depth: frame.depth, subsampling, cicp: frame.cicp, samples: Default::default() };
        for plane in 0..if subsampling == ChromaSubsampling::Monochrome { 1 } else { 3 } {
            let (width, height) = planes.size(plane);
            planes.samples[plane] = vec![0; width * height];
        }
        planes
    }

    /// Width and height of a plane.
    fn size(&self, plane: usize) -> (usize, usize) {
        match (plane, self.subsampling) {
            (0, _) | (_, ChromaSubsampling::Yuv444) => (self.width, self.height),
            (_, ChromaSubsampling::Monochrome) => (0, 0),
            (_, ChromaSubsampling::Yuv422) => (self.width.div_ceil(2), self.height),
            (_, ChromaSubsampling::Yuv420) => (self.width.div_ceil(2), self.height.div_ceil(2)),
        }
    }

    /// Copies a tile to its position, given in luma samples.
    fn copy_tile(&mut self, frame: &Frame, left: usize, top: usize) {
        for plane in 0..3 {
            let (width, height) = self.size(plane);
            if width == 0 {
                continue;
            }
            let scaled =
                |luma: usize, luma_side: usize, side: usize| if luma_side == side { luma } else { luma.div_ceil(2) };
            let (left, top) = (scaled(left, self.width, width), scaled(top, self.height, height));
            let rows = scaled(frame.height, self.height, height).min(height - top.min(height));
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

    /// The sample at a position in a plane; beyond the edge, the nearest sample.
    pub(super) fn at(&self, plane: usize, x: usize, y: usize) -> u16 {
        let (width, height) = self.size(plane);
        let index = y.min(height.saturating_sub(1)) * width + x.min(width.saturating_sub(1));
        let max = ((1u32 << self.depth) - 1) as u16;
        self.samples[plane].get(index).copied().unwrap_or_default().min(max)
    }
}
