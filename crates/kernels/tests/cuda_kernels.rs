//! Runs `cuda_on_host/check.cpp`, which compares the CUDA kernels, compiled for the host, with plain loops in f64.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a panic in a test is the report")]

use std::path::Path;
use std::process::Command;

#[test]
fn every_kernel_computes_what_plain_loops_do() {
    let here = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cuda_on_host");
    let dir = tempfile::tempdir().unwrap();
    let program = dir.path().join("check");
    let compiler = std::env::var("CXX").unwrap_or_else(|_| "c++".into());
    let compiled = Command::new(&compiler)
        .args(["-std=c++17", "-O1", "-fno-strict-aliasing", "-U_FORTIFY_SOURCE", "-DKERNELS_ON_HOST"])
        .args(kernels::token_mask::macros().map(|(name, value)| format!("-D{name}={value}")))
        .arg("-I")
        .arg(&here)
        .arg(here.join("check.cpp"))
        .arg("-o")
        .arg(&program)
        .output()
        .unwrap_or_else(|error| panic!("cannot run {compiler}: {error}"));
    assert!(compiled.status.success(), "{}", String::from_utf8_lossy(&compiled.stderr));
    let checked = Command::new(&program).output().unwrap();
    let report = String::from_utf8_lossy(&checked.stdout);
    println!("{report}");
    assert!(checked.status.success(), "{report}");
    assert!(report.lines().count() > 300, "the report is incomplete");
}
