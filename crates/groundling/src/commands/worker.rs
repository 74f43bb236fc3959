//! `groundling worker`: the queue worker.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, anyhow};
use kosmos2::checkpoint::ModelIdentity;
use kosmos2::options::GenerationOptions;
use kosmos2::processor::prompt::Task;
use kosmos2::{Processor, Query};
use telemetry::{InstrumentOptions, LogLayer, ServiceIdentity, Telemetry, TelemetrySettings};
use tokio_util::sync::CancellationToken;
use worker::WorkerTelemetry;
use worker::events::Events;
use worker::worker::{WorkerParts, random_id};

use crate::args::WorkerArgs;
use crate::exit::{Misuse, Outcome};
use crate::settings::Settings;
use crate::{model_dir, stderr};

pub(crate) async fn run(args: WorkerArgs, settings: Option<&Path>, logs: &LogLayer) -> anyhow::Result<Outcome> {
    let mut settings = Settings::load(settings)?.with_model(&args.model).with_stores(&args.stores);
    settings.worker.slots = args.slots.or(settings.worker.slots);
    // Annotations and exported telemetry name the worker alike.
    settings.worker.id.get_or_insert_with(random_id);
    let for_worker = settings.for_worker()?;
    let dir = model_dir::require(settings.model.path.as_ref())?.to_path_buf();
    let shutdown = worker::signals::shutdown_by_signals(|| stderr::finish(&[]))?;
    let telemetry = start_telemetry(&settings.telemetry, &for_worker, logs)?;
    let worked = work(&settings, for_worker, dir, &telemetry, shutdown).await;
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
    dir: PathBuf,
    telemetry: &Telemetry,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    let started = Instant::now();
    let model = model_dir::open(&settings.model)?;
    let loading = started.elapsed();
    let identity = tokio::task::spawn_blocking(move || ModelIdentity::of_dir(&dir))
        .await?
        .context("cannot compute the digest of the model")?;
    tracing::info!(name = identity.name, revision = identity.revision, digest = identity.digest, "model loaded");
    telemetry.instruments().model_loaded(&identity.name, loading);
    check_slot_tokens(model.processor(), settings.engine.slot_tokens)?;
    let engine = Arc::new(model_dir::start_engine(model, settings.engine.options())?);
    let (events, telemetry) = (Events::none(), WorkerTelemetry::from(telemetry));
    let parts = WorkerParts { settings: for_worker, engine, model: identity, events, telemetry };
    worker::worker::run(parts, shutdown).await?;
    Ok(())
}

/// Checks the tokens of a slot: an error if they are too few for every task, a warning if they are too few for a task with
/// the default options of jobs.
fn check_slot_tokens(processor: &Processor, slot_tokens: usize) -> anyhow::Result<()> {
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
