//! Measured limits of this machine, to which benchmarks compare their results.

use std::hint::black_box;
use std::time::{Duration, Instant};

#[cfg(target_arch = "x86_64")]
use super::bf16_tiles::{ActivationTile, TileUnit, WeightTile};
use super::dispatch::{IsaLevel, level};
#[cfg(target_arch = "x86_64")]
use super::simd::amx::{Amx, Bf16Unit};
use super::simd::{Kernel, LANES, Simd};
use super::storage::Storage;
use super::weights::WeightFormat;

/// Duration of one sample. The best of several samples counts, because other programs may use the machine.
const SAMPLE_TIME: Duration = Duration::from_millis(30);
const SAMPLES: usize = 5;

/// Bytes read to measure memory: far more than the caches of the machines this runs on.
const MEMORY_BYTES: usize = 512 << 20;

/// Peak rate of the arithmetic that a weight format uses, on operands in registers, in 10^9 operations per second (a
/// multiply-add is two): f32 multiply-adds for [`WeightFormat::F32`] and [`WeightFormat::Bf16`], or products of tiles from
/// the L1 cache if bf16 uses them, dot products of 16-bit integers for [`WeightFormat::Int8`], and for
/// [`WeightFormat::W8A8`] dot products of bytes if the CPU has them.
pub fn fma_gflops(format: WeightFormat, threads: usize) -> f64 {
    let level = level();
    let sample = || {
        let rates = on_threads(threads, |_| {
            let start = Instant::now();
            let mut operations = 0.0;
            while start.elapsed() < SAMPLE_TIME {
                #[cfg(target_arch = "x86_64")]
                if let (WeightFormat::Bf16, IsaLevel::Avx512Amx(_, amx)) = (format, level) {
                    operations += multiply_tiles(amx);
                    continue;
                }
                operations += match format {
                    WeightFormat::F32 | WeightFormat::Bf16 => level.run(Multiply),
                    WeightFormat::Int8 => level.run_integers(Dot::<2>),
                    WeightFormat::W8A8 => level.run_integers(Dot::<1>),
                };
            }
            operations / start.elapsed().as_secs_f64()
        });
        rates.iter().sum::<f64>() / 1e9
    };
    (0..SAMPLES).map(|_| sample()).fold(0.0, f64::max)
}

/// Rate at which `threads` threads together read memory sequentially, in 10^9 bytes per second.
pub fn read_gb_per_s(threads: usize) -> f64 {
    let level = level();
    let mut memory = Storage::<[f32; LANES]>::zeroed(MEMORY_BYTES / size_of::<[f32; LANES]>());
    // Pages that were never written would all be mapped to one page of zeros.
    memory.fill([1.0; LANES]);
    let part = memory.len().div_ceil(threads.max(1));
    let sample = || {
        let start = Instant::now();
        on_threads(threads, |thread| {
            let end = memory.len().min((thread + 1) * part);
            read(level, &memory[(thread * part).min(end)..end])
        });
        memory.bytes() as f64 / start.elapsed().as_secs_f64() / 1e9
    };
    (0..SAMPLES).map(|_| sample()).fold(0.0, f64::max)
}

fn read(level: IsaLevel, memory: &[[f32; LANES]]) -> f64 {
    black_box(level.run(Read(memory)));
    0.0
}

fn on_threads(threads: usize, work: impl Fn(usize) -> f64 + Sync) -> Vec<f64> {
    std::thread::scope(|scope| {
        let work = &work;
        let handles: Vec<_> = (0..threads.max(1)).map(|thread| scope.spawn(move || work(thread))).collect();
        handles.into_iter().map(|handle| handle.join().unwrap_or(0.0)).collect()
    })
}

/// Steps of one run: many compared to the loop around it, few compared to a sample.
const STEPS: usize = 20_000;

/// Independent multiply-adds; returns the number of operations.
struct Multiply;

impl Kernel for Multiply {
    type Output = f64;

    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> f64 {
        if S::ACCUMULATORS > 6 { multiply::<S, 12>(s) } else { multiply::<S, 6>(s) }
    }
}

#[inline(always)]
fn multiply<S: Simd, const N: usize>(s: S) -> f64 {
    let (factor, term) = (s.splat(black_box(0.999)), s.splat(black_box(0.001)));
    let mut sums = [s.splat(1.0); N];
    for _ in 0..STEPS {
        for sum in &mut sums {
            *sum = s.fma(*sum, factor, term);
        }
    }
    black_box(sums);
    (2 * LANES * N * STEPS) as f64
}

/// Products of two row tiles by two panels; returns the number of operations.
#[cfg(target_arch = "x86_64")]
fn multiply_tiles(amx: Amx) -> f64 {
    let (x, weights) = (ActivationTile::default(), WeightTile::default());
    let mut unit = Bf16Unit::new(amx);
    for _ in 0..STEPS {
        unit.multiply([&x; 2], [&weights; 2]);
    }
    (4 * 2 * size_of_val(&x) / size_of::<u16>() * LANES * STEPS) as f64
}

/// Independent dot products of integers of `BYTES` bytes; returns the number of operations.
struct Dot<const BYTES: usize>;

impl<const BYTES: usize> Kernel for Dot<BYTES> {
    type Output = f64;

    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> f64 {
        if S::ACCUMULATORS > 6 { dot::<S, 12, BYTES>(s) } else { dot::<S, 6, BYTES>(s) }
    }
}

#[inline(always)]
fn dot<S: Simd, const N: usize, const BYTES: usize>(s: S) -> f64 {
    let factor = s.splat_i(black_box(0x0003_0005));
    let mut sums = [s.splat_i(black_box(1)); N];
    for _ in 0..STEPS {
        for sum in &mut sums {
            // The sum is also an operand, or the compiler would hoist the product out of the loop.
            *sum = if BYTES == 1 { s.dot_half(*sum, *sum, factor) } else { s.dot_pairs(*sum, *sum, factor) };
        }
    }
    black_box(sums);
    let products = if BYTES == 1 && S::HALVES_ARE_BYTES { 4 } else { 2 };
    (2 * products * LANES * N * STEPS) as f64
}

/// Reads every vector.
struct Read<'a>(&'a [[f32; LANES]]);

impl Kernel for Read<'_> {
    type Output = f32;

    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> f32 {
        let mut sums = [s.splat(0.0); 4];
        for lines in self.0.as_chunks::<4>().0 {
            for (sum, line) in sums.iter_mut().zip(lines) {
                *sum = s.max(s.load(line), *sum);
            }
        }
        let mut lanes = [0.0; LANES];
        sums.into_iter().for_each(|sum| s.store(sum, &mut lanes));
        lanes[0]
    }
}
