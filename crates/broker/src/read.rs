//! Reading what a stream holds, in order and without repetitions.

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

/// How long the server may stay silent.
const SILENCE: Duration = Duration::from_secs(30);

/// What is to be read of a stream.
#[derive(Debug, Clone)]
pub struct Range {
    /// Only messages on this subject, which may have wildcards. Empty: all.
    pub subject: String,
    /// Sequences, of which some may be gone. What is published after the reading began is not read.
    pub sequences: RangeInclusive<u64>,
    /// Whether messages are left out whose id (`Nats-Msg-Id`) was read before: a stream drops repetitions within its
    /// duplicate window only. Some 40 bytes are kept for each id.
    pub without_repetitions: bool,
}

/// A message of a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    /// Its sequence in the stream.
    pub sequence: u64,
    /// The subject that it was published to.
    pub subject: String,
    /// The id that it was published under.
    pub id: Option<String>,
    /// When it was published, by the server's clock.
    pub published: OffsetDateTime,
    /// What was published.
    pub payload: Bytes,
}

/// A stream could not be read to the end of the range.
#[derive(Debug, thiserror::Error)]
#[error("the stream {stream} could not be read: {cause}")]
pub struct ReadError {
    stream: String,
    cause: String,
}

impl Range {
    /// All messages of a stream, each once.
    pub fn all() -> Self {
        Self { subject: String::new(), sequences: 0..=u64::MAX, without_repetitions: true }
    }
}

/// Reads a range of a stream, in the order of sequences.
///
/// # Errors
/// [`ReadError`], at once or as an item, if there is no such stream or the server falls silent.
pub async fn read(
    jetstream: &Context,
    name: &str,
    range: Range,
) -> Result<impl futures::Stream<Item = Result<Stored, ReadError>> + use<>, ReadError> {
    let failed = {
        let name = name.to_owned();
        move |cause: async_nats::Error| ReadError { stream: name.clone(), cause: causes(cause.as_ref()) }
    };
    let messages = open(jetstream, name, &range).await.map_err(&failed)?;
    let mut seen = HashSet::new();
    let without_repetitions = range.without_repetitions;
    Ok(messages.map_err(failed).try_filter(move |stored| {
        let is_new = match &stored.id {
            Some(id) if without_repetitions => seen.insert(short(id)),
            _ => true,
        };
        std::future::ready(is_new)
    }))
}

async fn open(
    jetstream: &Context,
    name: &str,
    range: &Range,
) -> Result<impl futures::Stream<Item = Result<Stored, async_nats::Error>> + use<>, async_nats::Error> {
    let found = jetstream.get_stream(name).await?;
    let state = &found.cached_info().state;
    let last = state.last_sequence.min(*range.sequences.end());
    let first = *range.sequences.start();
    let messages = if first > last || state.messages == 0 { None } else { ordered(&found, range, first).await? };
    let next = move |messages: Option<Ordered>| async move {
        let Some(mut messages) = messages else { return Ok(None) };
        let message = tokio::time::timeout(SILENCE, messages.next())
            .await
            .map_err(|_| format!("the server sent nothing for {SILENCE:?}"))?
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

/// The messages of an ordered consumer; `None` where there are none now.
async fn ordered(found: &Stream, range: &Range, first: u64) -> Result<Option<Ordered>, async_nats::Error> {
    let config = OrderedConfig {
        // With a name, permissions can be given for the stream alone.
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

/// The message, and how many are behind it.
fn stored(message: Message) -> Result<(Stored, u64), async_nats::Error> {
    let info = message.info()?;
    let (sequence, published, pending) = (info.stream_sequence, info.published, info.pending);
    let id = message.headers.as_ref().and_then(|headers| headers.get(NATS_MESSAGE_ID)).map(|id| id.as_str().to_owned());
    let async_nats::Message { subject, payload, .. } = message.message;
    Ok((Stored { sequence, subject: subject.to_string(), id, published, payload }, pending))
}

/// Half of an id's SHA-256: two ids of a stream with the same do not occur.
fn short(id: &str) -> u128 {
    sha256_hex(id.as_bytes()).get(..32).and_then(|half| u128::from_str_radix(half, 16).ok()).unwrap_or(0)
}
