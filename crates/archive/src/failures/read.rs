//! Reading failures page by page.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use async_nats::jetstream::stream::{RawMessageErrorKind, Stream};
use broker::direct::Start;
use broker::leader;
use broker::read::StoredMessage;
use time::OffsetDateTime;
use wire::Message;
use wire::v1::JobFailure;

use super::selection::Selection;
use crate::pool::{Pool, PoolError};

/// Failures that are read with one request.
const PAGE: usize = 100;
/// How long to wait for failures that the leader of the stream has and the server that answers has not.
const LAG_LIMIT: Duration = Duration::from_secs(30);
const POLL_INTERVAL: Duration = Duration::from_millis(250);

/// A failure in its stream.
#[derive(Debug, Clone, PartialEq)]
pub struct Failure {
    /// Its sequence.
    pub sequence: u64,
    /// When it was stored, by the server's clock.
    pub published: OffsetDateTime,
    /// Its id (`Nats-Msg-Id`).
    pub id: Option<String>,
    /// What it says.
    pub record: JobFailure,
}

impl Failure {
    /// The address of the picture: `s3://bucket/key`, with `?versionId=` where the job names a version. `None` for a
    /// picture within the job, and for a job that names no valid object.
    pub fn address(&self) -> Option<String> {
        let (bucket, key) = (self.record.bucket.as_ref()?, self.record.key.as_ref()?);
        let version = self.record.version_id.as_ref().map(|version| format!("?versionId={version}"));
        Some(format!("s3://{bucket}/{key}{}", version.unwrap_or_default()))
    }
}

impl TryFrom<StoredMessage> for Failure {
    type Error = PoolError;

    fn try_from(stored: StoredMessage) -> Result<Self, PoolError> {
        let StoredMessage { sequence, id, published, payload, .. } = stored;
        let record = JobFailure::decode(payload)
            .map_err(|error| PoolError::broker(format!("reading the failure with the sequence {sequence}"), &error))?;
        Ok(Self { sequence, published, id, record })
    }
}

/// The failures of a selection, in the order of their sequences; those of earlier versions come first.
#[derive(Debug)]
pub struct Failures {
    pool: Pool,
    stream: Stream,
    selection: Selection,
    filters: VecDeque<String>,
    start: Start,
    page: VecDeque<Failure>,
    /// Failures that are stored later are not read: a job that is replayed may fail again at once.
    last: u64,
    left: u64,
    /// Since when failures that the leader has have not come.
    waiting_since: Option<Instant>,
}

impl Failures {
    /// Reads the failures that are in the stream now.
    ///
    /// # Errors
    /// [`PoolError`] if the stream does not exist, or the server does not answer.
    pub async fn open(pool: &Pool, selection: Selection) -> Result<Self, PoolError> {
        let stream = pool.stream(&pool.streams.failed).await?;
        let last = stream.cached_info().state.last_sequence;
        Ok(Self {
            pool: pool.clone(),
            stream,
            filters: selection.filters().into(),
            start: start(&selection),
            page: VecDeque::new(),
            last,
            left: selection.limit.unwrap_or(u64::MAX),
            waiting_since: None,
            selection,
        })
    }

    /// The next one; `None` after the last.
    ///
    /// # Errors
    /// [`PoolError`] if the server does not answer, or a message is not a failure.
    pub async fn next(&mut self) -> Result<Option<Failure>, PoolError> {
        if self.left == 0 {
            return Ok(None);
        }
        loop {
            if let Some(failure) = self.page.pop_front() {
                self.left -= 1;
                return Ok(Some(failure));
            }
            let Some(filter) = self.filters.front() else { return Ok(None) };
            let batch = self.pool.failed.batch(filter, self.start, PAGE).await?;
            if let Some(message) = batch.messages.last() {
                self.start = Start::Sequence(message.sequence + 1);
                self.waiting_since = None;
            }
            if batch.pending == 0 || is_after(self.start, self.last) {
                if self.is_complete().await? {
                    self.filters.pop_front();
                    (self.start, self.waiting_since) = (start(&self.selection), None);
                } else if self.waiting_since.get_or_insert_with(Instant::now).elapsed() > LAG_LIMIT {
                    return Err(self.pool.failed.behind_leader().into());
                } else if batch.messages.is_empty() {
                    tokio::time::sleep(POLL_INTERVAL).await;
                }
            }
            for message in batch.messages.into_iter().filter(|message| message.sequence <= self.last) {
                let failure = Failure::try_from(message)?;
                if self.selection.takes(&failure) {
                    self.page.push_back(failure);
                }
            }
        }
    }

    /// Whether no failures of the first filter are left. The server that answers may lag behind the stream's leader.
    async fn is_complete(&self) -> Result<bool, PoolError> {
        let Some(filter) = self.filters.front() else { return Ok(true) };
        if is_after(self.start, self.last) {
            return Ok(true);
        }
        let since = match self.start {
            Start::Time(time) => Some(time),
            Start::Sequence(_) => None,
        };
        let last = leader::last_sequence(&self.stream, filter, since).await;
        let last = last.map_err(|error| PoolError::broker(format!("reading {filter}"), error.as_ref()))?;
        Ok(last == 0 || is_after(self.start, last.min(self.last)))
    }

    /// The failure with this sequence in its stream; `None` if there is none.
    ///
    /// # Errors
    /// [`PoolError`] if the server does not answer, or the message is not a failure.
    pub async fn find(pool: &Pool, sequence: u64) -> Result<Option<Failure>, PoolError> {
        let stream = pool.stream(&pool.streams.failed).await?;
        let message = match stream.get_raw_message(sequence).await {
            Ok(message) => message,
            Err(error) if error.kind() == RawMessageErrorKind::NoMessageFound => return Ok(None),
            Err(error) => {
                let what = format!("reading the failure with the sequence {sequence}");
                return Err(PoolError::broker(what, &error));
            }
        };
        let id = message.headers.get(async_nats::header::NATS_MESSAGE_ID).map(|id| id.as_str().to_owned());
        let stored = StoredMessage {
            sequence: message.sequence,
            subject: message.subject.to_string(),
            id,
            published: message.time,
            payload: message.payload,
        };
        Failure::try_from(stored).map(Some)
    }
}

fn is_after(start: Start, sequence: u64) -> bool {
    matches!(start, Start::Sequence(start) if start > sequence)
}

fn start(selection: &Selection) -> Start {
    selection.since.map_or(Start::Sequence(1), Start::Time)
}
