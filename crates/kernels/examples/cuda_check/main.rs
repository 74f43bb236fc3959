//! Every CUDA kernel against candle's plain operations in f64 on random data, then the time each takes at the model's
//! sizes: `cuda_check` runs both, `cuda_check --checks` the first alone. Prints a table; fails if a result is wrong.
//!
//! A program and not a test, since a machine with a card may have no Rust. With the feature `cuda-on-host` it checks the
//! launchers without a card.
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
    // Eight bits of each key and value: 1/254 of its head's greatest at most, some 0.6 % of the usual.
    checks::small_cache::<f16>(&device, &mut report, 1.5e-2)?;
    checks::small_cache::<bf16>(&device, &mut report, 1.5e-2)?;
    checks::choose(&device, &mut report)?;
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
