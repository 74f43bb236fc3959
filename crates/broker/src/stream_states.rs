//! Which streams refuse messages at present, and why: for the log, and for `/readyz`.
//!
//! Both change once for each transition, however many jobs are refused.

use std::collections::BTreeMap;
use std::error::Error;
use std::fmt;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use async_nats::jetstream::context::{GetStreamError, GetStreamErrorKind, PublishError, PublishErrorKind};
use async_nats::jetstream::stream::{LastRawMessageError, LastRawMessageErrorKind};
use async_nats::jetstream::{self, Context, ErrorCode};

/// Time after which a refusal no longer counts where nobody says otherwise.
const FORGET_AFTER: Duration = Duration::from_secs(10 * 60);

/// Why a stream takes no messages.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Refusal {
    /// There is no such stream, or JetStream is not running.
    NotThere,
    Missing,
    JetStreamDown,
    /// Another stream has its subjects.
    Taken,
    /// It holds as much as it may.
    Full(String),
    /// The account has no storage left.
    AccountFull,
    /// The server has no storage left.
    ServerFull,
    /// Messages are not acknowledged on a connection that stands.
    Silent,
    /// Anything else that JetStream says.
    Said(String),
}

#[derive(Debug)]
struct Refusing {
    why: Refusal,
    last: Instant,
}

#[derive(Debug, Default)]
struct Known {
    refusing: BTreeMap<String, Refusing>,
    /// Streams that did not acknowledge a message, and the number of the connection: once may be the connection's fault.
    silent: BTreeMap<String, u64>,
}

/// The streams that refuse messages. Clones share it.
#[derive(Debug, Clone)]
pub struct StreamStates {
    known: Arc<Mutex<Known>>,
    forget_after: Duration,
}

impl Default for StreamStates {
    fn default() -> Self {
        Self { known: Arc::default(), forget_after: FORGET_AFTER }
    }
}

impl StreamStates {
    /// A refusal counts until a message is taken, but no longer than this: another worker may have got the jobs.
    #[must_use]
    pub fn forgetting_after(self, forget_after: Duration) -> Self {
        Self { forget_after, ..self }
    }

    /// A sentence for each stream that refuses messages; `None` if there is none.
    pub fn refusing(&self) -> Option<String> {
        let mut known = self.known();
        known.refusing.retain(|stream, refusing| {
            let counts = refusing.last.elapsed() < self.forget_after;
            if !counts {
                tracing::info!("the stream {stream} has refused no message for {:?}", self.forget_after);
            }
            counts
        });
        let sentences: Vec<String> = known.refusing.iter().map(|(stream, it)| sentence(stream, &it.why)).collect();
        (!sentences.is_empty()).then(|| sentences.join("; "))
    }

    /// The stream has stored a message.
    pub fn took(&self, stream: &str) {
        let mut known = self.known();
        known.silent.remove(stream);
        if known.refusing.remove(stream).is_some() {
            tracing::info!("the stream {stream} takes messages again");
        }
    }

    /// The stream was not written to, or could not be asked before. Errors that are not the stream's are passed over.
    pub async fn refused(&self, jetstream: &Context, stream: &str, error: &(dyn Error + Send + Sync + 'static)) {
        let Some(why) = Refusal::of(error) else { return };
        if why == Refusal::Silent && !self.is_silent_again(stream, jetstream) {
            return;
        }
        let why = match why {
            Refusal::NotThere if !self.is_not_there(stream) => look_for(jetstream, stream).await,
            why => Some(why),
        };
        if let Some(why) = why {
            self.note(stream, why);
        }
    }

    fn note(&self, stream: &str, why: Refusal) {
        let mut known = self.known();
        let last = Instant::now();
        match known.refusing.get_mut(stream) {
            Some(refusing) if refusing.why == why || why == Refusal::NotThere => refusing.last = last,
            _ => {
                tracing::warn!("{}", sentence(stream, &why));
                known.refusing.insert(stream.to_owned(), Refusing { why, last });
            }
        }
    }

    /// Whether it is known already that the stream is not there, and why.
    fn is_not_there(&self, stream: &str) -> bool {
        let known = self.known();
        let why = known.refusing.get(stream).map(|refusing| &refusing.why);
        matches!(why, Some(Refusal::Missing | Refusal::JetStreamDown))
    }

    /// Whether it was silent before on the same connection, which stands.
    fn is_silent_again(&self, stream: &str, jetstream: &Context) -> bool {
        let client = jetstream.client();
        let connection = client.statistics().connects.load(Ordering::Relaxed);
        let before = self.known().silent.insert(stream.to_owned(), connection);
        before == Some(connection) && client.connection_state() == async_nats::connection::State::Connected
    }

    /// What is kept here is whole at every moment, so a panic elsewhere does no harm to it.
    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Why nobody takes messages for the stream; `None` if it is there after all.
async fn look_for(jetstream: &Context, stream: &str) -> Option<Refusal> {
    let error: GetStreamError = match jetstream.get_stream(stream).await {
        Ok(_) => return None,
        Err(error) => error,
    };
    match error.kind() {
        GetStreamErrorKind::JetStream(said) if said.error_code() == ErrorCode::STREAM_NOT_FOUND => {
            Some(Refusal::Missing)
        }
        GetStreamErrorKind::JetStream(said) => Some(Refusal::Said(said.to_string())),
        GetStreamErrorKind::Request => Some(Refusal::JetStreamDown),
        GetStreamErrorKind::EmptyName | GetStreamErrorKind::InvalidStreamName => None,
    }
}

impl Refusal {
    /// Looks through an error and its causes; `None` if the stream did not refuse anything.
    fn of(error: &(dyn Error + 'static)) -> Option<Self> {
        let mut next = Some(error);
        while let Some(error) = next {
            let refusal = if let Some(error) = error.downcast_ref::<PublishError>() {
                match error.kind() {
                    PublishErrorKind::StreamNotFound => Some(Self::NotThere),
                    PublishErrorKind::TimedOut => Some(Self::Silent),
                    _ => None,
                }
            } else if let Some(error) = error.downcast_ref::<LastRawMessageError>() {
                match error.kind() {
                    LastRawMessageErrorKind::JetStream(said) => Self::said(&said),
                    _ => None,
                }
            } else {
                error.downcast_ref::<jetstream::Error>().and_then(Self::said)
            };
            if refusal.is_some() {
                return refusal;
            }
            next = error.source();
        }
        None
    }

    fn said(said: &jetstream::Error) -> Option<Self> {
        let whole = said.to_string();
        let text = whole.split(" (code ").next().unwrap_or_default();
        match said.error_code() {
            ErrorCode::STREAM_NOT_FOUND => Some(Self::Missing),
            ErrorCode::STREAM_NOT_MATCH => Some(Self::Taken),
            // Which limit it is only stands in the text.
            ErrorCode::STREAM_STORE_FAILED if text.contains("maximum") => Some(Self::Full(text.to_owned())),
            ErrorCode::ACCOUNT_RESOURCES_EXCEEDED
            | ErrorCode::STORAGE_RESOURCES_EXCEEDED
            | ErrorCode::MEMORY_RESOURCES_EXCEEDED => Some(Self::AccountFull),
            ErrorCode::INSUFFICIENT_RESOURCES => Some(Self::ServerFull),
            ErrorCode::STREAM_WRONG_LAST_SEQUENCE
            | ErrorCode::STREAM_WRONG_LAST_MESSAGE_ID
            | ErrorCode::STREAM_MESSAGE_EXCEEDS_MAXIMUM
            | ErrorCode::NO_MESSAGE_FOUND => None,
            _ => Some(Self::Said(text.to_owned())),
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotThere | Self::Missing => f.write_str("does not exist: run `groundling setup` to create it"),
            Self::JetStreamDown => f.write_str(
                "takes no messages, for JetStream does not answer on its NATS server: a full disk shuts it down",
            ),
            Self::Taken => f.write_str(
                "gets no messages, for another stream listens to its subjects: remove that stream, or name it in the settings",
            ),
            Self::Full(limit) => {
                write!(f, "is full ({limit}): raise its limit, or remove messages that were read")
            }
            Self::AccountFull => f.write_str(
                "takes no messages, for the storage of the NATS account is used up: raise the account's limit, or remove messages that were read",
            ),
            Self::ServerFull => f.write_str(
                "takes no messages, for the JetStream storage of its NATS server is used up: raise max_file_store, or remove messages that were read",
            ),
            Self::Silent => f.write_str(
                "does not acknowledge messages: look for a write error (a full disk) in its NATS server's log, or a cluster without a leader",
            ),
            Self::Said(said) => write!(f, "refuses messages: {said}"),
        }
    }
}

fn sentence(stream: &str, why: &Refusal) -> String {
    format!("the stream {stream} {why}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(code: u64, description: &str) -> jetstream::Error {
        let json = serde_json::json!({ "code": 503, "err_code": code, "description": description });
        serde_json::from_value(json).unwrap()
    }

    fn of(code: u64, description: &str) -> Option<String> {
        Refusal::of(&said(code, description)).map(|why| sentence("S", &why))
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
        assert_eq!(states.refusing(), None);
        states.note("B", Refusal::AccountFull);
        states.note("A", Refusal::Missing);
        let told = states.refusing().unwrap();
        assert!(told.starts_with("the stream A does not exist") && told.contains("; the stream B takes no"), "{told}");
        states.took("A");
        states.took("B");
        assert_eq!(states.refusing(), None);
        let states = states.forgetting_after(Duration::ZERO);
        states.note("B", Refusal::AccountFull);
        assert_eq!(states.refusing(), None);
    }
}
