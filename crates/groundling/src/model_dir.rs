//! Opens the model and starts the engine.

use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow};
use engine::{Engine, EngineOptions};
use kosmos2::Kosmos2;
use kosmos2::compute::{Compute, DeviceChoice};
use kosmos2::processor::image::ImageProcessor;

use crate::exit::Misuse;
use crate::settings::ModelSettings;

const NO_MODEL: &str = "no model given: pass --model DIR, set GROUNDLING_MODEL, or set model.path in the settings file; get the published model with \
    `hf download microsoft/kosmos-2-patch14-224 --local-dir kosmos-2`, or use the small one for tests in \
    crates/sandbox/demo/kosmos-2-emoji";

/// The given directory.
///
/// # Errors
/// If none is given: how to get a model.
pub(crate) fn require(given: Option<&PathBuf>) -> anyhow::Result<&Path> {
    let given = given.map(PathBuf::as_path).filter(|path| !path.as_os_str().is_empty());
    given.ok_or_else(|| Misuse(anyhow!(NO_MODEL)).into())
}

/// The image processor of a model directory, which needs no weights.
pub(crate) fn images(dir: &Path) -> anyhow::Result<ImageProcessor> {
    ImageProcessor::from_dir(dir).context("the model cannot be opened")
}

/// Opens the model that the settings name, on their device.
pub(crate) fn open(settings: &ModelSettings) -> anyhow::Result<Kosmos2> {
    let dir = require(settings.path.as_ref())?;
    let misuse = |error| Misuse(anyhow::Error::from(error));
    let device: DeviceChoice = settings.device.parse().map_err(misuse)?;
    let compute = Compute::open(device, settings.dtype.as_deref()).map_err(misuse)?;
    Kosmos2::open(dir, &compute).context("the model cannot be opened")
}

/// Starts the engine on its own thread, which ends when the last handle is dropped.
pub(crate) fn start_engine(model: Kosmos2, options: EngineOptions) -> anyhow::Result<Engine> {
    let (engine, _thread) = Engine::start(model, options)?;
    Ok(engine)
}
