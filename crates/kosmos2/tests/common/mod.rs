//! Helpers of several tests.

#![allow(dead_code, clippy::unwrap_used, clippy::expect_used)]

pub(crate) mod decoding;

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use flate2::read::GzDecoder;

/// The workspace's fixtures.
pub(crate) fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures")
}

/// The tokenizer and configuration files of `microsoft/kosmos-2-patch14-224`, without weights.
pub(crate) fn reference_model_dir() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for entry in fs::read_dir(fixtures().join("text/kosmos-2-patch14-224")).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        match name.strip_suffix(".gz") {
            Some(unpacked) => {
                let mut file = File::create(dir.path().join(unpacked)).unwrap();
                io::copy(&mut GzDecoder::new(File::open(&path).unwrap()), &mut file).unwrap();
            }
            None => drop(fs::copy(&path, dir.path().join(name)).unwrap()),
        }
    }
    dir
}

/// Parses a JSON file.
pub(crate) fn json<T: serde::de::DeserializeOwned>(path: impl AsRef<Path>) -> T {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}
