//! Exporters that count exports, and log when they begin to fail and when they succeed again. The SDK would log every
//! failed batch.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::{OTelSdkError, OTelSdkResult};
use opentelemetry_sdk::logs::{LogBatch, LogExporter};
use opentelemetry_sdk::metrics::Temporality;
use opentelemetry_sdk::metrics::data::ResourceMetrics;
use opentelemetry_sdk::metrics::exporter::PushMetricExporter;
use opentelemetry_sdk::trace::{SpanData, SpanExporter};

use crate::signal::Signal;

/// Results of the exports of one signal. Clones share them.
#[derive(Debug, Clone)]
pub(crate) struct ExportState(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    signal: Signal,
    endpoint: String,
    is_failing: AtomicBool,
    succeeded: AtomicU64,
    failed: AtomicU64,
    /// The HTTP client's last error, which the exporter's own error does not include.
    cause: Mutex<Option<String>>,
}

impl ExportState {
    pub(crate) fn new(signal: Signal, endpoint: &str) -> Self {
        Self(Arc::new(Inner {
            signal,
            endpoint: endpoint.to_owned(),
            is_failing: AtomicBool::new(false),
            succeeded: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            cause: Mutex::new(None),
        }))
    }

    pub(crate) fn signal(&self) -> Signal {
        self.0.signal
    }

    pub(crate) fn endpoint(&self) -> &str {
        &self.0.endpoint
    }

    pub(crate) fn succeeded(&self) -> u64 {
        self.0.succeeded.load(Ordering::Relaxed)
    }

    pub(crate) fn failed(&self) -> u64 {
        self.0.failed.load(Ordering::Relaxed)
    }

    /// Stores why the current request failed.
    pub(crate) fn request_failed(&self, cause: String) {
        *self.0.cause.lock().unwrap_or_else(PoisonError::into_inner) = Some(cause);
    }

    /// Why an export failed; `None` if it did not.
    pub(crate) fn failure(&self, result: &OTelSdkResult) -> Option<String> {
        let cause = self.0.cause.lock().unwrap_or_else(PoisonError::into_inner).take();
        result.as_ref().err().map(|error| cause.unwrap_or_else(|| said(error)))
    }

    /// Counts an export, and logs the first of a series of failures and the first success after it.
    fn ended(&self, result: &OTelSdkResult) {
        let cause = self.0.cause.lock().unwrap_or_else(PoisonError::into_inner).take();
        let (signal, endpoint) = (self.0.signal.as_str(), self.0.endpoint.as_str());
        match result {
            Ok(()) => {
                self.0.succeeded.fetch_add(1, Ordering::Relaxed);
                if self.0.is_failing.swap(false, Ordering::Relaxed) {
                    tracing::info!(endpoint, "{signal} are exported again");
                }
            }
            Err(error) => {
                self.0.failed.fetch_add(1, Ordering::Relaxed);
                if !self.0.is_failing.swap(true, Ordering::Relaxed) {
                    let cause = cause.unwrap_or_else(|| said(error));
                    tracing::warn!(endpoint, "{signal} cannot be exported, trying again with each batch: {cause}");
                }
            }
        }
    }
}

fn said(error: &OTelSdkError) -> String {
    match error {
        // The status follows the name of an internal type.
        OTelSdkError::InternalFailure(message) => match message.split_once("gRPC code: ") {
            Some((_, status)) => format!("gRPC status {status}"),
            None => message.clone(),
        },
        other => other.to_string(),
    }
}

/// An exporter whose exports are counted.
#[derive(Debug)]
pub(crate) struct Watched<E> {
    pub(crate) exporter: E,
    pub(crate) state: ExportState,
}

impl<E: SpanExporter> SpanExporter for Watched<E> {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let result = self.exporter.export(batch).await;
        self.state.ended(&result);
        result
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.exporter.shutdown_with_timeout(timeout)
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.exporter.force_flush()
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.exporter.set_resource(resource);
    }
}

impl<E: LogExporter> LogExporter for Watched<E> {
    async fn export(&self, batch: LogBatch<'_>) -> OTelSdkResult {
        let result = self.exporter.export(batch).await;
        self.state.ended(&result);
        result
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.exporter.shutdown_with_timeout(timeout)
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.exporter.set_resource(resource);
    }
}

impl<E: PushMetricExporter> PushMetricExporter for Watched<E> {
    async fn export(&self, metrics: &ResourceMetrics) -> OTelSdkResult {
        let result = self.exporter.export(metrics).await;
        self.state.ended(&result);
        result
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.exporter.force_flush()
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.exporter.shutdown_with_timeout(timeout)
    }

    fn temporality(&self) -> Temporality {
        self.exporter.temporality()
    }
}
