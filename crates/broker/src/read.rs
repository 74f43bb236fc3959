//! Reading a range of a stream, in order and each message once.

use std::collections::HashSet;
use std::ops::RangeInclusive;
use std::time::Duration;

use async_nats::header::NATS_MESSAGE_ID;
use async_nats::jetstream::Context;
use async_nats::jetstream::Message;
use async_nats::jetstream::consumer::DeliverPolicy;
use async_nats::jetstream::consumer::pull::{Ordered, OrderedConfig};
use async_nats::jetstream::stream::Stream;
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use time::OffsetDateTime;
use wire::identity::sha256_hex;

use crate::causes::causes;

/// The longest silence of the server within the range.
const IDLE_TIMEOUT: Duration = Duration::from_secs(30);

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
        Self { subject: String::new(), sequences: 0..=u64::MAX, deduplicate: true }
    }
}

/// Reads a range of a stream, in the order of sequences.
///
/// ```no_run
/// use broker::read::{Range, read};
/// use futures::TryStreamExt;
///
/// # async fn example(jetstream: async_nats::jetstream::Context) -> Result<(), Box<dyn std::error::Error>> {
/// let range = Range { subject: "groundling.annotations.holiday".into(), sequences: 1..=1000, deduplicate: true };
/// let mut messages = std::pin::pin!(read(&jetstream, "GROUNDLING_ANNOTATIONS", range).await?);
/// while let Some(message) = messages.try_next().await? {
///     println!("{} has {} bytes", message.sequence, message.payload.len());
/// }
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// [`ReadError`] if the stream does not exist, or, as an item, if the server sends nothing for 30 s.
pub async fn read(
    jetstream: &Context,
    name: &str,
    range: Range,
) -> Result<impl futures::Stream<Item = Result<StoredMessage, ReadError>> + use<>, ReadError> {
    let failed = {
        let name = name.to_owned();
        move |cause: async_nats::Error| ReadError { stream: name.clone(), cause: causes(cause.as_ref()) }
    };
    let messages = open(jetstream, name, &range).await.map_err(&failed)?;
    let mut seen = HashSet::new();
    let deduplicate = range.deduplicate;
    Ok(messages.map_err(failed).try_filter(move |stored| {
        let is_new = match &stored.id {
            Some(id) if deduplicate => seen.insert(id_digest(id)),
            _ => true,
        };
        std::future::ready(is_new)
    }))
}

async fn open(
    jetstream: &Context,
    name: &str,
    range: &Range,
) -> Result<impl futures::Stream<Item = Result<StoredMessage, async_nats::Error>> + use<>, async_nats::Error> {
    let found = jetstream.get_stream(name).await?;
    let state = &found.cached_info().state;
    let last = state.last_sequence.min(*range.sequences.end());
    let first = *range.sequences.start();
    let messages = if first > last || state.messages == 0 { None } else { ordered(&found, range, first).await? };
    let next = move |messages: Option<Ordered>| async move {
        let Some(mut messages) = messages else { return Ok(None) };
        let message = tokio::time::timeout(IDLE_TIMEOUT, messages.next())
            .await
            .map_err(|_| format!("the server sent nothing for {IDLE_TIMEOUT:?}"))?
            .ok_or("the server ended the consumer")??;
        let (stored, pending) = stored(message)?;
        if stored.sequence > last {
            return Ok(None);
        }
        let is_last = pending == 0 || stored.sequence == last;
        Ok(Some((stored, (!is_last).then_some(messages))))
    };
    Ok(stream::try_unfold(messages, next).boxed())
}

/// The messages of an ordered consumer; `None` if there are none.
async fn ordered(found: &Stream, range: &Range, first: u64) -> Result<Option<Ordered>, async_nats::Error> {
    let config = OrderedConfig {
        // A named consumer's requests have the stream in their subject, so permissions can be limited to the stream.
        name: Some(format!("groundling-read-{}", uuid::Uuid::new_v4().simple())),
        filter_subject: range.subject.clone(),
        deliver_policy: DeliverPolicy::ByStartSequence { start_sequence: first.max(1) },
        ..OrderedConfig::default()
    };
    let consumer: async_nats::jetstream::consumer::Consumer<OrderedConfig> = found.create_consumer(config).await?;
    if consumer.cached_info().num_pending == 0 {
        return Ok(None);
    }
    Ok(Some(consumer.messages().await?))
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
