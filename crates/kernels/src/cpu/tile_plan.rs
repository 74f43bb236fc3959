//! How the work of a product on the tile unit is divided.

use std::ops::Range;

use super::simd::LANES;

/// Rows of a tile, which is also the outputs of a weight panel.
pub(crate) const TILE_ROWS: usize = LANES;

/// Row tiles of a chunk: their activations and accumulators stay in the L2 cache.
const CHUNK_TILES: usize = 12;

/// Panels of a unit of work: a part of their weights stays in the L1 cache.
const UNIT_PANELS: usize = 8;

/// The row tiles and panels of one call, and the units of work that they form. Units do not affect the results.
pub(crate) struct TilePlan {
    rows: usize,
    pub(crate) row_tiles: usize,
    /// Chunks of row tiles.
    chunks: usize,
    panels: usize,
}

impl TilePlan {
    pub(crate) fn new(rows: usize, outputs: usize) -> Self {
        let row_tiles = rows.div_ceil(TILE_ROWS);
        Self { rows, row_tiles, chunks: row_tiles.div_ceil(CHUNK_TILES), panels: outputs.div_ceil(LANES) }
    }

    /// The number of units.
    pub(crate) fn units(&self) -> usize {
        self.chunks * self.panels.div_ceil(UNIT_PANELS)
    }

    /// The row tiles and the panels of a unit. Units that share weights are consecutive.
    pub(crate) fn unit(&self, unit: usize) -> (Range<usize>, Range<usize>) {
        let (run, chunk) = (unit / self.chunks, unit % self.chunks);
        let tiles = self.row_tiles * chunk / self.chunks..self.row_tiles * (chunk + 1) / self.chunks;
        let start = run * UNIT_PANELS;
        (tiles, start..(start + UNIT_PANELS).min(self.panels))
    }

    /// Rows of a row tile; the last one may have fewer than [`TILE_ROWS`].
    pub(crate) fn rows_in(&self, tile: usize) -> usize {
        TILE_ROWS.min(self.rows - tile * TILE_ROWS)
    }
}
