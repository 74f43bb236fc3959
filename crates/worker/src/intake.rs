//! Takes jobs from the durable pull consumer, never more than there are free slots.
//!
//! A pull request for N jobs is sent only while N slots are reserved for them, so no job waits here while another
//! worker is idle. The server's consumer is addressed by its name alone: it may be deleted, changed or recreated while
//! the worker runs, and its configuration is read again regularly (the module `consumer_monitor`).
//!
//! A request also limits the bytes of its jobs: the server closes a connection on which more bytes wait than it buffers
//! for a client (`max_pending`, 64 MiB by default). All jobs in that buffer would be lost until `ack_wait` has passed.

use std::time::Duration;

use async_nats::jetstream::consumer::PullConsumer;
use async_nats::jetstream::consumer::pull::BatchConfig;
use async_nats::jetstream::{self, AckKind, Context};
use async_nats::{Message, Subscriber};
use futures::StreamExt;
use telemetry::JobSpans;
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::active_jobs::ActiveJobs;
use crate::consumer_monitor::{ConsumerMonitor, PullLimits, REFRESH_INTERVAL};
use crate::delivery::{Delivery, Lease, ReceiveError};
use crate::followed_connection::FollowedConnection;
use crate::health::Health;
use crate::pull_response::{PullResponse, nack_all};
use crate::queue::ConsumerKind;
use crate::slots::Slots;
use crate::telemetry_words::source;
use broker::backoff::{Backoff, Delays};
use broker::connection::Connection;

/// How long the server keeps a pull request open. Shutdown waits for its end: a request that is abandoned earlier may
/// still be sent a job, which would then be redelivered only after `ack_wait`.
const PULL_EXPIRES: Duration = Duration::from_secs(3);
/// Silence after which a request counts as lost. The server has forgotten it by then; the margin is for a cluster
/// without a leader, which responds late.
const PULL_LOST: Duration = PULL_EXPIRES.saturating_add(Duration::from_secs(5));
/// How long jobs can still arrive for a request that was sent before the connection was re-established.
const PULL_OVER: Duration = PULL_EXPIRES.saturating_add(Duration::from_secs(1));
/// Delays after pull requests that were refused or lost.
const PULL_AGAIN: Backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(5));
/// Maximum bytes of jobs for one request, unless a single job can be larger: an eighth of the server's default buffer.
const PULL_BYTES: usize = 8 << 20;
/// The subject, reply subject and headers of a job, which count towards its bytes.
const JOB_OVERHEAD: usize = 64 << 10;

/// Takes jobs from one consumer.
pub struct Intake {
    jetstream: Context,
    kind: ConsumerKind,
    consumer: PullConsumer,
    monitor: ConsumerMonitor,
    slots: Slots,
    lease: Lease,
    active_jobs: ActiveJobs,
    connection: FollowedConnection,
    spans: JobSpans,
}

/// How a pull request ended.
#[derive(Debug)]
enum PullEnd {
    /// It was filled, or it expired.
    Done,
    /// The next job has more bytes than the request allowed.
    TooLarge,
    /// The worker is shutting down.
    Stopped,
    /// It was refused or lost, with the reason.
    Failed(String),
    /// The connection was re-established meanwhile. The server has usually forgotten the request; if it has not, up to
    /// this many jobs can still arrive.
    Reconnected(Subscriber, usize),
}

impl Intake {
    /// An intake that takes at most `slots` jobs at a time from `consumer` and keeps each for at most `longest`.
    /// Progress acks follow the consumer's own `ack_wait`.
    pub fn new(jetstream: Context, consumer: PullConsumer, slots: usize, longest: Duration) -> Self {
        let kind = ConsumerKind::Jobs;
        let monitor = ConsumerMonitor::new(consumer.clone(), kind.queue());
        let lease = Lease { ack_wait: monitor.ack_wait(), longest };
        let (slots, active_jobs) = (Slots::new(slots), ActiveJobs::default());
        let spans = JobSpans::off();
        Self {
            jetstream,
            kind,
            consumer,
            monitor,
            slots,
            lease,
            active_jobs,
            connection: FollowedConnection::default(),
            spans,
        }
    }

    /// The intake of retries beside this one of new jobs. It takes jobs from the `consumer` of the retries stream and
    /// has slots of its own, a quarter of which are used while new jobs are waiting.
    #[must_use]
    pub fn of_retries(&self, consumer: PullConsumer) -> Self {
        self.of_kind(ConsumerKind::Retries, consumer)
    }

    /// The intake of urgent jobs beside this one of other new jobs. It takes jobs from the `consumer` of urgent jobs and
    /// has as many slots of its own. While urgent jobs are waiting, this intake takes no jobs.
    #[must_use]
    pub fn of_urgent(&self, consumer: PullConsumer) -> Self {
        self.of_kind(ConsumerKind::Urgent, consumer)
    }

    fn of_kind(&self, kind: ConsumerKind, consumer: PullConsumer) -> Self {
        let monitor = self.monitor.for_consumer(consumer.clone(), kind.queue());
        Self {
            jetstream: self.jetstream.clone(),
            kind,
            consumer,
            lease: Lease { ack_wait: monitor.ack_wait(), longest: self.lease.longest },
            monitor,
            slots: self.slots.for_consumer(kind),
            active_jobs: self.active_jobs.clone(),
            connection: self.connection.clone(),
            spans: self.spans.clone(),
        }
    }

    /// The same intake, which also checks the stream and takes no jobs from one whose settings break the delivery
    /// guarantee.
    #[must_use]
    pub fn checking_stream(self) -> Self {
        Self { monitor: self.monitor.checking_stream(self.jetstream.clone()), ..self }
    }

    /// The same intake, which follows this connection and reports to `health`. It leaves a server that is about to shut
    /// down between two pull requests, when no job can be in transit.
    #[must_use]
    pub fn with_connection(self, connection: Connection, health: Health) -> Self {
        Self { connection: FollowedConnection::new(connection, health), ..self }
    }

    /// The same intake, which starts the spans of its jobs with `spans`.
    #[must_use]
    pub fn with_spans(self, spans: JobSpans) -> Self {
        Self { spans, ..self }
    }

    /// Takes jobs until `shutdown` and sends each with its slot to `deliveries`. Jobs in transit at shutdown are
    /// nacked. Lost connections and a missing consumer are waited out.
    ///
    /// Returns the number of pull requests that were refused or lost.
    pub async fn run(self, shutdown: CancellationToken, deliveries: mpsc::Sender<Delivery>) -> u64 {
        let (mut delays, mut lost) = (Delays::of(PULL_AGAIN), 0);
        let mut overtaken = JoinSet::new();
        let mut next_is_large = false;
        while let Some(mut slots) = self.free_slots(&shutdown).await {
            if next_is_large {
                // A request for a single job has no byte limit.
                slots.truncate(1);
            }
            match self.pull(slots, &shutdown, &deliveries).await {
                end @ (PullEnd::Done | PullEnd::TooLarge) => {
                    next_is_large = matches!(end, PullEnd::TooLarge);
                    delays.reset();
                    self.connection.report_pull(self.kind, None);
                }
                PullEnd::Stopped => break,
                PullEnd::Reconnected(responses, open) => {
                    self.set_urgent_waiting(false);
                    lost += 1;
                    self.spans.instruments().pull_lost();
                    tracing::info!(
                        pull_requests_lost = lost,
                        "the NATS connection was re-established: requesting jobs again"
                    );
                    let until = Instant::now() + PULL_OVER;
                    overtaken.spawn(nack_all(self.jetstream.client(), responses, open, until));
                }
                PullEnd::Failed(error) => {
                    self.set_urgent_waiting(false);
                    lost += 1;
                    self.spans.instruments().pull_lost();
                    self.monitor.invalidate().await;
                    self.connection.report_pull(self.kind, Some(&error));
                    let delay = delays.after_failure();
                    tracing::warn!(
                        pull_requests_lost = lost,
                        "no jobs can be taken: {error}; trying again in {delay:?}"
                    );
                    tokio::select! {
                        () = tokio::time::sleep(delay) => {}
                        () = shutdown.cancelled() => break,
                    }
                }
            }
            while overtaken.try_join_next().is_some() {}
        }
        while overtaken.join_next().await.is_some() {}
        lost
    }

    fn set_new_jobs_waiting(&self, waiting: bool) {
        if self.kind == ConsumerKind::Jobs {
            self.slots.set_new_jobs_waiting(waiting);
        }
    }

    fn set_urgent_waiting(&self, waiting: bool) {
        if self.kind == ConsumerKind::Urgent {
            self.slots.set_urgent_waiting(waiting);
        }
    }

    /// Records that a job has arrived, and whether others wait behind it.
    fn job_arrived(&self, message: &Message) {
        self.set_new_jobs_waiting(true);
        if self.kind == ConsumerKind::Urgent {
            let message = jetstream::Message { message: message.clone(), context: self.jetstream.clone() };
            self.set_urgent_waiting(message.info().is_ok_and(|info| info.pending > 0));
        }
    }

    /// Waits for a free slot and returns all that are free; `None` at shutdown.
    async fn free_slots(&self, shutdown: &CancellationToken) -> Option<Vec<OwnedSemaphorePermit>> {
        loop {
            tokio::select! {
                biased;
                () = shutdown.cancelled() => return None,
                connection = self.connection.lame_duck() => connection.leave_lame_duck_server().await,
                // No request is sent meanwhile, but the progress acks of active jobs must follow the consumer.
                () = self.refresh_consumer() => {}
                slots = self.slots.acquire_free() => return Some(slots),
            }
        }
    }

    /// Waits a while, then reads the consumer's configuration again.
    async fn refresh_consumer(&self) {
        tokio::time::sleep(REFRESH_INTERVAL).await;
        if self.connection.is_up()
            && let Err(error) = self.monitor.pull_limits(self.connection.number()).await
        {
            tracing::debug!("the consumer's configuration could not be read: {error}");
        }
    }

    async fn pull(
        &self,
        mut slots: Vec<OwnedSemaphorePermit>,
        shutdown: &CancellationToken,
        deliveries: &mpsc::Sender<Delivery>,
    ) -> PullEnd {
        let connection = tokio::select! {
            biased;
            () = shutdown.cancelled() => return PullEnd::Stopped,
            connection = self.connection.connected() => connection,
        };
        let limits = tokio::select! {
            biased;
            () = shutdown.cancelled() => return PullEnd::Stopped,
            limits = self.monitor.pull_limits(connection) => limits,
        };
        let request = match limits {
            Ok(limits) => self.batch(slots.len(), limits),
            Err(error) => return PullEnd::Failed(error),
        };
        let (batch, max_bytes) = (request.batch, request.max_bytes);
        slots.truncate(batch);
        // The server counts the same bytes, and a request whose bytes are used up exactly has ended.
        let mut bytes = (max_bytes > 0).then_some(max_bytes);
        let (mut received, mut end) = (0, PullEnd::Done);
        // The connection does not move to another server while jobs may be in transit.
        let _pulling = self.connection.pull_guard().await;
        let refused = self.connection.refused(self.consumer.cached_info().stream_name.clone());
        tokio::pin!(refused);
        let mut responses = match self.request(request).await {
            Ok(responses) => responses,
            Err(error) => return PullEnd::Failed(error),
        };
        self.connection.report_request(self.kind, connection);
        loop {
            let response = tokio::select! {
                biased;
                () = shutdown.cancelled() => {
                    let until = Instant::now() + PULL_LOST;
                    nack_all(self.jetstream.client(), responses, slots.len(), until).await;
                    return PullEnd::Stopped;
                }
                // Before the other branches, so that jobs that have arrived are processed.
                response = tokio::time::timeout(PULL_LOST, responses.next()) => response,
                refused = &mut refused => return PullEnd::Failed(refused.to_string()),
                () = self.connection.reconnected(connection) => return PullEnd::Reconnected(responses, slots.len()),
            };
            match response {
                Err(_) => return PullEnd::Failed("the server does not respond".to_owned()),
                Ok(None) => return PullEnd::Failed("the connection is closed".to_owned()),
                Ok(Some(message)) => match PullResponse::of(&message) {
                    PullResponse::Job => {
                        received += 1;
                        self.job_arrived(&message);
                        bytes = bytes.map(|bytes| bytes.saturating_sub(message.length));
                        if let Some(slot) = slots.pop() {
                            self.forward(message, slot, deliveries).await;
                        }
                        if slots.is_empty() || bytes == Some(0) {
                            // The request has ended.
                            return end;
                        }
                    }
                    PullResponse::Ended { missing, too_large } => {
                        // A replicated consumer sends this status at once, but its jobs only when most servers have
                        // recorded their delivery: jobs can arrive after the status.
                        let due = batch.saturating_sub(missing.unwrap_or(batch)).saturating_sub(received);
                        if too_large && received + due == 0 {
                            end = PullEnd::TooLarge;
                        } else if received + due == 0 {
                            self.set_new_jobs_waiting(false);
                        }
                        if !too_large {
                            self.set_urgent_waiting(false);
                        }
                        slots.truncate(due);
                        if slots.is_empty() {
                            return end;
                        }
                    }
                    PullResponse::Refused(error) => return PullEnd::Failed(error),
                },
            }
        }
    }

    /// A request for as many jobs as there are `slots`, within the consumer's limits. A request for a single job has no
    /// byte limit, so that no job is too large for it.
    fn batch(&self, slots: usize, limits: PullLimits) -> BatchConfig {
        let at_most = |wanted: usize, limit: usize| if limit == 0 { wanted } else { wanted.min(limit) };
        let expires = if limits.expires.is_zero() { PULL_EXPIRES } else { PULL_EXPIRES.min(limits.expires) };
        let batch = at_most(slots, limits.batch);
        let largest_job = self.jetstream.client().max_payload().saturating_add(JOB_OVERHEAD);
        let max_bytes = if batch == 1 { 0 } else { at_most(PULL_BYTES.max(largest_job), limits.bytes) };
        BatchConfig { batch, max_bytes, expires: Some(expires), ..BatchConfig::default() }
    }

    async fn request(&self, request: BatchConfig) -> Result<Subscriber, String> {
        let client = self.jetstream.client();
        let inbox = client.new_inbox();
        let responses = client.subscribe(inbox.clone()).await.map_err(|error| error.to_string())?;
        self.consumer.request_batch(request, inbox.into()).await.map_err(|error| error.to_string())?;
        Ok(responses)
    }

    /// Counts a message that does not become an active job.
    fn count_message(&self) {
        self.spans.instruments().message_received(source(self.kind.queue()));
    }

    /// Sends a job with its slot to `deliveries`.
    async fn forward(&self, message: Message, slot: OwnedSemaphorePermit, deliveries: &mpsc::Sender<Delivery>) {
        let message = jetstream::Message { message, context: self.jetstream.clone() };
        match Delivery::receive(self.kind.queue(), message, &self.lease, &self.active_jobs, &self.spans, slot) {
            // If the channel is closed, the delivery is dropped, which nacks it.
            Ok(delivery) => drop(deliveries.send(delivery).await),
            Err(ReceiveError::NotFromConsumer { subject }) => {
                tracing::warn!(%subject, "ignored a message that does not come from a consumer");
            }
            Err(ReceiveError::DelayStarts { reply, delay }) => {
                self.count_message();
                drop(self.jetstream.client().publish(reply, AckKind::Nak(Some(delay)).into()).await);
            }
            Err(ReceiveError::NotARetry { subject, reply }) => {
                self.count_message();
                tracing::warn!(%subject, "ignored a message in the retries stream that is not a copy of a job");
                drop(self.jetstream.client().publish(reply, AckKind::Term.into()).await);
            }
            Err(ReceiveError::AlreadyActive { subject, sequence, deliveries }) => {
                self.count_message();
                tracing::warn!(
                    %subject,
                    sequence,
                    deliveries,
                    "ignored another delivery of a job that this worker is already processing"
                );
            }
        }
    }
}
