//! Reductions of a row of logits: argmax and log-sum-exp.

use super::dispatch::level;
use super::math::{exp, load_partial};
use super::simd::{Kernel, LANES, Simd};

/// Index of the largest value, or of the first of several. NaN is never chosen; `None` if there is no other value.
pub fn argmax(x: &[f32]) -> Option<usize> {
    let (run, largest) = level().run(Largest(x));
    let start = run * RUN;
    x.get(start..)?.iter().position(|&value| value == largest).map(|index| start + index)
}

/// `ln(sum(e^x))` without overflow. It is minus infinity for an empty slice, and NaN if a value is NaN.
pub fn log_sum_exp(x: &[f32]) -> f32 {
    let (_, largest) = level().run(Largest(x));
    if largest.is_infinite() {
        // Either all values are minus infinity, or one is plus infinity. A NaN still makes the result NaN.
        return x.iter().find(|value| value.is_nan()).copied().unwrap_or(largest);
    }
    let sum = level().run(SumExp { x, largest });
    (f64::from(largest) + sum.ln()) as f32
}

/// Values of a run: few enough to search again one by one, or to sum in f32.
const RUN: usize = 64 * LANES;

/// The first run that contains the largest value, and that value: minus infinity if all are NaN.
struct Largest<'a>(&'a [f32]);

impl Kernel for Largest<'_> {
    type Output = (usize, f32);

    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> (usize, f32) {
        let mut found = (0, f32::NEG_INFINITY);
        for (index, run) in self.0.chunks(RUN).enumerate() {
            let mut largest = s.splat(f32::NEG_INFINITY);
            for part in run.chunks(LANES) {
                largest = s.max(load_partial(s, part, f32::NEG_INFINITY), largest);
            }
            let largest = s.max_lanes(largest);
            if largest > found.1 {
                found = (index, largest);
            }
        }
        found
    }
}

struct SumExp<'a> {
    x: &'a [f32],
    largest: f32,
}

impl Kernel for SumExp<'_> {
    type Output = f64;

    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> f64 {
        let mut total = 0.0;
        // Runs are summed in f32, and their sums in f64.
        for run in self.x.chunks(RUN) {
            let mut sum = s.splat(0.0);
            for part in run.chunks(LANES) {
                sum = s.add(sum, exp(s, s.sub(load_partial(s, part, f32::NEG_INFINITY), s.splat(self.largest))));
            }
            total += f64::from(s.sum_lanes(sum));
        }
        total
    }
}
