//! Activations as the kernels read them: copied (or rounded) into tiles, step by step, a step's rows side by side.

#[cfg(target_arch = "x86_64")]
use super::amx;
use super::attention::Rounded;
use super::math::load_part;
use super::parallel::threads_for;
use super::simd::{LANES, Simd};
use super::tile::{Bf16, F32, Format, GROUP, GROUP_STEPS, Int8, Line, RowScale, WEIGHT_BIAS, quad_parts};

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
    pub(crate) rounded: Rounded,
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

impl<const BYTES: usize> Pack for Int8<BYTES> {
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
        let parts = quad_parts::<S, BYTES>();
        let packed = packed.as_flattened_mut();
        for r in 0..rows {
            let row = &x[r * stride..][..inputs];
            for (group, part) in row.chunks(GROUP).enumerate() {
                let rounding = Rounding::of::<S, BYTES>(s, part);
                let mut sum = s.zero_i();
                let mut steps = packed[group * GROUP_STEPS * rows * parts..].chunks_exact_mut(rows * parts);
                let (vectors, last) = part.as_chunks::<LANES>();
                for vector in vectors {
                    let whole = rounding.round(s, s.load(vector));
                    sum = s.add_i(sum, whole);
                    for (split, step) in s.split_quads(whole).iter().zip(&mut steps) {
                        step[r * parts..][..parts].copy_from_slice(&split[2 - parts..]);
                    }
                }
                if !last.is_empty() {
                    let whole = rounding.round_part(s, last);
                    sum = s.add_i(sum, whole);
                    let split = s.split_quads(whole);
                    for (split, step) in split.iter().take(last.len().div_ceil(4)).zip(&mut steps) {
                        step[r * parts..][..parts].copy_from_slice(&split[2 - parts..]);
                    }
                }
                scales[group * rows + r] = rounding.scale(s, sum);
            }
        }
    }
}

/// How a group's values become integers.
struct Rounding {
    /// NaN where a value is not finite.
    scale: f32,
    inverse: f32,
    /// Added to the multiples of the scale.
    shift: i32,
}

impl Rounding {
    /// The largest value becomes the largest of so many bytes that are signed, each of them. In one byte the smallest
    /// value becomes the smallest: what follows an activation function lies on one side of zero nearly all.
    #[inline(always)]
    fn of<S: Simd, const BYTES: usize>(s: S, group: &[f32]) -> Self {
        if BYTES == 1 {
            let (below, above, taint) = bounds_and_taint(s, group);
            let range = below + above;
            // One less than a byte's 255, for both ends may be rounded up.
            let inverse = if range > 0.0 { 254.0 / range } else { 0.0 };
            let shift = (below * inverse).round_ties_even() as i32 - 128;
            return Self { scale: range / 254.0 + taint, inverse, shift };
        }
        let (largest, taint) = largest_and_taint(s, group);
        let inverse = if largest > 0.0 { LARGEST / largest } else { 0.0 };
        Self { scale: largest / LARGEST + taint, inverse, shift: 0 }
    }

    #[inline(always)]
    fn round<S: Simd>(&self, s: S, values: S::F) -> S::I {
        s.add_i(s.to_i32(s.mul(values, s.splat(self.inverse))), s.splat_i(self.shift))
    }

    /// Up to 16 values; zeros behind them, which weights that are not there are multiplied by.
    #[inline(always)]
    fn round_part<S: Simd>(&self, s: S, values: &[f32]) -> S::I {
        if let Some(whole) = values.first_chunk() {
            return self.round(s, s.load(whole));
        }
        let mut lanes = [0; LANES];
        s.store_i(self.round(s, load_part(s, values, 0.0)), &mut lanes);
        lanes[values.len()..].fill(0);
        s.load_i(&lanes)
    }

    /// What becomes of the rounded values, which add up to the lanes of `sum`.
    #[inline(always)]
    fn scale<S: Simd>(&self, s: S, sum: S::I) -> RowScale {
        RowScale { scale: self.scale, unbias: (-WEIGHT_BIAS).wrapping_mul(s.sum_lanes_i(sum)), zero: -self.shift }
    }
}

/// The largest value of two bytes that are signed both.
const LARGEST: f32 = 32_639.0;

/// How far some values reach below and above zero, and a zero that is NaN where one of them is not finite.
#[inline(always)]
fn bounds_and_taint<S: Simd>(s: S, values: &[f32]) -> (f32, f32, f32) {
    let zero = s.splat(0.0);
    let (mut below, mut above, mut taint) = (zero, zero, zero);
    for part in values.chunks(LANES) {
        let value = load_part(s, part, 0.0);
        below = s.max(s.sub(zero, value), below);
        above = s.max(value, above);
        taint = s.fma(value, zero, taint);
    }
    (s.max_lanes(below), s.max_lanes(above), s.sum_lanes(taint))
}

/// The largest size of some values, and a zero that is NaN where one of them is not finite.
#[inline(always)]
pub(crate) fn largest_and_taint<S: Simd>(s: S, values: &[f32]) -> (f32, f32) {
    let mut sizes = Sizes::none(s);
    for part in values.chunks(LANES) {
        sizes.add(s, load_part(s, part, 0.0));
    }
    (s.max_lanes(sizes.largest), s.sum_lanes(sizes.taint))
}

/// Each lane's largest size so far.
pub(crate) struct Sizes<S: Simd> {
    pub(crate) largest: S::F,
    /// Zeros, or NaN where a value was not finite.
    pub(crate) taint: S::F,
}

impl<S: Simd> Sizes<S> {
    #[inline(always)]
    pub(crate) fn none(s: S) -> Self {
        Self { largest: s.splat(0.0), taint: s.splat(0.0) }
    }

    #[inline(always)]
    pub(crate) fn add(&mut self, s: S, value: S::F) {
        self.largest = s.max(s.abs(value), self.largest);
        self.taint = s.fma(value, s.splat(0.0), self.taint);
    }
}

/// Up to a group's values as integers, and zeros behind them.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
pub(crate) fn round_group<S: Simd, const BYTES: usize>(s: S, values: &[f32]) -> (RowScale, [i32; GROUP]) {
    let rounding = Rounding::of::<S, BYTES>(s, values);
    let mut rounded = [0; GROUP];
    let mut sum = s.zero_i();
    for (values, to) in values.chunks(LANES).zip(rounded.as_chunks_mut::<LANES>().0) {
        let whole = rounding.round_part(s, values);
        sum = s.add_i(sum, whole);
        s.store_i(whole, to);
    }
    (rounding.scale(s, sum), rounded)
}
