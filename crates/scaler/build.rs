//! Compiles `proto/`, without protoc.

use std::error::Error;
use std::path::Path;

const FILES: [&str; 2] = ["externalscaler.proto", "health.proto"];

fn main() -> Result<(), Box<dyn Error>> {
    // Read at run time, because a cached build script may come from another checkout.
    let root = Path::new(&std::env::var("CARGO_MANIFEST_DIR")?).join("proto");
    for file in FILES {
        println!("cargo::rerun-if-changed={}", root.join(file).display());
    }
    let descriptors = protox::compile(FILES, [&root])?;
    tonic_prost_build::configure().build_transport(false).compile_fds(descriptors)?;
    Ok(())
}
