//! Atomic batches: the jobs stream stores all messages of a batch, or none.

use std::time::Duration;

use async_nats::jetstream::ErrorCode;
use async_nats::{Client, HeaderMap, Request, RequestErrorKind, header};
use broker::causes::causes;
use bytes::Bytes;
use serde::Deserialize;

/// A message that is stored only if the last message on its subject has the sequence `last_sequence`; 0 if there is none.
#[derive(Debug, Clone)]
pub(crate) struct GuardedMessage {
    pub(crate) subject: String,
    pub(crate) payload: Bytes,
    pub(crate) last_sequence: u64,
}

/// Why a batch was not stored, or may not have been.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BatchError {
    /// The last message on the guarded subject has another sequence. Nothing was stored.
    #[error("another process has written to the same subject")]
    SequenceChanged,
    /// The stream is full. Nothing was stored.
    #[error("{0}")]
    StreamFull(String),
    /// There was no response, or a temporary error. The batch may have been stored.
    #[error("{0}")]
    Temporary(String),
    /// A permanent error. Nothing was stored.
    #[error("{0}")]
    Permanent(String),
}

#[derive(Debug, Deserialize)]
struct Response {
    #[serde(default)]
    seq: u64,
    error: Option<ErrorResponse>,
}

#[derive(Debug, Deserialize)]
struct ErrorResponse {
    code: u16,
    err_code: u64,
    #[serde(default)]
    description: String,
}

/// Stores `jobs` on `subject`, followed by `guarded`, in one batch. Returns the sequence of `guarded`.
pub(crate) async fn store(
    client: &Client,
    stream: &str,
    subject: &str,
    jobs: &[Bytes],
    guarded: &GuardedMessage,
    timeout: Duration,
) -> Result<u64, BatchError> {
    let id = uuid::Uuid::new_v4().simple().to_string();
    // A batch of one message is an ordinary message.
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
        let sent = client.publish_with_headers(subject.to_owned(), headers(index + 1), job.clone());
        sent.await.map_err(|error| BatchError::Temporary(error.to_string()))?;
    }
    let mut headers = headers(jobs.len() + 1);
    if is_batch {
        headers.insert(header::NATS_BATCH_COMMIT, header::NATS_BATCH_COMMIT_FINAL);
    }
    headers.insert(header::NATS_EXPECTED_STREAM, stream);
    headers.insert(header::NATS_EXPECTED_LAST_SUBJECT_SEQUENCE, guarded.last_sequence.to_string());
    let request = Request::new().headers(headers).payload(guarded.payload.clone()).timeout(Some(timeout));
    let response = client.send_request(guarded.subject.clone(), request).await.map_err(|error| match error.kind() {
        RequestErrorKind::NoResponders => BatchError::Temporary("no stream has the subject".to_owned()),
        _ => BatchError::Temporary(causes(&error)),
    })?;
    match serde_json::from_slice::<Response>(&response.payload) {
        Ok(Response { error: None, seq }) => Ok(seq),
        Ok(Response { error: Some(error), .. }) => Err(error.into()),
        Err(error) => Err(BatchError::Temporary(format!("the server's response is invalid: {error}"))),
    }
}

impl From<ErrorResponse> for BatchError {
    fn from(ErrorResponse { code, err_code, description }: ErrorResponse) -> Self {
        let message = format!("{description} ({err_code})");
        let is = |known: ErrorCode| err_code == known.0;
        if is(ErrorCode::STREAM_WRONG_LAST_SEQUENCE) || is(ErrorCode::STREAM_WRONG_LAST_SEQUENCE_CONSTANT) {
            Self::SequenceChanged
        } else if is(ErrorCode::STREAM_STORE_FAILED) {
            Self::StreamFull(message)
        } else if code == 503
            || code == 429
            || is(ErrorCode::ATOMIC_PUBLISH_INCOMPLETE_BATCH)
            || is(ErrorCode::ATOMIC_PUBLISH_MISSING_SEQ)
            || is(ErrorCode::ATOMIC_PUBLISH_TOO_MANY_INFLIGHT)
        {
            Self::Temporary(message)
        } else {
            Self::Permanent(message)
        }
    }
}
