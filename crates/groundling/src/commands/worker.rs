//! `groundling worker`: the queue worker.

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, anyhow};
use engine::Engine;
use kosmos2::checkpoint::{LoadProgress, ModelIdentity};
use kosmos2::options::GenerationOptions;
use kosmos2::processor::prompt::Task;
use kosmos2::{Processor, Query};
use models::Supply;
use telemetry::nvidia::NvidiaGpu;
use telemetry::{InstrumentOptions, LogLayer, ServiceIdentity, Telemetry, TelemetrySettings};
use tokio::task::spawn_blocking;
use tokio_util::sync::CancellationToken;
use worker::events::Events;
use worker::health::Health;
use worker::health_server::HealthServer;
use worker::worker::random_id;
use worker::{WorkerParts, WorkerTelemetry};

use crate::args::WorkerArgs;
use crate::exit::{Misuse, Outcome};
use crate::settings::Settings;
use crate::{model_dir, model_supply, stderr};

pub(crate) async fn run(args: WorkerArgs, settings: Option<&Path>, logs: &LogLayer) -> anyhow::Result<Outcome> {
    let mut settings = Settings::load(settings)?.with_model(&args.model).with_stores(&args.stores);
    settings.worker.slots = args.slots.or(settings.worker.slots);
    // Annotations and exported telemetry name the worker alike.
    settings.worker.id.get_or_insert_with(random_id);
    let for_worker = settings.for_worker()?;
    let supply = model_supply::supply(&settings.model, &settings.s3).await?;
    let shutdown = worker::signals::shutdown_by_signals(|| stderr::finish(&[]))?;
    let telemetry = start_telemetry(&settings.telemetry, &for_worker, logs)?;
    let worked = work(&settings, for_worker, supply, &telemetry, shutdown).await;
    // After the last job, whose spans it exports.
    telemetry.shutdown().await;
    worked.map(|()| Outcome::Done)
}

fn start_telemetry(
    settings: &TelemetrySettings,
    worker: &worker::Settings,
    logs: &LogLayer,
) -> anyhow::Result<Telemetry> {
    let instruments =
        InstrumentOptions { consumer: worker.streams.consumer.clone(), dataset_label: settings.dataset_label };
    let instance = worker.worker.id.clone().unwrap_or_default();
    let service = ServiceIdentity { version: env!("CARGO_PKG_VERSION").to_owned(), instance };
    Ok(Telemetry::start(settings, instruments, &service, logs, |name| std::env::var(name).ok())?)
}

async fn work(
    settings: &Settings,
    for_worker: worker::Settings,
    supply: Supply,
    telemetry: &Telemetry,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    let health = Health::new();
    let _server = HealthServer::start_if_set(&for_worker.worker, &health, telemetry.scraper())?;
    let (engine, model) = tokio::select! {
        loaded = load(settings, &supply, telemetry, &health) => loaded?,
        () = shutdown.cancelled() => {
            tracing::info!("the worker was shut down while it loaded its model");
            return Ok(());
        }
    };
    let (events, telemetry) = (Events::none(), WorkerTelemetry::from(telemetry));
    let parts = WorkerParts { settings: for_worker, engine, model, events, telemetry };
    worker::run_with_health(parts, health, shutdown).await?;
    Ok(())
}

/// Downloads the model if it is not here, loads it and starts its engine. `health` tells the progress.
async fn load(
    settings: &Settings,
    supply: &Supply,
    telemetry: &Telemetry,
    health: &Health,
) -> anyhow::Result<(Arc<Engine>, ModelIdentity)> {
    let downloading = supply.progress().clone();
    health.set_loading(move || downloading.to_string());
    let dir = model_supply::directory_with_log(supply).await?;
    let (started, progress) = (Instant::now(), LoadProgress::default());
    let shown = progress.clone();
    health.set_loading(move || format!("loading model: {} %", shown.percent()));
    let (model_settings, model_dir) = (settings.model.clone(), dir.clone());
    let (model, gpu) = spawn_blocking(move || {
        let compute = model_dir::open_device(&model_settings)?;
        let model = model_dir::open_on(&model_dir, &compute, progress)?;
        anyhow::Ok((model, compute.pci_bus_id()))
    })
    .await??;
    let loading = started.elapsed();
    health.set_loading(|| "computing the digest of the model".to_owned());
    let identity = spawn_blocking(move || ModelIdentity::of_dir(&dir)).await?;
    let identity = identity.context("cannot compute the digest of the model")?;
    tracing::info!(name = identity.name, revision = identity.revision, digest = identity.digest, "model loaded");
    telemetry.instruments().model_loaded(&identity.name, loading);
    if let Some(pci_bus_id) = gpu {
        observe_gpu(&pci_bus_id, telemetry);
    }
    check_slot_tokens(model.processor(), settings.engine.slot_tokens)?;
    health.set_loading(|| "starting the engine".to_owned());
    let options = settings.engine.options();
    let engine = spawn_blocking(move || model_dir::start_engine(model, options)).await??;
    Ok((Arc::new(engine), identity))
}

/// Registers the readings of an NVIDIA GPU. A machine without NVML has none.
fn observe_gpu(pci_bus_id: &str, telemetry: &Telemetry) {
    match NvidiaGpu::open(pci_bus_id) {
        Ok(gpu) => telemetry.instruments().observe_gpus(move || gpu.reading()),
        Err(error) => tracing::debug!("there are no metrics of the GPU: {error}"),
    }
}

/// Checks the tokens of a slot: an error if they are too few for every task, a warning if they are too few for a task with
/// the default options of jobs.
pub(crate) fn check_slot_tokens(processor: &Processor, slot_tokens: usize) -> anyhow::Result<()> {
    let shortest = |max_new_tokens: usize| {
        let needed = [Task::BriefCaption, Task::DetailedCaption].map(|task| {
            let options = GenerationOptions { max_new_tokens, ..GenerationOptions::default() };
            let query = processor.encode(&Query::generate(task.prompt()?, options))?;
            anyhow::Ok(processor.decoding(&query)?.max_tokens())
        });
        needed.into_iter().try_fold(usize::MAX, |least, needed| Ok::<_, anyhow::Error>(least.min(needed?)))
    };
    let (least, usual) = (shortest(1)?, GenerationOptions::default().max_new_tokens);
    if slot_tokens < least {
        return Err(Misuse(anyhow!(
            "engine.slot_tokens is {slot_tokens}, but the shortest task of this model takes {least} tokens (image, prompt and one token of the answer), so every job would fail; raise engine.slot_tokens"
        ))
        .into());
    }
    let needed = shortest(usual)?;
    if slot_tokens < needed {
        tracing::warn!(
            slot_tokens,
            "jobs without max_new_tokens will fail: with the default of {usual} new tokens, the shortest task takes {needed} tokens; raise engine.slot_tokens"
        );
    }
    Ok(())
}
