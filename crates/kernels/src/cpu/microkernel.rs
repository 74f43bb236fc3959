//! Micro-kernels, one for each weight format: a tile of a few rows by a few panels over one K-block of inputs.
#![allow(clippy::needless_range_loop, reason = "tiles are indexed by row and panel throughout")]

use super::aligned::F32x16;
use super::dispatch::IsaLevel;
use super::element::Element;
use super::simd::{Kernel, LANES, Simd, prefetch};
use super::storage::Plain;

/// Inputs that share a scale in [`WeightFormat::Int8`](super::WeightFormat::Int8).
///
/// The sum of 128 products of 16 by 8 bits is below 2^31, so the sum of a group is exact in i32.
pub const GROUP: usize = 128;

/// Steps (quads of inputs) in a group.
pub(crate) const GROUP_STEPS: usize = GROUP / QUAD;

/// Inputs in a step of int8 weights.
const QUAD: usize = 4;

/// A weight format: how a panel of 16 outputs is stored and multiplied.
///
/// A panel is a sequence of steps. Each step holds one (f32), two (bf16) or four (int8) inputs of all 16 outputs.
pub(crate) trait Format: Send + Sync + Sized {
    type Step: Plain;
    /// The activations of one row and step.
    type X: Copy + Default + Send + Sync;
    /// Inputs in a step.
    const INPUTS: usize;
    /// Vector registers that hold weights of one panel.
    const WEIGHT_VECTORS: usize = 1;
    /// Steps of a K-block, which are summed before the sum is added to the accumulator. This is part of the arithmetic.
    /// A panel's K-block fits the L1 cache.
    const K_BLOCK: usize;

    /// Runs a kernel of this format compiled for `level`.
    fn run<K: Kernel>(level: IsaLevel, kernel: K) -> K::Output {
        level.run(kernel)
    }

    /// `tile = x * w` for the first K-block, `tile += x * w` for the others. `x` is `[steps][R]`, `tile` is `[R][P]`, and
    /// scales are `[groups][R]` and `[groups]`.
    fn multiply_tile<S: Simd, const R: usize, const P: usize>(s: S, block: Operands<'_, Self>, tile: &mut [F32x16]);
}

/// The operands of a tile in one K-block.
pub(crate) struct Operands<'a, F: Format> {
    pub(crate) x: &'a [F::X],
    pub(crate) x_scales: &'a [RowScale],
    /// Starts at the first panel's first step of the block; panels are `panel_stride` steps apart.
    pub(crate) weights: &'a [F::Step],
    pub(crate) panel_stride: usize,
    pub(crate) weight_scales: &'a [[f32; LANES]],
    pub(crate) weight_sums: &'a [[f32; LANES]],
    /// Distance from one panel's scales, or sums, to the next panel's.
    pub(crate) scale_stride: usize,
    /// Whether to prefetch the panels' next K-block.
    pub(crate) prefetch: bool,
    /// Whether this is the first K-block, which overwrites the tile; later ones add to it.
    pub(crate) first: bool,
}

/// How the activations of one row and group were rounded.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct RowScale {
    pub(crate) scale: f32,
    /// Added to the group's sum of products to cancel [`WEIGHT_BIAS`].
    pub(crate) unbias: i32,
    /// Added to each value: values rounded to one byte need not be centred on zero.
    pub(crate) offset: f32,
}

/// Added to int8 weights to store them unsigned: not every CPU that multiplies bytes can multiply signed bytes by signed
/// bytes.
pub(crate) const WEIGHT_BIAS: i32 = 128;

pub(crate) struct F32;
pub(crate) struct Bf16;
/// Weights of 8 bits, with activations rounded to `BYTES` bytes: 1 or 2.
pub(crate) struct Int8<const BYTES: usize>;

/// Runs `$body` with `$rows` and `$panels` as the constants `R` and `P`.
///
/// Tiles with more accumulators than the implementation has registers for are never planned and not compiled.
macro_rules! with_tile_size {
    ($S:ident, $rows:expr, $panels:expr, $R:ident, $P:ident => $body:expr) => {
        with_tile_size!(@sizes $S, $rows, $panels, $R, $P, $body,
            (1, 1) (2, 1) (3, 1) (4, 1) (5, 1) (6, 1) (7, 1) (8, 1)
            (1, 2) (2, 2) (3, 2) (4, 2) (5, 2) (6, 2) (7, 2) (8, 2)
            (1, 4) (2, 4) (3, 4) (4, 4))
    };
    (@sizes $S:ident, $rows:expr, $panels:expr, $R:ident, $P:ident, $body:expr, $(($r:literal, $p:literal))*) => {
        match ($rows, $panels) {
            $(($r, $p) if $r * $p <= $S::ACCUMULATORS => {
                const $R: usize = $r;
                const $P: usize = $p;
                $body
            })*
            (rows, panels) => unreachable!("a tile of {rows} rows by {panels} panels is never planned"),
        }
    };
}
pub(crate) use with_tile_size;

/// Rows that begin at `start + r * row`, each a sequence of values, or of vectors, at distance `step`.
#[derive(Clone, Copy)]
pub(crate) struct Strided<E = f32> {
    pub(crate) start: *const E,
    pub(crate) step: usize,
    pub(crate) row: usize,
    /// How many values ahead of its use to prefetch each step; 0 leaves that to the hardware.
    pub(crate) prefetch: usize,
}

/// Sums over `steps` of `x[r, step] * w[p, step]`, each a sequence of fused multiply-adds; a step of `w` is 16 values, widened
/// to f32.
///
/// # Safety
/// Every element that the strides lead to is readable, for `R` rows of `x` and `P` rows of `w`.
#[inline(always)]
pub(crate) unsafe fn sum_products<S: Simd, E: Element, const R: usize, const P: usize>(
    s: S,
    steps: usize,
    x: Strided,
    w: Strided<E>,
) -> [[S::F; P]; R] {
    let mut sums = [[s.splat(0.0); P]; R];
    for step in 0..steps {
        let mut operands = [s.splat(0.0); P];
        for p in 0..P {
            if w.prefetch > 0 {
                prefetch(w.start.wrapping_add(step * w.step + p * w.row + w.prefetch));
            }
            // SAFETY: guaranteed by the caller.
            operands[p] = E::load(s, unsafe { &*w.start.add(step * w.step + p * w.row).cast::<[E; LANES]>() });
        }
        for r in 0..R {
            // SAFETY: guaranteed by the caller.
            let activation = s.splat(unsafe { *x.start.add(step * x.step + r * x.row) });
            for p in 0..P {
                sums[r][p] = s.fma(activation, operands[p], sums[r][p]);
            }
        }
    }
    sums
}

/// Stores the sums in the tile if this is the first block, or adds them to it.
#[inline(always)]
fn accumulate<S: Simd, const R: usize, const P: usize>(s: S, sums: [[S::F; P]; R], first: bool, tile: &mut [F32x16]) {
    let tile = &mut tile[..R * P];
    // By index: an iterator would keep the sums in memory.
    for r in 0..R {
        for p in 0..P {
            let accumulator = &mut tile[r * P + p].0;
            let total = if first { sums[r][p] } else { s.add(s.load(accumulator), sums[r][p]) };
            s.store(total, accumulator);
        }
    }
}

impl Format for F32 {
    type Step = [f32; LANES];
    type X = f32;
    const INPUTS: usize = 1;
    const K_BLOCK: usize = 256;

    #[inline(always)]
    fn multiply_tile<S: Simd, const R: usize, const P: usize>(s: S, block: Operands<'_, Self>, tile: &mut [F32x16]) {
        let steps = block.x.len() / R;
        assert!(
            block.weights.len() >= (P - 1) * block.panel_stride + steps,
            "a block of weights must match its inputs"
        );
        let x = Strided { start: block.x.as_ptr(), step: R, row: 1, prefetch: 0 };
        let weights = Strided {
            start: block.weights.as_ptr().cast(),
            step: LANES,
            row: block.panel_stride * LANES,
            prefetch: if block.prefetch { Self::K_BLOCK * LANES } else { 0 },
        };
        // SAFETY: `x` holds `steps * R` values in that order, and every panel at least `steps` vectors.
        let sums = unsafe { sum_products::<S, f32, R, P>(s, steps, x, weights) };
        accumulate(s, sums, block.first, tile);
    }
}

impl Format for Bf16 {
    type Step = [u16; 2 * LANES];
    type X = [f32; 2];
    const INPUTS: usize = 2;
    const WEIGHT_VECTORS: usize = 2;
    const K_BLOCK: usize = 128;

    #[inline(always)]
    fn multiply_tile<S: Simd, const R: usize, const P: usize>(s: S, block: Operands<'_, Self>, tile: &mut [F32x16]) {
        let (steps, _) = block.x.as_chunks::<R>();
        let weights: [_; P] = std::array::from_fn(|p| &block.weights[p * block.panel_stride..][..steps.len()]);
        let mut sums = [[s.splat(0.0); P]; R];
        for (step, x) in steps.iter().enumerate() {
            let mut operands = [(s.splat(0.0), s.splat(0.0)); P];
            for p in 0..P {
                if block.prefetch {
                    prefetch(weights[p].as_ptr().wrapping_add(step + Self::K_BLOCK));
                }
                // SAFETY: every panel was sliced to the number of steps.
                operands[p] = s.widen_bf16(unsafe { weights[p].get_unchecked(step) });
            }
            for r in 0..R {
                let activation = s.splat(x[r][0]);
                for p in 0..P {
                    sums[r][p] = s.fma(activation, operands[p].0, sums[r][p]);
                }
            }
            for r in 0..R {
                let activation = s.splat(x[r][1]);
                for p in 0..P {
                    sums[r][p] = s.fma(activation, operands[p].1, sums[r][p]);
                }
            }
        }
        accumulate(s, sums, block.first, tile);
    }
}

impl<const BYTES: usize> Format for Int8<BYTES> {
    /// Weights plus [`WEIGHT_BIAS`].
    type Step = [u8; 4 * LANES];
    /// As [`Simd::split_quad`] returns them. If [`quad_parts`] is 1, they are contiguous in the first half of the buffer.
    type X = [i32; 2];
    const INPUTS: usize = QUAD;
    const K_BLOCK: usize = 4 * GROUP_STEPS;

    fn run<K: Kernel>(level: IsaLevel, kernel: K) -> K::Output {
        level.run_integers(kernel)
    }

    #[inline(always)]
    fn multiply_tile<S: Simd, const R: usize, const P: usize>(s: S, block: Operands<'_, Self>, tile: &mut [F32x16]) {
        let parts = quad_parts::<S, BYTES>();
        let x = &block.x.as_flattened()[..block.x.len() * parts];
        let groups = x.chunks(GROUP_STEPS * R * parts).zip(block.x_scales.as_chunks::<R>().0);
        for (group, (x, x_scales)) in groups.enumerate() {
            let steps = x.len() / (R * parts);
            let weights =
                std::array::from_fn(|p| &block.weights[p * block.panel_stride + group * GROUP_STEPS..][..steps]);
            let sums = exact_sums::<S, R, P, BYTES>(s, x, weights, x_scales, block.prefetch);
            let mut weight_scales = [s.splat(0.0); P];
            let mut weight_sums = [s.splat(0.0); P];
            for p in 0..P {
                weight_scales[p] = s.load(&block.weight_scales[p * block.scale_stride + group]);
                if BYTES == 1 {
                    weight_sums[p] = s.load(&block.weight_sums[p * block.scale_stride + group]);
                }
            }
            let tile = &mut tile[..R * P];
            for r in 0..R {
                let (x_scale, x_offset) = (s.splat(x_scales[r].scale), s.splat(x_scales[r].offset));
                for p in 0..P {
                    let accumulator = &mut tile[r * P + p].0;
                    let before = if block.first && group == 0 { s.splat(0.0) } else { s.load(accumulator) };
                    let mut total = s.fused(s.to_f32(sums[r][p]), s.mul(x_scale, weight_scales[p]), before);
                    if BYTES == 1 {
                        total = s.fused(x_offset, weight_sums[p], total);
                    }
                    s.store(total, accumulator);
                }
            }
        }
    }
}

/// How many integers a quad of activations takes: both of [`Simd::split_quad`], or only the second for single bytes.
pub(crate) const fn quad_parts<S: Simd, const BYTES: usize>() -> usize {
    if S::HALVES_ARE_BYTES { BYTES } else { 2 }
}

/// The exact sums of products of one group, for activations in the order `[step][R][part]`.
#[inline(always)]
fn exact_sums<S: Simd, const R: usize, const P: usize, const BYTES: usize>(
    s: S,
    x: &[i32],
    weights: [&[[u8; 4 * LANES]]; P],
    x_scales: &[RowScale; R],
    prefetch_next: bool,
) -> [[S::I; P]; R] {
    let parts = quad_parts::<S, BYTES>();
    let steps = x.len() / (R * parts);
    assert!(weights.iter().all(|panel| panel.len() == steps), "a group of weights must match its inputs");
    let mut sums = [[s.zero_i(); P]; R];
    // The upper of two bytes comes first. A single byte is the lower one.
    let first = 2 - parts;
    for half in first..2 {
        if half == 1 {
            for r in 0..R {
                for p in 0..P {
                    sums[r][p] = s.add_i(s.scale_first_half(sums[r][p]), s.splat_i(x_scales[r].unbias));
                }
            }
        }
        for (step, x) in x.chunks_exact(R * parts).enumerate() {
            let mut operands = [s.zero_i(); P];
            for p in 0..P {
                if prefetch_next && half == first {
                    prefetch(weights[p].as_ptr().wrapping_add(step + Int8::<BYTES>::K_BLOCK));
                }
                // SAFETY: every panel has `steps` steps, as asserted.
                operands[p] = s.half_of_quads(unsafe { weights[p].get_unchecked(step) }, half);
            }
            for r in 0..R {
                let activation = s.splat_i(x[r * parts + half - first]);
                for p in 0..P {
                    sums[r][p] = s.dot_half(sums[r][p], operands[p], activation);
                }
            }
        }
    }
    sums
}
