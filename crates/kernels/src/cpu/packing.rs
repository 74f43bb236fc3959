//! Activations packed for the micro-kernels: step by step, the rows of a tile next to each other in each step.

use super::microkernel::{Bf16, F32, Format, GROUP, GROUP_STEPS, Int8, RowScale, quad_parts};
use super::rounding::Rounding;
use super::simd::{LANES, Simd};

/// How the activations of a weight format are packed.
pub(crate) trait Pack: Format {
    /// The one of a scratch's buffers that holds activations of this format.
    fn buffer<'a>(
        f32_steps: &'a mut Vec<f32>,
        bf16_steps: &'a mut Vec<[f32; 2]>,
        int8_steps: &'a mut Vec<[i32; 2]>,
    ) -> &'a mut Vec<Self::X>;

    /// Packs one K-block of a tile's rows, `x[r * stride..][..inputs]`, as `[steps][rows]`, and its scales as
    /// `[groups][rows]`.
    fn pack<S: Simd>(
        s: S,
        x: &[f32],
        stride: usize,
        inputs: usize,
        rows: usize,
        packed: &mut [Self::X],
        scales: &mut [RowScale],
    );
}

impl Pack for F32 {
    fn buffer<'a>(
        f32_steps: &'a mut Vec<f32>,
        _: &'a mut Vec<[f32; 2]>,
        _: &'a mut Vec<[i32; 2]>,
    ) -> &'a mut Vec<Self::X> {
        f32_steps
    }

    #[inline(always)]
    fn pack<S: Simd>(
        _: S,
        x: &[f32],
        stride: usize,
        inputs: usize,
        rows: usize,
        packed: &mut [f32],
        _: &mut [RowScale],
    ) {
        for r in 0..rows {
            let row = &x[r * stride..][..inputs];
            packed[r..].iter_mut().step_by(rows).zip(row).for_each(|(to, &value)| *to = value);
        }
    }
}

impl Pack for Bf16 {
    fn buffer<'a>(
        _: &'a mut Vec<f32>,
        bf16_steps: &'a mut Vec<[f32; 2]>,
        _: &'a mut Vec<[i32; 2]>,
    ) -> &'a mut Vec<Self::X> {
        bf16_steps
    }

    #[inline(always)]
    fn pack<S: Simd>(
        _: S,
        x: &[f32],
        stride: usize,
        inputs: usize,
        rows: usize,
        packed: &mut [[f32; 2]],
        _: &mut [RowScale],
    ) {
        for r in 0..rows {
            let (pairs, last) = x[r * stride..][..inputs].as_chunks::<2>();
            packed[r..].iter_mut().step_by(rows).zip(pairs).for_each(|(to, &pair)| *to = pair);
            if let [last] = *last {
                packed[pairs.len() * rows + r] = [last, 0.0];
            }
        }
    }
}

impl<const BYTES: usize> Pack for Int8<BYTES> {
    fn buffer<'a>(
        _: &'a mut Vec<f32>,
        _: &'a mut Vec<[f32; 2]>,
        int8_steps: &'a mut Vec<[i32; 2]>,
    ) -> &'a mut Vec<Self::X> {
        int8_steps
    }

    #[inline(always)]
    fn pack<S: Simd>(
        s: S,
        x: &[f32],
        stride: usize,
        inputs: usize,
        rows: usize,
        packed: &mut [[i32; 2]],
        scales: &mut [RowScale],
    ) {
        let parts = quad_parts::<S, BYTES>();
        let packed = packed.as_flattened_mut();
        for r in 0..rows {
            let row = &x[r * stride..][..inputs];
            for (index, group) in row.chunks(GROUP).enumerate() {
                let rounding = Rounding::of::<S, BYTES>(s, group);
                let mut sum = s.zero_i();
                let mut steps = packed[index * GROUP_STEPS * rows * parts..].chunks_exact_mut(rows * parts);
                let (vectors, last) = group.as_chunks::<LANES>();
                for vector in vectors {
                    let rounded = rounding.round(s, s.load(vector));
                    sum = s.add_i(sum, rounded);
                    for (split, step) in s.split_quads(rounded).iter().zip(&mut steps) {
                        step[r * parts..][..parts].copy_from_slice(&split[2 - parts..]);
                    }
                }
                if !last.is_empty() {
                    let rounded = rounding.round_partial(s, last);
                    sum = s.add_i(sum, rounded);
                    let split = s.split_quads(rounded);
                    for (split, step) in split.iter().take(last.len().div_ceil(4)).zip(&mut steps) {
                        step[r * parts..][..parts].copy_from_slice(&split[2 - parts..]);
                    }
                }
                scales[index * rows + r] = rounding.scale(s, sum);
            }
        }
    }
}
