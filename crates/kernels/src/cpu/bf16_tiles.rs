//! Bf16 matrix products on a tile unit.
//!
//! The unit multiplies bf16 by bf16, so the activations are rounded too. A product of two tiles adds 32 inputs to each sum:
//! the products of the even inputs are summed, in order and fused, as are those of the odd ones, and then the two. The
//! vector units compute other sums, so all numbers of rows use the tile unit, and the result of a row does not depend on
//! the other rows.

use super::aligned::F32x16;
use super::element::to_bf16;
use super::epilogue::Target;
use super::microkernel::Bf16;
use super::parallel::{Disjoint, for_units};
use super::scratch::{Scratch, ThreadScratch, grow_to};
use super::simd::{Kernel, LANES, Simd, prefetch};
use super::tile_plan::{TILE_ROWS, TilePlan};
use super::weights::View;

/// Inputs of a tile.
const TILE_INPUTS: usize = 2 * TILE_STEPS;

/// Steps (pairs of inputs) of a tile.
const TILE_STEPS: usize = 16;

/// Tiles of a K-block: those of two panels fit the L1 cache.
const BLOCK_TILES: usize = 16;

/// How many tiles ahead of their use weights are prefetched if there is one row tile.
const PREFETCH_TILES: usize = 8;

/// How many times faster a tile unit multiplies than a vector unit.
const SPEEDUP: usize = 8;

/// 32 inputs of 16 rows of activations, in bf16.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C, align(64))]
pub(crate) struct ActivationTile(pub(crate) [[u16; TILE_INPUTS]; TILE_ROWS]);

/// 32 inputs of one panel's weights.
pub(crate) type WeightTile = [[u16; 2 * LANES]; TILE_STEPS];

/// The sums of 16 rows for one panel.
pub(crate) type SumTile = [F32x16; TILE_ROWS];

/// A computer of tile products, for one thread. It holds the sums of up to two row tiles by two panels.
pub(crate) trait TileUnit {
    /// Sets the sums of one row tile and panel, or sets them to zero.
    fn set_sums(&mut self, tile: usize, panel: usize, sums: Option<&SumTile>);

    /// Adds the products of the tiles to the sums.
    fn multiply<const R: usize, const P: usize>(&mut self, x: [&ActivationTile; R], weights: [&WeightTile; P]);

    /// Stores the sums of one row tile and panel.
    fn store_sums(&self, tile: usize, panel: usize, sums: &mut SumTile);
}

/// `out = epilogue(x W^T + bias)` into the target, for at least one row. `unit` makes a tile unit for a thread.
pub(crate) fn linear<S: Simd, U: TileUnit>(
    s: S,
    unit: impl Fn() -> U + Sync,
    x: &[f32],
    inputs: usize,
    view: &View<'_, Bf16>,
    target: &Target<'_>,
    scratch: &mut Scratch,
) {
    let rows = x.len() / inputs;
    let plan = Plan::new(rows, inputs, target.outputs);
    // Few rows take the time of reading the weights.
    let work = rows.max(SPEEDUP) * inputs * target.outputs / SPEEDUP;
    let threads = scratch.threads_for(work, plan.rows.units());
    let pack_threads = scratch.threads_for(rows * inputs, plan.rows.row_tiles).min(threads);
    let (tiles, threads) = scratch.activation_tiles(plan.rows.row_tiles * plan.tiles, threads);
    {
        let packed = Disjoint::new(tiles);
        for_units(plan.rows.row_tiles, &mut threads[..pack_threads], |tile, _| {
            // SAFETY: each unit packs its own row tile.
            let packed = unsafe { packed.part(tile * plan.tiles, plan.tiles) };
            let x = &x[tile * TILE_ROWS * inputs..][..plan.rows.rows_in(tile) * inputs];
            s.call(Pack { x, inputs, packed });
        });
    }
    for_units(plan.rows.units(), threads, |number, thread| {
        s.call(Multiply { unit: unit(), plan: &plan, packed: tiles, view, target, number, thread });
    });
}

/// How one call's work is divided. It does not affect the results.
struct Plan {
    rows: TilePlan,
    /// Steps of a panel.
    steps: usize,
    /// Tiles of a row tile, and of a panel. The last one may have fewer inputs.
    tiles: usize,
    /// Tiles of a K-block.
    block: usize,
}

impl Plan {
    fn new(rows: usize, inputs: usize, outputs: usize) -> Self {
        let (rows, tiles) = (TilePlan::new(rows, outputs), inputs.div_ceil(TILE_INPUTS));
        // One row tile reads each weight once.
        let block = if rows.row_tiles == 1 { tiles } else { BLOCK_TILES };
        Self { rows, steps: inputs.div_ceil(2), tiles, block }
    }
}

/// Rounds and packs a row tile. Missing rows and inputs are zeros.
struct Pack<'a> {
    x: &'a [f32],
    inputs: usize,
    packed: &'a mut [ActivationTile],
}

impl Kernel for Pack<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        let Self { x, inputs, packed } = self;
        let mut rows = x.chunks_exact(inputs);
        for r in 0..TILE_ROWS {
            let mut values = rows.next().unwrap_or_default().chunks(TILE_INPUTS);
            for tile in &mut *packed {
                let values = values.next().unwrap_or_default();
                let (rounded, missing) = tile.0[r].split_at_mut(values.len());
                rounded.iter_mut().zip(values).for_each(|(to, &value)| *to = to_bf16(value));
                missing.fill(0);
            }
        }
    }
}

/// One unit of work, over all inputs.
struct Multiply<'a, U> {
    unit: U,
    plan: &'a Plan,
    packed: &'a [ActivationTile],
    view: &'a View<'a, Bf16>,
    target: &'a Target<'a>,
    number: usize,
    thread: &'a mut ThreadScratch,
}

impl<U: TileUnit> Kernel for Multiply<'_, U> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self { mut unit, plan, packed, view, target, number, thread } = self;
        let (chunk, range) = plan.rows.unit(number);
        let (start, panels) = (range.start, range.len());
        // By panel, then by row tile.
        let sums = grow_to(&mut thread.accumulators, panels * chunk.len() * TILE_ROWS).as_chunks_mut().0;
        for first in (0..plan.tiles).step_by(plan.block) {
            let block = Block { plan, first, end: plan.tiles.min(first + plan.block) };
            for panel in (0..panels).step_by(2) {
                let weights = |p: usize| &view.steps[(start + panel + p) * plan.steps..][..plan.steps];
                for tile in (0..chunk.len()).step_by(2) {
                    let x = |r: usize| &packed[(chunk.start + tile + r) * plan.tiles..][..plan.tiles];
                    let mut sums = Sums { sums, row_tiles: chunk.len(), panel, tile };
                    match (chunk.len() - tile, panels - panel) {
                        (1, 1) => block.multiply(&mut unit, [x(0)], [weights(0)], &mut sums),
                        (1, _) => block.multiply(&mut unit, [x(0)], [weights(0), weights(1)], &mut sums),
                        (_, 1) => block.multiply(&mut unit, [x(0), x(1)], [weights(0)], &mut sums),
                        _ => block.multiply(&mut unit, [x(0), x(1)], [weights(0), weights(1)], &mut sums),
                    }
                }
            }
        }
        for (panel, sums) in (start..).zip(sums.chunks(chunk.len())) {
            for (tile, sums) in chunk.clone().zip(sums) {
                // SAFETY: no other unit writes these rows of these panels.
                unsafe { target.write(s, &sums[..plan.rows.rows_in(tile)], 1, tile * TILE_ROWS, panel) };
            }
        }
    }
}

/// The accumulators of a unit of work, and the position of a product in them.
struct Sums<'a> {
    sums: &'a mut [SumTile],
    row_tiles: usize,
    panel: usize,
    tile: usize,
}

impl Sums<'_> {
    #[inline(always)]
    fn at(&mut self, r: usize, p: usize) -> &mut SumTile {
        &mut self.sums[(self.panel + p) * self.row_tiles + self.tile + r]
    }
}

/// The tiles of a K-block.
struct Block<'a> {
    plan: &'a Plan,
    first: usize,
    end: usize,
}

impl Block<'_> {
    /// Adds the products of this block to the sums; the first block sets them.
    #[inline(always)]
    fn multiply<const R: usize, const P: usize>(
        &self,
        unit: &mut impl TileUnit,
        x: [&[ActivationTile]; R],
        weights: [&[[u16; 2 * LANES]]; P],
        sums: &mut Sums<'_>,
    ) {
        for r in 0..R {
            for p in 0..P {
                unit.set_sums(r, p, (self.first > 0).then(|| &*sums.at(r, p)));
            }
        }
        let whole = weights.map(|panel| panel.as_chunks::<TILE_STEPS>().0);
        let reads_once = self.plan.rows.row_tiles == 1;
        for k in self.first..self.end.min(self.plan.steps / TILE_STEPS) {
            let weights = whole.map(|panel| &panel[k]);
            if reads_once {
                // The hardware prefetcher stops at page boundaries.
                for tile in weights {
                    let ahead = tile.as_ptr().wrapping_add(PREFETCH_TILES * TILE_STEPS);
                    (0..TILE_STEPS).for_each(|step| prefetch(ahead.wrapping_add(step)));
                }
            }
            unit.multiply(x.map(|x| &x[k]), weights);
        }
        let rest = self.plan.steps % TILE_STEPS;
        if rest > 0 && self.end == self.plan.tiles {
            let mut last = [[[0; 2 * LANES]; TILE_STEPS]; P];
            for (last, panel) in last.iter_mut().zip(weights) {
                last[..rest].copy_from_slice(&panel[self.plan.steps - rest..]);
            }
            unit.multiply(x.map(|x| &x[self.plan.tiles - 1]), last.each_ref());
        }
        for r in 0..R {
            for p in 0..P {
                unit.store_sums(r, p, sums.at(r, p));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::simd::portable::{Portable, from_bf16};
    use crate::cpu::{Epilogue, PackedWeights, WeightFormat};

    /// The documented operation of `tdpbf16ps`, except that denormals are kept.
    #[derive(Default)]
    struct Model {
        sums: [[SumTile; 2]; 2],
    }

    impl TileUnit for Model {
        fn set_sums(&mut self, tile: usize, panel: usize, sums: Option<&SumTile>) {
            self.sums[tile][panel] = sums.copied().unwrap_or_default();
        }

        fn multiply<const R: usize, const P: usize>(&mut self, x: [&ActivationTile; R], weights: [&WeightTile; P]) {
            for (x, sums) in x.iter().zip(&mut self.sums) {
                for (weights, sums) in weights.iter().zip(sums) {
                    for (x, sums) in x.0.iter().zip(sums) {
                        for (output, sum) in sums.0.iter_mut().enumerate() {
                            let sum_of = |half: usize| {
                                let products = x.iter().skip(half).step_by(2).zip(*weights);
                                products.fold(0.0, |sum: f32, (&x, step)| {
                                    from_bf16(x).mul_add(from_bf16(step[2 * output + half]), sum)
                                })
                            };
                            *sum += sum_of(0) + sum_of(1);
                        }
                    }
                }
            }
        }

        fn store_sums(&self, tile: usize, panel: usize, sums: &mut SumTile) {
            *sums = self.sums[tile][panel];
        }
    }

    /// Values of both signs and many magnitudes.
    fn values(count: usize) -> Vec<f32> {
        let value = |n: usize| (n.wrapping_mul(2_654_435_769) >> 7 & 0xffff) as f32 / 32768.0 - 1.0;
        (0..count).map(|n| value(n + 1).powi(3)).collect()
    }

    fn product(x: &[f32], weights: &PackedWeights) -> Vec<f32> {
        let mut out = vec![f32::NAN; x.len() / weights.inputs() * weights.outputs()];
        let target =
            Target { out: Disjoint::new(&mut out), outputs: weights.outputs(), bias: None, epilogue: Epilogue::Store };
        let view = weights.bf16().expect("weights in bf16");
        linear(Portable, Model::default, x, weights.inputs(), &view, &target, &mut Scratch::new());
        out
    }

    fn packed(outputs: usize, inputs: usize) -> (Vec<f32>, PackedWeights) {
        let dense: Vec<f32> = values(outputs * inputs + 7).split_off(7);
        let packed = PackedWeights::pack(&dense, outputs, inputs, WeightFormat::Bf16);
        (dense.into_iter().map(|value| from_bf16(to_bf16(value))).collect(), packed)
    }

    /// (rows, inputs, outputs): one row and several chunks of row tiles, an odd number of panels and of row tiles, whole
    /// tiles and remainders, one K-block and several.
    const SHAPES: [(usize, usize, usize); 8] = [
        (1, 1, 1),
        (1, 588, 130),
        (7, 96, 48),
        (16, 64, 160),
        (33, 1100, 17),
        (48, 1030, 40),
        (257, 192, 31),
        (400, 70, 50),
    ];

    #[test]
    fn products_are_those_of_rounded_operands() {
        for (rows, inputs, outputs) in SHAPES {
            let x = values(rows * inputs);
            let (dense, weights) = packed(outputs, inputs);
            let ours = product(&x, &weights);
            for (x, ours) in x.chunks(inputs).zip(ours.chunks(outputs)) {
                for (row, &ours) in dense.chunks(inputs).zip(ours) {
                    let terms = x.iter().zip(row).map(|(&x, &w)| f64::from(from_bf16(to_bf16(x))) * f64::from(w));
                    let (sum, size) = terms.fold((0.0, 1e-9), |(sum, size), term| (sum + term, size + term.abs()));
                    assert!((f64::from(ours) - sum).abs() < 1e-6 * size, "{rows}x{inputs}x{outputs}: {ours} and {sum}");
                }
            }
        }
    }

    #[test]
    fn a_row_in_a_batch_equals_the_row_alone_bit_for_bit() {
        for (rows, inputs, outputs) in SHAPES {
            let x = values(rows * inputs);
            let (_, weights) = packed(outputs, inputs);
            let batch = product(&x, &weights);
            for (x, batch) in x.chunks(inputs).zip(batch.chunks(outputs)).step_by(5) {
                let alone = product(x, &weights);
                assert!(alone.iter().zip(batch).all(|(a, b)| a.to_bits() == b.to_bits()), "{rows}x{inputs}x{outputs}");
            }
        }
    }

    #[test]
    fn the_cpus_tile_unit_agrees_with_the_model() {
        use crate::cpu::{Implementation, Scratch, available, linear, with_implementation};
        if !available().contains(&Implementation::Avx512Amx) {
            return;
        }
        for (rows, inputs, outputs) in SHAPES {
            let x = values(rows * inputs);
            let (_, weights) = packed(outputs, inputs);
            let mut out = vec![f32::NAN; rows * outputs];
            with_implementation(Implementation::Avx512Amx, || {
                linear(&x, &weights, None, Epilogue::Store, &mut out, &mut Scratch::new());
            });
            let model = product(&x, &weights);
            let largest = model.iter().fold(0.0, |largest: f32, value| largest.max(value.abs()));
            for (unit, model) in out.iter().zip(&model) {
                assert!((unit - model).abs() <= 1e-5 * largest, "{rows}x{inputs}x{outputs}: {unit} and {model}");
            }
        }
    }
}
