//! Matrix products: how the work is divided, and in which order it is done.

use super::aligned::F32x16;
use super::dispatch::{IsaLevel, level};
use super::epilogue::{Epilogue, Target};
use super::microkernel::{Format, GROUP_STEPS, Operands, RowScale, with_tile_size};
use super::packing::Pack;
use super::parallel::{Disjoint, for_units};
use super::scratch::{Scratch, ThreadScratch, grow_to};
use super::simd::{Kernel, LANES, Simd};
use super::weights::{PackedWeights, View, WithFormat};
#[cfg(target_arch = "x86_64")]
use super::{amx_linear, bf16_tiles, simd::amx::Bf16Unit};

/// Rows of a chunk: their accumulators for [`UNIT_PANELS`], one K-block of their activations and a panel fit an L2 cache
/// of 512 KB.
const CHUNK_ROWS: usize = 192;

/// Panels of a unit of work.
const UNIT_PANELS: usize = 8;

/// Packed activations up to this size stay in the L2 cache while weights are read from memory.
const RESIDENT_BYTES: usize = 256 << 10;

/// `out[rows, outputs] = epilogue(x[rows, inputs] W^T + bias)`, for as many rows as `x` holds.
///
/// # Panics
/// If `x`, `out` or `bias` does not fit the weights' shape.
pub fn linear(
    x: &[f32],
    weights: &PackedWeights,
    bias: Option<&[f32]>,
    epilogue: Epilogue,
    out: &mut [f32],
    scratch: &mut Scratch,
) {
    let (outputs, inputs) = (weights.outputs(), weights.inputs());
    assert!(x.len().is_multiple_of(inputs), "x must hold rows of {inputs} values, not {} values", x.len());
    let rows = x.len() / inputs;
    assert!(
        out.len() == rows.saturating_mul(outputs),
        "out must hold {rows} rows of {outputs} values, not {}",
        out.len()
    );
    assert!(bias.is_none_or(|bias| bias.len() == outputs), "a bias must hold one value for each of {outputs} outputs");
    if rows == 0 {
        return;
    }
    let target = Target { out: Disjoint::new(out), outputs, bias, epilogue };
    #[cfg(target_arch = "x86_64")]
    if let IsaLevel::Avx512Amx(s, amx) = level() {
        if let Some(view) = weights.bf16() {
            return bf16_tiles::linear(s, || Bf16Unit::new(amx), x, inputs, &view, &target, scratch);
        }
        if rows >= amx_linear::MIN_ROWS {
            if let Some(view) = weights.int8::<2>() {
                return amx_linear::linear((s, amx), x, inputs, &view, &target, scratch);
            }
            if let Some(view) = weights.int8::<1>() {
                return amx_linear::linear((s, amx), x, inputs, &view, &target, scratch);
            }
        }
    }
    weights.with_format(Call { x, inputs, rows, target, scratch });
}

/// The arguments of [`linear`].
struct Call<'a> {
    x: &'a [f32],
    inputs: usize,
    rows: usize,
    target: Target<'a>,
    scratch: &'a mut Scratch,
}

impl WithFormat for Call<'_> {
    fn with<F: Format + Pack>(self, view: View<'_, F>) {
        let Self { x, inputs, rows, target, scratch } = self;
        let level = level();
        let plan = Plan::new::<F>(level, rows, inputs, target.outputs);
        let packing = plan.chunks * plan.blocks;
        let threads = scratch.threads_for(rows * inputs * target.outputs, plan.units());
        let pack_threads = scratch.threads_for(rows * inputs, packing).min(threads);
        let (packed, scales, threads) = scratch.packed::<F>(rows * plan.steps, rows * plan.groups, threads);
        {
            let (packed, scales) = (Disjoint::new(packed), Disjoint::new(scales));
            for_units(packing, &mut threads[..pack_threads], |unit, _| {
                F::run(level, PackUnit::<F> { plan: &plan, x, packed: &packed, scales: &scales, unit });
            });
        }
        for_units(plan.units(), threads, |unit, thread| {
            let (x, scales) = (&*packed, &*scales);
            F::run(level, Multiply::<F> { plan: &plan, x, scales, view: &view, target: &target, unit, thread });
        });
    }
}

/// How one call's work is divided. It does not affect the results: any plan gives the same bits.
struct Plan {
    rows: usize,
    inputs: usize,
    /// Steps of a row.
    steps: usize,
    /// Scale groups of a row.
    groups: usize,
    /// Steps of a K-block; the last one may have fewer.
    block: usize,
    /// Number of K-blocks.
    blocks: usize,
    /// Number of chunks of rows.
    chunks: usize,
    /// Rows of the tallest tile.
    tile_rows: usize,
    /// Panels of a tile.
    tile_panels: usize,
    panels: usize,
    /// Panels of a unit of work.
    unit_panels: usize,
    /// Whether the activations stay in the L2 cache. Then the panels of a tile are read over all K-blocks before the next
    /// ones; otherwise one K-block of all panels of the unit is read at a time.
    resident: bool,
}

impl Plan {
    fn new<F: Format>(level: IsaLevel, rows: usize, inputs: usize, outputs: usize) -> Self {
        let steps = inputs.div_ceil(F::INPUTS);
        let panels = outputs.div_ceil(LANES);
        let chunks = rows.div_ceil(CHUNK_ROWS);
        let chunk_rows = rows.div_ceil(chunks);
        let tallest = chunk_rows.div_ceil(chunk_rows.div_ceil(level.tile_rows(F::WEIGHT_VECTORS)));
        let tile_panels = level.tile_panels(tallest, F::WEIGHT_VECTORS);
        let few_units = chunks * panels.div_ceil(UNIT_PANELS) < 4 * rayon::current_num_threads();
        Self {
            rows,
            inputs,
            steps,
            groups: steps.div_ceil(GROUP_STEPS),
            block: F::K_BLOCK,
            blocks: steps.div_ceil(F::K_BLOCK),
            chunks,
            tile_rows: level.tile_rows(F::WEIGHT_VECTORS),
            tile_panels,
            panels,
            unit_panels: if few_units { UNIT_PANELS / 2 } else { UNIT_PANELS },
            resident: chunk_rows * steps * size_of::<F::X>() <= RESIDENT_BYTES,
        }
    }

    fn units(&self) -> usize {
        self.chunks * self.panels.div_ceil(self.unit_panels)
    }

    /// First row and number of rows of a chunk.
    fn chunk(&self, chunk: usize) -> (usize, usize) {
        let start = self.rows * chunk / self.chunks;
        (start, self.rows * (chunk + 1) / self.chunks - start)
    }

    /// First step and number of steps of a block.
    fn block(&self, block: usize) -> (usize, usize) {
        (block * self.block, self.block.min(self.steps - block * self.block))
    }

    /// The tiles of a chunk, of nearly equal height: (first row within the chunk, number of rows).
    fn tiles(&self, rows: usize) -> impl Iterator<Item = (usize, usize)> + use<> {
        let count = rows.div_ceil(self.tile_rows);
        (0..count).map(move |tile| (rows * tile / count, rows * (tile + 1) / count - rows * tile / count))
    }
}

/// Packs one K-block of a chunk. Packed activations are `[chunk][block][tile][step][row of the tile]`, and scales are
/// `[chunk][block][tile][group][row of the tile]`.
struct PackUnit<'a, F: Format> {
    plan: &'a Plan,
    x: &'a [f32],
    packed: &'a Disjoint<'a, F::X>,
    scales: &'a Disjoint<'a, RowScale>,
    unit: usize,
}

impl<F: Format + Pack> Kernel for PackUnit<'_, F> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self { plan, x, packed, scales, unit } = self;
        let (chunk, block) = (unit / plan.blocks, unit % plan.blocks);
        let (row, rows) = plan.chunk(chunk);
        let (step, steps) = plan.block(block);
        let (group, groups) = (step / GROUP_STEPS, steps.div_ceil(GROUP_STEPS));
        // SAFETY: each unit has its own chunk and K-block, whose parts do not overlap.
        let (packed, scales) = unsafe {
            (
                packed.part(row * plan.steps + step * rows, steps * rows),
                scales.part(row * plan.groups + group * rows, groups * rows),
            )
        };
        let first = step * F::INPUTS;
        let inputs = (steps * F::INPUTS).min(plan.inputs - first);
        for (start, count) in plan.tiles(rows) {
            let x = &x[(row + start) * plan.inputs + first..];
            let packed = &mut packed[start * steps..][..count * steps];
            let scales = &mut scales[start * groups..][..count * groups];
            F::pack(s, x, plan.inputs, inputs, count, packed, scales);
        }
    }
}

/// One chunk of rows by the panels of one unit, over all inputs.
struct Multiply<'a, F: Format> {
    plan: &'a Plan,
    x: &'a [F::X],
    scales: &'a [RowScale],
    view: &'a View<'a, F>,
    target: &'a Target<'a>,
    unit: usize,
    thread: &'a mut ThreadScratch,
}

impl<F: Format> Kernel for Multiply<'_, F> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let plan = self.plan;
        // Units that share weights are consecutive.
        let (run, chunk) = (self.unit / plan.chunks, self.unit % plan.chunks);
        let (row, rows) = plan.chunk(chunk);
        let end = ((run + 1) * plan.unit_panels).min(plan.panels);
        let mut start = run * plan.unit_panels;
        while start < end {
            let stop = if plan.resident { end.min(start + plan.tile_panels) } else { end };
            let accumulators = grow_to(&mut self.thread.accumulators, (stop - start) * rows);
            for block in 0..plan.blocks {
                let mut panel = start;
                while panel < stop {
                    let panels = if stop - panel >= plan.tile_panels { plan.tile_panels } else { 1 };
                    for (tile_start, tile_rows) in plan.tiles(rows) {
                        let at = (panel - start) * rows + tile_start * panels;
                        let tile = &mut accumulators[at..][..tile_rows * panels];
                        let position = TilePosition {
                            chunk_start: row,
                            chunk_rows: rows,
                            tile_start,
                            tile_rows,
                            panel,
                            panels,
                            block,
                        };
                        self.view.multiply(s, plan, self.x, self.scales, position, tile);
                        if block + 1 == plan.blocks {
                            // SAFETY: no other unit writes these rows of these panels.
                            unsafe { self.target.write(s, tile, panels, row + tile_start, panel) };
                        }
                    }
                    panel += panels;
                }
            }
            start = stop;
        }
    }
}

/// The position of a tile in the product.
#[derive(Clone, Copy)]
struct TilePosition {
    /// First row and number of rows of the chunk.
    chunk_start: usize,
    chunk_rows: usize,
    /// First row within the chunk, and number of rows of the tile.
    tile_start: usize,
    tile_rows: usize,
    /// First panel and number of panels.
    panel: usize,
    panels: usize,
    /// The K-block.
    block: usize,
}

impl<F: Format> View<'_, F> {
    #[inline(always)]
    fn multiply<S: Simd>(
        &self,
        s: S,
        plan: &Plan,
        x: &[F::X],
        x_scales: &[RowScale],
        position: TilePosition,
        tile: &mut [F32x16],
    ) {
        let TilePosition { chunk_start, chunk_rows, tile_start, tile_rows, panel, panels, block } = position;
        let (step, steps) = plan.block(block);
        let (group, groups) = (step / GROUP_STEPS, steps.div_ceil(GROUP_STEPS));
        let x_start = chunk_start * plan.steps + step * chunk_rows + tile_start * steps;
        let scales_start = chunk_start * plan.groups + group * chunk_rows + tile_start * groups;
        let operands = Operands::<F> {
            x: &x[x_start..][..tile_rows * steps],
            x_scales: &x_scales[scales_start..][..tile_rows * groups],
            weights: &self.steps[panel * plan.steps + step..],
            panel_stride: plan.steps,
            weight_scales: if self.scales.is_empty() { &[] } else { &self.scales[panel * plan.groups + group..] },
            weight_sums: if self.sums.is_empty() { &[] } else { &self.sums[panel * plan.groups + group..] },
            scale_stride: plan.groups,
            // With few rows the products of one block take no longer than reading the next from memory, and the hardware
            // prefetcher stops at page boundaries.
            prefetch: plan.resident && tile_start == 0 && chunk_rows > 1,
            first: block == 0,
        };
        with_tile_size!(S, tile_rows, panels, R, P => s.call(Tile::<F, R, P> { operands, tile }));
    }
}

struct Tile<'a, F: Format, const R: usize, const P: usize> {
    operands: Operands<'a, F>,
    tile: &'a mut [F32x16],
}

impl<F: Format, const R: usize, const P: usize> Kernel for Tile<'_, F, R, P> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        F::multiply_tile::<S, R, P>(s, self.operands, self.tile);
    }
}
