//! Compares every CUDA kernel with candle's operations in f64 on random data, then measures the time of each kernel at
//! the model's sizes; `cuda_check --checks` only compares. Prints a table, and fails if a result is wrong.
//!
//! This is a program rather than a test because a machine with a GPU may have no Rust toolchain. With the feature
//! `cuda-on-host` it checks the launchers without a GPU.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout, reason = "a program that only prints")]

mod checks;
mod times;

use std::process::ExitCode;

use half::{bf16, f16};
use kernels::cuda::{CudaError, Device};

fn main() -> Result<ExitCode, CudaError> {
    let device = Device::open(0)?;
    println!("{}", device.name()?);
    let mut report = checks::Report::default();
    checks::format::<f32>(&device, &mut report, 2e-6)?;
    checks::format::<f16>(&device, &mut report, 5e-4)?;
    checks::format::<bf16>(&device, &mut report, 4e-3)?;
    // Keys and values in 8 bits: the error is at most 1/254 of the largest value of a head, about 0.6 % of a typical one.
    checks::int8_cache::<f16>(&device, &mut report, 1.5e-2)?;
    checks::int8_cache::<bf16>(&device, &mut report, 1.5e-2)?;
    checks::select_tokens(&device, &mut report)?;
    checks::recording(&device, &mut report)?;
    println!("{} checks, {} wrong", report.checks, report.wrong);
    if report.wrong > 0 {
        return Ok(ExitCode::FAILURE);
    }
    if std::env::args().nth(1).as_deref() != Some("--checks") {
        times::table(&device)?;
    }
    Ok(ExitCode::SUCCESS)
}
