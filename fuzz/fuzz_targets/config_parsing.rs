//! Parses the files of a model directory and the settings of a worker. The first byte selects the file.
#![no_main]

use std::path::Path;
use std::sync::LazyLock;

use candle_core::{DType, Device};
use kosmos2::checkpoint::Checkpoint;
use kosmos2::config::{Config, GenerationConfig};
use kosmos2::processor::image::ImageProcessor;
use libfuzzer_sys::fuzz_target;
use tempfile::TempDir;
use worker::Settings;

static DIR: LazyLock<TempDir> = LazyLock::new(|| tempfile::tempdir().expect("a folder"));

/// Writes a file, reads it with `read`, and removes it.
fn with_file<T>(name: &str, bytes: &[u8], read: impl FnOnce(&Path) -> T) -> T {
    let path = DIR.path().join(name);
    std::fs::write(&path, bytes).expect("a file");
    let read = read(DIR.path());
    std::fs::remove_file(path).expect("the file");
    read
}

/// Checks that an error names the file.
fn assert_names<E: std::fmt::Display>(error: E, file: &str) {
    let message = error.to_string();
    assert!(message.contains(file), "{message}");
}

fuzz_target!(|bytes: &[u8]| {
    let Some((&selector, bytes)) = bytes.split_first() else { return };
    match selector % 6 {
        0 => match with_file("config.json", bytes, Config::from_dir) {
            Ok(config) => assert!(config.vision_config.patches() > 0),
            Err(error) => assert_names(error, "config.json"),
        },
        1 => match with_file("preprocessor_config.json", bytes, ImageProcessor::from_dir) {
            Ok(processor) => assert!((1..=8192).contains(&processor.size())),
            Err(error) => assert_names(error, "preprocessor_config.json"),
        },
        2 => {
            if let Err(error) = with_file("generation_config.json", bytes, GenerationConfig::from_dir) {
                assert_names(error, "generation_config.json");
            }
        }
        3 => {
            if let Err(error) = with_file("model.safetensors", bytes, open) {
                assert_names(error, "model.safetensors");
            }
        }
        4 => {
            if let Err(error) = with_file("model.safetensors.index.json", bytes, open) {
                assert_names(error, &DIR.path().display().to_string());
            }
        }
        _ => settings(bytes),
    }
});

fn open(dir: &Path) -> Result<(), kosmos2::checkpoint::CheckpointError> {
    Checkpoint::open(dir, DType::F32, &Device::Cpu).map(|checkpoint| drop(checkpoint.unused()))
}

/// Parses the worker's sections of `groundling.toml`.
fn settings(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let Ok(settings) = toml::from_str::<Settings>(text) else { return };
    if let Err(problems) = settings.validate() {
        assert!(!problems.0.is_empty());
    }
    if let Some(password) = settings.nats.password.as_ref().filter(|password| password.expose().len() > 20) {
        assert!(!format!("{settings:?}").contains(password.expose()));
    }
}
