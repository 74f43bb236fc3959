//! The consumer of jobs as it is at present: its owner may change it, or make it anew, while workers run.

use std::time::Duration;

use async_nats::jetstream::Context;
use async_nats::jetstream::consumer::{Info, PullConsumer};
use async_nats::jetstream::context::ConsumerInfoErrorKind;
use tokio::sync::{Mutex, watch};
use tokio::time::Instant;

use broker::stream_rules::{ack_wait, consumer_errors, jobs_stream_errors};

/// How old what is known may be.
pub(crate) const LOOK_EVERY: Duration = Duration::from_secs(3);
/// How long the server may take to answer.
const ANSWER: Duration = Duration::from_secs(5);
/// How often the stream is looked at, too. Its retention only changes with the consumer, which is always looked at.
const LOOK_AT_STREAM_EVERY: Duration = Duration::from_secs(60);

/// What one request for jobs may ask for; zero stands for no limit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Limits {
    pub(crate) batch: usize,
    pub(crate) bytes: usize,
    pub(crate) expires: Duration,
}

/// The consumer, read again from time to time.
#[derive(Debug)]
pub(crate) struct Present {
    consumer: PullConsumer,
    /// For the stream; none where nobody wants it looked at.
    jetstream: Option<Context>,
    ack_wait: watch::Sender<Duration>,
    known: Mutex<Option<Known>>,
}

/// What was read last.
#[derive(Debug)]
struct Known {
    at: Instant,
    connection: u64,
    /// When the consumer was made, in nanoseconds: another one may have come in its place.
    made: i128,
    stream_at: Instant,
    limits: Limits,
}

impl Present {
    pub(crate) fn new(consumer: PullConsumer) -> Self {
        let ack_wait = watch::Sender::new(ack_wait(&consumer.cached_info().config));
        Self { consumer, jetstream: None, ack_wait, known: Mutex::default() }
    }

    /// The same of another consumer.
    pub(crate) fn of(&self, consumer: PullConsumer) -> Self {
        Self { jetstream: self.jetstream.clone(), ..Self::new(consumer) }
    }

    /// Also looks at the stream.
    pub(crate) fn with_stream(self, jetstream: Context) -> Self {
        Self { jetstream: Some(jetstream), ..self }
    }

    /// The silence after which the server hands a job out again, as far as is known at each moment.
    pub(crate) fn ack_wait(&self) -> watch::Receiver<Duration> {
        self.ack_wait.subscribe()
    }

    /// What is known is to be read anew before it is used again.
    pub(crate) async fn forget(&self) {
        *self.known.lock().await = None;
    }

    /// The limits of a request, read from the server unless they were a moment ago, on this connection.
    ///
    /// # Errors
    /// One sentence: there is no consumer, it cannot be read, or jobs must not be taken from it.
    pub(crate) async fn limits(&self, connection: u64) -> Result<Limits, String> {
        let mut known = self.known.lock().await;
        if let Some(known) = &*known
            && known.connection == connection
            && known.at.elapsed() < LOOK_EVERY
        {
            return Ok(known.limits);
        }
        let before = known.take();
        let info = self.info().await?;
        self.follow(&info);
        let made = info.created.unix_timestamp_nanos();
        let looked = before.filter(|before| {
            before.connection == connection && before.made == made && before.stream_at.elapsed() < LOOK_AT_STREAM_EVERY
        });
        let mut errors = consumer_errors(&info.config);
        let stream_at = match looked {
            Some(before) => before.stream_at,
            None => {
                errors.extend(self.stream_errors().await?);
                Instant::now()
            }
        };
        if !errors.is_empty() {
            return Err(errors.join("; "));
        }
        let size = |limit: i64| usize::try_from(limit).unwrap_or(0);
        let limits = Limits {
            batch: size(info.config.max_batch),
            bytes: size(info.config.max_bytes),
            expires: info.config.max_expires,
        };
        *known = Some(Known { at: Instant::now(), connection, made, stream_at, limits });
        Ok(limits)
    }

    async fn info(&self) -> Result<Info, String> {
        match tokio::time::timeout(ANSWER, self.consumer.get_info()).await {
            Ok(Ok(info)) => Ok(info),
            Ok(Err(error)) => Err(match error.kind() {
                ConsumerInfoErrorKind::NotFound | ConsumerInfoErrorKind::StreamNotFound => NO_CONSUMER.to_owned(),
                _ => format!("the consumer cannot be looked at: {error}"),
            }),
            Err(_) => Err(format!("the server did not say within {ANSWER:?} what the consumer is like")),
        }
    }

    async fn stream_errors(&self) -> Result<Vec<String>, String> {
        let Some(jetstream) = &self.jetstream else { return Ok(Vec::new()) };
        let stream = &self.consumer.cached_info().stream_name;
        match tokio::time::timeout(ANSWER, jetstream.get_stream(stream)).await {
            Ok(Ok(stream)) => Ok(jobs_stream_errors(&stream.cached_info().config)),
            Ok(Err(error)) => Err(format!("the stream of jobs cannot be looked at: {error}")),
            Err(_) => Err(format!("the server did not say within {ANSWER:?} what the stream of jobs is like")),
        }
    }

    fn follow(&self, info: &Info) {
        let present = ack_wait(&info.config);
        self.ack_wait.send_if_modified(|known| {
            if *known != present {
                tracing::info!("the consumer's ack_wait is {present:?} now, and was {known:?}: signs of life follow");
            }
            std::mem::replace(known, present) != present
        });
    }
}

/// What to do about a consumer that is missing.
pub(crate) const NO_CONSUMER: &str = "there is no such consumer: `groundling setup` creates it";
