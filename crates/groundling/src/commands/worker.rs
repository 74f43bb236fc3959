//! `groundling worker`: the stream worker.

use std::path::Path;
use std::sync::Arc;

use anyhow::Context;
use kosmos2::checkpoint::ModelIdentity;
use worker::events::Events;
use worker::worker::WorkerParts;

use crate::args::WorkerArgs;
use crate::settings::Settings;
use crate::{Outcome, model_dir, stderr};

pub(crate) async fn run(args: WorkerArgs, settings: Option<&Path>) -> anyhow::Result<Outcome> {
    let mut settings = Settings::load(settings)?.with_model(&args.model).with_stores(&args.stores);
    settings.worker.slots = args.slots.or(settings.worker.slots);
    let for_worker = settings.for_worker()?;
    let dir = model_dir::require(settings.model.path.as_ref())?.to_path_buf();
    let shutdown = worker::signals::shutdown_by_signals(|| stderr::finish(&[]))?;
    let model = model_dir::open(&settings.model)?;
    let identity = tokio::task::spawn_blocking(move || ModelIdentity::of_dir(&dir))
        .await?
        .context("the model's digest cannot be computed")?;
    tracing::info!(name = identity.name, revision = identity.revision, digest = identity.digest, "model loaded");
    let engine = Arc::new(super::start_engine(model, settings.engine.options())?);
    let parts = WorkerParts { settings: for_worker, engine, model: identity, events: Events::none() };
    worker::worker::run(parts, shutdown).await?;
    Ok(Outcome::Done)
}
