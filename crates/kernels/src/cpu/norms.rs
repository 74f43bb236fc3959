//! Layer normalisation and L2 normalisation of rows.

use rayon::prelude::*;

use super::dispatch::level;
use super::math::{load_partial, store_partial};
use super::simd::{Kernel, LANES, Simd};

/// Values that one thread takes at a time. Inputs of less than twice as many run on one thread.
const CHUNK: usize = 1 << 16;

/// `out = (x - mean) / sqrt(variance + eps) * weight + bias` for each row of `weight.len()` values.
///
/// # Panics
/// If `bias` and `weight` differ in length, or `x` and `out` do, or they are not whole rows of `weight.len()` values.
pub fn layer_norm(x: &[f32], weight: &[f32], bias: &[f32], eps: f32, out: &mut [f32]) {
    assert!(x.len() == out.len(), "out must hold {} values like x, not {}", x.len(), out.len());
    check(out, weight, bias);
    let level = level();
    let run = |x: &[f32], out: &mut [f32]| level.run(LayerNorm { x: Some(x), weight, bias, eps, out });
    if out.len() < 2 * CHUNK {
        return run(x, out);
    }
    let chunk = chunk_length(weight.len());
    out.par_chunks_mut(chunk).zip(x.par_chunks(chunk)).for_each(|(out, x)| run(x, out));
}

/// [`layer_norm`] in place.
///
/// # Panics
/// If `bias` and `weight` differ in length, or `x` is not whole rows of `weight.len()` values.
pub fn layer_norm_in_place(x: &mut [f32], weight: &[f32], bias: &[f32], eps: f32) {
    check(x, weight, bias);
    let level = level();
    let run = |out: &mut [f32]| level.run(LayerNorm { x: None, weight, bias, eps, out });
    if x.len() < 2 * CHUNK {
        return run(x);
    }
    x.par_chunks_mut(chunk_length(weight.len())).for_each(run);
}

/// Divides each row of `width` values by its L2 norm: `x / max(|x|, 1e-12)`, like torch's `normalize`.
///
/// # Panics
/// If `x` is not whole rows of `width` values.
pub fn l2_normalize(x: &mut [f32], width: usize) {
    assert!(width > 0 && x.len().is_multiple_of(width), "x must hold rows of {width} values, not {}", x.len());
    level().run(L2Normalize { x, width });
}

fn check(x: &[f32], weight: &[f32], bias: &[f32]) {
    let width = weight.len();
    assert!(width > 0 && bias.len() == width, "bias must hold {width} values like weight, not {}", bias.len());
    assert!(x.len().is_multiple_of(width), "x must hold rows of {width} values, not {}", x.len());
}

fn chunk_length(width: usize) -> usize {
    CHUNK.div_ceil(width) * width
}

struct LayerNorm<'a> {
    /// `None` if the input is in `out`.
    x: Option<&'a [f32]>,
    weight: &'a [f32],
    bias: &'a [f32],
    eps: f32,
    out: &'a mut [f32],
}

impl Kernel for LayerNorm<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self { x, weight, bias, eps, out } = self;
        let width = weight.len();
        for (index, row) in out.chunks_exact_mut(width).enumerate() {
            let x = x.map(|x| &x[index * width..][..width]);
            let (mean, scale) = statistics(s, x.unwrap_or(row), eps);
            let (mean, scale) = (s.splat(mean), s.splat(scale));
            let (weights, last_weights) = weight.as_chunks::<LANES>();
            let (biases, last_biases) = bias.as_chunks::<LANES>();
            let (parts, last) = row.as_chunks_mut::<LANES>();
            let whole = parts.len();
            for (part, (to, (weight, bias))) in parts.iter_mut().zip(weights.iter().zip(biases)).enumerate() {
                let value = s.load(x.map_or(&*to, |x| &x.as_chunks::<LANES>().0[part]));
                let normal = s.mul(s.sub(value, mean), scale);
                s.store(s.fma(normal, s.load(weight), s.load(bias)), to);
            }
            if !last.is_empty() {
                let value = load_partial(s, x.map_or(&*last, |x| &x[whole * LANES..]), 0.0);
                let normal = s.mul(s.sub(value, mean), scale);
                let value = s.fma(normal, load_partial(s, last_weights, 0.0), load_partial(s, last_biases, 0.0));
                store_partial(s, value, last);
            }
        }
    }
}

/// The mean of a row and the inverse of its standard deviation.
#[inline(always)]
fn statistics<S: Simd>(s: S, row: &[f32], eps: f32) -> (f32, f32) {
    let width = row.len() as f32;
    let (parts, last) = row.as_chunks::<LANES>();
    let mut sum = s.splat(0.0);
    for part in parts {
        sum = s.add(sum, s.load(part));
    }
    if !last.is_empty() {
        sum = s.add(sum, load_partial(s, last, 0.0));
    }
    let mean = s.sum_lanes(sum) / width;
    let mut squares = s.splat(0.0);
    for part in parts {
        let centred = s.sub(s.load(part), s.splat(mean));
        squares = s.fma(centred, centred, squares);
    }
    if !last.is_empty() {
        let centred = s.sub(load_partial(s, last, mean), s.splat(mean));
        squares = s.fma(centred, centred, squares);
    }
    (mean, 1.0 / (s.sum_lanes(squares) / width + eps).sqrt())
}

struct L2Normalize<'a> {
    x: &'a mut [f32],
    width: usize,
}

impl Kernel for L2Normalize<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        for row in self.x.chunks_exact_mut(self.width) {
            let mut squares = s.splat(0.0);
            for part in row.chunks(LANES) {
                let value = load_partial(s, part, 0.0);
                squares = s.fma(value, value, squares);
            }
            let length = s.splat(s.sum_lanes(squares).sqrt().max(1e-12));
            for part in row.chunks_mut(LANES) {
                store_partial(s, s.div(load_partial(s, part, 0.0), length), part);
            }
        }
    }
}
