//! Damaged and malicious model directories are refused with an error that names the file, without a panic and without
//! allocating the sizes that a file claims.

#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "../common/mod.rs"]
mod common;
mod mutations;
mod pickled;
mod pointers;
mod small_model;
mod table;
mod table_pickled;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use hostile::Random;
use kosmos2::compute::{Compute, DeviceChoice};
use kosmos2::options::GenerationOptions;
use kosmos2::processor::image::{DecodeOptions, decode};
use kosmos2::{Kosmos2, Query};
use small_model::SmallModel;

/// Maximum growth of the address space: more than the small model needs, and less than the sizes that the files claim.
const MAX_GROWTH: u64 = 768 << 20;

/// Opens a directory and generates a few tokens. Returns the error of opening it.
fn use_model(dir: &Path) -> Result<(), String> {
    let compute = Compute::open(DeviceChoice::Cpu, None).unwrap();
    let mut model = Kosmos2::open(dir, &compute).map_err(|error| error.to_string())?;
    let picture = std::fs::read(common::fixtures().join("images/one_pixel.png")).unwrap();
    let picture = decode(&picture, &DecodeOptions::default()).unwrap();
    let pixels = model.processor().images().pixel_values(&picture);
    let options = GenerationOptions { max_new_tokens: 3, ..GenerationOptions::default() };
    // Damaged weights may give logits that are not finite, which is a valid error of the query.
    let _ = model.annotate(&pixels, &[Query::generate("<grounding> An image of", options)]);
    Ok(())
}

/// What is wrong with the handling of a directory: a panic, an error that names no file, or a large allocation.
fn fault(dir: &Path, names: &[&str]) -> Option<String> {
    let before = virtual_peak();
    let fault = match catch_unwind(AssertUnwindSafe(|| use_model(dir))) {
        Err(_) => Some("panicked".into()),
        Ok(Err(error)) if !names.iter().any(|name| error.contains(name)) => Some(format!("no file: {error}")),
        Ok(_) => None,
    };
    let grown = virtual_peak() - before;
    if grown > MAX_GROWTH { Some(format!("allocated {} MiB", grown >> 20)) } else { fault }
}

/// Peak address space of this process in bytes, including untouched memory.
fn virtual_peak() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmPeak:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
}

#[test]
fn the_unchanged_directory_answers() {
    let model = SmallModel::new();
    use_model(model.path()).unwrap();
    let index = r#"{"weight_map": {"any": "model-00001-of-00001.safetensors"}}"#;
    model.with_index(index, use_model).unwrap();
    for file in ["pytorch_model.bin", "processor_config.json"] {
        model.with(file, model.file(file), use_model).unwrap();
    }
}

#[test]
fn seeded_changes_of_any_file_never_end_the_process() {
    let model = SmallModel::new();
    let mut random = Random::new(4);
    let (mut wrong, mut refused, mut all) = (Vec::new(), 0, 0);
    for (file, times, names) in [
        ("model.safetensors", 160, &["model.safetensors"][..]),
        ("pytorch_model.bin", 400, &["pytorch_model.bin"]),
        ("config.json", 160, &["config.json"]),
        ("generation_config.json", 30, &["generation_config.json"]),
        ("preprocessor_config.json", 80, &["preprocessor_config.json", "the image processor's size"]),
        ("processor_config.json", 80, &["processor_config.json", "the image processor's size"]),
        ("tokenizer.json", 100, &["tokenizer.json", "the tokenizer's vocabulary"]),
    ] {
        for number in 0..times {
            let whole = model.file(file);
            let changed = match number % 4 {
                _ if file == "model.safetensors" => mutations::safetensors(&mut random, whole),
                _ if file == "pytorch_model.bin" => mutations::pickled(&mut random, &model.pickled),
                0 => mutations::bytes(&mut random, whole),
                _ => mutations::json(&mut random, whole),
            };
            let fault = model.with(file, &changed, |dir| {
                refused += usize::from(matches!(catch_unwind(|| use_model(dir)), Ok(Err(_))));
                fault(dir, names)
            });
            all += 1;
            wrong.extend(fault.map(|fault| format!("{file} {number}: {fault}")));
        }
    }
    println!("{all} changed files, {refused} refused");
    assert!(wrong.is_empty(), "{} of {all}:\n{}", wrong.len(), wrong.join("\n"));
    assert!(refused > all / 2, "only {refused} of {all} were refused: the changes are too mild");
}
