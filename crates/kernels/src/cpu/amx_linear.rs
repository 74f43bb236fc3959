//! Int8 matrix products on the AMX tile unit.
//!
//! The unit multiplies bytes. Activations of 16 bits are split into their upper and their lower bytes, both signed,
//! which are multiplied separately: the sum of a group is `256 * upper + lower`. Like the sums of [`Int8`]'s
//! micro-kernel it is exact in i32, and it is scaled and added in the same order, so the results have the same bits.

use std::arch::x86_64::*;

use super::aligned::F32x16;
use super::epilogue::Target;
use super::microkernel::{Format, GROUP, GROUP_STEPS, Int8, RowScale};
use super::parallel::{Disjoint, for_units};
use super::rounding::round_group;
use super::scratch::{AmxActivations, Scratch, ThreadScratch, grow_to};
use super::simd::amx::{Activations, Amx, Sums, TileUnit};
use super::simd::avx512::Avx512;
use super::simd::{Kernel, LANES, Simd, prefetch};
use super::tile_plan::{TILE_ROWS, TilePlan};
use super::weights::View;

const _: () = assert!(GROUP_STEPS == 2 * TILE_ROWS, "a group of weights must be two tiles");

/// With fewer rows the vector unit is as fast, because both are bound by memory.
pub(crate) const MIN_ROWS: usize = 4;

/// How many times faster one-byte products are than the vector unit's products of two bytes by one.
const SPEEDUP: usize = 4;

/// `out = epilogue(x W^T + bias)` into the target, for at least one row.
pub(crate) fn linear<const BYTES: usize>(
    (s, amx): (Avx512<true>, Amx),
    x: &[f32],
    inputs: usize,
    view: &View<'_, Int8<BYTES>>,
    target: &Target<'_>,
    scratch: &mut Scratch,
) {
    let rows = x.len() / inputs;
    let plan = Plan {
        rows: TilePlan::new(rows, target.outputs),
        steps: inputs.div_ceil(Int8::<BYTES>::INPUTS),
        groups: inputs.div_ceil(GROUP),
    };
    let row_tiles = plan.rows.row_tiles;
    let threads = scratch.threads_for(rows * inputs * target.outputs * BYTES / SPEEDUP, plan.rows.units());
    let pack_threads = scratch.threads_for(rows * inputs, row_tiles).min(threads);
    let (AmxActivations { tiles, scales }, threads) = scratch.amx(threads);
    let count = row_tiles * plan.groups;
    let (packed, scales) = (grow_to(tiles, BYTES * count).as_chunks_mut::<BYTES>().0, grow_to(scales, count));
    {
        let (packed, scales) = (Disjoint::new(packed), Disjoint::new(scales));
        for_units(row_tiles, &mut threads[..pack_threads], |tile, _| {
            // SAFETY: each unit packs its own row tile.
            let (packed, scales) =
                unsafe { (packed.part(tile * plan.groups, plan.groups), scales.part(tile * plan.groups, plan.groups)) };
            let rows = TILE_ROWS.min(rows - tile * TILE_ROWS);
            s.call(Pack { x: &x[tile * TILE_ROWS * inputs..][..rows * inputs], inputs, packed, scales });
        });
    }
    for_units(plan.rows.units(), threads, |unit, thread| {
        s.call(Multiply { amx, plan: &plan, packed, scales, view, target, unit, thread });
    });
}

/// How one call's work is divided. It does not affect the results.
struct Plan {
    rows: TilePlan,
    /// Quads of inputs of a row.
    steps: usize,
    /// Scale groups of a row.
    groups: usize,
}

/// Rounds and packs a row tile, group by group.
struct Pack<'a, const BYTES: usize> {
    x: &'a [f32],
    inputs: usize,
    packed: &'a mut [Activations<BYTES>],
    scales: &'a mut [[RowScale; TILE_ROWS]],
}

impl<const BYTES: usize> Kernel for Pack<'_, BYTES> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self { x, inputs, packed, scales } = self;
        for (r, row) in x.chunks(inputs).enumerate() {
            for ((group, packed), scales) in row.chunks(GROUP).zip(&mut *packed).zip(&mut *scales) {
                let (scale, rounded) = round_group::<S, BYTES>(s, group);
                scales[r] = scale;
                for (half, rounded) in rounded.as_chunks::<{ GROUP / 2 }>().0.iter().enumerate() {
                    for (byte, tiles) in packed.iter_mut().enumerate() {
                        tiles[half][r].0 = match BYTES - 1 - byte {
                            0 => rounded.map(|value| value as u8),
                            _ => rounded.map(|value| ((value + 128) >> 8) as u8),
                        };
                    }
                }
            }
        }
    }
}

/// One unit of work, over all inputs.
struct Multiply<'a, const BYTES: usize> {
    amx: Amx,
    plan: &'a Plan,
    packed: &'a [Activations<BYTES>],
    scales: &'a [[RowScale; TILE_ROWS]],
    view: &'a View<'a, Int8<BYTES>>,
    target: &'a Target<'a>,
    unit: usize,
    thread: &'a mut ThreadScratch,
}

impl<const BYTES: usize> Kernel for Multiply<'_, BYTES> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self { amx, plan, packed, scales, view, target, unit, thread } = self;
        let (chunk, range) = plan.rows.unit(unit);
        let (start, panels) = (range.start, range.len());
        let accumulators = grow_to(&mut thread.accumulators, chunk.len() * panels * TILE_ROWS);
        // Double-buffered: one is read while the tile unit writes the other.
        let mut sums: [Sums<BYTES>; 2] = [[[[0; LANES]; TILE_ROWS]; BYTES]; 2];
        let mut tile_unit = TileUnit::new(amx);
        for group in 0..plan.groups {
            for (tile, accumulators) in chunk.clone().zip(accumulators.chunks_mut(panels * TILE_ROWS)) {
                let rows = plan.rows.rows_in(tile);
                let row_scales = &scales[tile * plan.groups + group];
                tile_unit.load(rows, &packed[tile * plan.groups + group]);
                for p in 0..=panels {
                    if p < panels {
                        let at = (start + p) * plan.steps + group * GROUP_STEPS;
                        let Some(weights) = view.steps[at..].first_chunk::<GROUP_STEPS>() else {
                            unreachable!("the packed weights are padded by one group")
                        };
                        // The hardware prefetcher stops at page boundaries.
                        if tile == chunk.start {
                            (0..GROUP_STEPS)
                                .for_each(|step| prefetch(weights.as_ptr().wrapping_add(GROUP_STEPS + step)));
                        }
                        tile_unit.multiply(weights, &mut sums[p % 2]);
                    }
                    if let Some(p) = p.checked_sub(1) {
                        let at = (start + p) * plan.groups + group;
                        let weight_scales = &view.scales[at];
                        let weight_sums = view.sums.get(at);
                        let accumulators = &mut accumulators[p * TILE_ROWS..][..rows];
                        add_group(&sums[p % 2], row_scales, weight_scales, weight_sums, group == 0, accumulators);
                    }
                }
            }
        }
        for (tile, accumulators) in chunk.zip(accumulators.chunks(panels * TILE_ROWS)) {
            for (panel, accumulators) in range.clone().zip(accumulators.chunks(TILE_ROWS)) {
                // SAFETY: no other unit writes these rows of these panels.
                unsafe { target.write(s, &accumulators[..plan.rows.rows_in(tile)], 1, tile * TILE_ROWS, panel) };
            }
        }
    }
}

/// Scales the sums of one group and stores them in `accumulators[row]`, or adds them if the group is not the `first`.
#[inline(always)]
fn add_group<const BYTES: usize>(
    sums: &Sums<BYTES>,
    row_scales: &[RowScale; TILE_ROWS],
    weight_scales: &[f32; LANES],
    weight_sums: Option<&[f32; LANES]>,
    first: bool,
    accumulators: &mut [F32x16],
) {
    // SAFETY: 16 numbers are readable at each pointer, the accesses need no alignment, and this module runs only on
    // CPUs with AVX-512.
    unsafe {
        let weight_scales = _mm512_loadu_ps(weight_scales.as_ptr());
        let weight_sums = weight_sums.map(|sums| _mm512_loadu_ps(sums.as_ptr()));
        for (r, (vector, &RowScale { scale, unbias, offset })) in accumulators.iter_mut().zip(row_scales).enumerate() {
            let mut sum = _mm512_loadu_si512(sums[0][r].as_ptr().cast());
            for lower in &sums[1..] {
                sum = _mm512_add_epi32(_mm512_slli_epi32::<8>(sum), _mm512_loadu_si512(lower[r].as_ptr().cast()));
            }
            let sum = _mm512_cvtepi32_ps(_mm512_add_epi32(sum, _mm512_set1_epi32(unbias)));
            let before = if first { _mm512_setzero_ps() } else { _mm512_loadu_ps(vector.0.as_ptr()) };
            let mut total = _mm512_fmadd_ps(sum, _mm512_mul_ps(_mm512_set1_ps(scale), weight_scales), before);
            if let Some(weight_sums) = weight_sums {
                total = _mm512_fmadd_ps(_mm512_set1_ps(offset), weight_sums, total);
            }
            _mm512_storeu_ps(vector.0.as_mut_ptr(), total);
        }
    }
}
