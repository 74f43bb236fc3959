//! Whether a collector accepts exports, found with exports that contain nothing.

use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::logs::{LogBatch, LogExporter};
use opentelemetry_sdk::metrics::data::ResourceMetrics;
use opentelemetry_sdk::metrics::exporter::PushMetricExporter;
use opentelemetry_sdk::trace::SpanExporter;

use crate::environment::ExportPlan;
use crate::error::TelemetryError;
use crate::export_runtime::ExportRuntime;
use crate::export_state::ExportState;
use crate::exporters::Exporters;
use crate::settings::TelemetrySettings;

/// The result of an export that contains nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExportProbe {
    /// `traces`, `metrics` or `logs`.
    pub signal: &'static str,
    /// The collector's address.
    pub endpoint: String,
    /// `Ok` if the collector accepted it; otherwise why not, in one sentence.
    pub result: Result<(), String>,
}

/// Exports nothing, once for each signal that the settings and the `OTEL_*` variables export. `variable` returns the
/// value of a variable.
///
/// # Errors
/// [`TelemetryError`], if the settings cannot be used.
pub async fn probe(
    settings: &TelemetrySettings,
    variable: impl Fn(&str) -> Option<String>,
) -> Result<Vec<ExportProbe>, TelemetryError> {
    let plan = ExportPlan::new(settings, variable);
    if !plan.exports() {
        return Ok(Vec::new());
    }
    let runtime = ExportRuntime::start()?;
    let mut exporters = Exporters::new(runtime.handle());
    let mut results = Vec::new();
    if let Some(target) = &plan.traces {
        let watched = exporters.spans(target)?;
        results.push(run(&runtime, watched.state, async move { watched.exporter.export(Vec::new()).await }).await);
    }
    if let Some(target) = &plan.metrics {
        let watched = exporters.metrics(target)?;
        let export = async move { watched.exporter.export(&ResourceMetrics::default()).await };
        results.push(run(&runtime, watched.state, export).await);
    }
    if let Some(target) = &plan.logs {
        let watched = exporters.logs(target)?;
        let export = async move { watched.exporter.export(LogBatch::new(&[])).await };
        results.push(run(&runtime, watched.state, export).await);
    }
    Ok(results)
}

async fn run(
    runtime: &ExportRuntime,
    state: ExportState,
    export: impl Future<Output = OTelSdkResult> + Send + 'static,
) -> ExportProbe {
    let result = match runtime.handle().spawn(export).await {
        Ok(result) => state.failure(&result).map_or(Ok(()), Err),
        Err(error) => Err(error.to_string()),
    };
    ExportProbe { signal: state.signal().as_str(), endpoint: state.endpoint().to_owned(), result }
}
