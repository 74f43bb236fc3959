//! The model's files and the device.

use std::path::Path;

use kosmos2::Kosmos2;
use kosmos2::backend::PreferredBatches;
use kosmos2::compute::{Compute, DeviceChoice};
use models::Availability;

use super::report::Report;
use crate::commands::worker::check_slot_tokens;
use crate::model_supply;
use crate::settings::Settings;

/// Job slots of a worker without `worker.slots`. The engine's own number is known only once it runs.
const CPU_SLOTS: usize = PreferredBatches::OF_A_CPU.jobs;
const GPU_SLOTS: usize = 1280;

/// Returns the number of job slots of a worker.
pub(super) async fn check(settings: &Settings, report: &mut Report) -> anyhow::Result<usize> {
    check_model(settings, report).await?;
    let device: DeviceChoice = settings.model.device.parse()?;
    let compute = Compute::open(device, settings.model.dtype.as_deref());
    let usual = if compute.as_ref().is_ok_and(Compute::is_gpu) { GPU_SLOTS } else { CPU_SLOTS };
    match compute {
        Ok(compute) => report.ok("device", compute.device_name())?,
        Err(error) => report.problem("device", error)?,
    }
    Ok(settings.worker.slots.unwrap_or(usual))
}

/// Nothing is downloaded: of a model that is not here, only the source is checked.
async fn check_model(settings: &Settings, report: &mut Report) -> anyhow::Result<()> {
    let supply = match model_supply::supply(&settings.model, &settings.s3).await {
        Ok(supply) => supply,
        Err(error) => return report.problem("model", error),
    };
    match supply.availability().await {
        Ok(Availability::Here(dir)) => check_files(&dir, settings, report),
        Ok(Availability::ToDownload { commit, bytes }) => {
            let (source, size) = (model_supply::source(settings.model.path.as_ref())?, bytes as f64 / 1e6);
            report.ok("model", format_args!("{source} can be downloaded: commit {commit}, {size:.1} MB"))
        }
        Err(error) => report.problem("model", error),
    }
}

fn check_files(dir: &Path, settings: &Settings, report: &mut Report) -> anyhow::Result<()> {
    let processor = match Kosmos2::check_files(dir) {
        Ok(processor) => processor,
        Err(error) => {
            return report.problem(
                "model",
                format_args!("the model cannot be opened: {error}; correct model.path or download the model again"),
            );
        }
    };
    match check_slot_tokens(&processor, settings.engine.slot_tokens) {
        Ok(()) => report.ok("model", format_args!("{}: all files and tensors are there", dir.display())),
        Err(error) => report.problem("model", error),
    }
}
