//! What the card does at best: measured rates that floors are computed from.

use super::device::{CudaError, Device};
use super::format::Format;
use super::product::Matrix;

/// Side of the square matrices.
const SIDE: usize = 8192;
/// Values copied: more than any cache holds.
const COPIED: usize = 512 << 20;
const RUNS: usize = 9;

/// Operations a second of a large matrix product in this format.
///
/// # Errors
/// The device's.
pub fn product_flops<T: Format>(device: &Device, values: &[T]) -> Result<f64, CudaError> {
    // Not zeros: a card draws less power on them and runs faster.
    let filled = |first: usize| {
        let values: Vec<T> = values.iter().cycle().skip(first).take(SIDE * SIDE).copied().collect();
        device.buffer(&values)
    };
    let (weights, x) = (Matrix::new(filled(0)?, SIDE, SIDE)?, filled(1)?);
    let y = device.zeros::<T>(SIDE * SIDE)?;
    let seconds = median(device, || device.product(&weights, &x, SIDE, &y, SIDE))?;
    Ok(2.0 * (SIDE as f64).powi(3) / seconds)
}

/// Bytes a second of a large copy within the card, read and written counted.
///
/// # Errors
/// The device's.
pub fn copied_bytes(device: &Device) -> Result<f64, CudaError> {
    let (from, to) = (device.zeros::<f32>(COPIED)?, device.zeros::<f32>(COPIED)?);
    let seconds = median(device, || device.copy(&from, &to))?;
    Ok(2.0 * (COPIED * size_of::<f32>()) as f64 / seconds)
}

/// The median of several runs after one that does not count, in seconds.
///
/// # Errors
/// The work's.
pub fn median(device: &Device, work: impl Fn() -> Result<(), CudaError>) -> Result<f64, CudaError> {
    work()?;
    let mut times = (0..RUNS).map(|_| device.time(&work)).collect::<Result<Vec<_>, _>>()?;
    times.sort_by(f64::total_cmp);
    Ok(times[RUNS / 2])
}
