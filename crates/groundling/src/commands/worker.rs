//! `groundling worker`: the stream worker.

use std::path::Path;

use anyhow::Context;
use kosmos2::checkpoint::ModelIdentity;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use worker::events::Events;
use worker::worker::WorkerParts;

use crate::args::WorkerArgs;
use crate::settings::Settings;
use crate::{Outcome, model_dir};

pub(crate) async fn run(args: WorkerArgs, settings: Option<&Path>) -> anyhow::Result<Outcome> {
    let mut settings = Settings::load(settings)?.with_model(&args.model).with_stores(&args.stores);
    if let Some(slots) = args.slots {
        settings.worker.slots = slots;
    }
    let for_worker = settings.for_worker()?;
    let dir = model_dir::require(settings.model.path.as_ref())?.to_path_buf();
    let shutdown = cancelled_by_signals()?;
    let model = model_dir::open(&settings.model)?;
    let identity = tokio::task::spawn_blocking(move || ModelIdentity::of_dir(&dir))
        .await?
        .context("the model's digest cannot be computed")?;
    tracing::info!(name = identity.name, revision = identity.revision, digest = identity.digest, "model is open");
    let engine = super::start_engine(model)?;
    let parts = WorkerParts { settings: for_worker, engine, model: identity, events: Events::none() };
    worker::worker::run(parts, shutdown).await?;
    Ok(Outcome::Done)
}

/// A token that SIGTERM and SIGINT cancel.
fn cancelled_by_signals() -> anyhow::Result<CancellationToken> {
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let token = CancellationToken::new();
    let cancel = token.clone();
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => tracing::info!("SIGTERM: finishing what is in hand"),
            _ = interrupt.recv() => tracing::info!("SIGINT: finishing what is in hand"),
        }
        cancel.cancel();
    });
    Ok(token)
}
