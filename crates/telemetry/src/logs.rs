//! Exporting log lines.
//!
//! Every line carries the trace and span that it was logged in, and the job's id and dataset ([`crate::JobSpan::scope`]).
//! In text and JSON logs, the span `job` around the line has the same fields.

use std::sync::{Arc, OnceLock};

use opentelemetry_appender_tracing::layer::{OpenTelemetryTracingBridge, TracingSpanAttributes};
use opentelemetry_sdk::logs::{SdkLogger, SdkLoggerProvider};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;
use tracing_subscriber::registry::LookupSpan;

type Bridge = OpenTelemetryTracingBridge<SdkLoggerProvider, SdkLogger>;

/// Fields of spans that are copied to log records.
const SPAN_FIELDS: [&str; 2] = ["job_id", "dataset"];

/// A layer for the program's log subscriber. It does nothing until [`crate::Telemetry::start`] has been given a clone of
/// it: logging starts before the settings are read.
#[derive(Clone, Default)]
pub struct LogLayer(Arc<OnceLock<Bridge>>);

impl LogLayer {
    /// Starts sending log lines to this provider.
    pub(crate) fn connect(&self, provider: &SdkLoggerProvider) {
        let fields = TracingSpanAttributes::allowlist(SPAN_FIELDS);
        let bridge = Bridge::builder(provider).with_tracing_span_attributes(fields).build();
        // The first provider counts; a program has one.
        drop(self.0.set(bridge));
    }
}

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for LogLayer {
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        if let Some(bridge) = self.0.get() {
            bridge.on_new_span(attributes, id, context);
        }
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, context: Context<'_, S>) {
        if let Some(bridge) = self.0.get() {
            bridge.on_record(id, values, context);
        }
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        if let Some(bridge) = self.0.get() {
            bridge.on_event(event, context);
        }
    }
}
