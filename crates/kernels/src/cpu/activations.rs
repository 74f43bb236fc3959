//! Activations as the kernels read them: copied (or rounded) into tiles, step by step, a step's rows side by side.

#[cfg(target_arch = "x86_64")]
use super::amx;
use super::math::load_part;
use super::parallel::threads_for;
use super::simd::{LANES, Simd};
use super::tile::{Bf16, F32, Format, GROUP, GROUP_STEPS, Int8, Line, RowScale, WEIGHT_BIAS};

/// Memory that calls reuse. One for each thread that calls; it grows to what the largest call needs.
#[derive(Debug, Default)]
pub struct Scratch {
    singles: Vec<f32>,
    pairs: Vec<[f32; 2]>,
    rounded: Vec<[i32; 2]>,
    scales: Vec<RowScale>,
    #[cfg(target_arch = "x86_64")]
    tiles: amx::Packed,
    workers: Vec<Worker>,
    alone: bool,
}

/// One thread's memory.
#[derive(Debug, Default)]
pub(crate) struct Worker {
    pub(crate) tiles: Vec<Line>,
    pub(crate) keys: Vec<Line>,
    pub(crate) values: Vec<Line>,
}

impl Scratch {
    /// Empty scratch memory.
    pub fn new() -> Self {
        Self::default()
    }

    /// Empty scratch memory whose calls stay on the thread that makes them, for callers that share out the work
    /// themselves.
    pub fn for_one_thread() -> Self {
        Self { alone: true, ..Self::default() }
    }

    /// Threads worth using for so much work in so many units.
    pub(crate) fn threads_for(&self, work: usize, units: usize) -> usize {
        if self.alone { 1 } else { threads_for(work, units) }
    }

    pub(crate) fn workers(&mut self, count: usize) -> &mut [Worker] {
        if self.workers.len() < count {
            self.workers.resize_with(count, Worker::default);
        }
        &mut self.workers[..count]
    }

    /// Activations packed for the tile unit, and the workers.
    #[cfg(target_arch = "x86_64")]
    pub(crate) fn tiles(&mut self, workers: usize) -> (&mut amx::Packed, &mut [Worker]) {
        self.workers(workers);
        (&mut self.tiles, &mut self.workers[..workers])
    }

    /// Room for packed activations and their scales, and the workers.
    pub(crate) fn packed<F: Pack>(
        &mut self,
        steps: usize,
        scales: usize,
        workers: usize,
    ) -> (&mut [F::X], &mut [RowScale], &mut [Worker]) {
        self.workers(workers);
        let Self { singles, pairs, rounded, scales: scale_buffer, workers: all, .. } = self;
        let buffer = F::buffer(singles, pairs, rounded);
        (room(buffer, steps), room(scale_buffer, scales), &mut all[..workers])
    }
}

/// The first `count` items, made if they are not there; what they hold is left over from earlier use.
pub(crate) fn room<T: Copy + Default>(buffer: &mut Vec<T>, count: usize) -> &mut [T] {
    if buffer.len() < count {
        buffer.resize(count, T::default());
    }
    &mut buffer[..count]
}

/// How a format wants its activations.
pub(crate) trait Pack: Format {
    fn buffer<'a>(
        singles: &'a mut Vec<f32>,
        pairs: &'a mut Vec<[f32; 2]>,
        rounded: &'a mut Vec<[i32; 2]>,
    ) -> &'a mut Vec<Self::X>;

    /// Packs one block of inputs of one tile's rows: `x[r * stride..][..inputs]` into `[steps][rows]`, scales into
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
        singles: &'a mut Vec<f32>,
        _: &'a mut Vec<[f32; 2]>,
        _: &'a mut Vec<[i32; 2]>,
    ) -> &'a mut Vec<Self::X> {
        singles
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
    fn buffer<'a>(_: &'a mut Vec<f32>, pairs: &'a mut Vec<[f32; 2]>, _: &'a mut Vec<[i32; 2]>) -> &'a mut Vec<Self::X> {
        pairs
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

impl Pack for Int8 {
    fn buffer<'a>(
        _: &'a mut Vec<f32>,
        _: &'a mut Vec<[f32; 2]>,
        rounded: &'a mut Vec<[i32; 2]>,
    ) -> &'a mut Vec<Self::X> {
        rounded
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
        for r in 0..rows {
            let row = &x[r * stride..][..inputs];
            for (group, part) in row.chunks(GROUP).enumerate() {
                let (scale, inverse) = group_scale(s, part);
                let inverse = s.splat(inverse);
                let mut sum = s.zero_i();
                let steps = part.len().div_ceil(4);
                let packed = &mut packed[group * GROUP_STEPS * rows + r..][..(steps - 1) * rows + 1];
                let (vectors, last) = part.as_chunks::<LANES>();
                for (index, vector) in vectors.iter().enumerate() {
                    let whole = s.to_i32(s.mul(s.load(vector), inverse));
                    sum = s.add_i(sum, whole);
                    for (quad, split) in s.split_quads(whole).into_iter().enumerate() {
                        packed[(index * LANES / 4 + quad) * rows] = split;
                    }
                }
                if !last.is_empty() {
                    let whole = s.to_i32(s.mul(load_part(s, last, 0.0), inverse));
                    sum = s.add_i(sum, whole);
                    let split = s.split_quads(whole);
                    for (quad, split) in split.into_iter().take(last.len().div_ceil(4)).enumerate() {
                        packed[(vectors.len() * LANES / 4 + quad) * rows] = split;
                    }
                }
                scales[group * rows + r] = RowScale { scale, bias: bias(s, sum) };
            }
        }
    }
}

/// The largest rounded value: its upper and lower byte are signed both.
const LARGEST: f32 = 32_639.0;

/// The scale that makes a group's largest value 32,639, and its inverse. The scale is NaN where a value is not finite.
#[inline(always)]
fn group_scale<S: Simd>(s: S, group: &[f32]) -> (f32, f32) {
    let mut largest = s.splat(0.0);
    // Zeros where all is finite, else NaN.
    let mut taint = s.splat(0.0);
    let (vectors, last) = group.as_chunks::<LANES>();
    for vector in vectors {
        let value = s.load(vector);
        largest = s.max(s.abs(value), largest);
        taint = s.fma(value, s.splat(0.0), taint);
    }
    if !last.is_empty() {
        let value = load_part(s, last, 0.0);
        largest = s.max(s.abs(value), largest);
        taint = s.fma(value, s.splat(0.0), taint);
    }
    let largest = s.max_lanes(largest);
    let inverse = if largest > 0.0 { LARGEST / largest } else { 0.0 };
    (largest / LARGEST + s.sum_lanes(taint), inverse)
}

/// What the weights' bias adds to a group's sum of products, where its values add up to the lanes of `sum`.
#[inline(always)]
fn bias<S: Simd>(s: S, sum: S::I) -> i32 {
    WEIGHT_BIAS.wrapping_mul(s.sum_lanes_i(sum))
}

/// A group's values as multiples of its scale.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
pub(crate) fn round_group<S: Simd>(s: S, values: &[f32; GROUP]) -> (RowScale, [i32; GROUP]) {
    let (scale, inverse) = group_scale(s, values);
    let mut rounded = [0; GROUP];
    let mut sum = s.zero_i();
    for (vector, to) in values.as_chunks::<LANES>().0.iter().zip(rounded.as_chunks_mut::<LANES>().0) {
        let whole = s.to_i32(s.mul(s.load(vector), s.splat(inverse)));
        sum = s.add_i(sum, whole);
        s.store_i(whole, to);
    }
    (RowScale { scale, bias: bias(s, sum) }, rounded)
}
