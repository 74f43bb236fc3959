//! A client that only submits jobs and reads annotations must not have to build a model.
#![allow(clippy::unwrap_used, reason = "a panic in a test is the report")]

use std::collections::BTreeSet;
use std::process::Command;

#[test]
fn the_wire_needs_neither_the_model_nor_what_it_is_made_of() {
    let tree = ["tree", "--locked", "--offline", "--package", "wire", "--edges", "normal,build", "--prefix", "none"];
    let output = Command::new(env!("CARGO")).args(tree).current_dir(env!("CARGO_MANIFEST_DIR")).output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    let text = String::from_utf8(output.stdout).unwrap();
    let packages: BTreeSet<&str> = text.lines().filter_map(|line| line.split(' ').next()).collect();
    assert!(packages.contains("wire") && packages.contains("prost"), "{packages:?}");
    for heavy in ["kosmos2", "engine", "kernels", "worker", "candle-core", "tokenizers", "image", "tokio", "async-nats"]
    {
        assert!(!packages.contains(heavy), "{heavy} in {packages:?}");
    }
    assert!(packages.iter().all(|package| !package.starts_with("mozjpeg")), "{packages:?}");
}
