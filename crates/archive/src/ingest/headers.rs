//! The headers of an event that matter, from NATS or HTTP.

use std::collections::BTreeMap;

use async_nats::HeaderMap;

const PREFIX: &str = "ce-";
const TRACEPARENT: &str = "traceparent";
const TRACESTATE: &str = "tracestate";

/// The attributes of a CloudEvent, and the trace context of the sender.
#[derive(Debug, Clone, Default)]
pub struct EventHeaders(BTreeMap<String, String>);

impl EventHeaders {
    /// Takes the headers that matter. Names are compared without regard to case.
    pub fn new<'a>(headers: impl IntoIterator<Item = (&'a str, &'a str)>) -> Self {
        let mut taken = BTreeMap::new();
        for (name, value) in headers {
            let name = name.to_ascii_lowercase();
            // A NATS server that traces messages renames the header.
            let name = match name.as_str() {
                "xraceparent" => TRACEPARENT.to_owned(),
                "xracestate" => TRACESTATE.to_owned(),
                _ => name,
            };
            if name.starts_with(PREFIX) || name == TRACEPARENT || name == TRACESTATE {
                taken.entry(name).or_insert_with(|| value.to_owned());
            }
        }
        Self(taken)
    }

    /// Those of a NATS message.
    pub(super) fn of_message(headers: Option<&HeaderMap>) -> Self {
        let pairs = headers.into_iter().flat_map(HeaderMap::iter);
        Self::new(pairs.filter_map(|(name, values)| Some((name.as_ref(), values.first()?.as_str()))))
    }

    /// An attribute of a CloudEvent.
    pub(super) fn attribute(&self, name: &str) -> Option<&str> {
        self.0.get(&format!("{PREFIX}{name}")).map(String::as_str)
    }

    /// The trace context of the sender.
    pub(super) fn trace(&self) -> Option<(String, Option<String>)> {
        Some((self.0.get(TRACEPARENT)?.clone(), self.0.get(TRACESTATE).cloned()))
    }
}

/// The headers of a job with this trace context, if it is a valid one.
pub(super) fn job_headers(trace: Option<&(String, Option<String>)>) -> HeaderMap {
    let mut headers = HeaderMap::new();
    if let Some((parent, state)) = trace {
        let mut received = HeaderMap::new();
        for (name, value) in [(TRACEPARENT, Some(parent)), (TRACESTATE, state.as_ref())] {
            // A line break would be an invalid header.
            if let Some(value) = value.filter(|value| !value.contains(['\r', '\n'])) {
                received.insert(name, value.as_str());
            }
        }
        telemetry::propagation::inject(&telemetry::propagation::extract(Some(&received)), &mut headers);
    }
    headers
}
