//! Reading and counting a few messages of a stream without a consumer, by batched direct gets (nats-server 2.11 and
//! later; the stream must allow direct gets).
//!
//! With each message of a batch the server tells how many messages with the same filter come after it. So a single request
//! counts the messages since a time, however many there are: the server adds up the counts that it keeps for each block of
//! the stream and each subject.

use std::time::Duration;

use async_nats::{Client, HeaderMap, Message, Subscriber, header};
use bytes::Bytes;
use futures::StreamExt;
use serde::Serialize;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::causes::causes;
use crate::read::StoredMessage;
use crate::settings::NatsSettings;

/// Headers that the server adds to each message.
const SEQUENCE: &str = "Nats-Sequence";
const SUBJECT: &str = "Nats-Subject";
const TIME_STAMP: &str = "Nats-Time-Stamp";
/// How many messages come after the message.
const NUM_PENDING: &str = "Nats-Num-Pending";

/// A stream that is read by direct gets. Any replica may answer, so the newest messages can be missing.
#[derive(Debug, Clone)]
pub struct DirectReader {
    client: Client,
    stream: String,
    /// The subject of the requests.
    subject: String,
    timeout: Duration,
}

/// Where a batch begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// At this sequence or the next one that exists.
    Sequence(u64),
    /// At the first message that was published at this time or later.
    Time(OffsetDateTime),
}

/// Some messages of a stream, in order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Batch {
    /// The messages.
    pub messages: Vec<StoredMessage>,
    /// Messages with the same filter after them.
    pub pending: u64,
}

/// A direct get that failed.
#[derive(Debug, thiserror::Error)]
#[error("the stream {stream} could not be read: {cause}")]
pub struct DirectError {
    stream: String,
    cause: String,
}

/// A request in the server's format.
#[derive(Debug, Serialize)]
struct Request<'a> {
    batch: usize,
    next_by_subj: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    seq: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    start_time: Option<String>,
}

impl DirectReader {
    /// Reads the stream with this name, with the settings' request timeout, domain and API prefix.
    pub fn new(client: &Client, settings: &NatsSettings, stream: &str) -> Self {
        let subject = format!("{}.DIRECT.GET.{stream}", settings.api_subject());
        Self { client: client.clone(), stream: stream.to_owned(), subject, timeout: settings.request_timeout }
    }

    /// The name of the stream.
    pub fn stream(&self) -> &str {
        &self.stream
    }

    /// The error of a reader that waited in vain for messages that the leader of the stream has.
    pub fn behind_leader(&self) -> DirectError {
        let cause = "the server that answers lags behind the stream's leader".to_owned();
        DirectError { stream: self.stream.clone(), cause }
    }

    /// The number of messages with this subject, which may contain wildcards, from `start` on.
    ///
    /// # Errors
    /// [`DirectError`] if the server does not answer, or the stream does not allow direct gets.
    pub async fn count(&self, subject: &str, start: Start) -> Result<u64, DirectError> {
        let batch = self.batch(subject, start, 1).await?;
        Ok(batch.pending + batch.messages.len() as u64)
    }

    /// At most `most` messages with this subject, which may contain wildcards, from `start` on. The server sends less if
    /// they are large together.
    ///
    /// # Errors
    /// [`DirectError`] if the server does not answer, or the stream does not allow direct gets.
    pub async fn batch(&self, subject: &str, start: Start, most: usize) -> Result<Batch, DirectError> {
        self.request(subject, start, most)
            .await
            .map_err(|cause| DirectError { stream: self.stream.clone(), cause: causes(cause.as_ref()) })
    }

    async fn request(&self, subject: &str, start: Start, most: usize) -> Result<Batch, async_nats::Error> {
        let (seq, start_time) = match start {
            Start::Sequence(sequence) => (Some(sequence.max(1)), None),
            Start::Time(time) => (None, Some(time.format(&Rfc3339)?)),
        };
        let request = serde_json::to_vec(&Request { batch: most.max(1), next_by_subj: subject, seq, start_time })?;
        let inbox = self.client.new_inbox();
        let mut answers = self.client.subscribe(inbox.clone()).await?;
        self.client.publish_with_reply(self.subject.clone(), inbox, request.into()).await?;
        let mut batch = Batch::default();
        while let Some(message) = self.next(&mut answers).await? {
            let headers = message.headers.unwrap_or_default();
            batch.pending = number(&headers, NUM_PENDING)?;
            batch.messages.push(stored(&headers, message.payload)?);
        }
        Ok(batch)
    }

    /// The next message of the batch; `None` after the last one.
    async fn next(&self, answers: &mut Subscriber) -> Result<Option<Message>, async_nats::Error> {
        let message = tokio::time::timeout(self.timeout, answers.next())
            .await
            .map_err(|_| format!("the server did not answer within {:?}", self.timeout))?
            .ok_or("the connection was closed")?;
        match message.status.map(|status| status.as_u16()) {
            None => Ok(Some(message)),
            // The end of the batch, or no message matches.
            Some(204 | 404) => Ok(None),
            Some(503) => Err("it does not exist, or does not allow direct gets (allow_direct)".into()),
            Some(status) => Err(format!("status {status}: {}", message.description.unwrap_or_default()).into()),
        }
    }
}

fn stored(headers: &HeaderMap, payload: Bytes) -> Result<StoredMessage, async_nats::Error> {
    Ok(StoredMessage {
        sequence: number(headers, SEQUENCE)?,
        subject: text(headers, SUBJECT)?.to_owned(),
        id: headers.get(header::NATS_MESSAGE_ID).map(|id| id.as_str().to_owned()),
        published: async_nats::datetime::parse_rfc3339(text(headers, TIME_STAMP)?)?,
        payload,
    })
}

fn number(headers: &HeaderMap, name: &str) -> Result<u64, async_nats::Error> {
    Ok(text(headers, name)?.parse()?)
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> Result<&'a str, async_nats::Error> {
    let value = headers.get_last(name).map(|value| value.as_str());
    value.ok_or_else(|| format!("the server's answer has no {name}: it is older than 2.11").into())
}
