//! Faults and errors of the worker as values of telemetry's attributes.

use std::error::Error;

use async_nats::client::{RequestError as NatsRequestError, RequestErrorKind};
use async_nats::jetstream::context::{PublishError as NatsPublishError, PublishErrorKind};
use broker::publish::{PublishError, stream_full, too_large};
use engine::EngineError;
use telemetry::attributes::{Destination, MessagingError, ReadResult, Reason, RequestError};
use wire::v1::{Outcome, outcome};

use crate::faults::{Fault, Policy};
use crate::fetch::FetchErrorKind;
use crate::fetch::s3::ReadError;
use crate::queue::Queue;

/// Why a job failed or was sent back.
pub(crate) fn reason(fault: &Fault) -> Reason {
    if let Policy::Fail(reason) | Policy::LeaveToOthers(reason) = fault.policy() {
        return reason.into();
    }
    match fault {
        Fault::Fetch(error) => match error.kind() {
            FetchErrorKind::Throttled => Reason::StoreThrottled,
            FetchErrorKind::Misconfigured => Reason::StoreMisconfigured,
            FetchErrorKind::Exhausted => Reason::MachineExhausted,
            _ => Reason::StoreUnavailable,
        },
        Fault::SlowReadAborted(_) => Reason::StoreSlow,
        Fault::StoreUnavailable(_) => Reason::StoreAway,
        Fault::Damaged(_) => Reason::ObjectDamaged,
        Fault::Publish(_) => Reason::StreamUnavailable,
        Fault::Engine(EngineError::Stopped) => Reason::EngineStopped,
        Fault::Engine(_) | Fault::WrongAnswerCount { .. } => Reason::ModelFailed,
        Fault::TimedOut(_) => Reason::TimedOut,
        Fault::ShuttingDown => Reason::ShuttingDown,
        // Their policies have a reason.
        _ => Reason::Internal,
    }
}

/// How a read ended; `None` if nothing was requested.
pub(crate) fn read_result<T>(read: &Result<T, ReadError>) -> Option<ReadResult> {
    let error = match read {
        Ok(_) => return Some(ReadResult::Ok),
        Err(ReadError::Aborted(_)) => return Some(ReadResult::BrokenOff),
        Err(ReadError::Failed(error)) => error,
    };
    Some(match error.kind() {
        FetchErrorKind::NotAllowed => return None,
        FetchErrorKind::NotFound | FetchErrorKind::Changed => ReadResult::NotFound,
        FetchErrorKind::Denied | FetchErrorKind::Encrypted => ReadResult::Forbidden,
        FetchErrorKind::TooLarge => ReadResult::TooLarge,
        FetchErrorKind::Throttled => ReadResult::Throttled,
        FetchErrorKind::Unavailable => ReadResult::Unavailable,
        FetchErrorKind::BadAddress
        | FetchErrorKind::Misconfigured
        | FetchErrorKind::Archived
        | FetchErrorKind::EncodingUnsupported
        | FetchErrorKind::EncodingDamaged
        | FetchErrorKind::Exhausted => ReadResult::Other,
    })
}

pub(crate) fn request_error(error: &EngineError) -> RequestError {
    match error {
        EngineError::Stopped => RequestError::Stopped,
        error if error.is_invalid_request() => RequestError::Invalid,
        _ => RequestError::Model,
    }
}

pub(crate) fn source(queue: Queue) -> Destination {
    match queue {
        Queue::Jobs => Destination::Jobs,
        Queue::Retries => Destination::Retries,
    }
}

/// Where an outcome is published; `None` if it is not published.
pub(crate) fn destination(outcome: &Outcome) -> Option<Destination> {
    match &outcome.record {
        Some(outcome::Record::Annotation(_)) => Some(Destination::Annotations),
        Some(outcome::Record::Failure(_)) => Some(Destination::Failed),
        Some(outcome::Record::Settled(_)) | None => None,
    }
}

pub(crate) fn outcome_error(error: &PublishError) -> MessagingError {
    match error {
        PublishError::TooLarge { .. } => MessagingError::TooLarge,
        PublishError::Unavailable { cause, .. } => {
            let cause: &(dyn Error + 'static) = cause.as_ref();
            cause.downcast_ref().map_or(MessagingError::Unavailable, publish_error)
        }
        PublishError::LeaseExpired => MessagingError::Other,
    }
}

pub(crate) fn publish_error(error: &NatsPublishError) -> MessagingError {
    match error.kind() {
        _ if too_large(error) => MessagingError::TooLarge,
        _ if stream_full(error) => MessagingError::StreamFull,
        PublishErrorKind::TimedOut => MessagingError::Timeout,
        PublishErrorKind::StreamNotFound | PublishErrorKind::BrokenPipe => MessagingError::Unavailable,
        _ => MessagingError::Other,
    }
}

pub(crate) fn acknowledge_error(error: &NatsRequestError) -> MessagingError {
    match error.kind() {
        RequestErrorKind::TimedOut => MessagingError::Timeout,
        RequestErrorKind::NoResponders => MessagingError::Unavailable,
        _ => MessagingError::Other,
    }
}
