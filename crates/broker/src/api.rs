//! JetStream as `groundling setup` and a starting worker ask it, and why it does not answer.

use std::time::{Duration, Instant};

use async_nats::jetstream::account::Account;
use async_nats::jetstream::context::{
    AccountErrorKind, ConsumerInfoErrorKind, CreateStreamErrorKind, GetStreamErrorKind, RequestError, RequestErrorKind,
};
use async_nats::jetstream::stream::{self, ConsumerErrorKind};
use async_nats::jetstream::{self, Context, ErrorCode};

use crate::causes::causes;
use crate::refusals::{Refusals, Refused};

/// How long no answer is waited out: a fresh cluster is healthy before it can make streams.
const PATIENCE: Duration = Duration::from_secs(5);
/// Pause between two tries.
const PAUSE: Duration = Duration::from_millis(500);

/// JetStream, and what the server says that the user may not ask of it.
#[derive(Debug, Clone)]
pub struct Broker {
    pub(crate) jetstream: Context,
    refusals: Refusals,
    api: String,
}

impl From<&Context> for Broker {
    /// Without word of refusals: what is not permitted then only times out.
    fn from(jetstream: &Context) -> Self {
        Self { jetstream: jetstream.clone(), refusals: Refusals::default(), api: "$JS.API".to_owned() }
    }
}

/// Why streams and consumers could not be looked at or made.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// A stream cannot be made because another one listens to its subjects.
    #[error(
        "the stream {name} cannot be made: another stream listens to {subject} already; remove that stream, or name it in the settings"
    )]
    SubjectTaken {
        /// The stream to be made.
        name: String,
        /// Its subject.
        subject: String,
    },
    /// The user may not ask.
    #[error("{refused}, which is needed for {what}: add it to the user's permissions")]
    NotPermitted {
        /// What was to be looked at or made.
        what: String,
        /// The permission that is missing.
        refused: Refused,
    },
    /// The user's account has no JetStream.
    #[error("JetStream is not enabled for this NATS account: enable it for the account, or use a user of another one")]
    NotEnabled,
    /// Nobody listens to requests.
    #[error(
        "JetStream does not answer at {api}: run the NATS server with JetStream, and check nats.jetstream_domain and nats.api_prefix where its requests have another prefix"
    )]
    Absent {
        /// The prefix of requests.
        api: String,
    },
    /// The stream reserves more storage than there is.
    #[error(
        "the stream {name} cannot be made with the {bytes} bytes that it reserves ({said}): lower streams.*_max_bytes, or raise the storage limit of the NATS account or max_file_store of the server"
    )]
    NoStorage {
        /// The stream to be made.
        name: String,
        /// What it reserves, one copy.
        bytes: i64,
        /// What the server said.
        said: String,
    },
    /// JetStream answers with an error, or not in time.
    #[error("JetStream did not let {what} be looked at or made: {said}")]
    Refused {
        /// What was to be done.
        what: String,
        /// What the server said.
        said: String,
        /// Whether it may pass by itself: no answer in time, a cluster without a leader.
        may_pass: bool,
    },
}

impl SetupError {
    /// Whether the same may go well later, if only because somebody changes the server: a worker waits for that.
    pub fn may_pass(&self) -> bool {
        match self {
            Self::SubjectTaken { .. } | Self::NoStorage { .. } => false,
            Self::NotPermitted { .. } | Self::NotEnabled | Self::Absent { .. } => true,
            Self::Refused { may_pass, .. } => *may_pass,
        }
    }
}

/// How a request failed, whatever its kind.
pub(crate) enum Failure {
    /// There is no such stream or consumer.
    NotFound,
    /// Nobody listens to the request.
    NoResponders,
    /// There was no answer in time.
    TimedOut,
    /// An answer of JetStream's own.
    Said(jetstream::Error),
    /// Anything else.
    Other,
}

/// An error of the NATS client that a request can end with.
pub(crate) trait RequestFailure: std::error::Error + 'static {
    fn failure(&self) -> Failure;
}

impl RequestFailure for stream::ConsumerError {
    fn failure(&self) -> Failure {
        match self.kind() {
            ConsumerErrorKind::TimedOut => Failure::TimedOut,
            ConsumerErrorKind::Request => of_request(self),
            ConsumerErrorKind::JetStream(said) => Failure::of(said),
            _ => Failure::Other,
        }
    }
}

impl RequestFailure for jetstream::context::GetStreamError {
    fn failure(&self) -> Failure {
        match self.kind() {
            GetStreamErrorKind::Request => of_request(self),
            GetStreamErrorKind::JetStream(said) => Failure::of(said),
            GetStreamErrorKind::EmptyName | GetStreamErrorKind::InvalidStreamName => Failure::Other,
        }
    }
}

impl RequestFailure for jetstream::context::CreateStreamError {
    fn failure(&self) -> Failure {
        match self.kind() {
            CreateStreamErrorKind::TimedOut => Failure::TimedOut,
            CreateStreamErrorKind::JetStreamUnavailable => Failure::NoResponders,
            CreateStreamErrorKind::JetStream(said) => Failure::of(said),
            _ => Failure::Other,
        }
    }
}

impl RequestFailure for jetstream::context::AccountError {
    fn failure(&self) -> Failure {
        match self.kind() {
            AccountErrorKind::TimedOut => Failure::TimedOut,
            AccountErrorKind::JetStreamUnavailable => Failure::NoResponders,
            AccountErrorKind::JetStream(said) => Failure::of(said),
            AccountErrorKind::Other => Failure::Other,
        }
    }
}

impl RequestFailure for jetstream::context::ConsumerInfoError {
    fn failure(&self) -> Failure {
        match self.kind() {
            ConsumerInfoErrorKind::NotFound | ConsumerInfoErrorKind::StreamNotFound => Failure::NotFound,
            ConsumerInfoErrorKind::TimedOut | ConsumerInfoErrorKind::Offline => Failure::TimedOut,
            ConsumerInfoErrorKind::NoResponders => Failure::NoResponders,
            ConsumerInfoErrorKind::Request => of_request(self),
            ConsumerInfoErrorKind::JetStream(said) => Failure::of(said),
            ConsumerInfoErrorKind::InvalidName => Failure::Other,
        }
    }
}

impl RequestFailure for stream::ConsumerCreateStrictError {
    fn failure(&self) -> Failure {
        match self.kind() {
            stream::ConsumerCreateStrictErrorKind::TimedOut => Failure::TimedOut,
            stream::ConsumerCreateStrictErrorKind::Request => of_request(self),
            stream::ConsumerCreateStrictErrorKind::JetStream(said) => Failure::of(said),
            _ => Failure::Other,
        }
    }
}

/// What the request within an error ended with.
fn of_request(error: &(dyn std::error::Error + 'static)) -> Failure {
    let request = error.source().and_then(|source| source.downcast_ref::<RequestError>());
    match request.map(RequestError::kind) {
        Some(RequestErrorKind::NoResponders) => Failure::NoResponders,
        Some(RequestErrorKind::TimedOut) | None => Failure::TimedOut,
        Some(_) => Failure::Other,
    }
}

impl Failure {
    fn of(said: jetstream::Error) -> Self {
        match said.error_code() {
            ErrorCode::STREAM_NOT_FOUND | ErrorCode::CONSUMER_NOT_FOUND => Self::NotFound,
            _ => Self::Said(said),
        }
    }
}

/// Whether JetStream says this for a while only: it has no leader yet, or is being started.
fn passes(said: &jetstream::Error) -> bool {
    matches!(
        said.error_code(),
        ErrorCode::CLUSTER_NOT_AVAILABLE
            | ErrorCode::CLUSTER_NOT_ACTIVE
            | ErrorCode::CLUSTER_NOT_LEADER
            | ErrorCode::CLUSTER_INCOMPLETE
            | ErrorCode::INSUFFICIENT_RESOURCES
            | ErrorCode::STREAM_OFFLINE
            | ErrorCode::CONSUMER_OFFLINE
    )
}

impl Broker {
    /// JetStream at this prefix of requests, with word of what is refused.
    pub(crate) fn new(jetstream: Context, refusals: Refusals, api: String) -> Self {
        Self { jetstream, refusals, api }
    }

    /// Asks about a stream, again while nobody listens to the request; `None` where it, or the consumer, is not there.
    pub(crate) async fn ask<T, E: RequestFailure, F: Future<Output = Result<T, E>>>(
        &self,
        what: &str,
        stream: &str,
        request: impl Fn() -> F,
    ) -> Result<Option<T>, SetupError> {
        let stream = stream.to_owned();
        self.ask_unless(what, move |refused| refused.concerns_stream(&stream), request).await
    }

    /// Asks what the account may use and does.
    pub(crate) async fn account(&self) -> Result<Account, SetupError> {
        let what = "the account's limits";
        let found = self.ask_unless(what, Refused::concerns_account, || self.jetstream.query_account()).await?;
        // Only streams and consumers can be absent.
        found.ok_or(SetupError::NotEnabled)
    }

    async fn ask_unless<T, E: RequestFailure, F: Future<Output = Result<T, E>>>(
        &self,
        what: &str,
        concerns: impl Fn(&Refused) -> bool + Clone + Send + 'static,
        request: impl Fn() -> F,
    ) -> Result<Option<T>, SetupError> {
        let (started, mut tries) = (Instant::now(), 0);
        loop {
            tries += 1;
            let answer = self.refusals.unless_refused(concerns.clone(), request()).await;
            let error = match answer {
                Ok(Ok(found)) => return Ok(Some(found)),
                Ok(Err(error)) => error,
                Err(refused) => return Err(SetupError::NotPermitted { what: what.to_owned(), refused }),
            };
            let may_pass = match error.failure() {
                Failure::NotFound => return Ok(None),
                Failure::NoResponders if started.elapsed() < PATIENCE => None,
                Failure::TimedOut if tries == 1 => None,
                Failure::Said(said) if passes(&said) && started.elapsed() < PATIENCE => None,
                Failure::NoResponders => return Err(SetupError::Absent { api: self.api.clone() }),
                Failure::Said(said) if is_not_enabled(&said) => return Err(SetupError::NotEnabled),
                Failure::Said(said) => Some(passes(&said)),
                Failure::TimedOut => Some(true),
                Failure::Other => Some(false),
            };
            let Some(may_pass) = may_pass else {
                tokio::time::sleep(PAUSE).await;
                continue;
            };
            return Err(SetupError::Refused { what: what.to_owned(), said: causes(&error), may_pass });
        }
    }
}

fn is_not_enabled(said: &jetstream::Error) -> bool {
    matches!(said.error_code(), ErrorCode::JETSTREAM_NOT_ENABLED | ErrorCode::JETSTREAM_NOT_ENABLED_FOR_ACCOUNT)
}
