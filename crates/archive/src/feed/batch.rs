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

/// A job with the id (`Nats-Msg-Id`) under which the stream stores it once within its duplicate window.
#[derive(Debug, Clone)]
pub(crate) struct BatchJob {
    pub(crate) payload: Bytes,
    pub(crate) id: Option<String>,
}

impl From<Bytes> for BatchJob {
    fn from(payload: Bytes) -> Self {
        Self { payload, id: None }
    }
}

/// Why a batch was not stored, or may not have been.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BatchError {
    /// The last message on the guarded subject has another sequence. Nothing was stored.
    #[error("another process has written to the same subject")]
    SequenceChanged,
    /// The stream has stored a job with the same id. Nothing was stored.
    #[error("a job with the same id was stored before")]
    Duplicate,
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

/// A batch whose jobs were sent. The stream stores them when the batch is committed, and drops them after 10 s without a
/// message of the batch.
#[derive(Debug)]
pub(crate) struct OpenBatch {
    /// `None` for a batch of one message, which is an ordinary message.
    id: Option<String>,
    jobs: usize,
}

impl OpenBatch {
    /// Sends `jobs` on `subject`.
    pub(crate) async fn send(client: &Client, subject: &str, jobs: &[BatchJob]) -> Result<Self, BatchError> {
        let id = (!jobs.is_empty()).then(|| uuid::Uuid::new_v4().simple().to_string());
        let batch = Self { id, jobs: jobs.len() };
        for (index, job) in jobs.iter().enumerate() {
            let mut headers = batch.headers(index + 1);
            if let Some(id) = &job.id {
                headers.insert(header::NATS_MESSAGE_ID, id.as_str());
            }
            let sent = client.publish_with_headers(subject.to_owned(), headers, job.payload.clone());
            sent.await.map_err(|error| BatchError::Temporary(error.to_string()))?;
        }
        Ok(batch)
    }

    /// Ends the batch with `guarded`. Returns the sequence of `guarded`.
    pub(crate) async fn commit(
        self,
        client: &Client,
        stream: &str,
        guarded: &GuardedMessage,
        timeout: Duration,
    ) -> Result<u64, BatchError> {
        let mut headers = self.headers(self.jobs + 1);
        if self.id.is_some() {
            headers.insert(header::NATS_BATCH_COMMIT, header::NATS_BATCH_COMMIT_FINAL);
        }
        headers.insert(header::NATS_EXPECTED_STREAM, stream);
        headers.insert(header::NATS_EXPECTED_LAST_SUBJECT_SEQUENCE, guarded.last_sequence.to_string());
        let request = Request::new().headers(headers).payload(guarded.payload.clone()).timeout(Some(timeout));
        let response =
            client.send_request(guarded.subject.clone(), request).await.map_err(|error| match error.kind() {
                RequestErrorKind::NoResponders => BatchError::Temporary("no stream has the subject".to_owned()),
                _ => BatchError::Temporary(causes(&error)),
            })?;
        match serde_json::from_slice::<Response>(&response.payload) {
            Ok(Response { error: None, seq }) => Ok(seq),
            Ok(Response { error: Some(error), .. }) => Err(error.into()),
            Err(error) => Err(BatchError::Temporary(format!("the server's response is invalid: {error}"))),
        }
    }

    fn headers(&self, sequence: usize) -> HeaderMap {
        let mut headers = HeaderMap::new();
        if let Some(id) = &self.id {
            headers.insert(header::NATS_BATCH_ID, id.as_str());
            headers.insert(header::NATS_BATCH_SEQUENCE, sequence.to_string());
        }
        headers
    }
}

/// Stores `jobs` on `subject`, followed by `guarded`, in one batch. Returns the sequence of `guarded`.
pub(crate) async fn store(
    client: &Client,
    stream: &str,
    subject: &str,
    jobs: &[BatchJob],
    guarded: &GuardedMessage,
    timeout: Duration,
) -> Result<u64, BatchError> {
    OpenBatch::send(client, subject, jobs).await?.commit(client, stream, guarded, timeout).await
}

impl From<ErrorResponse> for BatchError {
    fn from(ErrorResponse { code, err_code, description }: ErrorResponse) -> Self {
        let message = format!("{description} ({err_code})");
        let is = |known: ErrorCode| err_code == known.0;
        if is(ErrorCode::STREAM_WRONG_LAST_SEQUENCE) || is(ErrorCode::STREAM_WRONG_LAST_SEQUENCE_CONSTANT) {
            Self::SequenceChanged
        } else if is(ErrorCode::ATOMIC_PUBLISH_CONTAINS_DUPLICATE_MESSAGE) {
            Self::Duplicate
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
