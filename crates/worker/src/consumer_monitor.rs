//! The consumer's current configuration, which its owner may change, or recreate the consumer, while workers run.

use std::time::Duration;

use async_nats::jetstream::Context;
use async_nats::jetstream::consumer::{Info, PullConsumer};
use async_nats::jetstream::context::ConsumerInfoErrorKind;
use tokio::sync::{Mutex, watch};
use tokio::time::Instant;

use broker::stream_rules::{ack_wait, consumer_errors, jobs_stream_errors, retries_stream_errors};

use crate::queue::Queue;

/// Maximum age of the configuration that is used.
pub(crate) const REFRESH_INTERVAL: Duration = Duration::from_secs(3);
/// How long the server may take to respond.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(5);
/// Maximum age of the check of the stream. It is also checked when the consumer has been recreated, which a change of
/// the stream's retention requires.
const STREAM_CHECK_INTERVAL: Duration = Duration::from_secs(60);

/// The consumer's limits for one pull request. Zero means no limit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct PullLimits {
    pub(crate) batch: usize,
    pub(crate) bytes: usize,
    pub(crate) expires: Duration,
}

/// Reads a consumer's configuration regularly.
#[derive(Debug)]
pub(crate) struct ConsumerMonitor {
    consumer: PullConsumer,
    queue: Queue,
    /// Used to check the stream; `None` if the stream is not checked.
    jetstream: Option<Context>,
    ack_wait: watch::Sender<Duration>,
    last: Mutex<Option<Snapshot>>,
}

/// What was read last.
#[derive(Debug)]
struct Snapshot {
    at: Instant,
    connection: u64,
    /// When the consumer was created, in nanoseconds: it may have been recreated since.
    created: i128,
    stream_checked: Instant,
    limits: PullLimits,
}

impl ConsumerMonitor {
    pub(crate) fn new(consumer: PullConsumer, queue: Queue) -> Self {
        let ack_wait = watch::Sender::new(ack_wait(&consumer.cached_info().config));
        Self { consumer, queue, jetstream: None, ack_wait, last: Mutex::default() }
    }

    /// A monitor of another consumer, which checks the stream if this one does.
    pub(crate) fn for_consumer(&self, consumer: PullConsumer, queue: Queue) -> Self {
        Self { jetstream: self.jetstream.clone(), ..Self::new(consumer, queue) }
    }

    /// The same monitor, which also checks the stream.
    pub(crate) fn checking_stream(self, jetstream: Context) -> Self {
        Self { jetstream: Some(jetstream), ..self }
    }

    /// The consumer's `ack_wait`, as last read.
    pub(crate) fn ack_wait(&self) -> watch::Receiver<Duration> {
        self.ack_wait.subscribe()
    }

    /// Discards what was read, so that it is read again before its next use.
    pub(crate) async fn invalidate(&self) {
        *self.last.lock().await = None;
    }

    /// The limits for a pull request. They are read from the server unless they were read recently on this connection.
    ///
    /// # Errors
    /// A sentence: the consumer does not exist or cannot be read, or jobs must not be taken from it.
    pub(crate) async fn pull_limits(&self, connection: u64) -> Result<PullLimits, String> {
        let mut last = self.last.lock().await;
        if let Some(last) = &*last
            && last.connection == connection
            && last.at.elapsed() < REFRESH_INTERVAL
        {
            return Ok(last.limits);
        }
        let before = last.take();
        let info = self.info().await?;
        self.update_ack_wait(&info);
        let created = info.created.unix_timestamp_nanos();
        let checked = before.filter(|before| {
            before.connection == connection
                && before.created == created
                && before.stream_checked.elapsed() < STREAM_CHECK_INTERVAL
        });
        let mut errors = consumer_errors(&info.config);
        let stream_checked = match checked {
            Some(before) => before.stream_checked,
            None => {
                errors.extend(self.stream_errors().await?);
                Instant::now()
            }
        };
        if !errors.is_empty() {
            return Err(errors.join("; "));
        }
        let size = |limit: i64| usize::try_from(limit).unwrap_or(0);
        let limits = PullLimits {
            batch: size(info.config.max_batch),
            bytes: size(info.config.max_bytes),
            expires: info.config.max_expires,
        };
        *last = Some(Snapshot { at: Instant::now(), connection, created, stream_checked, limits });
        Ok(limits)
    }

    async fn info(&self) -> Result<Info, String> {
        match tokio::time::timeout(RESPONSE_TIMEOUT, self.consumer.get_info()).await {
            Ok(Ok(info)) => Ok(info),
            Ok(Err(error)) => Err(match error.kind() {
                ConsumerInfoErrorKind::NotFound | ConsumerInfoErrorKind::StreamNotFound => NO_CONSUMER.to_owned(),
                _ => format!("the consumer's configuration cannot be read: {error}"),
            }),
            Err(_) => {
                Err(format!("the server did not respond within {RESPONSE_TIMEOUT:?} to a request for the consumer"))
            }
        }
    }

    async fn stream_errors(&self) -> Result<Vec<String>, String> {
        let Some(jetstream) = &self.jetstream else { return Ok(Vec::new()) };
        let stream = &self.consumer.cached_info().stream_name;
        match tokio::time::timeout(RESPONSE_TIMEOUT, jetstream.get_stream(stream)).await {
            Ok(Ok(stream)) => Ok(match self.queue {
                Queue::Jobs => jobs_stream_errors(&stream.cached_info().config),
                Queue::Retries => retries_stream_errors(&stream.cached_info().config),
            }),
            Ok(Err(error)) => Err(format!("the configuration of the stream {stream} cannot be read: {error}")),
            Err(_) => Err(format!(
                "the server did not respond within {RESPONSE_TIMEOUT:?} to a request for the stream {stream}"
            )),
        }
    }

    fn update_ack_wait(&self, info: &Info) {
        let new = ack_wait(&info.config);
        self.ack_wait.send_if_modified(|known| {
            if *known != new {
                tracing::info!(before = ?known, now = ?new, "the consumer's ack_wait has changed: progress acks follow it");
            }
            std::mem::replace(known, new) != new
        });
    }
}

/// The error for a missing consumer.
pub(crate) const NO_CONSUMER: &str = "the consumer does not exist: run `groundling setup` to create it";
