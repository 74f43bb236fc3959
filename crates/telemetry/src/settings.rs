//! What can be set about telemetry. The comment on each field is its documentation for users.
//!
//! The standard `OTEL_*` variables override these settings; [`crate::environment`] lists them.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use broker::settings::DurationText;
pub use broker::settings::Secret;
use broker::settings_check::Problems;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Metrics, traces and logs for monitoring systems.
#[derive(Debug, Clone, PartialEq, JsonSchema, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TelemetrySettings {
    /// Serve metrics in Prometheus' text format: `GET /metrics` at `worker.health_address`.
    pub prometheus: bool,
    /// Address of an OpenTelemetry collector, `http://host:4318` or `https://host:4318`; with `protocol = "grpc"` the
    /// port is usually 4317. Left out: nothing is exported.
    pub endpoint: Option<String>,
    /// `"http/protobuf"` or `"grpc"`.
    pub protocol: Protocol,
    /// Export traces to `endpoint`.
    pub traces: bool,
    /// Export metrics to `endpoint`, in addition to `prometheus`.
    pub metrics: bool,
    /// Export logs to `endpoint`, in addition to standard error.
    pub logs: bool,
    /// Headers to send with every export, by name, for example `authorization`. Their values are never shown.
    pub headers: BTreeMap<String, Secret>,
    /// PEM file with the authorities to trust in place of the system's, for a collector with a certificate of its own.
    pub ca_file: Option<PathBuf>,
    /// `"none"` or `"gzip"`.
    pub compression: Compression,
    /// How long one export may take, retries included. What was not exported by then is dropped.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "DurationText")]
    pub timeout: Duration,
    /// How often metrics are exported.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "DurationText")]
    pub metrics_interval: Duration,
    /// Ratio of the jobs submitted without a trace context that are traced, 0 to 1. A job submitted with a trace context
    /// is traced if its submitter traces it.
    #[schemars(range(min = 0, max = 1))]
    pub sample_ratio: f64,
    /// Maximum jobs traced per second because their submitters trace them; those beyond it are not traced. Each traced
    /// job exports about ten spans.
    pub max_submitter_traces_per_second: f64,
    /// How a job's span refers to its submitter's: `"parent"` puts both into one trace, `"link"` starts a new trace with a
    /// link to the submitter's.
    pub submitter: Submitter,
    /// Add the label `dataset` to the metrics of jobs. Every dataset multiplies their time series.
    pub dataset_label: bool,
}

/// How telemetry is sent to a collector.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, JsonSchema, Serialize, Deserialize)]
pub enum Protocol {
    /// OTLP/HTTP with protobuf bodies.
    #[default]
    #[serde(rename = "http/protobuf")]
    HttpProtobuf,
    /// OTLP/gRPC.
    #[serde(rename = "grpc")]
    Grpc,
}

/// How exports are compressed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, JsonSchema, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Compression {
    /// Not at all.
    #[default]
    None,
    /// With gzip.
    Gzip,
}

/// What a job's span makes of its submitter's trace context.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, JsonSchema, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Submitter {
    /// The parent of the job's span.
    #[default]
    Parent,
    /// A link of the job's span, which begins a new trace.
    Link,
}

impl Default for TelemetrySettings {
    fn default() -> Self {
        Self {
            prometheus: true,
            endpoint: None,
            protocol: Protocol::default(),
            traces: true,
            metrics: true,
            logs: true,
            headers: BTreeMap::new(),
            ca_file: None,
            compression: Compression::default(),
            timeout: Duration::from_secs(10),
            metrics_interval: Duration::from_secs(60),
            sample_ratio: 0.01,
            // Some 200 spans a second. The queue of the exporter holds 2048 and is emptied as soon as it holds 512.
            max_submitter_traces_per_second: 20.0,
            submitter: Submitter::default(),
            dataset_label: false,
        }
    }
}

impl TelemetrySettings {
    /// What is wrong with this section.
    pub fn problems(&self) -> Vec<String> {
        let mut found = Problems::default();
        if let Some(problem) = self.endpoint.as_deref().and_then(endpoint_problem) {
            found.add(format!("telemetry.endpoint {problem}"));
        }
        for (name, value) in &self.headers {
            found.require(
                http::HeaderName::from_bytes(name.as_bytes()).is_ok(),
                format!("telemetry.headers: {name:?} cannot be the name of a header"),
            );
            found.require(
                http::HeaderValue::from_str(value.expose()).is_ok(),
                format!("telemetry.headers.{name} has characters that a header cannot have"),
            );
        }
        found.require(
            self.ca_file.is_none() || self.endpoint.as_ref().is_none_or(|endpoint| endpoint.starts_with("https:")),
            "telemetry.ca_file is given, but telemetry.endpoint is no https:// address: nothing would be encrypted",
        );
        found.require_nonzero("telemetry.timeout", self.timeout);
        found.require_nonzero("telemetry.metrics_interval", self.metrics_interval);
        found.require(
            (0.0..=1.0).contains(&self.sample_ratio),
            format!("telemetry.sample_ratio is {}, not in 0 to 1", self.sample_ratio),
        );
        let cap = self.max_submitter_traces_per_second;
        found.require(
            cap.is_finite() && cap >= 0.0,
            format!("telemetry.max_submitter_traces_per_second is {cap}: give 0 or more"),
        );
        found.0
    }
}

/// What is wrong with the address of a collector, as the end of a sentence.
pub(crate) fn endpoint_problem(endpoint: &str) -> Option<String> {
    match url::Url::parse(endpoint) {
        // Addresses get logged, so one with a secret in it is not even repeated here.
        _ if endpoint.contains('@') => Some(
            "holds a user or password, and addresses get logged: send them in a header (telemetry.headers)".to_owned(),
        ),
        Ok(url) if matches!(url.scheme(), "http" | "https") && url.has_host() => None,
        _ => Some(format!("{endpoint:?} is no address like http://host:4318")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_export_nothing_and_lack_nothing() {
        let settings = TelemetrySettings::default();
        assert_eq!(settings.problems(), Vec::<String>::new());
        assert!(settings.prometheus && settings.endpoint.is_none());
        assert_eq!(toml::from_str::<TelemetrySettings>("").unwrap(), settings);
    }

    #[test]
    fn every_problem_is_reported_at_once_and_no_secret_is_shown() {
        let settings: TelemetrySettings = toml::from_str(
            "endpoint = \"http://bob:hush@collector:4318\"\nsample_ratio = 1.5\nmax_submitter_traces_per_second = -1.0\n\
             timeout = \"0s\"\nca_file = \"ca.pem\"\n[headers]\n\"a b\" = \"x\"\nauthorization = \"hush\\nhush\"\n",
        )
        .unwrap();
        let text = settings.problems().join("\n");
        for name in ["endpoint", "sample_ratio", "max_submitter", "timeout", "ca_file", "headers: ", "headers.auth"] {
            assert!(text.contains(&format!("telemetry.{name}")), "{name} in {text}");
        }
        assert!(!text.contains("hush"), "{text}");
        assert!(!format!("{:?}", settings.headers).contains("hush"));
        assert!(!serde_json::to_string(&settings.headers).unwrap().contains("hush"));
    }

    #[test]
    fn words_are_those_of_the_otel_variables() {
        let text = "protocol = \"grpc\"\ncompression = \"gzip\"\nsubmitter = \"link\"\n";
        let settings: TelemetrySettings = toml::from_str(text).unwrap();
        assert_eq!(settings.protocol, Protocol::Grpc);
        assert_eq!(settings.compression, Compression::Gzip);
        assert_eq!(settings.submitter, Submitter::Link);
        assert!(toml::from_str::<TelemetrySettings>("protocol = \"http/json\"").is_err());
        assert!(toml::from_str::<TelemetrySettings>("enabeld = true").is_err());
    }
}
