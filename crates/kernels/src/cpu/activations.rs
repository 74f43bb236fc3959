//! Activations as the kernels read them: copied (or rounded) into tiles, step by step, a step's rows side by side.

#[cfg(target_arch = "x86_64")]
use super::amx;
use super::math::max_lanes;
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
                let mut values = [0.0; GROUP];
                values[..part.len()].copy_from_slice(part);
                let (scale, rounded) = round_group(s, &values);
                scales[group * rows + r] = scale;
                let steps = &mut packed[group * GROUP_STEPS * rows + r..];
                let quads = rounded.as_chunks::<4>().0.iter().take(part.len().div_ceil(4));
                steps.iter_mut().step_by(rows).zip(quads).for_each(|(to, &quad)| *to = s.split_quad(quad));
            }
        }
    }
}

/// The largest rounded value: its upper and lower byte are signed both.
const LARGEST: f32 = 32_639.0;

/// A group's values as multiples of a scale that makes the largest 32,639. The scale is NaN where a value is not finite.
#[inline(always)]
pub(crate) fn round_group<S: Simd>(s: S, values: &[f32; GROUP]) -> (RowScale, [i32; GROUP]) {
    let (vectors, _) = values.as_chunks::<LANES>();
    let mut largest = s.splat(0.0);
    // Zeros where all is finite, else NaN.
    let mut taint = s.splat(0.0);
    for vector in vectors {
        let value = s.load(vector);
        largest = s.max(s.abs(value), largest);
        taint = s.add(taint, s.mul(value, s.splat(0.0)));
    }
    let mut taints = [0.0; LANES];
    s.store(taint, &mut taints);
    let taint = taints.into_iter().sum::<f32>();
    let largest = max_lanes(s, largest);
    let inverse = if largest > 0.0 { LARGEST / largest } else { 0.0 };
    let mut rounded = [0; GROUP];
    for (vector, to) in vectors.iter().zip(rounded.as_chunks_mut::<LANES>().0) {
        s.store_i32(s.mul(s.load(vector), s.splat(inverse)), to);
    }
    let bias = WEIGHT_BIAS.wrapping_mul(rounded.iter().fold(0_i32, |sum, &value| sum.wrapping_add(value)));
    (RowScale { scale: largest / LARGEST + taint, bias }, rounded)
}
