//! Trace contexts in the headers of NATS messages, as the W3C defines them.
//!
//! Headers of NATS are case-sensitive and clients differ: Go's write `Traceparent`. A server up to 2.13 that traces a
//! message renames `traceparent` to `Xraceparent`, so that servers further on do not trace it too. All of these are read,
//! and `traceparent` is written. The server's own trace headers (`Nats-Trace-Dest` and the like) are never copied: with
//! them, the server would trace the new message as well.

use async_nats::HeaderMap;
use opentelemetry::Context;
use opentelemetry::propagation::{Extractor, Injector, TextMapPropagator};
use opentelemetry_sdk::propagation::TraceContextPropagator;

const TRACEPARENT: &str = "traceparent";
const TRACESTATE: &str = "tracestate";
/// The names that are read, in the order in which they count.
const TRACEPARENT_NAMES: [&str; 2] = [TRACEPARENT, "xraceparent"];
const TRACESTATE_NAMES: [&str; 2] = [TRACESTATE, "xracestate"];

/// The trace context of a message's sender; one without a span if it sent none, or one that is not valid.
pub fn extract(headers: Option<&HeaderMap>) -> Context {
    // Not the current context: what runs here has nothing to do with the sender.
    let nothing = Context::new();
    match headers {
        Some(headers) => TraceContextPropagator::new().extract_with_context(&nothing, &ReadHeaders(headers)),
        None => nothing,
    }
}

/// Writes a trace context into the headers of a new message.
pub fn inject(context: &Context, headers: &mut HeaderMap) {
    TraceContextPropagator::new().inject_context(context, &mut WriteHeaders(headers));
}

struct ReadHeaders<'a>(&'a HeaderMap);

impl Extractor for ReadHeaders<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        let names = match key {
            TRACEPARENT => TRACEPARENT_NAMES,
            TRACESTATE => TRACESTATE_NAMES,
            _ => return None,
        };
        // The map does not keep its order, so among several spellings the right one goes first, and then the alphabet.
        names.iter().find_map(|name| {
            let mut spellings: Vec<_> =
                self.0.iter().filter(|(found, _)| AsRef::<str>::as_ref(*found).eq_ignore_ascii_case(name)).collect();
            spellings.sort_by_key(|(found, _)| {
                let found: &str = (*found).as_ref();
                (found != *name, found)
            });
            spellings.iter().find_map(|(_, values)| Some(values.first()?.as_str()))
        })
    }

    fn keys(&self) -> Vec<&str> {
        self.0.iter().map(|(name, _)| name.as_ref()).collect()
    }
}

struct WriteHeaders<'a>(&'a mut HeaderMap);

impl Injector for WriteHeaders<'_> {
    fn set(&mut self, key: &str, value: String) {
        // An empty trace state is as good as none, and a header with a line break would panic.
        if !value.is_empty() && !value.contains(['\r', '\n']) {
            self.0.insert(key, value);
        }
    }
}

#[cfg(test)]
mod tests {
    use opentelemetry::trace::TraceContextExt;

    use super::*;

    const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    const OTHER: &str = "00-11111111111111111111111111111111-2222222222222222-00";

    fn headers(entries: &[(&str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in entries {
            headers.insert(*name, *value);
        }
        headers
    }

    fn trace_id(entries: &[(&str, &str)]) -> String {
        extract(Some(&headers(entries))).span().span_context().trace_id().to_string()
    }

    #[test]
    fn a_context_is_read_in_every_spelling() {
        for name in ["traceparent", "Traceparent", "TRACEPARENT", "Xraceparent", "xraceparent"] {
            let context = extract(Some(&headers(&[(name, PARENT), ("Tracestate", "vendor=7")])));
            let span = context.span().span_context().clone();
            assert!(span.is_remote() && span.is_sampled(), "{name}");
            assert_eq!(span.trace_id().to_string(), "0af7651916cd43dd8448eb211c80319c", "{name}");
            assert_eq!(span.trace_state().get("vendor"), Some("7"), "{name}");
        }
    }

    #[test]
    fn among_several_spellings_the_right_one_counts_and_a_renamed_one_comes_last() {
        let id = "0af7651916cd43dd8448eb211c80319c";
        assert_eq!(trace_id(&[("traceparent", PARENT), ("Traceparent", OTHER)]), id);
        assert_eq!(trace_id(&[("Xraceparent", OTHER), ("Traceparent", PARENT)]), id);
    }

    #[test]
    fn a_message_without_a_valid_context_has_none() {
        for entries in [&[][..], &[("traceparent", "nonsense")], &[("traceparent", "00-0-0-01")], &[("other", PARENT)]]
        {
            assert!(!extract(Some(&headers(entries))).span().span_context().is_valid(), "{entries:?}");
        }
        assert!(!extract(None).span().span_context().is_valid());
    }

    #[test]
    fn a_context_is_written_in_lower_case_and_nothing_else_is_copied() {
        let received = headers(&[
            ("Xraceparent", PARENT),
            ("Tracestate", "vendor=7"),
            ("Nats-Trace-Dest", "trace.inbox"),
            ("Nats-Trace-Only", "true"),
        ]);
        let mut written = HeaderMap::new();
        inject(&extract(Some(&received)), &mut written);
        assert_eq!(written, headers(&[("traceparent", PARENT), ("tracestate", "vendor=7")]));
        inject(&Context::new(), &mut written);
        assert_eq!(written.len(), 2);
    }
}
