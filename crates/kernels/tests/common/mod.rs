//! Data and comparisons shared by the tests.
#![allow(dead_code, reason = "each test binary uses only some of them")]

use candle_core::{Device, Tensor};
use kernels::cpu::{Implementation, WeightFormat, available, with_implementation};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

pub(crate) const FORMATS: [WeightFormat; 4] =
    [WeightFormat::F32, WeightFormat::Bf16, WeightFormat::Int8, WeightFormat::W8A8];

/// Standard normal values, by the Box-Muller transform.
pub(crate) fn normal(seed: u64, count: usize) -> Vec<f32> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    (0..count)
        .map(|_| {
            let (u, v): (f64, f64) = (rng.random_range(1e-12..1.0), rng.random());
            ((-2.0 * u.ln()).sqrt() * (std::f64::consts::TAU * v).cos()) as f32
        })
        .collect()
}

pub(crate) fn tensor(values: &[f32], shape: &[usize]) -> Tensor {
    Tensor::from_slice(values, shape, &Device::Cpu).unwrap()
}

pub(crate) fn values(tensor: &Tensor) -> Vec<f32> {
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}

/// Runs `work` with each implementation that this CPU supports.
pub(crate) fn each_implementation(mut work: impl FnMut(Implementation)) {
    for implementation in available() {
        with_implementation(implementation, || work(implementation));
    }
}

/// The largest |a - b| over all elements, relative to the root mean square of b.
pub(crate) fn largest_error(ours: &[f32], reference: &[f32]) -> f64 {
    assert_eq!(ours.len(), reference.len());
    let square: f64 = reference.iter().map(|&v| f64::from(v) * f64::from(v)).sum();
    let scale = (square / reference.len() as f64).sqrt().max(1e-30);
    ours.iter().zip(reference).map(|(&a, &b)| (f64::from(a) - f64::from(b)).abs() / scale).fold(0.0, |a, b| {
        assert!(!b.is_nan(), "a result is NaN");
        a.max(b)
    })
}

/// The root mean square of a - b, relative to that of b.
pub(crate) fn mean_error(ours: &[f32], reference: &[f32]) -> f64 {
    let (mut error, mut size) = (0.0, 0.0);
    for (&a, &b) in ours.iter().zip(reference) {
        error += (f64::from(a) - f64::from(b)).powi(2);
        size += f64::from(b).powi(2);
    }
    (error / size).sqrt()
}

pub(crate) fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}
