//! Exporters to a collector, by the plan.

use std::collections::HashMap;
use std::sync::Arc;

use http::{HeaderMap, HeaderName, HeaderValue};
use opentelemetry_otlp::tonic_types::metadata::MetadataMap;
use opentelemetry_otlp::tonic_types::transport::{Certificate, ClientTlsConfig};
use opentelemetry_otlp::{
    LogExporter, MetricExporter, SpanExporter, WithExportConfig, WithHttpConfig, WithTonicConfig,
};
use tokio::runtime::Handle;

use crate::environment::Target;
use crate::error::TelemetryError;
use crate::export_state::{ExportState, Watched};
use crate::http_client::ExportClient;
use crate::settings::{Compression, Protocol};
use crate::signal::Signal;

/// Builds exporters that work on the given runtime.
pub(crate) struct Exporters {
    runtime: Handle,
    /// The state of each exporter that was built.
    pub(crate) states: Vec<ExportState>,
}

impl Exporters {
    pub(crate) fn new(runtime: Handle) -> Self {
        Self { runtime, states: Vec::new() }
    }

    pub(crate) fn spans(&mut self, target: &Target) -> Result<Watched<SpanExporter>, TelemetryError> {
        let state = self.state(Signal::Traces, target);
        let builder = SpanExporter::builder();
        let exporter = match target.protocol {
            Protocol::Grpc => self.in_runtime(|| Ok(with_grpc(builder.with_tonic(), target)?.build()?))?,
            Protocol::HttpProtobuf => self.with_http(builder.with_http(), target, &state)?.build()?,
        };
        Ok(Watched { exporter, state })
    }

    pub(crate) fn metrics(&mut self, target: &Target) -> Result<Watched<MetricExporter>, TelemetryError> {
        let state = self.state(Signal::Metrics, target);
        let builder = MetricExporter::builder();
        let exporter = match target.protocol {
            Protocol::Grpc => self.in_runtime(|| Ok(with_grpc(builder.with_tonic(), target)?.build()?))?,
            Protocol::HttpProtobuf => self.with_http(builder.with_http(), target, &state)?.build()?,
        };
        Ok(Watched { exporter, state })
    }

    pub(crate) fn logs(&mut self, target: &Target) -> Result<Watched<LogExporter>, TelemetryError> {
        let state = self.state(Signal::Logs, target);
        let builder = LogExporter::builder();
        let exporter = match target.protocol {
            Protocol::Grpc => self.in_runtime(|| Ok(with_grpc(builder.with_tonic(), target)?.build()?))?,
            Protocol::HttpProtobuf => self.with_http(builder.with_http(), target, &state)?.build()?,
        };
        Ok(Watched { exporter, state })
    }

    fn state(&mut self, signal: Signal, target: &Target) -> ExportState {
        let state = ExportState::new(signal, &target.endpoint);
        self.states.push(state.clone());
        state
    }

    /// A gRPC channel belongs to the runtime in which it is built.
    fn in_runtime<T>(&self, build: impl FnOnce() -> Result<T, TelemetryError>) -> Result<T, TelemetryError> {
        let _guard = self.runtime.enter();
        build()
    }

    fn with_http<B: WithExportConfig + WithHttpConfig>(
        &self,
        builder: B,
        target: &Target,
        state: &ExportState,
    ) -> Result<B, TelemetryError> {
        let client = ExportClient::new(self.runtime.clone(), target.ca_file.as_deref(), target.timeout, state.clone())?;
        // The exporter percent-decodes these values, as it does those of the variables.
        let headers: HashMap<_, _> =
            target.headers.iter().map(|(name, value)| (name.clone(), value.expose().replace('%', "%25"))).collect();
        let builder = builder
            .with_endpoint(&target.endpoint)
            .with_protocol(opentelemetry_otlp::Protocol::HttpBinary)
            .with_timeout(target.timeout)
            .with_shared_http_client(Arc::new(client))
            .with_headers(headers);
        Ok(match target.compression {
            Compression::None => builder,
            Compression::Gzip => builder.with_compression(opentelemetry_otlp::Compression::Gzip),
        })
    }
}

fn with_grpc<B: WithExportConfig + WithTonicConfig>(builder: B, target: &Target) -> Result<B, TelemetryError> {
    let mut headers = HeaderMap::new();
    for (name, value) in &target.headers {
        // Invalid headers were reported by the check of the settings.
        if let (Ok(name), Ok(value)) = (HeaderName::from_bytes(name.as_bytes()), HeaderValue::from_str(value.expose()))
        {
            headers.insert(name, value);
        }
    }
    let mut builder = builder
        .with_endpoint(&target.endpoint)
        .with_timeout(target.timeout)
        .with_metadata(MetadataMap::from_headers(headers));
    if target.endpoint.starts_with("https:") {
        let tls = match &target.ca_file {
            None => ClientTlsConfig::new().with_native_roots(),
            Some(file) => {
                let pem = std::fs::read(file)
                    .map_err(|error| TelemetryError::CaFile { file: file.clone(), cause: error.to_string() })?;
                ClientTlsConfig::new().ca_certificate(Certificate::from_pem(pem))
            }
        };
        builder = builder.with_tls_config(tls);
    }
    Ok(match target.compression {
        Compression::None => builder,
        Compression::Gzip => builder.with_compression(opentelemetry_otlp::Compression::Gzip),
    })
}
