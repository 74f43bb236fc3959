//! Which streams refuse messages at present, and why: for the log, and for `/readyz`.
//!
//! A refusal is logged once when it begins and once when it ends, however many messages are refused.

use std::collections::BTreeMap;
use std::error::Error;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use async_nats::jetstream::context::{GetStreamError, GetStreamErrorKind, PublishError, PublishErrorKind};
use async_nats::jetstream::stream::{LastRawMessageError, LastRawMessageErrorKind};
use async_nats::jetstream::{self, Context, ErrorCode};

use crate::connection;

/// Default time after which a refusal expires.
const EXPIRY: Duration = Duration::from_secs(10 * 60);

/// Why a stream refuses messages.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Refusal {
    /// One of the next two.
    MissingOrDown,
    /// The stream does not exist.
    Missing,
    /// JetStream is not running.
    JetStreamDown,
    /// Another stream has its subjects.
    SubjectTaken,
    /// The stream has reached its bound.
    Full(String),
    /// The account has no storage left.
    AccountFull,
    /// The server has no storage left.
    ServerFull,
    /// The stream does not acknowledge messages, although the client is connected.
    NoAck,
    /// Another error of JetStream.
    Other(String),
}

#[derive(Debug)]
struct ActiveRefusal {
    reason: Refusal,
    last: Instant,
}

#[derive(Debug, Default)]
struct State {
    refusals: BTreeMap<String, ActiveRefusal>,
    /// Streams that did not acknowledge a message, with the number of the connection. The first time, the connection may
    /// have been at fault.
    no_ack: BTreeMap<String, u64>,
}

/// The streams that refuse messages. Clones share the state.
#[derive(Debug, Clone)]
pub struct StreamStates {
    state: Arc<Mutex<State>>,
    expiry: Duration,
}

impl Default for StreamStates {
    fn default() -> Self {
        Self { state: Arc::default(), expiry: EXPIRY }
    }
}

impl StreamStates {
    /// Sets the time after which a refusal expires if the stream is not written to again. The default is 10 minutes.
    #[must_use]
    pub fn with_expiry(self, expiry: Duration) -> Self {
        Self { expiry, ..self }
    }

    /// A sentence for each stream that refuses messages; `None` if there is none.
    pub fn refusal_summary(&self) -> Option<String> {
        let state = self.unexpired();
        let sentences: Vec<String> = state.refusals.iter().map(|(stream, it)| sentence(stream, &it.reason)).collect();
        (!sentences.is_empty()).then(|| sentences.join("; "))
    }

    /// The names of the streams that refuse messages.
    pub fn refusing(&self) -> Vec<String> {
        self.unexpired().refusals.keys().cloned().collect()
    }

    fn unexpired(&self) -> MutexGuard<'_, State> {
        let mut state = self.state();
        state.refusals.retain(|stream, refusal| {
            let is_active = refusal.last.elapsed() < self.expiry;
            if !is_active {
                tracing::info!(
                    "the stream {stream} has not refused a message for {:?}: no longer reported as refusing",
                    self.expiry
                );
            }
            is_active
        });
        state
    }

    /// Records that the stream has stored a message.
    pub fn record_success(&self, stream: &str) {
        let mut state = self.state();
        state.no_ack.remove(stream);
        if state.refusals.remove(stream).is_some() {
            tracing::info!("the stream {stream} accepts messages again");
        }
    }

    /// Records that writing to the stream, or reading from it before that, failed. Errors that are not refusals by the
    /// stream are ignored.
    pub async fn record_error(&self, jetstream: &Context, stream: &str, error: &(dyn Error + Send + Sync + 'static)) {
        let Some(reason) = Refusal::of(error) else { return };
        if reason == Refusal::NoAck && !self.is_second_no_ack(stream, jetstream) {
            return;
        }
        let reason = match reason {
            Refusal::MissingOrDown if !self.is_known_missing(stream) => missing_or_down(jetstream, stream).await,
            reason => Some(reason),
        };
        if let Some(reason) = reason {
            self.add(stream, reason);
        }
    }

    fn add(&self, stream: &str, reason: Refusal) {
        let mut state = self.state();
        let last = Instant::now();
        match state.refusals.get_mut(stream) {
            Some(refusal) if refusal.reason == reason || reason == Refusal::MissingOrDown => refusal.last = last,
            _ => {
                tracing::warn!("{}", sentence(stream, &reason));
                state.refusals.insert(stream.to_owned(), ActiveRefusal { reason, last });
            }
        }
    }

    /// Whether the stream is already recorded as missing, or JetStream as not running.
    fn is_known_missing(&self, stream: &str) -> bool {
        let state = self.state();
        let reason = state.refusals.get(stream).map(|refusal| &refusal.reason);
        matches!(reason, Some(Refusal::Missing | Refusal::JetStreamDown))
    }

    /// Whether the stream failed to acknowledge an earlier message on the same connection, which is still up.
    fn is_second_no_ack(&self, stream: &str, jetstream: &Context) -> bool {
        let client = jetstream.client();
        let connection = connection::number(&client);
        let before = self.state().no_ack.insert(stream.to_owned(), connection);
        before == Some(connection) && client.connection_state() == async_nats::connection::State::Connected
    }

    /// The state is consistent at every moment, so a poisoned lock is safe to use.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Why nothing answers at the stream's subjects; `None` if the stream exists after all.
async fn missing_or_down(jetstream: &Context, stream: &str) -> Option<Refusal> {
    let error: GetStreamError = match jetstream.get_stream(stream).await {
        Ok(_) => return None,
        Err(error) => error,
    };
    match error.kind() {
        GetStreamErrorKind::JetStream(error) if error.error_code() == ErrorCode::STREAM_NOT_FOUND => {
            Some(Refusal::Missing)
        }
        GetStreamErrorKind::JetStream(error) => Some(Refusal::Other(error.to_string())),
        GetStreamErrorKind::Request => Some(Refusal::JetStreamDown),
        GetStreamErrorKind::EmptyName | GetStreamErrorKind::InvalidStreamName => None,
    }
}

/// Whether the error is the refusal of a stream that is full, or whose account or server is.
pub(crate) fn is_full(error: &(dyn Error + 'static)) -> bool {
    matches!(Refusal::of(error), Some(Refusal::Full(_) | Refusal::AccountFull | Refusal::ServerFull))
}

impl Refusal {
    /// The refusal in an error or one of its sources; `None` if it is not a refusal by the stream.
    fn of(error: &(dyn Error + 'static)) -> Option<Self> {
        let mut next = Some(error);
        while let Some(error) = next {
            let refusal = if let Some(error) = error.downcast_ref::<PublishError>() {
                match error.kind() {
                    PublishErrorKind::StreamNotFound => Some(Self::MissingOrDown),
                    PublishErrorKind::TimedOut => Some(Self::NoAck),
                    _ => None,
                }
            } else if let Some(error) = error.downcast_ref::<LastRawMessageError>() {
                match error.kind() {
                    LastRawMessageErrorKind::JetStream(error) => Self::from_jetstream(&error),
                    _ => None,
                }
            } else {
                error.downcast_ref::<jetstream::Error>().and_then(Self::from_jetstream)
            };
            if refusal.is_some() {
                return refusal;
            }
            next = error.source();
        }
        None
    }

    fn from_jetstream(error: &jetstream::Error) -> Option<Self> {
        let full_text = error.to_string();
        let text = full_text.split(" (code ").next().unwrap_or_default();
        match error.error_code() {
            ErrorCode::STREAM_NOT_FOUND => Some(Self::Missing),
            ErrorCode::STREAM_NOT_MATCH => Some(Self::SubjectTaken),
            // Only the text says which bound was reached.
            ErrorCode::STREAM_STORE_FAILED if text.contains("maximum") => Some(Self::Full(text.to_owned())),
            ErrorCode::ACCOUNT_RESOURCES_EXCEEDED
            | ErrorCode::STORAGE_RESOURCES_EXCEEDED
            | ErrorCode::MEMORY_RESOURCES_EXCEEDED => Some(Self::AccountFull),
            ErrorCode::INSUFFICIENT_RESOURCES => Some(Self::ServerFull),
            ErrorCode::STREAM_WRONG_LAST_SEQUENCE
            | ErrorCode::STREAM_WRONG_LAST_MESSAGE_ID
            | ErrorCode::STREAM_MESSAGE_EXCEEDS_MAXIMUM
            | ErrorCode::NO_MESSAGE_FOUND => None,
            _ => Some(Self::Other(text.to_owned())),
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::MissingOrDown | Self::Missing => f.write_str("does not exist: run `groundling setup` to create it"),
            Self::JetStreamDown => f.write_str(
                "accepts no messages because JetStream does not answer on its NATS server: check the server's log (a full disk shuts JetStream down)",
            ),
            Self::SubjectTaken => f.write_str(
                "receives no messages because another stream of the account has its subjects: name that stream in the settings, or use another account",
            ),
            Self::Full(limit) => {
                write!(f, "is full ({limit}): raise its bound, or remove messages that are no longer needed")
            }
            Self::AccountFull => f.write_str(
                "accepts no messages because the storage of the NATS account is used up: raise the account's limit, or remove messages that are no longer needed",
            ),
            Self::ServerFull => f.write_str(
                "accepts no messages because the JetStream storage of its NATS server is used up: raise max_file_store, or remove messages that are no longer needed",
            ),
            Self::NoAck => f.write_str(
                "does not acknowledge messages: check its NATS server's log for a write error (a full disk) or a cluster without a leader",
            ),
            Self::Other(error) => write!(f, "refuses messages: {error}"),
        }
    }
}

fn sentence(stream: &str, reason: &Refusal) -> String {
    format!("the stream {stream} {reason}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(code: u64, description: &str) -> jetstream::Error {
        let json = serde_json::json!({ "code": 503, "err_code": code, "description": description });
        serde_json::from_value(json).unwrap()
    }

    fn of(code: u64, description: &str) -> Option<String> {
        Refusal::of(&said(code, description)).map(|reason| sentence("S", &reason))
    }

    #[test]
    fn each_reason_has_a_sentence_of_its_own() {
        for (code, description, says) in [
            (10059, "stream not found", "does not exist: run `groundling setup`"),
            (10060, "expected stream does not match", "another stream"),
            (10077, "maximum bytes exceeded", "is full (maximum bytes exceeded)"),
            (10077, "maximum messages exceeded", "is full (maximum messages exceeded)"),
            (10077, "i/o error", "refuses messages: i/o error"),
            (10002, "resource limits exceeded for account", "the storage of the NATS account is used up"),
            (10023, "insufficient resources", "the JetStream storage of its NATS server is used up"),
            (10109, "invalid operation on sealed stream", "refuses messages: invalid operation"),
        ] {
            let sentence = of(code, description).unwrap();
            assert!(sentence.starts_with("the stream S ") && sentence.contains(says), "{code}: {sentence}");
        }
        for (code, description) in [(10071, "wrong last sequence: 5"), (10054, "message size"), (10037, "none")] {
            assert_eq!(of(code, description), None);
        }
    }

    #[test]
    fn a_stream_refuses_until_it_takes_a_message_or_for_a_while() {
        let states = StreamStates::default();
        assert_eq!(states.refusal_summary(), None);
        states.add("B", Refusal::AccountFull);
        states.add("A", Refusal::Missing);
        let told = states.refusal_summary().unwrap();
        assert!(
            told.starts_with("the stream A does not exist") && told.contains("; the stream B accepts no"),
            "{told}"
        );
        states.record_success("A");
        states.record_success("B");
        assert_eq!(states.refusal_summary(), None);
        let states = states.with_expiry(Duration::ZERO);
        states.add("B", Refusal::AccountFull);
        assert_eq!(states.refusal_summary(), None);
    }
}
