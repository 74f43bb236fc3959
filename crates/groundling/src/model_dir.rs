//! Which model to open, and opening it.

use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow};
use kosmos2::Kosmos2;
use kosmos2::compute::{Compute, DeviceChoice};
use kosmos2::processor::image::ImageProcessor;

use crate::Misuse;
use crate::settings::ModelSettings;

const HOW_TO_GET_ONE: &str = "no model is given: pass --model DIR or set GROUNDLING_MODEL; the published one comes by \
    `hf download microsoft/kosmos-2-patch14-224 --local-dir kosmos-2`, and a small one for trying out lies in \
    crates/sandbox/demo/kosmos-2-emoji";

/// The directory given, or the sentence on how to get one.
pub(crate) fn require(given: Option<&PathBuf>) -> anyhow::Result<&Path> {
    let given = given.map(PathBuf::as_path).filter(|path| !path.as_os_str().is_empty());
    given.ok_or_else(|| Misuse(anyhow!(HOW_TO_GET_ONE)).into())
}

/// The image processor of a model directory.
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
