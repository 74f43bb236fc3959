//! The decoder's workspace: keys and values of all slots, buffers of a pass, and recorded passes.

use std::collections::BTreeMap;

use kernels::cuda::index_tables::{Copies, RowIndices, RowLimits, RowRequests, Rows, Tile, TileLimits, Tiles};
use kernels::cuda::{Buffer, CudaError, Device, Format, Graph, ImageRows, KeyValueCache, KvFormat, Splits};

/// Maximum rows of one pass. More do not improve throughput, and each takes about 50 KB of buffers.
const MAX_ROWS: usize = 16_384;

/// Maximum rows of logits in memory, of 256 KB each.
const MAX_LOGITS_ROWS: usize = 1024;

/// Batch sizes of recorded passes. A smaller batch is padded to the next size, by a quarter at most from 32 sequences
/// on, where more sequences begin to take more time.
const BATCHES: [usize; 22] =
    [1, 2, 4, 8, 16, 24, 32, 48, 64, 96, 128, 160, 192, 224, 256, 320, 384, 448, 512, 640, 832, 1024];

/// Number of warps that read memory at the full rate: about 32 on each of 132 multiprocessors.
const WARPS: usize = 4096;

/// Maximum parts that a context is split into. Merging more takes longer than they save.
const MAX_SPLITS: usize = 4;

/// Sizes of the decoder.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sizes {
    pub(super) width: usize,
    pub(super) heads: usize,
    pub(super) inner: usize,
    pub(super) layers: usize,
    pub(super) vocabulary: usize,
}

impl Sizes {
    pub(super) fn head_dim(&self) -> usize {
        self.width / self.heads
    }

    /// Rows of the head's matrix, which are also the values of a row of logits. Those beyond the vocabulary are zero:
    /// cuBLAS takes six times as long for 65,037 outputs as for a multiple of its tile size.
    pub(super) fn logits_stride(&self) -> usize {
        self.vocabulary.next_multiple_of(128)
    }

    /// Number of parts that contexts are split into, so that even few sequences occupy the whole GPU.
    pub(super) fn splits(&self, sequences: usize) -> usize {
        (WARPS / (self.heads * sequences).max(1)).clamp(1, MAX_SPLITS)
    }
}

/// The workspace for `slots` sequences of `length` tokens.
pub(super) struct Workspace<T, S> {
    pub(super) slots: usize,
    pub(super) length: usize,
    /// Maximum rows of one pass.
    pub(super) capacity: usize,
    /// Keys and values of each layer, with one more slot, which the padding rows of recorded passes write to.
    pub(super) caches: Vec<KeyValueCache<S>>,
    pub(super) position_table: Buffer<f32>,
    pub(super) x: Buffer<f32>,
    pub(super) y: Buffer<T>,
    pub(super) normed: Buffer<T>,
    pub(super) qkv: Buffer<T>,
    pub(super) inner: Buffer<T>,
    pub(super) splits: Splits,
    pub(super) logits: Buffer<f32>,
    pub(super) logits_rows: usize,
    pub(super) choices: Buffer<u32>,
    pub(super) rows: Rows,
    pub(super) requests: RowRequests,
    pub(super) picks: RowIndices,
    pub(super) tiles: Tiles,
    pub(super) copies: Copies,
    pub(super) pictures: ImageRows,
    /// Recorded passes by batch size.
    pub(super) graphs: BTreeMap<usize, Graph>,
}

impl<T: Format, S: KvFormat<T>> Workspace<T, S> {
    /// `positions` has the rows of the position table for up to `length` tokens.
    pub(super) fn new(
        device: &Device,
        sizes: &Sizes,
        slots: usize,
        length: usize,
        positions: &[f32],
    ) -> Result<Self, CudaError> {
        let Sizes { width, heads, inner, vocabulary, .. } = *sizes;
        let batch = recorded_batch(slots).unwrap_or(slots);
        let capacity = (slots * length).min(MAX_ROWS).max(length).max(batch);
        let logits_rows = batch.clamp(1, MAX_LOGITS_ROWS);
        let parts = BATCHES.iter().filter(|&&size| size <= batch).chain([&batch]);
        let parts = parts.map(|&size| size * sizes.splits(size)).max().unwrap_or(1).max(capacity.min(slots));
        let limits =
            RowLimits { tokens: vocabulary, positions: positions.len() / width, slots: slots + 1, columns: length };
        let tile_limits = TileLimits { queries: capacity, contexts: slots + 1, columns: length, out: capacity };
        let cache = |_| KeyValueCache::new::<T>(device, slots + 1, heads, length, sizes.head_dim());
        Ok(Self {
            slots,
            length,
            capacity,
            caches: (0..sizes.layers).map(cache).collect::<Result<_, _>>()?,
            position_table: device.buffer(positions)?,
            x: device.zeros(capacity * width)?,
            y: device.zeros(capacity * width)?,
            normed: device.zeros(capacity * width)?,
            qkv: device.zeros(capacity * 3 * width)?,
            inner: device.zeros(capacity * inner)?,
            splits: Splits::new(device, parts, heads, sizes.head_dim())?,
            logits: device.zeros(logits_rows * sizes.logits_stride())?,
            logits_rows,
            choices: device.zeros(capacity * 4)?,
            rows: Rows::new(device, capacity, limits)?,
            requests: RowRequests::new(device, capacity, vocabulary)?,
            picks: RowIndices::new(device, capacity, capacity)?,
            // The last tile of each sequence may be partly filled.
            tiles: Tiles::new(device, capacity.div_ceil(Tile::MAX_ROWS) + slots, tile_limits)?,
            copies: Copies::new(device, slots, slots, length)?,
            pictures: ImageRows::new(device, capacity, width)?,
            graphs: BTreeMap::new(),
        })
    }
}

/// The batch size that a pass of this many sequences is padded to, if it can be recorded.
pub(super) fn recorded_batch(sequences: usize) -> Option<usize> {
    BATCHES.iter().copied().find(|&size| size >= sequences)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_is_filled_up_to_the_next_recorded_size() {
        assert_eq!([1, 3, 33, 128, 1000].map(recorded_batch), [1, 4, 48, 128, 1024].map(Some));
        assert_eq!(recorded_batch(1025), None);
    }

    #[test]
    fn few_sequences_are_split_so_that_the_card_has_work() {
        let sizes = Sizes { width: 2048, heads: 32, inner: 8192, layers: 24, vocabulary: 65_037 };
        assert_eq!([1, 8, 32, 64, 1024].map(|sequences| sizes.splits(sequences)), [4, 4, 4, 2, 1]);
        assert_eq!(sizes.logits_stride(), 65_152);
    }
}
