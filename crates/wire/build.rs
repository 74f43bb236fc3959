//! Compiles `proto/`, without protoc.

use std::error::Error;
use std::path::Path;

const FILES: [&str; 6] = [
    "groundling/v1/job.proto",
    "groundling/v1/annotation.proto",
    "groundling/v1/failure.proto",
    "groundling/v1/outcome.proto",
    "groundling/v1/attempt.proto",
    "groundling/v1/retry.proto",
];

fn main() -> Result<(), Box<dyn Error>> {
    // Read at run time, because a cached build script may come from another checkout.
    let root = Path::new(&std::env::var("CARGO_MANIFEST_DIR")?).join("../../proto");
    for file in FILES {
        println!("cargo::rerun-if-changed={}", root.join(file).display());
    }
    let descriptors = protox::compile(FILES, [&root])?;
    prost_build::Config::new().bytes(["."]).compile_fds(descriptors)?;
    Ok(())
}
