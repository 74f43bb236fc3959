//! Opens the model and starts the engine.

use std::path::Path;

use anyhow::Context;
use engine::{Engine, EngineOptions};
use kosmos2::Kosmos2;
use kosmos2::checkpoint::LoadProgress;
use kosmos2::compute::{Compute, DeviceChoice};
use kosmos2::processor::image::ImageProcessor;

use crate::exit::Misuse;
use crate::settings::ModelSettings;

/// The image processor of a model directory, which needs no weights.
pub(crate) fn images(dir: &Path) -> anyhow::Result<ImageProcessor> {
    ImageProcessor::from_dir(dir).context("the model cannot be opened")
}

/// Opens the model of a directory on the device that the settings name.
pub(crate) fn open(dir: &Path, settings: &ModelSettings) -> anyhow::Result<Kosmos2> {
    open_on(dir, &open_device(settings)?, LoadProgress::default())
}

/// Opens the device that the settings name.
pub(crate) fn open_device(settings: &ModelSettings) -> anyhow::Result<Compute> {
    let misuse = |error| Misuse(anyhow::Error::from(error));
    let device: DeviceChoice = settings.device.parse().map_err(misuse)?;
    Ok(Compute::open(device, settings.dtype.as_deref()).map_err(misuse)?)
}

/// Opens the model of a directory, and reports how much of its weights has been read.
pub(crate) fn open_on(dir: &Path, compute: &Compute, progress: LoadProgress) -> anyhow::Result<Kosmos2> {
    Kosmos2::open_with_progress(dir, compute, progress).context("the model cannot be opened")
}

/// Starts the engine on its own thread, which ends when the last handle is dropped.
pub(crate) fn start_engine(model: Kosmos2, options: EngineOptions) -> anyhow::Result<Engine> {
    let (engine, _thread) = Engine::start(model, options)?;
    Ok(engine)
}
