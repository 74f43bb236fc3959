//! `groundling worker`: the queue worker.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, anyhow};
use kosmos2::checkpoint::ModelIdentity;
use kosmos2::options::GenerationOptions;
use kosmos2::processor::prompt::Task;
use kosmos2::{Processor, Query};
use worker::events::Events;
use worker::worker::WorkerParts;

use crate::args::WorkerArgs;
use crate::exit::{Misuse, Outcome};
use crate::settings::Settings;
use crate::{model_dir, stderr};

pub(crate) async fn run(args: WorkerArgs, settings: Option<&Path>) -> anyhow::Result<Outcome> {
    let mut settings = Settings::load(settings)?.with_model(&args.model).with_stores(&args.stores);
    settings.worker.slots = args.slots.or(settings.worker.slots);
    let for_worker = settings.for_worker()?;
    let dir = model_dir::require(settings.model.path.as_ref())?.to_path_buf();
    let shutdown = worker::signals::shutdown_by_signals(|| stderr::finish(&[]))?;
    let model = model_dir::open(&settings.model)?;
    let identity = tokio::task::spawn_blocking(move || ModelIdentity::of_dir(&dir))
        .await?
        .context("cannot compute the digest of the model")?;
    tracing::info!(name = identity.name, revision = identity.revision, digest = identity.digest, "model loaded");
    check_slot_tokens(model.processor(), settings.engine.slot_tokens)?;
    let engine = Arc::new(model_dir::start_engine(model, settings.engine.options())?);
    let parts = WorkerParts { settings: for_worker, engine, model: identity, events: Events::none() };
    worker::worker::run(parts, shutdown).await?;
    Ok(Outcome::Done)
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
