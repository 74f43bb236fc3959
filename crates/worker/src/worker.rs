//! The worker as a whole: what it needs, how it runs, and in which order it ends.

use std::sync::Arc;
use std::time::Duration;

use async_nats::Client;
use async_nats::jetstream::consumer::PullConsumer;
use engine::Annotator;
use kosmos2::checkpoint::ModelIdentity;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use wire::v1;

use crate::advisories::MaxDeliveriesReconciler;
use crate::attempts::Attempts;
use crate::byte_budget::ByteBudget;
use crate::decoding::Decoding;
use crate::delivery::Delivery;
use crate::descriptors::{TooFewDescriptors, make_room};
use crate::events::Events;
use crate::fetch::environment::environment_problems;
use crate::fetch::s3::{CaFileError, ObjectStore};
use crate::health::Health;
use crate::health_server::{HealthAddressError, HealthServer};
use crate::intake::Intake;
use crate::job::JobContext;
use crate::ledger::Ledger;
use crate::outcomes::Outcomes;
use crate::releases::Releases;
use crate::retries::Retries;
use crate::roll_up::RollUp;
use crate::settings::{Settings, WorkerSettings};
use crate::settings_check::SettingsProblems;
use crate::settle::{Settled, Settler};
use crate::slow_reads::{SlowReads, retry_places};
use crate::standstill::Standstill;
use crate::stores::Stores;
use broker::backoff::{Backoff, Delays};
use broker::connection::{self, Connection, ConnectionError};
use broker::publish::Publisher;
use broker::setup::{self, Broker, SetupError};
use broker::stream_states::StreamStates;

/// How long the last words (acknowledgements, jobs handed back) may take to leave.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(5);
/// How many reads may be slow at once where the settings do not say and the slots are fewer.
const LEAST_SLOW_READS: usize = 64;
/// Wait before streams are looked for again where JetStream does not answer.
const LOOK_AGAIN: Backoff = Backoff::new(Duration::from_millis(500), Duration::from_secs(5));

/// What a worker works with.
pub struct WorkerParts {
    /// What it was told.
    pub settings: Settings,
    /// The engine with the model; its picture preprocessing is used too.
    pub engine: Arc<dyn Annotator>,
    /// What annotations say about the model.
    pub model: ModelIdentity,
    /// Who watches.
    pub events: Events,
}

/// What a worker has done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct WorkerReport {
    /// Jobs whose annotation is in the stream.
    pub finished: u64,
    /// Of these, jobs whose annotation was there from an earlier delivery.
    pub duplicates: u64,
    /// Jobs whose failure is in the stream.
    pub failed: u64,
    /// Deliveries that went back to the queue for a while.
    pub retried: u64,
    /// Jobs that had not come to the model when the worker was told to end, and went straight back.
    pub released: u64,
    /// Pull requests that were refused or lost.
    pub pulls_lost: u64,
}

/// Why a worker did not start, or ended before its time.
#[derive(Debug, thiserror::Error)]
pub enum WorkerError {
    /// The settings.
    #[error("the settings cannot be used:\n{0}")]
    Settings(#[from] SettingsProblems),
    /// The store's authorities.
    #[error(transparent)]
    CaFile(#[from] CaFileError),
    /// The address of the health server.
    #[error(transparent)]
    HealthAddress(#[from] HealthAddressError),
    /// The limit of open files.
    #[error(transparent)]
    Descriptors(#[from] TooFewDescriptors),
    /// The connection.
    #[error(transparent)]
    Connection(#[from] ConnectionError),
    /// Streams and consumer could not be looked at.
    #[error(transparent)]
    Setup(#[from] SetupError),
    /// The worker creates nothing.
    #[error("there is no {0} on the NATS server: run `groundling setup` to create it")]
    Missing(String),
    /// Settings of streams or consumer with which the promise does not hold, one in each line.
    #[error("workers cannot keep their promise with what is on the NATS server:\n{0}")]
    Unfit(String),
    /// The server has not let the worker in for as long as `nats.refused_timeout`. Jobs in hand come back by themselves.
    #[error(
        "the NATS server has refused this worker's credentials for {0:?} (nats.refused_timeout), so it has ended: start it again with those that the server takes now"
    )]
    Refused(Duration),
    /// The engine ended. Jobs in hand went back to the queue.
    #[error("the engine has stopped, so this worker has too; its jobs went back to the queue: start it again")]
    EngineStopped(WorkerReport),
}

/// Works until `shutdown`, then ends in this order:
///
/// 1. intake asks for no more jobs, and within 3 s has handed back those that were on their way; jobs whose picture is
///    not ready for the model go straight back too;
/// 2. jobs that the model has are finished and published, for at most `worker.shutdown_timeout`;
/// 3. those still not finished are dropped, which hands them back;
/// 4. the last acknowledgements leave, and the connection is closed.
///
/// The same happens when the engine ends on its own. Lost connections are waited out, and so is a broker that is not
/// there yet at the start. [`Health`] tells of it all at `worker.health_address`, to the very end.
///
/// # Errors
/// [`WorkerError`].
pub async fn run(parts: WorkerParts, shutdown: CancellationToken) -> Result<WorkerReport, WorkerError> {
    let WorkerParts { settings, engine, model, events } = parts;
    settings.validate()?;
    let problems = environment_problems(&settings.s3, |name| std::env::var(name).ok());
    if !problems.is_empty() {
        return Err(SettingsProblems(problems).into());
    }
    let worker_id = settings.worker.id.clone().unwrap_or_else(made_up_id);
    let slots = settings.worker.slots.unwrap_or_else(|| engine.concurrent_jobs());
    let max_slow_reads = |slots: usize| settings.worker.max_slow_reads.unwrap_or(slots.max(LEAST_SLOW_READS));
    // New jobs and retries have slots each.
    make_room(slots, |slots| 2 * slots + max_slow_reads(slots) + retry_places(max_slow_reads(slots)))?;
    let slow_reads = SlowReads::new(max_slow_reads(slots), settings.worker.max_bytes_in_flight);
    let store = ObjectStore::open(&settings.s3).await?;
    // A job that a stream refused comes again within the delay, to this worker or another one.
    let states = StreamStates::default().with_expiry(settings.worker.max_retry_delay * 2);
    let health = Health::new(Arc::clone(&engine)).watching(states.clone());
    let _told = match settings.worker.health_address {
        Some(address) => Some(HealthServer::start(address, health.clone())?),
        None => None,
    };
    // Ends on the caller's word or, by way of a dead engine, on our own.
    let stop = shutdown.child_token();
    let opened = tokio::select! {
        biased;
        () = stop.cancelled() => {
            tracing::info!("worker was told to end before it had taken a job");
            return Ok(WorkerReport::default());
        }
        opened = open(&settings, &worker_id, &health) => opened?,
    };
    let Opened { connection, jetstream, jobs, retries, advisories } = opened;
    let client = connection.client.clone();
    let WorkerSettings { publish_timeout, release_own_limits_for, .. } = settings.worker;
    let streams = &settings.streams;
    let outcomes = Outcomes::new(jetstream.clone(), &streams.outcomes, publish_timeout).watched(states.clone());
    let (roll_up, roll_ups) =
        RollUp::new(jetstream.clone(), &streams.jobs, outcomes.clone(), streams.ack_wait, streams.duplicate_window);
    // Settings are valid only if the duplicate window is longer than lease and delay together.
    let standstill =
        Standstill::new(settings.worker.lease(), streams.ack_wait.max(settings.worker.max_retry_delay) / 2);
    tokio::spawn(standstill.clone().watch());
    let ledger = Ledger {
        outcomes,
        attempts: Attempts::new(jetstream.clone(), &streams.attempts, &worker_id).watched(states.clone()),
        publisher: Publisher::new(jetstream.clone(), &streams.annotations, &streams.failed)
            .with_timeout(publish_timeout)
            .without_retries_after(stop.clone())
            .with_stream_states(states.clone()),
        duplicate_window: streams.duplicate_window,
        roll_up,
        standstill,
    };
    let worker = v1::WorkerIdentity { worker_id: worker_id.clone(), version: env!("CARGO_PKG_VERSION").to_owned() };
    let retries_stream = Retries::new(jetstream.clone(), &streams.retries);
    let reconciler = MaxDeliveriesReconciler {
        jetstream: jetstream.clone(),
        jobs_stream: streams.jobs.clone(),
        retries_stream: streams.retries.clone(),
        retries: retries_stream.clone(),
        consumer: advisories,
        ledger: ledger.clone(),
        worker: worker.clone(),
        events: events.clone(),
    };
    let settler = Settler {
        ledger,
        retries: retries_stream,
        releases: Releases::new(jetstream.clone(), &streams.outcomes, release_own_limits_for, publish_timeout)
            .watched(states),
        worker,
        events: events.clone(),
        max_attempts: settings.worker.max_deliveries,
        max_retry_delay: settings.worker.max_retry_delay,
    };
    let context = Arc::new(JobContext {
        store,
        engine,
        settler,
        slow_reads,
        stores: Stores::new(settings.worker.store_outage_wait()),
        budget: ByteBudget::new(settings.worker.max_bytes_in_flight),
        decoding: Decoding::new(&settings.worker),
        model: v1::ModelIdentity { name: model.name, revision: model.revision, digest: model.digest },
        settings: settings.worker.clone(),
        events,
        stop: stop.clone(),
        abandon: CancellationToken::new(),
    });
    tracing::info!(worker_id, slots, "worker takes jobs");
    health.works(connection.clone());
    let told_to_end = tokio::spawn({
        let (stop, health) = (stop.clone(), health.clone());
        async move {
            stop.cancelled().await;
            health.ends();
        }
    });
    let reconciler = tokio::spawn(reconciler.run(stop.clone()));
    tokio::spawn(roll_ups.run(stop.clone()));
    let (sender, deliveries) = mpsc::channel(slots);
    let refusing = connection.clone();
    let intake = Intake::new(client.clone(), jobs, slots, settings.worker.lease())
        .with_stream(jetstream)
        .watched(connection, health);
    let retries = intake.of_retries(retries);
    let intakes = [intake, retries].map(|intake| tokio::spawn(intake.run(stop.clone(), sender.clone())));
    drop(sender);
    let refused_timeout = settings.nats.refused_timeout;
    let refused = refusing.credentials_refused_for(refused_timeout);
    let worked = work(context, deliveries, &stop, settings.worker.shutdown_timeout, refused).await;
    let Worked { mut report, engine_stopped, refused } = worked;
    for intake in intakes {
        match intake.await {
            Ok(lost) => report.pulls_lost += lost,
            Err(error) => tracing::error!("intake ended by a fault of its own: {error}"),
        }
    }
    if tokio::time::timeout(FLUSH_TIMEOUT, reconciler).await.is_err() {
        tracing::debug!("an advisory was not dealt with in time; it is delivered again");
    }
    close(&client).await;
    told_to_end.abort();
    tracing::info!(?report, "worker has ended");
    match (refused, engine_stopped) {
        (true, _) => Err(WorkerError::Refused(refused_timeout)),
        (_, true) => Err(WorkerError::EngineStopped(report)),
        _ => Ok(report),
    }
}

/// How the work ended.
struct Worked {
    report: WorkerReport,
    engine_stopped: bool,
    refused: bool,
}

/// Takes deliveries until intake closes the channel, and sees each to its end; or until the server has `refused` this
/// worker for too long, which leaves nobody to tell of any end.
async fn work(
    context: Arc<JobContext>,
    mut deliveries: mpsc::Receiver<Delivery>,
    stop: &CancellationToken,
    patience: Duration,
    refused: impl Future<Output = ()>,
) -> Worked {
    let mut jobs = JoinSet::new();
    let mut tally = Tally::default();
    let (mut taking, mut is_refused) = (true, false);
    let stopped = async {
        stop.cancelled().await;
        tokio::time::sleep(patience).await;
    };
    let abandon = context.abandon.clone();
    let abandoned = async {
        abandon.cancelled().await;
        tokio::time::sleep(FLUSH_TIMEOUT).await;
    };
    tokio::pin!(stopped, abandoned, refused);
    while taking || !jobs.is_empty() {
        tokio::select! {
            delivery = deliveries.recv(), if taking => match delivery {
                Some(delivery) => {
                    let context = Arc::clone(&context);
                    jobs.spawn(async move { context.run(delivery).await });
                }
                None => taking = false,
            },
            Some(ended) = jobs.join_next() => {
                match ended {
                    Ok(Settled::EngineStopped) => {
                        tally.add(Settled::EngineStopped);
                        stop.cancel();
                    }
                    Ok(ending) => tally.add(ending),
                    // Its guard has handed the job back while the panic unwound.
                    Err(error) => {
                        tracing::error!("a job ended by a fault of the worker's own: {error}");
                        tally.add(Settled::Retried);
                    }
                }
            },
            () = &mut refused => {
                tracing::error!(jobs = jobs.len(), "the NATS server refuses this worker: jobs in hand are left to others");
                is_refused = true;
                stop.cancel();
                jobs.shutdown().await;
                break;
            }
            () = &mut stopped, if !context.abandon.is_cancelled() => {
                tracing::warn!(jobs = jobs.len(), "jobs not finished within worker.shutdown_timeout are released");
                context.abandon.cancel();
            }
            () = &mut abandoned => {
                // What cannot even be released in time is dropped, which hands it back too.
                tally.report.retried += jobs.len() as u64;
                jobs.shutdown().await;
                break;
            }
        }
    }
    Worked { report: tally.report, engine_stopped: tally.engine_stopped, refused: is_refused }
}

#[derive(Default)]
struct Tally {
    report: WorkerReport,
    engine_stopped: bool,
}

impl Tally {
    fn add(&mut self, ending: Settled) {
        match ending {
            Settled::Finished { duplicate } => {
                self.report.finished += 1;
                self.report.duplicates += u64::from(duplicate);
            }
            Settled::Failed => self.report.failed += 1,
            Settled::Retried => self.report.retried += 1,
            Settled::Released => self.report.released += 1,
            Settled::EngineStopped => {
                self.report.retried += 1;
                self.engine_stopped = true;
            }
        }
    }
}

/// What a worker needs from the broker.
struct Opened {
    connection: Connection,
    jetstream: async_nats::jetstream::Context,
    jobs: PullConsumer,
    retries: PullConsumer,
    advisories: PullConsumer,
}

/// Waits for the broker, and for a cluster that has no leader yet. What does not pass by itself is an error.
async fn open(settings: &Settings, worker_id: &str, health: &Health) -> Result<Opened, WorkerError> {
    let name = format!("groundling worker {worker_id}");
    let connection = connection::connect_with_retries(&settings.nats, &name, |error| {
        health.waits(error.to_string());
        tracing::warn!("{error}. Trying again until it answers");
    })
    .await?;
    let (jetstream, broker) =
        (connection::jetstream(&connection.client, &settings.nats), connection.broker(&settings.nats));
    let (mut delays, mut told) = (Delays::of(LOOK_AGAIN), String::new());
    let [jobs, retries, advisories] = loop {
        let error = match ready_consumers(&broker, settings).await {
            Err(WorkerError::Setup(error)) if error.is_temporary() => error.to_string(),
            ended => break ended?,
        };
        health.waits(error.clone());
        if error != told {
            tracing::warn!("{error}. Trying again");
            told = error;
        }
        tokio::time::sleep(delays.after_failure()).await;
    };
    Ok(Opened { connection, jetstream, jobs, retries, advisories })
}

/// The consumers of jobs, of retries and of advisories.
async fn ready_consumers(broker: &Broker, settings: &Settings) -> Result<[PullConsumer; 3], WorkerError> {
    let found = setup::check(broker.clone(), &settings.streams).await?;
    if !found.missing.is_empty() {
        return Err(WorkerError::Missing(found.missing.join(", ")));
    }
    if !found.errors.is_empty() {
        return Err(WorkerError::Unfit(found.errors.join("\n")));
    }
    for difference in found.differences {
        tracing::warn!("{difference}");
    }
    let missing = || WorkerError::Missing(format!("consumer {}", settings.streams.consumer));
    let jobs = setup::find_consumer(broker.clone(), &settings.streams).await?.ok_or_else(missing)?;
    let retries = setup::find_retries_consumer(broker.clone(), &settings.streams).await?.ok_or_else(missing)?;
    let advisories = setup::find_advisory_consumer(broker.clone(), &settings.streams).await?.ok_or_else(missing)?;
    Ok([jobs, retries, advisories])
}

async fn close(client: &Client) {
    let gone = async {
        if let Err(error) = client.flush().await {
            tracing::warn!("the last acknowledgements may not have left: {error}");
        }
        drop(client.drain().await);
    };
    if tokio::time::timeout(FLUSH_TIMEOUT, gone).await.is_err() {
        tracing::warn!("NATS did not answer at the end; unfinished jobs come back after ack_wait");
    }
}

fn made_up_id() -> String {
    format!("worker-{}", uuid::Uuid::new_v4().simple())
}
