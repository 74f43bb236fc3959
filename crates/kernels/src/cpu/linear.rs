//! Matrix products: who computes which part in which order.

use super::activations::{Pack, Scratch, Worker, room};
#[cfg(target_arch = "x86_64")]
use super::amx;
use super::dispatch::{IsaLevel, level};
use super::epilogue::{Epilogue, Target};
use super::parallel::{Disjoint, for_units};
use super::simd::{Kernel, LANES, Simd};
use super::tile::{Block, Format, GROUP_STEPS, Line, RowScale, with_tile_size};
use super::weights::{PackedWeights, View, WithFormat};

/// Rows worked on at once: their totals for [`UNIT_PANELS`] and one block of their activations share a second-level
/// cache of 512 KB with a panel.
const CHUNK_ROWS: usize = 192;

/// Panels of a unit of work.
const UNIT_PANELS: usize = 8;

/// Packed activations of this size stay in the second-level cache while weights stream by.
const RESIDENT_BYTES: usize = 256 << 10;

/// `out[rows, outputs] = epilogue(x[rows, inputs] W^T + bias)`, the rows being however many `x` holds.
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
    assert!(x.len().is_multiple_of(inputs), "x must hold rows of {inputs} values, not {} in all", x.len());
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
    if let IsaLevel::Avx512Amx(s, tiles) = level()
        && rows >= amx::FEWEST_ROWS
    {
        if let Some(view) = weights.int8::<2>() {
            return amx::linear((s, tiles), x, inputs, &view, &target, scratch);
        }
        if let Some(view) = weights.int8::<1>() {
            return amx::linear((s, tiles), x, inputs, &view, &target, scratch);
        }
    }
    weights.with_format(Call { x, inputs, rows, target, scratch });
}

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
        let (packed, scales, workers) = scratch.packed::<F>(rows * plan.steps, rows * plan.groups, threads);
        {
            let (packed, scales) = (Disjoint::new(packed), Disjoint::new(scales));
            for_units(packing, &mut workers[..pack_threads], |unit, _| {
                F::run(level, PackUnit::<F> { plan: &plan, x, packed: &packed, scales: &scales, unit });
            });
        }
        for_units(plan.units(), workers, |unit, worker| {
            let (x, scales) = (&*packed, &*scales);
            F::run(level, Multiply::<F> { plan: &plan, x, scales, view: &view, target: &target, unit, worker });
        });
    }
}

/// The order of one call's work. Nothing here enters the results: any plan gives the same bits.
struct Plan {
    rows: usize,
    inputs: usize,
    /// Steps and scale groups of a row.
    steps: usize,
    groups: usize,
    /// Blocks of at most `block` steps.
    block: usize,
    blocks: usize,
    /// Runs of rows, and the tallest tile allowed in them.
    chunks: usize,
    tile_rows: usize,
    tile_panels: usize,
    panels: usize,
    unit_panels: usize,
    /// Whether to finish a few panels at a time, each read from end to end, rather than a block of all of a unit's.
    resident: bool,
}

impl Plan {
    fn new<F: Format>(level: IsaLevel, rows: usize, inputs: usize, outputs: usize) -> Self {
        let steps = inputs.div_ceil(F::INPUTS);
        let panels = outputs.div_ceil(LANES);
        let chunks = rows.div_ceil(CHUNK_ROWS);
        let chunk_rows = rows.div_ceil(chunks);
        let tallest = chunk_rows.div_ceil(chunk_rows.div_ceil(level.tile_rows(F::OPERANDS)));
        let tile_panels = level.tile_panels(tallest, F::OPERANDS);
        let few = chunks * panels.div_ceil(UNIT_PANELS) < 4 * rayon::current_num_threads();
        Self {
            rows,
            inputs,
            steps,
            groups: steps.div_ceil(GROUP_STEPS),
            block: F::BLOCK,
            blocks: steps.div_ceil(F::BLOCK),
            chunks,
            tile_rows: level.tile_rows(F::OPERANDS),
            tile_panels,
            panels,
            unit_panels: if few { UNIT_PANELS / 2 } else { UNIT_PANELS },
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

    /// A chunk's rows in tiles of nearly equal height: (first row within the chunk, rows).
    fn tiles(&self, rows: usize) -> impl Iterator<Item = (usize, usize)> + use<> {
        let count = rows.div_ceil(self.tile_rows);
        (0..count).map(move |tile| (rows * tile / count, rows * (tile + 1) / count - rows * tile / count))
    }
}

/// Packed activations lie as `[chunk][block][tile][step][row of the tile]`, scales likewise by group.
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
        // SAFETY: each unit has its own (chunk, block), whose parts do not overlap.
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

/// One chunk of rows by one run of panels, over all inputs.
struct Multiply<'a, F: Format> {
    plan: &'a Plan,
    x: &'a [F::X],
    scales: &'a [RowScale],
    view: &'a View<'a, F>,
    target: &'a Target<'a>,
    unit: usize,
    worker: &'a mut Worker,
}

impl<F: Format> Kernel for Multiply<'_, F> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let plan = self.plan;
        // Units that share weights come one after the other.
        let (run, chunk) = (self.unit / plan.chunks, self.unit % plan.chunks);
        let (row, rows) = plan.chunk(chunk);
        let end = ((run + 1) * plan.unit_panels).min(plan.panels);
        let mut start = run * plan.unit_panels;
        while start < end {
            let stop = if plan.resident { end.min(start + plan.tile_panels) } else { end };
            let totals = room(&mut self.worker.tiles, (stop - start) * rows);
            for block in 0..plan.blocks {
                let mut panel = start;
                while panel < stop {
                    let wide = if stop - panel >= plan.tile_panels { plan.tile_panels } else { 1 };
                    for (tile, height) in plan.tiles(rows) {
                        let lines = &mut totals[(panel - start) * rows + tile * wide..][..height * wide];
                        let place = Place { row, rows, tile, height, panel, wide, block };
                        self.view.multiply(s, plan, self.x, self.scales, place, lines);
                        if block + 1 == plan.blocks {
                            // SAFETY: this unit alone works on these rows of these panels.
                            unsafe { self.target.write(s, lines, wide, row + tile, panel) };
                        }
                    }
                    panel += wide;
                }
            }
            start = stop;
        }
    }
}

/// Where a tile lies: chunk, tile within it, panels and block.
#[derive(Clone, Copy)]
struct Place {
    row: usize,
    rows: usize,
    tile: usize,
    height: usize,
    panel: usize,
    wide: usize,
    block: usize,
}

impl<F: Format> View<'_, F> {
    #[inline(always)]
    fn multiply<S: Simd>(&self, s: S, plan: &Plan, x: &[F::X], x_scales: &[RowScale], place: Place, tile: &mut [Line]) {
        let Place { row, rows, tile: first_row, height, panel, wide, block } = place;
        let (step, steps) = plan.block(block);
        let (group, groups) = (step / GROUP_STEPS, steps.div_ceil(GROUP_STEPS));
        let block = Block::<F> {
            x: &x[row * plan.steps + step * rows + first_row * steps..][..height * steps],
            x_scales: &x_scales[row * plan.groups + group * rows + first_row * groups..][..height * groups],
            weights: &self.steps[panel * plan.steps + step..],
            panel_stride: plan.steps,
            weight_scales: if self.scales.is_empty() { &[] } else { &self.scales[panel * plan.groups + group..] },
            weight_sums: if self.sums.is_empty() { &[] } else { &self.sums[panel * plan.groups + group..] },
            scale_stride: plan.groups,
            // With few rows the products of one block take no longer than the next takes to arrive, and the hardware
            // stops at every page.
            fetch: plan.resident && first_row == 0 && rows > 1,
            first: block == 0,
        };
        with_tile_size!(S, height, wide, R, P => s.call(Tile::<F, R, P> { block, tile }));
    }
}

struct Tile<'a, F: Format, const R: usize, const P: usize> {
    block: Block<'a, F>,
    tile: &'a mut [Line],
}

impl<F: Format, const R: usize, const P: usize> Kernel for Tile<'_, F, R, P> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        F::tile::<S, R, P>(s, self.block, self.tile);
    }
}
