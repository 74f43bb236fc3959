//! Measured peak rates of the GPU, from which lower bounds of run times are computed.

use super::device::{CudaError, Device};
use super::format::Format;
use super::matrix::Matrix;

/// Side of the square matrices.
const SIDE: usize = 8192;
/// Values copied: far more than the caches hold.
const COPIED: usize = 512 << 20;
const RUNS: usize = 9;

/// Operations per second of a large matrix product in this format.
///
/// # Errors
/// [`CudaError`] if the device fails or is out of memory.
pub fn product_flops<T: Format>(device: &Device, values: &[T]) -> Result<f64, CudaError> {
    // Not zeros: with zeros a GPU draws less power and runs faster.
    let filled = |first: usize| {
        let values: Vec<T> = values.iter().cycle().skip(first).take(SIDE * SIDE).copied().collect();
        device.buffer(&values)
    };
    let (weights, x) = (Matrix::new(filled(0)?, SIDE, SIDE)?, filled(1)?);
    let y = device.zeros::<T>(SIDE * SIDE)?;
    let seconds = median(device, || device.product(&weights, &x, SIDE, &y, SIDE))?;
    Ok(2.0 * (SIDE as f64).powi(3) / seconds)
}

/// Bytes per second of a large copy within the GPU's memory, reads plus writes.
///
/// # Errors
/// [`CudaError`] if the device fails or is out of memory.
pub fn copied_bytes(device: &Device) -> Result<f64, CudaError> {
    let (from, to) = (device.zeros::<f32>(COPIED)?, device.zeros::<f32>(COPIED)?);
    let seconds = median(device, || device.copy(&from, &to))?;
    Ok(2.0 * (COPIED * size_of::<f32>()) as f64 / seconds)
}

/// The median run time of `work` in seconds, after a warm-up run.
///
/// # Errors
/// Those of `work`, or [`CudaError::Driver`] if the device fails.
pub fn median(device: &Device, work: impl Fn() -> Result<(), CudaError>) -> Result<f64, CudaError> {
    work()?;
    let mut times = (0..RUNS).map(|_| device.time(&work)).collect::<Result<Vec<_>, _>>()?;
    times.sort_by(f64::total_cmp);
    Ok(times[RUNS / 2])
}
