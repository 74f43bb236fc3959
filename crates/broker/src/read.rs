//! Reading a range of a stream, in order and each message once.

use std::collections::HashSet;
use std::ops::RangeInclusive;
use std::time::{Duration, Instant};

use async_nats::header::NATS_MESSAGE_ID;
use async_nats::jetstream::Context;
use async_nats::jetstream::Message;
use async_nats::jetstream::consumer::pull::{Ordered, OrderedConfig};
use async_nats::jetstream::consumer::{Consumer, DeliverPolicy};
use async_nats::jetstream::stream::Stream;
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use time::OffsetDateTime;
use wire::identity::sha256_hex;

use crate::causes::causes;
use crate::{api, leader};

/// The longest time without a message within the range.
const IDLE_TIMEOUT: Duration = Duration::from_secs(30);
/// The time without a message after which a new consumer is created.
const SILENCE: Duration = Duration::from_secs(5);
/// How often the leader is asked while a consumer has no more messages.
const POLL_INTERVAL: Duration = Duration::from_millis(250);

/// A range of a stream.
#[derive(Debug, Clone)]
pub struct Range {
    /// Only messages with this subject, which may contain wildcards. Empty for all.
    pub subject: String,
    /// The sequences to read. Those that do not exist are skipped, and messages published after [`read`] was called are
    /// not read.
    pub sequences: RangeInclusive<u64>,
    /// Whether to skip messages whose id (`Nats-Msg-Id`) occurred before in the range: a stream drops duplicates within
    /// its duplicate window only. Takes about 40 bytes of memory for each id.
    pub deduplicate: bool,
    /// Begin at the first message that was published at this time or later, by the server's clock, and not at a sequence.
    pub since: Option<OffsetDateTime>,
    /// Read no payloads.
    pub headers_only: bool,
}

/// A message of a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredMessage {
    /// The sequence in the stream.
    pub sequence: u64,
    /// The subject.
    pub subject: String,
    /// The message id (`Nats-Msg-Id`), if there is one.
    pub id: Option<String>,
    /// When the message was published, by the server's clock.
    pub published: OffsetDateTime,
    /// The payload.
    pub payload: Bytes,
}

/// A range could not be read to its end.
#[derive(Debug, thiserror::Error)]
#[error("the stream {stream} could not be read: {cause}")]
pub struct ReadError {
    stream: String,
    cause: String,
}

impl Range {
    /// All messages of a stream, without duplicates.
    pub fn all() -> Self {
        Self { subject: String::new(), sequences: 0..=u64::MAX, deduplicate: true, since: None, headers_only: false }
    }

    /// The first sequence. Those of a stream begin with 1.
    fn first(&self) -> u64 {
        (*self.sequences.start()).max(1)
    }
}

/// Reads a range of a stream, in the order of sequences.
///
/// The range is complete although its messages come from a consumer, which is on any server of the stream, whose copy may
/// lag behind: the end of the range is the last message that the stream's leader has.
///
/// ```no_run
/// use broker::read::{Range, read};
/// use futures::TryStreamExt;
///
/// # async fn example(jetstream: async_nats::jetstream::Context) -> Result<(), Box<dyn std::error::Error>> {
/// let subject = "groundling.annotations.holiday".into();
/// let range = Range { subject, sequences: 1..=1000, ..Range::all() };
/// let mut messages = std::pin::pin!(read(&jetstream, "GROUNDLING_ANNOTATIONS", range).await?);
/// while let Some(message) = messages.try_next().await? {
///     println!("{} has {} bytes", message.sequence, message.payload.len());
/// }
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// [`ReadError`] if the stream does not exist, or, at the start or as an item, if the server sends nothing for 30 s: while
/// a cluster elects a leader, nobody answers.
pub async fn read(
    jetstream: &Context,
    name: &str,
    range: Range,
) -> Result<impl futures::Stream<Item = Result<StoredMessage, ReadError>> + use<>, ReadError> {
    let failed = {
        let name = name.to_owned();
        move |cause: async_nats::Error| ReadError { stream: name.clone(), cause: causes(cause.as_ref()) }
    };
    let deduplicate = range.deduplicate;
    let reader = Reader::open(jetstream, name, range).await.map_err(&failed)?;
    let messages =
        stream::try_unfold(reader, async |mut reader: Reader| Ok(reader.next().await?.map(|stored| (stored, reader))));
    let mut seen = HashSet::new();
    Ok(messages.boxed().map_err(failed).try_filter(move |stored| {
        let is_new = match &stored.id {
            Some(id) if deduplicate => seen.insert(id_digest(id)),
            _ => true,
        };
        std::future::ready(is_new)
    }))
}

/// Reads a range of a stream.
struct Reader {
    stream: Stream<()>,
    range: Range,
    /// The first sequence that was not read.
    next: u64,
    /// The last sequence to read. The message may be missing.
    end: u64,
    /// `None` after it failed or was silent.
    messages: Option<Ordered>,
    /// Messages that the consumer has after the last one. 0 is also what a consumer says that lags behind.
    pending: u64,
}

impl Reader {
    async fn open(jetstream: &Context, name: &str, range: Range) -> Result<Self, async_nats::Error> {
        let stream = jetstream.get_stream_no_info(name).await?;
        let (next, end) = (range.first(), *range.sequences.end());
        let mut reader = Self { stream, range, next, end, messages: None, pending: 0 };
        let started = Instant::now();
        while let Err(error) = reader.begin().await {
            if api::is_refusal(error.as_ref()) || started.elapsed() > IDLE_TIMEOUT {
                return Err(error);
            }
            tracing::debug!("reading begins again after an error: {}", causes(error.as_ref()));
            tokio::time::sleep(POLL_INTERVAL).await;
        }
        Ok(reader)
    }

    async fn begin(&mut self) -> Result<(), async_nats::Error> {
        self.ask_leader().await?;
        if self.next <= self.end {
            self.consume().await?;
        }
        Ok(())
    }

    /// Begins to read with a new consumer, which may be on another server than the one before.
    async fn consume(&mut self) -> Result<(), async_nats::Error> {
        let deliver_policy = match self.range.since {
            Some(start_time) if self.next == self.range.first() => DeliverPolicy::ByStartTime { start_time },
            _ => DeliverPolicy::ByStartSequence { start_sequence: self.next },
        };
        let config = OrderedConfig {
            // A named consumer's requests have the stream in their subject, so permissions can be limited to the stream.
            name: Some(format!("groundling-read-{}", uuid::Uuid::new_v4().simple())),
            filter_subject: self.range.subject.clone(),
            headers_only: self.range.headers_only,
            deliver_policy,
            ..OrderedConfig::default()
        };
        let consumer: Consumer<OrderedConfig> = self.stream.create_consumer(config).await?;
        self.pending = consumer.cached_info().num_pending;
        self.messages = Some(consumer.messages().await?);
        Ok(())
    }

    async fn next(&mut self) -> Result<Option<StoredMessage>, async_nats::Error> {
        let started = Instant::now();
        let mut renewed = started;
        while self.next <= self.end {
            let error = match self.receive().await {
                // A server that lags behind that time begins with what comes after its last message.
                Ok(Some(stored)) if self.range.since.is_some_and(|since| stored.published < since) => continue,
                Ok(Some(stored)) => return Ok((stored.sequence <= self.end).then_some(stored)),
                Ok(None) if renewed.elapsed() < SILENCE => continue,
                Ok(None) => format!("the server sent nothing for {IDLE_TIMEOUT:?}").into(),
                Err(error) => {
                    tracing::debug!(next = self.next, "reading goes on after an error: {}", causes(error.as_ref()));
                    tokio::time::sleep(POLL_INTERVAL).await;
                    error
                }
            };
            if started.elapsed() > IDLE_TIMEOUT {
                return Err(error);
            }
            (self.messages, renewed) = (None, Instant::now());
        }
        Ok(None)
    }

    /// The next message; `None` if none has come for a while.
    async fn receive(&mut self) -> Result<Option<StoredMessage>, async_nats::Error> {
        if self.messages.is_none() {
            self.consume().await?;
        }
        let Some(messages) = &mut self.messages else { return Ok(None) };
        let patience = if self.pending == 0 { POLL_INTERVAL } else { SILENCE };
        if let Ok(message) = tokio::time::timeout(patience, messages.next()).await {
            let (stored, pending) = stored(message.ok_or("the server ended the consumer")??)?;
            (self.next, self.pending) = (stored.sequence + 1, pending);
            return Ok(Some(stored));
        }
        self.ask_leader().await?;
        Ok(None)
    }

    /// Ends the range with the last message that the leader has.
    async fn ask_leader(&mut self) -> Result<(), async_nats::Error> {
        let last = leader::last_sequence(&self.stream, &self.range.subject, self.range.since).await?;
        self.end = self.end.min(last);
        Ok(())
    }
}

/// The message, and how many come after it.
fn stored(message: Message) -> Result<(StoredMessage, u64), async_nats::Error> {
    let info = message.info()?;
    let (sequence, published, pending) = (info.stream_sequence, info.published, info.pending);
    let id = message.headers.as_ref().and_then(|headers| headers.get(NATS_MESSAGE_ID)).map(|id| id.as_str().to_owned());
    let async_nats::Message { subject, payload, .. } = message.message;
    Ok((StoredMessage { sequence, subject: subject.to_string(), id, published, payload }, pending))
}

/// The first 128 bits of an id's SHA-256, to save memory: a collision is not to be expected.
fn id_digest(id: &str) -> u128 {
    sha256_hex(id.as_bytes()).get(..32).and_then(|half| u128::from_str_radix(half, 16).ok()).unwrap_or(0)
}
