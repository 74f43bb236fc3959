//! The answers of the webhook server.

use bytes::Bytes;
use http::header::{ALLOW, CONTENT_TYPE, HeaderName, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{HeaderValue, Response, StatusCode};
use http_body_util::Full;
use telemetry::ingest_attributes::IngestReason;

use crate::ingest::handler::{Counts, Handled};

/// When a sender should try again, in seconds.
const RETRY_SECONDS: &str = "10";

pub(super) type Answer = Response<Full<Bytes>>;

/// The answer to an event.
pub(super) fn handled(handled: &Handled) -> Answer {
    match handled {
        Handled::Done(counts) => done(counts),
        Handled::Unreadable(error) => line(StatusCode::BAD_REQUEST, &format!("the event cannot be read: {error}")),
        Handled::SentBack(reason) => try_again(match reason {
            IngestReason::StreamFull => "the jobs stream is full",
            IngestReason::ShuttingDown => "the server is shutting down",
            _ => "the jobs stream does not answer",
        }),
    }
}

fn done(counts: &Counts) -> Answer {
    let text = serde_json::to_string(counts).unwrap_or_default();
    with(text, StatusCode::OK, CONTENT_TYPE, HeaderValue::from_static("application/json"))
}

/// 503.
pub(super) fn try_again(reason: &str) -> Answer {
    let text = format!("{reason}: try again\n");
    with(text, StatusCode::SERVICE_UNAVAILABLE, RETRY_AFTER, HeaderValue::from_static(RETRY_SECONDS))
}

/// 401.
pub(super) fn unauthorized() -> Answer {
    let text = "send the credentials of events.token, or of events.user and events.password\n".to_owned();
    with(text, StatusCode::UNAUTHORIZED, WWW_AUTHENTICATE, HeaderValue::from_static("Bearer, Basic realm=\"events\""))
}

/// 405.
pub(super) fn use_post() -> Answer {
    with("use POST\n".to_owned(), StatusCode::METHOD_NOT_ALLOWED, ALLOW, HeaderValue::from_static("POST, PUT"))
}

pub(super) fn line(status: StatusCode, line: &str) -> Answer {
    let text = format!("{}\n", line.replace(['\r', '\n'], " "));
    with(text, status, CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"))
}

fn with(text: String, status: StatusCode, header: HeaderName, value: HeaderValue) -> Answer {
    let mut response = Response::new(Full::from(text));
    *response.status_mut() = status;
    response.headers_mut().insert(header, value);
    response
}
