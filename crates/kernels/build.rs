//! Compiles the CUDA kernels where the feature asks for them: machine code for Ampere and Hopper, and PTX for cards
//! after them, in one file that the library holds.

#![allow(clippy::expect_used, reason = "a panic is how a build script reports")]

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

#[path = "src/token_mask.rs"]
#[allow(dead_code, unreachable_pub, reason = "it is a module of the library")]
mod token_mask;

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-changed=src/token_mask.rs");
    let asked = |feature: &str| env::var_os(format!("CARGO_FEATURE_{feature}")).is_some();
    if asked("CUDA") {
        compile_for_cards();
    } else if asked("CUDA_ON_HOST") {
        compile_for_the_host();
    }
}

#[cfg(feature = "cuda-on-host")]
fn compile_for_the_host() {
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
        // Fibers jump between stacks, which its checks take for a fault.
        .flag("-U_FORTIFY_SOURCE")
        .flag("-Wno-unknown-pragmas")
        .compile("kernels_on_host");
}

#[cfg(not(feature = "cuda-on-host"))]
fn compile_for_the_host() {}

fn compile_for_cards() {
    let sources = Path::new("src/cuda");
    for entry in fs::read_dir(sources).expect("the kernels' sources") {
        let path = entry.expect("a directory entry").path();
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
            // Registers, shared memory and spills of each kernel, for whoever works on them.
            let report = out.with_file_name("resources.txt");
            fs::write(report, output.stderr).expect("the compiler's report can be written");
        }
        Ok(output) => panic!("{} failed:\n{}", nvcc.display(), String::from_utf8_lossy(&output.stderr)),
        Err(error) => panic!(
            "the CUDA compiler {} cannot be run ({error}); install CUDA's nvcc or name it in NVCC",
            nvcc.display()
        ),
    }
}
