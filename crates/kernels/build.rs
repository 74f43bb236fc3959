//! Compiles the CUDA kernels if a feature enables them: machine code for Ampere and Hopper, and PTX for later GPUs, in one
//! file that the library embeds.

#![allow(clippy::expect_used, reason = "build scripts report errors by panicking")]

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

#[path = "src/token_mask.rs"]
#[allow(dead_code, unreachable_pub, reason = "it is a module of the library")]
mod token_mask;

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-changed=src/token_mask.rs");
    let enabled = |feature: &str| env::var_os(format!("CARGO_FEATURE_{feature}")).is_some();
    if enabled("CUDA") {
        compile_for_gpus();
    } else if enabled("CUDA_ON_HOST") {
        compile_for_host();
    }
}

#[cfg(feature = "cuda-on-host")]
fn compile_for_host() {
    for folder in ["src/cuda", "tests/cuda_on_host"] {
        println!("cargo:rerun-if-changed={folder}");
    }
    let mut build = cc::Build::new();
    for (name, value) in token_mask::macros() {
        build.define(name, value.as_str());
    }
    build
        .cpp(true)
        .std("c++17")
        .file("tests/cuda_on_host/kernels.cpp")
        .include("tests/cuda_on_host")
        .define("KERNELS_ON_HOST", None)
        .opt_level(2)
        .flag("-fno-strict-aliasing")
        // Fibers jump between stacks, which the checks of _FORTIFY_SOURCE reject.
        .flag("-U_FORTIFY_SOURCE")
        .flag("-Wno-unknown-pragmas")
        .compile("kernels_on_host");
}

#[cfg(not(feature = "cuda-on-host"))]
fn compile_for_host() {}

fn compile_for_gpus() {
    let sources = Path::new("src/cuda");
    for entry in fs::read_dir(sources).expect("reading the folder of kernel sources") {
        let path = entry.expect("reading a directory entry").path();
        if path.extension().is_some_and(|kind| kind == "cu" || kind == "cuh") {
            println!("cargo:rerun-if-changed={}", path.display());
        }
    }
    println!("cargo:rerun-if-env-changed=NVCC");
    let nvcc = env::var_os("NVCC").unwrap_or_else(|| "nvcc".into());
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR")).join("kernels.fatbin");
    let status = Command::new(&nvcc)
        .args(["-O3", "-std=c++17", "--fatbin", "-Xptxas", "-v"])
        .args(["-gencode", "arch=compute_80,code=sm_80"])
        .args(["-gencode", "arch=compute_90,code=sm_90"])
        .args(["-gencode", "arch=compute_90,code=compute_90"])
        .args(token_mask::macros().map(|(name, value)| format!("-D{name}={value}")))
        .arg(sources.join("kernels.cu"))
        .arg("-o")
        .arg(&out)
        .output();
    match status {
        Ok(output) if output.status.success() => {
            // Registers, shared memory and spills of each kernel, for kernel development.
            let report = out.with_file_name("resources.txt");
            fs::write(report, output.stderr).expect("writing the compiler's report");
        }
        Ok(output) => panic!("{} failed:\n{}", nvcc.display(), String::from_utf8_lossy(&output.stderr)),
        Err(error) => panic!(
            "cannot run the CUDA compiler {} ({error}); install CUDA's nvcc or set NVCC to its path",
            nvcc.display()
        ),
    }
}
