//! The demo's model and pictures.

use std::path::{Path, PathBuf};

use kosmos2::Kosmos2;
use kosmos2::compute::{Compute, DeviceChoice};
use kosmos2::processor::image::{DecodeOptions, PixelValues, decode};

/// The directory of the demo's model and scenes.
pub(crate) fn demo() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../sandbox/demo")
}

/// The demo's model in f32 on the CPU.
pub(crate) fn demo_model() -> Kosmos2 {
    demo_model_in("f32")
}

/// The demo's model in one of the CPU's formats.
pub(crate) fn demo_model_in(format: &str) -> Kosmos2 {
    let compute = Compute::open(DeviceChoice::Cpu, Some(format)).unwrap();
    Kosmos2::open(&demo().join("kosmos-2-emoji"), &compute).unwrap()
}

/// The pixel values of one of the demo's scenes.
pub(crate) fn scene_pixels(model: &Kosmos2, file: &str) -> PixelValues {
    let bytes = std::fs::read(demo().join("scenes").join(file)).unwrap();
    model.processor().images().pixel_values(&decode(&bytes, &DecodeOptions::default()).unwrap())
}
