//! The runtime that sends exports: a thread of its own, so that exports and jobs do not delay each other.

use opentelemetry::Context;
use tokio::runtime::{Builder, Handle, Runtime};

use crate::error::TelemetryError;

/// A runtime that does not wait for its tasks when it is dropped.
pub(crate) struct ExportRuntime(Option<Runtime>, Handle);

impl ExportRuntime {
    pub(crate) fn start() -> Result<Self, TelemetryError> {
        let runtime = Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("telemetry")
            // Its log lines are not exported: every export would cause another one.
            .on_thread_start(|| std::mem::forget(Context::enter_telemetry_suppressed_scope()))
            .enable_all()
            .build()
            .map_err(TelemetryError::Thread)?;
        let handle = runtime.handle().clone();
        Ok(Self(Some(runtime), handle))
    }

    pub(crate) fn handle(&self) -> Handle {
        self.1.clone()
    }
}

impl Drop for ExportRuntime {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}
