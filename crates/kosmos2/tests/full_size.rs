//! A model of the published size (1.66 billion parameters) with random weights loads and generates within its memory
//! bound. The only test in this file, since it measures its process.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a panic in a test is the report")]

mod common;

use candle_core::DType;
use kosmos2::checkpoint::random;
use kosmos2::compute::{Compute, DeviceChoice};
use kosmos2::config::Config;
use kosmos2::options::GenerationOptions;
use kosmos2::processor::image::PixelValues;
use kosmos2::processor::prompt::Task;
use kosmos2::{Kosmos2, Query};

#[test]
fn the_full_size_model_generates_within_its_weights_and_a_gibibyte() {
    let dir = common::reference_model_dir();
    let config = Config::from_dir(dir.path()).unwrap();
    let parameters: usize = random::tensors(&config).iter().map(|(_, shape)| shape.iter().product::<usize>()).sum();
    assert_eq!(parameters, 1_664_485_376);
    // Stored as bf16 and computed in f32, so that loading converts every tensor.
    random::write_weights(dir.path(), &config, 1, DType::BF16).unwrap();

    let mut model = Kosmos2::open(dir.path(), &Compute::open(DeviceChoice::Cpu, None).unwrap()).unwrap();
    let side = config.vision_config.image_size;
    let pixels: Vec<f32> = (0..3 * side * side).map(|i| ((i * 37) % 255) as f32 / 127.5 - 1.0).collect();
    let pixels = PixelValues::new(pixels, side).unwrap();
    let options = GenerationOptions { max_new_tokens: 3, ..GenerationOptions::default() };
    let query = Query::generate(Task::BriefCaption.prompt().unwrap(), options);
    let text = model.annotate(&pixels, &[query]).unwrap().remove(0);
    assert_eq!(text.token_ids.len(), 3);
    assert!(text.logprobs.iter().all(|p| p.is_finite()));

    let peak = peak_resident_bytes();
    let bound = parameters * 4 + (1 << 30);
    println!("peak {:.2} GiB, bound {:.2} GiB", peak as f64 / f64::powi(2.0, 30), bound as f64 / f64::powi(2.0, 30));
    assert!(peak <= bound, "peak {peak} bytes is over {bound}");
}

/// Peak resident memory of this process, including mapped files.
fn peak_resident_bytes() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().strip_suffix(" kB").unwrap().trim().parse::<usize>().unwrap() * 1024
}
