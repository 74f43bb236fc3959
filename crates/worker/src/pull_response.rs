//! The messages that arrive in response to a pull request: jobs, and statuses that end the request.

use std::time::Duration;

use async_nats::jetstream::AckKind;
use async_nats::{Client, Message, StatusCode, Subscriber};
use futures::StreamExt;
use tokio::time::Instant;

use crate::consumer_monitor::NO_CONSUMER;

/// A message in response to a pull request.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum PullResponse {
    Job,
    /// The server sends no more jobs for the request. `missing` is the number of requested jobs that are not sent, if
    /// the server reports it. `too_large`: the next job has more bytes than the request has left.
    Ended {
        missing: Option<usize>,
        too_large: bool,
    },
    Refused(String),
}

/// The description of a request that got all requested jobs and has bytes left.
const BATCH_COMPLETED: &str = "Batch Completed";
/// The description of a request whose next job has more bytes than it has left.
const EXCEEDS_BYTES: &str = "Message Size Exceeds MaxBytes";
/// The header with the number of requested jobs that are not sent.
const PENDING_MESSAGES: &str = "Nats-Pending-Messages";

impl PullResponse {
    pub(crate) fn of(message: &Message) -> Self {
        let description = message.description.as_deref().unwrap_or_default();
        let missing = || message.headers.as_ref()?.get(PENDING_MESSAGES)?.as_str().parse().ok();
        match message.status {
            None | Some(StatusCode::OK) => Self::Job,
            Some(StatusCode::NOT_FOUND | StatusCode::TIMEOUT) => Self::Ended { missing: missing(), too_large: false },
            Some(StatusCode::NO_RESPONDERS) => Self::Refused(NO_CONSUMER.to_owned()),
            Some(_) if description.contains(BATCH_COMPLETED) => Self::Ended { missing: Some(0), too_large: false },
            Some(_) if description.contains(EXCEEDS_BYTES) => Self::Ended { missing: missing(), too_large: true },
            Some(other) if description.is_empty() => {
                Self::Refused(format!("the server ended the request with status {}", other.as_u16()))
            }
            Some(other) => {
                Self::Refused(format!("the server ended the request with status {}, {description}", other.as_u16()))
            }
        }
    }
}

/// Waits until the request has ended, during which up to `open` jobs can still arrive, but no longer than `until`. Then
/// nacks these jobs, all at once: if they were nacked one by one, the server could deliver them to this request again.
pub(crate) async fn nack_all(client: Client, mut responses: Subscriber, open: usize, until: Instant) {
    let (mut jobs, mut due) = (Vec::new(), open);
    while jobs.len() < due {
        match tokio::time::timeout_at(until, responses.next()).await {
            Ok(Some(message)) => match PullResponse::of(&message) {
                PullResponse::Job => jobs.push(message),
                PullResponse::Ended { missing, .. } => due = open.saturating_sub(missing.unwrap_or(open)),
                PullResponse::Refused(_) => break,
            },
            _ => break,
        }
    }
    for reply in jobs.into_iter().filter_map(|message| message.reply) {
        drop(client.publish(reply, AckKind::Nak(Some(Duration::ZERO)).into()).await);
    }
}
