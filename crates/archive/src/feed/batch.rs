//! Messages that the stream of jobs stores all together or not at all.

use std::time::Duration;

use async_nats::jetstream::ErrorCode;
use async_nats::{Client, HeaderMap, Request, RequestErrorKind, header};
use bytes::Bytes;
use serde::Deserialize;

/// A message that is only stored if the last one on its subject still has this sequence; 0 if there is none.
#[derive(Debug, Clone)]
pub(crate) struct Guarded {
    pub(crate) subject: String,
    pub(crate) payload: Bytes,
    pub(crate) last_sequence: u64,
}

/// A job with the id (`Nats-Msg-Id`) under which the stream takes it once within its duplicate window.
#[derive(Debug, Clone)]
pub(crate) struct Job {
    pub(crate) payload: Bytes,
    pub(crate) id: Option<String>,
}

impl From<Bytes> for Job {
    fn from(payload: Bytes) -> Self {
        Self { payload, id: None }
    }
}

/// Why a batch was not stored, or not for certain.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BatchError {
    /// Another message is the last one on the guarded subject. Nothing was stored.
    #[error("another message was stored first")]
    Overtaken,
    /// The stream has stored a job with the same id. Nothing was stored.
    #[error("a job with the same id was stored before")]
    Duplicate,
    /// The stream is full. Nothing was stored.
    #[error("{0}")]
    Full(String),
    /// No answer, or a refusal that passes. The batch may have been stored.
    #[error("{0}")]
    MayPass(String),
    /// A refusal. Nothing was stored.
    #[error("{0}")]
    Refused(String),
}

#[derive(Debug, Deserialize)]
struct Answer {
    #[serde(default)]
    seq: u64,
    error: Option<Refusal>,
}

#[derive(Debug, Deserialize)]
struct Refusal {
    code: u16,
    err_code: u64,
    #[serde(default)]
    description: String,
}

/// Stores `jobs` on `subject`, and then `guarded`. Gives the sequence of the latter.
pub(crate) async fn store(
    client: &Client,
    stream: &str,
    subject: &str,
    jobs: &[Job],
    guarded: &Guarded,
    timeout: Duration,
) -> Result<u64, BatchError> {
    let id = uuid::Uuid::new_v4().simple().to_string();
    let is_batch = !jobs.is_empty();
    let headers = |sequence: usize| {
        let mut headers = HeaderMap::new();
        if is_batch {
            headers.insert(header::NATS_BATCH_ID, id.as_str());
            headers.insert(header::NATS_BATCH_SEQUENCE, sequence.to_string());
        }
        headers
    };
    for (index, job) in jobs.iter().enumerate() {
        let mut headers = headers(index + 1);
        if let Some(id) = &job.id {
            headers.insert(header::NATS_MESSAGE_ID, id.as_str());
        }
        let sent = client.publish_with_headers(subject.to_owned(), headers, job.payload.clone());
        sent.await.map_err(|error| BatchError::MayPass(error.to_string()))?;
    }
    let mut headers = headers(jobs.len() + 1);
    if is_batch {
        headers.insert(header::NATS_BATCH_COMMIT, header::NATS_BATCH_COMMIT_FINAL);
    }
    headers.insert(header::NATS_EXPECTED_STREAM, stream);
    headers.insert(header::NATS_EXPECTED_LAST_SUBJECT_SEQUENCE, guarded.last_sequence.to_string());
    let request = Request::new().headers(headers).payload(guarded.payload.clone()).timeout(Some(timeout));
    let answer = client.send_request(guarded.subject.clone(), request).await.map_err(|error| match error.kind() {
        RequestErrorKind::NoResponders => BatchError::MayPass("no stream listens to the subject".to_owned()),
        _ => BatchError::MayPass(broker::causes::causes(&error)),
    })?;
    match serde_json::from_slice::<Answer>(&answer.payload) {
        Ok(Answer { error: None, seq }) => Ok(seq),
        Ok(Answer { error: Some(refusal), .. }) => Err(refusal.into()),
        Err(error) => Err(BatchError::MayPass(format!("the answer cannot be read: {error}"))),
    }
}

impl From<Refusal> for BatchError {
    fn from(Refusal { code, err_code, description }: Refusal) -> Self {
        let said = format!("{description} ({err_code})");
        let is = |known: ErrorCode| err_code == known.0;
        if is(ErrorCode::STREAM_WRONG_LAST_SEQUENCE) || is(ErrorCode::STREAM_WRONG_LAST_SEQUENCE_CONSTANT) {
            Self::Overtaken
        } else if is(ErrorCode::ATOMIC_PUBLISH_CONTAINS_DUPLICATE_MESSAGE) {
            Self::Duplicate
        } else if is(ErrorCode::STREAM_STORE_FAILED) {
            Self::Full(said)
        } else if code == 503
            || code == 429
            || is(ErrorCode::ATOMIC_PUBLISH_INCOMPLETE_BATCH)
            || is(ErrorCode::ATOMIC_PUBLISH_MISSING_SEQ)
            || is(ErrorCode::ATOMIC_PUBLISH_TOO_MANY_INFLIGHT)
        {
            Self::MayPass(said)
        } else {
            Self::Refused(said)
        }
    }
}
