//! Log lines about refused requests.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use http::StatusCode;

/// Minimum interval between two log lines about requests that were refused alike: anyone may be able to send them.
const LOG_INTERVAL: Duration = Duration::from_secs(60);
/// Maximum number of characters of a path in the log.
const MAX_PATH: usize = 200;

/// The refused requests of a webhook server.
#[derive(Debug, Default)]
pub(in crate::ingest) struct Refusals(Mutex<HashMap<StatusCode, Refused>>);

/// The requests that were refused with one status.
#[derive(Debug, Default)]
struct Refused {
    logged: Option<Instant>,
    /// Requests since the last log line.
    count: u64,
}

impl Refusals {
    /// Logs the answer to a request if it is a refusal, unless the last one of its kind was logged shortly before.
    pub(super) fn record(&self, status: StatusCode, path: &str, sender: Option<SocketAddr>) {
        let Some(reason) = reason(status) else { return };
        if let Some(requests) = self.due(status, Instant::now()) {
            let (path, status) = (path.chars().take(MAX_PATH).collect::<String>(), status.as_u16());
            tracing::warn!(status, path, ?sender, requests, "requests with events are refused: {reason}");
        }
    }

    /// Counts a refused request. The number of requests since the last log line, if there should be one now.
    fn due(&self, status: StatusCode, now: Instant) -> Option<u64> {
        // Every change is complete, so a poisoned lock is safe to use.
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let refused = all.entry(status).or_default();
        refused.count += 1;
        if refused.logged.is_some_and(|logged| now.saturating_duration_since(logged) < LOG_INTERVAL) {
            return None;
        }
        refused.logged = Some(now);
        Some(std::mem::take(&mut refused.count))
    }
}

/// Why requests are refused with this status; `None` for the answers to requests whose event was handled, which are logged
/// with what is wrong with it, and for those that are to be sent again.
fn reason(status: StatusCode) -> Option<&'static str> {
    match status {
        StatusCode::UNAUTHORIZED => Some("the credentials are missing or wrong"),
        StatusCode::NOT_FOUND => Some("no rule has the path"),
        StatusCode::METHOD_NOT_ALLOWED => Some("the method is neither POST nor PUT"),
        StatusCode::REQUEST_TIMEOUT => Some("the body took too long to arrive"),
        StatusCode::PAYLOAD_TOO_LARGE => Some("the body has more than events.max_event_bytes"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_of_a_kind_are_logged_once_in_a_while_with_their_number() {
        let (refusals, start) = (Refusals::default(), Instant::now());
        assert_eq!(refusals.due(StatusCode::NOT_FOUND, start), Some(1));
        for _ in 0..3 {
            assert_eq!(refusals.due(StatusCode::NOT_FOUND, start + LOG_INTERVAL / 2), None);
        }
        assert_eq!(refusals.due(StatusCode::UNAUTHORIZED, start + LOG_INTERVAL / 2), Some(1), "another kind");
        assert_eq!(refusals.due(StatusCode::NOT_FOUND, start + LOG_INTERVAL), Some(4));
    }

    #[test]
    fn each_refusal_has_its_reason_and_no_other_answer_has_one() {
        for status in [401, 404, 405, 408, 413] {
            assert!(reason(StatusCode::from_u16(status).unwrap()).is_some(), "{status}");
        }
        for status in [200, 400, 500, 503] {
            assert_eq!(reason(StatusCode::from_u16(status).unwrap()), None, "{status}");
        }
    }
}
