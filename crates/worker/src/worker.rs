//! Runs a worker, from its start to an orderly shutdown.

use std::sync::Arc;
use std::time::Duration;

use async_nats::Client;
use engine::Annotator;
use kosmos2::checkpoint::ModelIdentity;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use wire::v1;

use crate::advisories::MaxDeliveriesReconciler;
use crate::attempts::Attempts;
use crate::byte_budget::ByteBudget;
use crate::circuit_breaker::CircuitBreakers;
use crate::compaction::CompactionQueue;
use crate::decoding::DecodePool;
use crate::descriptors::raise_limit;
use crate::engine_watch;
use crate::events::Events;
use crate::fetch::environment::environment_problems;
use crate::fetch::s3::ObjectStore;
use crate::health::Health;
use crate::health_server::HealthServer;
use crate::intake::Intake;
use crate::job::JobContext;
use crate::job_loop::{FLUSH_TIMEOUT, Worked, run_jobs};
use crate::job_summary::{JobCounts, log_summaries};
use crate::left_to_others::LeftToOthers;
use crate::outcome_publisher::OutcomePublisher;
use crate::outcomes::Outcomes;
use crate::report::WorkerReport;
use crate::retries::Retries;
use crate::settings::{Settings, WorkerSettings};
use crate::settings_validation::InvalidSettings;
use crate::settle::Settler;
use crate::slow_reads::{SlowReads, retry_permits};
use crate::startup::{Opened, open};
use crate::suspension::SuspensionDetector;
use crate::worker_error::WorkerError;
use crate::worker_telemetry::WorkerTelemetry;
use broker::publish::Publisher;
use broker::stream_states::StreamStates;

/// The minimum of the default of `worker.max_slow_reads`.
const MIN_SLOW_READS: usize = 64;

/// How long a worker whose engine is stalled waits for jobs in transit, to nack them.
const STALLED_INTAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// What a worker is made of.
pub struct WorkerParts {
    /// The settings.
    pub settings: Settings,
    /// The engine with the model. The worker also uses its picture preprocessing.
    pub engine: Arc<dyn Annotator>,
    /// The model's identity, for annotations.
    pub model: ModelIdentity,
    /// Where events are sent.
    pub events: Events,
    /// Where metrics and traces are recorded. One worker for each: it registers readings there.
    pub telemetry: WorkerTelemetry,
}

/// Runs a worker until `shutdown`, which then shuts down in this order:
///
/// 1. Intake requests no more jobs, and within 3 s has nacked those that were in transit. Jobs whose picture is not
///    ready
///    for the model are released.
/// 2. Jobs that the model is processing are finished and published, for at most `worker.shutdown_timeout`.
/// 3. Jobs that are still not finished are nacked.
/// 4. The last acknowledgements are sent and the connection is closed.
///
/// A worker whose engine stops shuts down in the same way. One whose engine is stalled releases all jobs at once. Lost connections are waited out, and so is a broker that
/// does not respond at the start. The worker's [`Health`] is served at `worker.health_address` until the end.
///
/// # Errors
/// [`WorkerError`], if the worker does not start or stops on its own.
pub async fn run(parts: WorkerParts, shutdown: CancellationToken) -> Result<WorkerReport, WorkerError> {
    parts.settings.validate()?;
    let health = Health::new();
    let _server = HealthServer::start_if_set(&parts.settings.worker, &health, parts.telemetry.scraper.as_ref())?;
    run_with_health(parts, health, shutdown).await
}

/// Like [`run`], with a [`Health`] that the caller serves: a program can serve it while it loads the model.
///
/// # Errors
/// [`WorkerError`], if the worker does not start or stops on its own.
pub async fn run_with_health(
    parts: WorkerParts,
    health: Health,
    shutdown: CancellationToken,
) -> Result<WorkerReport, WorkerError> {
    let WorkerParts { settings, engine, model, events, telemetry } = parts;
    settings.validate()?;
    let problems = environment_problems(&settings.s3, |name| std::env::var(name).ok());
    if !problems.is_empty() {
        return Err(InvalidSettings(problems).into());
    }
    let worker_id = settings.worker.id.clone().unwrap_or_else(random_id);
    let slots = settings.worker.slots.unwrap_or_else(|| engine.concurrent_jobs());
    let max_slow_reads = |slots| max_slow_reads(&settings.worker, slots);
    // New jobs, urgent jobs and retries have as many slots each.
    raise_limit(slots, |slots| 3 * slots + max_slow_reads(slots) + retry_permits(max_slow_reads(slots)))?;
    let slow_reads = SlowReads::new(max_slow_reads(slots), settings.worker.max_bytes_in_flight);
    let store = ObjectStore::open(&settings.s3).await?;
    // A job that a stream has refused is delivered again within the delay, to this worker or another one.
    let states = StreamStates::default().with_expiry(settings.worker.max_retry_delay * 2);
    health.set_engine(Arc::clone(&engine));
    health.set_stream_states(states.clone());
    let budget = ByteBudget::new(settings.worker.max_bytes_in_flight);
    telemetry.observe(&engine, budget.clone(), health.reader());
    // Cancelled by the caller, and by the worker itself if its engine stops.
    let stop = shutdown.child_token();
    telemetry.instruments().worker_started();
    let opened = tokio::select! {
        biased;
        () = stop.cancelled() => {
            tracing::info!("the worker was shut down before it had taken a job");
            return Ok(WorkerReport::default());
        }
        opened = open(&settings, &worker_id, &health) => opened?,
    };
    let Opened { connection, jetstream, jobs, urgent, retries, advisories } = opened;
    let client = connection.client.clone();
    let WorkerSettings { publish_timeout, release_own_limits_for, .. } = settings.worker;
    let streams = &settings.streams;
    let outcomes = Outcomes::new(jetstream.clone(), &streams.outcomes, publish_timeout)
        .with_stream_states(states.clone())
        .with_instruments(telemetry.instruments().clone());
    let retries_stream = Retries::new(jetstream.clone(), &streams.retries, telemetry.instruments().clone());
    let (compaction, compactor) = CompactionQueue::new(
        jetstream.clone(),
        &streams.jobs,
        retries_stream.clone(),
        outcomes.clone(),
        streams.ack_wait,
        streams.duplicate_window,
    );
    // The settings are valid only if the duplicate window is longer than the lease and the delay together.
    let suspension =
        SuspensionDetector::new(settings.worker.lease(), streams.ack_wait.max(settings.worker.max_retry_delay) / 2);
    tokio::spawn(suspension.clone().watch());
    let attempts = Attempts::new(jetstream.clone(), &streams.attempts, &worker_id).with_stream_states(states.clone());
    let publisher = OutcomePublisher {
        outcomes,
        publisher: Publisher::new(jetstream.clone(), &streams.annotations, &streams.failed)
            .with_timeout(publish_timeout)
            .without_retries_after(stop.clone())
            .with_stream_states(states.clone()),
        duplicate_window: streams.duplicate_window,
        instruments: telemetry.instruments().clone(),
    };
    let worker = v1::WorkerIdentity { worker_id: worker_id.clone(), version: env!("CARGO_PKG_VERSION").to_owned() };
    let reconciler = MaxDeliveriesReconciler {
        jetstream: jetstream.clone(),
        jobs_stream: streams.jobs.clone(),
        retries_stream: streams.retries.clone(),
        urgent_consumer: streams.urgent_consumer(),
        retries: retries_stream.clone(),
        consumer: advisories,
        publisher: publisher.clone(),
        attempts: attempts.clone(),
        worker: worker.clone(),
        events: events.clone(),
    };
    let counts = JobCounts::default();
    let summaries = log_summaries(counts.clone(), jobs.clone(), retries.clone(), settings.worker.summary_interval);
    let settler = Settler {
        publisher,
        attempts,
        suspension,
        compaction,
        retries: retries_stream,
        left_to_others: LeftToOthers::new(
            jetstream.clone(),
            &streams.outcomes,
            release_own_limits_for,
            publish_timeout,
        )
        .with_stream_states(states),
        worker,
        events: events.clone(),
        counts: counts.clone(),
        max_attempts: settings.worker.max_deliveries,
        max_retry_delay: settings.worker.max_retry_delay,
    };
    let context = Arc::new(JobContext {
        store,
        engine,
        settler,
        slow_reads,
        circuit_breakers: CircuitBreakers::new(settings.worker.store_outage_wait()),
        budget,
        decoding: DecodePool::new(&settings.worker),
        model: v1::ModelIdentity { name: model.name, revision: model.revision, digest: model.digest },
        settings: settings.worker.clone(),
        events,
        stop: stop.clone(),
        stalled: CancellationToken::new(),
        abandon: CancellationToken::new(),
    });
    let (watched, stalled_health) = (Arc::clone(&context.engine), health.clone());
    let stalled = async move {
        let stall = engine_watch::stalled(watched).await;
        stalled_health.set_stalled(stall.clone());
        stall
    };
    tracing::info!(worker_id, slots, "the worker takes jobs");
    health.set_working(connection.clone());
    let report_stop = tokio::spawn({
        let (stop, health) = (stop.clone(), health.clone());
        async move {
            stop.cancelled().await;
            health.set_stopping();
        }
    });
    let reconciler = tokio::spawn(reconciler.run(stop.clone()));
    tokio::spawn(compactor.run(stop.clone()));
    let summaries = tokio::spawn(summaries);
    let (sender, deliveries) = mpsc::channel(slots);
    let refusing = connection.clone();
    let intake = Intake::new(jetstream, jobs, slots, settings.worker.lease())
        .checking_stream()
        .with_connection(connection, health)
        .with_spans(telemetry.jobs);
    let retries = intake.of_retries(retries);
    let urgent = urgent.map(|consumer| intake.of_urgent(consumer));
    let intakes = [Some(intake), urgent, Some(retries)].into_iter().flatten();
    let intakes: Vec<_> = intakes.map(|intake| tokio::spawn(intake.run(stop.clone(), sender.clone()))).collect();
    drop(sender);
    let refused_timeout = settings.nats.refused_timeout;
    let refused = refusing.credentials_refused_for(refused_timeout);
    let shutdown_timeout = settings.worker.shutdown_timeout;
    let worked = run_jobs(context, deliveries, &stop, shutdown_timeout, refused, stalled, &counts).await;
    summaries.abort();
    let Worked { mut report, engine_stopped, stall, refused } = worked;
    let lost = lost_pulls(intakes);
    report.pulls_lost += match stall {
        Some(_) => tokio::time::timeout(STALLED_INTAKE_TIMEOUT, lost).await.unwrap_or_default(),
        None => lost.await,
    };
    if tokio::time::timeout(FLUSH_TIMEOUT, reconciler).await.is_err() {
        tracing::debug!("an advisory was not handled in time and will be delivered again");
    }
    close(&client).await;
    report_stop.abort();
    let WorkerReport { finished, duplicates, failed, retried, released, pulls_lost } = report;
    tracing::info!(
        annotated = finished,
        annotated_earlier = duplicates,
        failed,
        requeued = retried,
        released_at_shutdown = released,
        pull_requests_lost = pulls_lost,
        "the worker has stopped"
    );
    match stall {
        _ if refused => Err(WorkerError::CredentialsRefused(refused_timeout)),
        Some(stall) => Err(WorkerError::EngineStalled { stall, report }),
        None if engine_stopped => Err(WorkerError::EngineStopped(report)),
        None => Ok(report),
    }
}

/// Waits for the ends of the intakes, and returns the number of pull requests that were refused or lost.
async fn lost_pulls(intakes: Vec<JoinHandle<u64>>) -> u64 {
    let mut all = 0;
    for intake in intakes {
        match intake.await {
            Ok(lost) => all += lost,
            Err(error) => tracing::error!(
                "intake has failed; this is a bug, please report it with the panic logged above: {error}"
            ),
        }
    }
    all
}

async fn close(client: &Client) {
    let closed = async {
        if let Err(error) = client.flush().await {
            tracing::warn!("the last acknowledgements may not have been sent: {error}");
        }
        drop(client.drain().await);
    };
    if tokio::time::timeout(FLUSH_TIMEOUT, closed).await.is_err() {
        tracing::warn!("NATS did not respond during shutdown; unfinished jobs will be redelivered after ack_wait");
    }
}

/// The number of slow reads of new jobs of a worker with this number of job slots.
pub(crate) fn max_slow_reads(settings: &WorkerSettings, slots: usize) -> usize {
    settings.max_slow_reads.unwrap_or(slots.max(MIN_SLOW_READS))
}

/// A name for a worker without `worker.id`.
pub fn random_id() -> String {
    format!("worker-{}", uuid::Uuid::new_v4().simple())
}
