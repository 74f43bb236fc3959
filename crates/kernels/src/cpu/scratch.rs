//! Buffers that calls reuse.

use super::aligned::{F32x16, I16Pairs};
use super::microkernel::RowScale;
use super::packing::Pack;
use super::parallel::threads_for;
#[cfg(target_arch = "x86_64")]
use super::{bf16_tiles::ActivationTile, simd::amx, tile_plan::TILE_ROWS};

/// Buffers that calls reuse. Each calling thread has its own; it grows to what its largest call needs.
#[derive(Debug, Default)]
pub struct Scratch {
    /// Packed activations: of f32 weights, of bf16 weights, and of int8 weights.
    f32_steps: Vec<f32>,
    bf16_steps: Vec<[f32; 2]>,
    int8_steps: Vec<[i32; 2]>,
    row_scales: Vec<RowScale>,
    #[cfg(target_arch = "x86_64")]
    amx: AmxActivations,
    #[cfg(target_arch = "x86_64")]
    activation_tiles: Vec<ActivationTile>,
    threads: Vec<ThreadScratch>,
    single_threaded: bool,
}

/// The buffers of one thread that takes part in a call.
#[derive(Debug, Default)]
pub(crate) struct ThreadScratch {
    /// Accumulators of a matrix product; scores and sums of attention.
    pub(crate) accumulators: Vec<F32x16>,
    pub(crate) keys: Vec<F32x16>,
    pub(crate) values: Vec<F32x16>,
    pub(crate) quantized: QuantizedOperands,
}

/// Operands of attention in 16-bit integers, and their scales.
#[derive(Debug, Default)]
pub(crate) struct QuantizedOperands {
    pub(crate) keys: Vec<I16Pairs>,
    pub(crate) key_scales: Vec<F32x16>,
    pub(crate) values: Vec<I16Pairs>,
    pub(crate) value_scales: Vec<F32x16>,
    /// Queries, then the softmax's weights.
    pub(crate) rows: Vec<I16Pairs>,
}

/// Activations packed for AMX.
#[cfg(target_arch = "x86_64")]
#[derive(Debug, Default)]
pub(crate) struct AmxActivations {
    /// For each row tile and group: the tile pair of the upper bytes, then that of the lower bytes (one pair if
    /// activations are rounded to one byte).
    pub(crate) tiles: Vec<[amx::Tile; 2]>,
    pub(crate) scales: Vec<[RowScale; TILE_ROWS]>,
}

impl Scratch {
    /// Empty buffers.
    pub fn new() -> Self {
        Self::default()
    }

    /// Empty buffers whose calls run on the calling thread only, for callers that do their own multithreading.
    pub fn for_one_thread() -> Self {
        Self { single_threaded: true, ..Self::default() }
    }

    /// How many threads are worth using for `work` multiply-adds in `units` units.
    pub(crate) fn threads_for(&self, work: usize, units: usize) -> usize {
        if self.single_threaded { 1 } else { threads_for(work, units) }
    }

    /// The buffers of `count` threads.
    pub(crate) fn threads(&mut self, count: usize) -> &mut [ThreadScratch] {
        if self.threads.len() < count {
            self.threads.resize_with(count, ThreadScratch::default);
        }
        &mut self.threads[..count]
    }

    /// Buffers for activations packed for AMX, and the buffers of `threads` threads.
    #[cfg(target_arch = "x86_64")]
    pub(crate) fn amx(&mut self, threads: usize) -> (&mut AmxActivations, &mut [ThreadScratch]) {
        self.threads(threads);
        (&mut self.amx, &mut self.threads[..threads])
    }

    /// A buffer for activations packed in tiles of bf16, and the buffers of `threads` threads.
    #[cfg(target_arch = "x86_64")]
    pub(crate) fn activation_tiles(
        &mut self,
        tiles: usize,
        threads: usize,
    ) -> (&mut [ActivationTile], &mut [ThreadScratch]) {
        self.threads(threads);
        (grow_to(&mut self.activation_tiles, tiles), &mut self.threads[..threads])
    }

    /// Buffers for packed activations and their scales, and the buffers of `threads` threads.
    pub(crate) fn packed<F: Pack>(
        &mut self,
        steps: usize,
        scales: usize,
        threads: usize,
    ) -> (&mut [F::X], &mut [RowScale], &mut [ThreadScratch]) {
        self.threads(threads);
        let Self { f32_steps, bf16_steps, int8_steps, row_scales, threads: all, .. } = self;
        let buffer = F::buffer(f32_steps, bf16_steps, int8_steps);
        (grow_to(buffer, steps), grow_to(row_scales, scales), &mut all[..threads])
    }
}

/// The first `count` items of a buffer, which is extended if it is shorter. The items keep what earlier calls left there.
pub(crate) fn grow_to<T: Copy + Default>(buffer: &mut Vec<T>, count: usize) -> &mut [T] {
    if buffer.len() < count {
        buffer.resize(count, T::default());
    }
    &mut buffer[..count]
}
