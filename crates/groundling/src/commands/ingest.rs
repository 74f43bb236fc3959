//! `groundling ingest`: the events of object stores become jobs.

use std::path::Path;

use archive::ingest::{IngestParts, stream_subjects};
use telemetry::{InstrumentOptions, LogLayer, ServiceIdentity, Telemetry};
use worker::signals::shutdown_with_messages;

use crate::args::{IngestArgs, StoreArgs};
use crate::exit::Outcome;
use crate::settings::Settings;
use crate::stderr;

pub(crate) async fn run(args: IngestArgs, settings: Option<&Path>, logs: &LogLayer) -> anyhow::Result<Outcome> {
    let flags = StoreArgs { nats_url: args.nats_url, s3_endpoint: None };
    let settings = Settings::load(settings)?.with_stores(&flags);
    let rules = settings.for_ingest()?;
    let shutdown = shutdown_with_messages(
        "taking no more events, finishing those in progress",
        "events from NATS are redelivered after ack_wait, and senders get no answer",
        || stderr::finish(&[]),
    )?;
    let options = InstrumentOptions { consumer: settings.streams.events_consumer.clone(), dataset_label: false };
    let instance = settings.worker.id.clone().unwrap_or_else(|| format!("ingest-{}", std::process::id()));
    let service = ServiceIdentity { version: env!("CARGO_PKG_VERSION").to_owned(), instance };
    let telemetry = Telemetry::start(&settings.telemetry, options, &service, logs, |name| std::env::var(name).ok())?;
    let parts = IngestParts {
        subjects: stream_subjects(&settings.ingest),
        rules,
        nats: settings.nats,
        streams: settings.streams,
        events: settings.events,
        instruments: telemetry.instruments().clone(),
        scraper: telemetry.scraper().cloned(),
        listening: None,
    };
    let ended = archive::ingest::run(parts, shutdown).await;
    telemetry.shutdown().await;
    ended?;
    Ok(Outcome::Done)
}
