//! Models from a server that speaks the hub's file routes, and from SeaweedFS.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a panic in a test is the report")]

mod hub;
mod refusals;
mod s3;

use std::path::Path;

use models::{Environment, ModelSource, Supply};

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";
const NEXT_COMMIT: &str = "fedcba9876543210fedcba9876543210fedcba98";

/// The files of a small model. The program reads all but the last.
fn model() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let files = [
        ("config.json", b"{}".to_vec()),
        ("tokenizer.json", b"{\"model\": {}}".to_vec()),
        ("preprocessor_config.json", b"{\"size\": 1}".to_vec()),
        ("model.safetensors", weights(7)),
        ("README.md", b"a model".to_vec()),
    ];
    files.iter().for_each(|(name, bytes)| std::fs::write(dir.path().join(name), bytes).unwrap());
    dir
}

/// 300 KB that do not repeat.
fn weights(seed: u32) -> Vec<u8> {
    let step = |state: &mut u32| {
        *state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        Some((*state >> 24) as u8)
    };
    std::iter::repeat(()).scan(seed, |state, ()| step(state)).take(300_000).collect()
}

/// The environment of a cache, and of a hub if there is one.
fn environment(cache: &Path, variables: &[(&str, &str)]) -> Environment {
    let cache = cache.to_str().unwrap().to_owned();
    Environment::read(|name| match name {
        "XDG_CACHE_HOME" => Some(cache.clone()),
        name => variables.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned()),
    })
}

fn source(text: &str) -> ModelSource {
    ModelSource::parse(Path::new(text)).unwrap()
}

fn supply(text: &str, environment: &Environment, offline: bool) -> Supply {
    Supply::new(source(text), environment, None, offline).unwrap()
}

/// The names of the files in a directory, sorted.
fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}
