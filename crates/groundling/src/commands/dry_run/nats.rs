//! The NATS server: connection, permissions, streams and consumers.

use async_nats::jetstream;
use broker::connection::{self, Connection};
use broker::events_setup;
use broker::permission_probe::PermissionProbe;
use broker::setup::{self, SetupReport};
use worker::pool_limits::{active_jobs, consumer_problems, window_problem};
use worker::settings::Settings;

use super::report::Report;

/// The used part of a stream's bound from which it may refuse the next message.
const FULL: f64 = 0.98;
/// As in the alert on streams that are nearly full.
const NEARLY_FULL: f64 = 0.9;

pub(super) async fn check(
    settings: &Settings,
    subjects: &[String],
    slots: usize,
    workers: usize,
    report: &mut Report,
) -> anyhow::Result<()> {
    let Settings { nats, streams, .. } = settings;
    let connection = match connection::open(nats, "groundling dry-run").await {
        Ok(connection) => connection,
        Err(error) => return report.problem("nats", error),
    };
    let server = connection.client.server_info();
    report.ok("nats", format_args!("connected to {}, version {}", server.server_name, server.version))?;
    // Before the requests for the streams, whose answers show that the server has seen it.
    let probe = PermissionProbe::send(&connection, nats, streams).await?;
    let found = setup::check(connection.broker(nats), streams).await;
    let permissions = probe.count();
    let denied = probe.denied().await;
    for violation in &denied {
        report.problem(
            "permissions",
            format_args!("{violation}: add it to the user's permissions (deploy/nats/worker-permissions.conf)"),
        )?;
    }
    if denied.is_empty() {
        report.ok("permissions", format_args!("none of the {permissions} that a worker needs is denied"))?;
    }
    match found {
        Ok(found) => {
            check_streams(&found, report)?;
            check_room(&connection, settings, report).await?;
            check_events(&connection, settings, subjects, report).await?;
            check_limits(&connection, settings, active_jobs(settings, slots), workers, report).await
        }
        // Reported above with its permission.
        Err(setup::SetupError::NotPermitted { .. }) if !denied.is_empty() => Ok(()),
        Err(error) => report.problem("streams", error),
    }
}

fn check_streams(found: &SetupReport, report: &mut Report) -> anyhow::Result<()> {
    for thing in &found.missing {
        report.problem("streams", format_args!("{thing} does not exist: run `groundling setup`, which creates it"))?;
    }
    for error in &found.errors {
        report.problem("streams", format_args!("a worker would not start: {error}"))?;
    }
    for difference in &found.differences {
        report.problem(
            "streams",
            format_args!(
                "{difference}: `groundling setup` does not change it; change it on the server, or the settings"
            ),
        )?;
    }
    if found.is_ready() {
        report.ok("streams", format_args!("as the settings say: {}", found.found.join(", ")))
    } else {
        Ok(())
    }
}

/// Whether the streams that workers publish to have room.
async fn check_room(connection: &Connection, settings: &Settings, report: &mut Report) -> anyhow::Result<()> {
    let jetstream = connection::jetstream(&connection.client, &settings.nats);
    let streams = &settings.streams;
    for name in [&streams.annotations, &streams.failed, &streams.outcomes, &streams.attempts, &streams.retries] {
        let Ok(stream) = jetstream.get_stream(name).await else { continue };
        let info = stream.cached_info();
        let Some(bound) = u64::try_from(info.config.max_bytes).ok().filter(|bound| *bound > 0) else { continue };
        let (bytes, share) = (info.state.bytes, info.state.bytes as f64 / bound as f64);
        let text = format!("{name} uses {bytes} of its {bound} bytes ({:.1} %)", share * 100.0);
        if share >= FULL {
            report.problem(
                "streams",
                format_args!("{text}: workers wait until it has room; remove what has been read, or raise its bound"),
            )?;
        } else if share >= NEARLY_FULL {
            report.warning("streams", format_args!("{text}: a full stream stops the workers"))?;
        }
    }
    Ok(())
}

/// The events stream is not the worker's, whose user may not be permitted to look at it.
async fn check_events(
    connection: &Connection,
    settings: &Settings,
    subjects: &[String],
    report: &mut Report,
) -> anyhow::Result<()> {
    if subjects.is_empty() {
        return Ok(());
    }
    let found = match events_setup::check_events(connection.broker(&settings.nats), &settings.streams, subjects).await {
        Ok(found) => found,
        Err(setup::SetupError::NotPermitted { .. }) => {
            return report.ok(
                "events",
                "not checked: this NATS user may not look at the events stream; `groundling ingest` checks it when it starts",
            );
        }
        Err(error) => return report.problem("events", error),
    };
    let missing = found.missing.iter().map(|thing| format!("{thing} does not exist: run `groundling setup`"));
    let errors = found.errors.iter().map(|error| format!("`groundling ingest` would not start: {error}"));
    let differences = found.differences.iter().map(|difference| {
        format!("{difference}: `groundling setup --migrate` changes the subjects; change the rest on the server, or the settings")
    });
    for problem in missing.chain(errors).chain(differences) {
        report.problem("events", problem)?;
    }
    if found.is_ready() {
        report.ok("events", format_args!("as the settings say: {}", found.found.join(", ")))?;
    }
    Ok(())
}

async fn check_limits(
    connection: &Connection,
    settings: &Settings,
    active: usize,
    workers: usize,
    report: &mut Report,
) -> anyhow::Result<()> {
    let streams = &settings.streams;
    let Ok(Some(consumer)) = setup::find_consumer(connection.broker(&settings.nats), streams).await else {
        return Ok(());
    };
    let consumer = &consumer.cached_info().config;
    let mut problems = consumer_problems(settings, consumer, active, workers);
    let jetstream = connection::jetstream(&connection.client, &settings.nats);
    for name in [&streams.annotations, &streams.failed] {
        if let Some(window) = duplicate_window(&jetstream, name).await {
            problems.extend(window_problem(settings, name, window, consumer));
        }
    }
    for problem in &problems {
        report.problem("consumer", problem)?;
    }
    if !problems.is_empty() {
        return Ok(());
    }
    report.ok(
        "consumer",
        format_args!(
            "ack wait {:?}, max_deliver {}, room for the {} active jobs of {workers} workers (max_ack_pending {}); duplicate windows are long enough",
            consumer.ack_wait,
            consumer.max_deliver,
            active.saturating_mul(workers),
            consumer.max_ack_pending
        ),
    )
}

async fn duplicate_window(jetstream: &jetstream::Context, stream: &str) -> Option<std::time::Duration> {
    Some(jetstream.get_stream(stream).await.ok()?.cached_info().config.duplicate_window)
}
