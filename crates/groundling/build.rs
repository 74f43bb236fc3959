//! Makes release builds smaller: debug sections are compressed, and symbols that are local to an object file are left out.
//! Backtraces read the compressed sections, which have the names and lines of our own crates.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    let is_release = std::env::var("PROFILE").is_ok_and(|profile| profile == "release");
    if is_release && std::env::var("CARGO_CFG_TARGET_OS").is_ok_and(|system| system == "linux") {
        println!("cargo::rustc-link-arg-bins=-Wl,--compress-debug-sections=zlib");
        println!("cargo::rustc-link-arg-bins=-Wl,--discard-all");
    }
}
