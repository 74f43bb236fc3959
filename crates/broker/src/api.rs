//! Requests to the JetStream API, with retries and an error for each way in which they fail.

use std::time::{Duration, Instant};

use async_nats::jetstream::account::Account;
use async_nats::jetstream::context::{
    AccountErrorKind, ConsumerInfoErrorKind, CreateStreamErrorKind, GetStreamErrorKind, RequestError, RequestErrorKind,
};
use async_nats::jetstream::stream::{self, ConsumerErrorKind, LastRawMessageErrorKind};
use async_nats::jetstream::{self, Context, ErrorCode};

use crate::causes::causes;
use crate::permissions::{PermissionViolation, PermissionViolations};

/// How long a request is retried: a new cluster reports itself healthy before it can create streams.
const RETRY_FOR: Duration = Duration::from_secs(5);
/// Delay between two attempts.
const RETRY_DELAY: Duration = Duration::from_millis(500);

/// A JetStream context that also knows which permissions the server has denied.
#[derive(Debug, Clone)]
pub struct Broker {
    pub(crate) jetstream: Context,
    violations: PermissionViolations,
    api: String,
}

impl From<&Context> for Broker {
    /// Without knowledge of permission violations: a request without permission times out.
    fn from(jetstream: &Context) -> Self {
        Self { jetstream: jetstream.clone(), violations: PermissionViolations::default(), api: "$JS.API".to_owned() }
    }
}

impl From<&Broker> for Broker {
    fn from(broker: &Broker) -> Self {
        broker.clone()
    }
}

/// Why streams and consumers could not be read or created.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// A stream cannot be created because another stream has its subjects.
    #[error(
        "the stream {name} cannot be created: another stream of this account already has the subject {subject}: name that stream in the settings, or use another account"
    )]
    SubjectTaken {
        /// The stream to be created.
        name: String,
        /// Its subjects, separated by commas.
        subject: String,
    },
    /// The NATS user lacks a permission.
    #[error("{violation}, which is needed for {what}: add it to the user's permissions")]
    NotPermitted {
        /// The stream or consumer that was to be read or created.
        what: String,
        /// The missing permission.
        violation: PermissionViolation,
    },
    /// JetStream is not enabled for the user's account.
    #[error("JetStream is not enabled for this NATS account: enable it for the account, or use a user of another one")]
    NotEnabled,
    /// Nothing is subscribed to the requests.
    #[error(
        "JetStream does not answer at {api}: run the NATS server with JetStream, and check nats.jetstream_domain and nats.api_prefix if its API has another prefix"
    )]
    Absent {
        /// The prefix of the requests.
        api: String,
    },
    /// The stream reserves more storage than is available.
    #[error(
        "the stream {name} cannot be created because it reserves {bytes} bytes ({reason}): lower streams.*_max_bytes, or raise the storage limit of the NATS account or max_file_store of the server"
    )]
    NoStorage {
        /// The stream to be created.
        name: String,
        /// The bytes that it reserves for one replica.
        bytes: i64,
        /// The server's error.
        reason: String,
    },
    /// JetStream answered with another error, or did not answer in time.
    #[error("JetStream failed the request for {what}: {reason}")]
    Refused {
        /// The stream or consumer that was to be read or created.
        what: String,
        /// The server's error.
        reason: String,
        /// Whether the error is temporary: a timeout, or a cluster without a leader.
        is_temporary: bool,
    },
}

impl SetupError {
    /// Whether the same request may succeed later, if only because somebody changes the server. A worker waits for that.
    pub fn is_temporary(&self) -> bool {
        match self {
            Self::SubjectTaken { .. } | Self::NoStorage { .. } => false,
            Self::NotPermitted { .. } | Self::NotEnabled | Self::Absent { .. } => true,
            Self::Refused { is_temporary, .. } => *is_temporary,
        }
    }
}

/// What is common to the errors of all requests.
pub(crate) enum ApiErrorKind {
    /// There is no such stream or consumer.
    NotFound,
    /// Nothing is subscribed to the request's subject.
    NoResponders,
    /// There was no answer in time.
    TimedOut,
    /// JetStream answered with an error.
    JetStream(jetstream::Error),
    /// Anything else.
    Other,
}

/// An error of the NATS client for a request to JetStream.
pub(crate) trait ApiError: std::error::Error + 'static {
    fn api_error_kind(&self) -> ApiErrorKind;
}

impl ApiError for stream::ConsumerError {
    fn api_error_kind(&self) -> ApiErrorKind {
        match self.kind() {
            ConsumerErrorKind::TimedOut => ApiErrorKind::TimedOut,
            ConsumerErrorKind::Request => request_error_kind(self),
            ConsumerErrorKind::JetStream(error) => ApiErrorKind::of(error),
            _ => ApiErrorKind::Other,
        }
    }
}

impl ApiError for stream::LastRawMessageError {
    fn api_error_kind(&self) -> ApiErrorKind {
        match self.kind() {
            LastRawMessageErrorKind::NoMessageFound => ApiErrorKind::NotFound,
            LastRawMessageErrorKind::JetStream(error) => ApiErrorKind::of(error),
            LastRawMessageErrorKind::Other => request_error_kind(self),
            LastRawMessageErrorKind::InvalidSubject => ApiErrorKind::Other,
        }
    }
}

impl ApiError for jetstream::context::GetStreamError {
    fn api_error_kind(&self) -> ApiErrorKind {
        match self.kind() {
            GetStreamErrorKind::Request => request_error_kind(self),
            GetStreamErrorKind::JetStream(error) => ApiErrorKind::of(error),
            GetStreamErrorKind::EmptyName | GetStreamErrorKind::InvalidStreamName => ApiErrorKind::Other,
        }
    }
}

impl ApiError for jetstream::context::CreateStreamError {
    fn api_error_kind(&self) -> ApiErrorKind {
        match self.kind() {
            CreateStreamErrorKind::TimedOut => ApiErrorKind::TimedOut,
            CreateStreamErrorKind::JetStreamUnavailable => ApiErrorKind::NoResponders,
            CreateStreamErrorKind::JetStream(error) => ApiErrorKind::of(error),
            _ => ApiErrorKind::Other,
        }
    }
}

impl ApiError for jetstream::context::AccountError {
    fn api_error_kind(&self) -> ApiErrorKind {
        match self.kind() {
            AccountErrorKind::TimedOut => ApiErrorKind::TimedOut,
            AccountErrorKind::JetStreamUnavailable => ApiErrorKind::NoResponders,
            AccountErrorKind::JetStream(error) => ApiErrorKind::of(error),
            AccountErrorKind::Other => ApiErrorKind::Other,
        }
    }
}

impl ApiError for jetstream::context::ConsumerInfoError {
    fn api_error_kind(&self) -> ApiErrorKind {
        match self.kind() {
            ConsumerInfoErrorKind::NotFound | ConsumerInfoErrorKind::StreamNotFound => ApiErrorKind::NotFound,
            ConsumerInfoErrorKind::TimedOut | ConsumerInfoErrorKind::Offline => ApiErrorKind::TimedOut,
            ConsumerInfoErrorKind::NoResponders => ApiErrorKind::NoResponders,
            ConsumerInfoErrorKind::Request => request_error_kind(self),
            ConsumerInfoErrorKind::JetStream(error) => ApiErrorKind::of(error),
            ConsumerInfoErrorKind::InvalidName => ApiErrorKind::Other,
        }
    }
}

impl ApiError for stream::ConsumerCreateStrictError {
    fn api_error_kind(&self) -> ApiErrorKind {
        match self.kind() {
            stream::ConsumerCreateStrictErrorKind::TimedOut => ApiErrorKind::TimedOut,
            stream::ConsumerCreateStrictErrorKind::Request => request_error_kind(self),
            stream::ConsumerCreateStrictErrorKind::JetStream(error) => ApiErrorKind::of(error),
            _ => ApiErrorKind::Other,
        }
    }
}

/// The kind of the request error that is the source of `error`.
fn request_error_kind(error: &(dyn std::error::Error + 'static)) -> ApiErrorKind {
    let request = error.source().and_then(|source| source.downcast_ref::<RequestError>());
    match request.map(RequestError::kind) {
        Some(RequestErrorKind::NoResponders) => ApiErrorKind::NoResponders,
        Some(RequestErrorKind::TimedOut) | None => ApiErrorKind::TimedOut,
        Some(_) => ApiErrorKind::Other,
    }
}

impl ApiErrorKind {
    fn of(error: jetstream::Error) -> Self {
        match error.error_code() {
            ErrorCode::STREAM_NOT_FOUND | ErrorCode::CONSUMER_NOT_FOUND => Self::NotFound,
            _ => Self::JetStream(error),
        }
    }
}

/// Whether the server has refused a request, and would refuse it again. Otherwise it did not answer, or its error is
/// temporary.
pub(crate) fn is_refusal(error: &(dyn std::error::Error + 'static)) -> bool {
    let last_message = error.downcast_ref::<stream::LastRawMessageError>().map(ApiError::api_error_kind);
    let consumer = error.downcast_ref::<stream::ConsumerError>().map(ApiError::api_error_kind);
    // That of a request for the stream's state.
    let answer = error.downcast_ref::<RequestError>().and_then(std::error::Error::source);
    let answer = answer.and_then(|source| source.downcast_ref::<jetstream::Error>()).cloned().map(ApiErrorKind::of);
    match last_message.or(consumer).or(answer) {
        Some(ApiErrorKind::NotFound) => true,
        Some(ApiErrorKind::JetStream(error)) => !is_temporary(&error),
        _ => false,
    }
}

/// Whether the error is temporary: the cluster has no leader yet, or is starting.
fn is_temporary(error: &jetstream::Error) -> bool {
    matches!(
        error.error_code(),
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
    /// JetStream with this prefix of requests, and the permission violations of its connection.
    pub(crate) fn new(jetstream: Context, violations: PermissionViolations, api: String) -> Self {
        Self { jetstream, violations, api }
    }

    /// Sends a request about a stream, with retries; `None` if the stream or the consumer does not exist. `what` names
    /// the stream or consumer in errors.
    pub(crate) async fn request<T, E: ApiError, F: Future<Output = Result<T, E>>>(
        &self,
        what: &str,
        stream: &str,
        request: impl Fn() -> F,
    ) -> Result<Option<T>, SetupError> {
        let stream = stream.to_owned();
        self.retry(what, move |violation| violation.is_about_stream(&stream), request).await
    }

    /// Sends a request, or a message, to `subject`, whatever the answer.
    ///
    /// # Errors
    /// [`SetupError::NotPermitted`] if this user may not. `what` names the stream.
    pub(crate) async fn if_permitted<T>(
        &self,
        what: &str,
        subject: String,
        request: impl Future<Output = T>,
    ) -> Result<T, SetupError> {
        let answer = self.violations.or_violation(move |violation| violation.is_publish_to(&subject), request).await;
        answer.map_err(|violation| SetupError::NotPermitted { what: what.to_owned(), violation })
    }

    /// The subject of a request of the JetStream API.
    pub(crate) fn api_subject(&self, request: &str) -> String {
        format!("{}.{request}", self.api)
    }

    /// The account's limits and usage.
    pub(crate) async fn account(&self) -> Result<Account, SetupError> {
        let what = "the account's limits";
        let found = self.retry(what, PermissionViolation::is_about_account, || self.jetstream.query_account()).await?;
        // Only streams and consumers can be missing.
        found.ok_or(SetupError::NotEnabled)
    }

    async fn retry<T, E: ApiError, F: Future<Output = Result<T, E>>>(
        &self,
        what: &str,
        is_relevant: impl Fn(&PermissionViolation) -> bool + Clone + Send + 'static,
        request: impl Fn() -> F,
    ) -> Result<Option<T>, SetupError> {
        let (started, mut attempts) = (Instant::now(), 0);
        loop {
            attempts += 1;
            let answer = self.violations.or_violation(is_relevant.clone(), request()).await;
            let error = match answer {
                Ok(Ok(found)) => return Ok(Some(found)),
                Ok(Err(error)) => error,
                Err(violation) => return Err(SetupError::NotPermitted { what: what.to_owned(), violation }),
            };
            let has_time = started.elapsed() < RETRY_FOR;
            // `None` for a retry.
            let error_is_temporary = match error.api_error_kind() {
                ApiErrorKind::NotFound => return Ok(None),
                ApiErrorKind::NoResponders if has_time => None,
                ApiErrorKind::TimedOut if attempts == 1 => None,
                ApiErrorKind::JetStream(error) if is_temporary(&error) && has_time => None,
                ApiErrorKind::NoResponders => return Err(SetupError::Absent { api: self.api.clone() }),
                ApiErrorKind::JetStream(error) if is_not_enabled(&error) => return Err(SetupError::NotEnabled),
                ApiErrorKind::JetStream(error) => Some(is_temporary(&error)),
                ApiErrorKind::TimedOut => Some(true),
                ApiErrorKind::Other => Some(false),
            };
            let Some(is_temporary) = error_is_temporary else {
                tokio::time::sleep(RETRY_DELAY).await;
                continue;
            };
            return Err(SetupError::Refused { what: what.to_owned(), reason: causes(&error), is_temporary });
        }
    }
}

fn is_not_enabled(error: &jetstream::Error) -> bool {
    matches!(error.error_code(), ErrorCode::JETSTREAM_NOT_ENABLED | ErrorCode::JETSTREAM_NOT_ENABLED_FOR_ACCOUNT)
}
