//! What is exported, and where to: the settings, overridden by the standard `OTEL_*` variables.
//!
//! | variable | overrides |
//! | --- | --- |
//! | `OTEL_SDK_DISABLED` | `true` turns everything off, `/metrics` included |
//! | `OTEL_EXPORTER_OTLP_ENDPOINT` | `telemetry.endpoint` |
//! | `OTEL_EXPORTER_OTLP_PROTOCOL` | `telemetry.protocol` |
//! | `OTEL_EXPORTER_OTLP_HEADERS` | those of `telemetry.headers` that it names |
//! | `OTEL_EXPORTER_OTLP_TIMEOUT` | `telemetry.timeout`, in milliseconds |
//! | `OTEL_EXPORTER_OTLP_COMPRESSION` | `telemetry.compression` |
//! | `OTEL_EXPORTER_OTLP_CERTIFICATE` | `telemetry.ca_file` |
//! | `OTEL_EXPORTER_OTLP_INSECURE` | whether a gRPC address without `http://` or `https://` means `http://` |
//! | `OTEL_{TRACES,METRICS,LOGS}_EXPORTER` | `telemetry.traces`, `.metrics` and `.logs`: `otlp` or `none` |
//! | `OTEL_TRACES_SAMPLER`, `OTEL_TRACES_SAMPLER_ARG` | `telemetry.sample_ratio` |
//! | `OTEL_METRIC_EXPORT_INTERVAL` | `telemetry.metrics_interval`, in milliseconds |
//!
//! Each of the variables `OTEL_EXPORTER_OTLP_*` also exists for one signal, for example
//! `OTEL_EXPORTER_OTLP_TRACES_ENDPOINT`; that one wins, and its address is used unchanged, without adding `/v1/traces`. The
//! SDK itself reads `OTEL_SERVICE_NAME`, `OTEL_RESOURCE_ATTRIBUTES`, the headers, and the sizes of its queues
//! (`OTEL_BSP_*` and `OTEL_BLRP_*`). A value that cannot be used is ignored with a warning, as the specification asks:
//! a variable meant for another program must not keep a worker from starting.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use broker::settings::Secret;

use crate::sampler::SamplerOptions;
use crate::settings::{Compression, Protocol, TelemetrySettings, endpoint_problem};
use crate::signal::Signal;

/// What is exported, and where to.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct ExportPlan {
    pub(crate) prometheus: bool,
    pub(crate) traces: Option<Target>,
    pub(crate) metrics: Option<Target>,
    pub(crate) logs: Option<Target>,
    pub(crate) metrics_interval: Duration,
    pub(crate) sampler: SamplerOptions,
    /// Ignored variables, one sentence each.
    pub(crate) warnings: Vec<String>,
}

/// Where one signal is exported to.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Target {
    /// With the path, for HTTP.
    pub(crate) endpoint: String,
    pub(crate) protocol: Protocol,
    pub(crate) headers: BTreeMap<String, Secret>,
    pub(crate) ca_file: Option<PathBuf>,
    pub(crate) compression: Compression,
    pub(crate) timeout: Duration,
}

impl ExportPlan {
    /// Plans by the settings and the variables of the environment; `variable` returns the value of one.
    pub(crate) fn new(settings: &TelemetrySettings, variable: impl Fn(&str) -> Option<String>) -> Self {
        let mut variables = Variables { variable: &variable, warnings: Vec::new() };
        if variables.is_true("OTEL_SDK_DISABLED") {
            return Self::disabled(settings);
        }
        let [traces, metrics, logs] =
            [(Signal::Traces, settings.traces), (Signal::Metrics, settings.metrics), (Signal::Logs, settings.logs)]
                .map(|(signal, wanted)| target(settings, signal, wanted, &mut variables));
        let interval = variables.milliseconds("OTEL_METRIC_EXPORT_INTERVAL");
        let sampler = sampler(settings, &mut variables);
        Self {
            prometheus: settings.prometheus,
            traces,
            metrics,
            logs,
            metrics_interval: interval.unwrap_or(settings.metrics_interval),
            sampler,
            warnings: variables.warnings,
        }
    }

    fn disabled(settings: &TelemetrySettings) -> Self {
        Self {
            prometheus: false,
            traces: None,
            metrics: None,
            logs: None,
            metrics_interval: settings.metrics_interval,
            sampler: SamplerOptions::of(settings),
            warnings: Vec::new(),
        }
    }

    /// Whether anything is sent to a collector.
    pub(crate) fn exports(&self) -> bool {
        self.traces.is_some() || self.metrics.is_some() || self.logs.is_some()
    }
}

fn target(settings: &TelemetrySettings, signal: Signal, wanted: bool, variables: &mut Variables<'_>) -> Option<Target> {
    let exporter = format!("OTEL_{}_EXPORTER", signal.variable_part());
    // A list of exporters, of which this program has only this one.
    let chosen = variables.get(&exporter).map(|list| list.split(',').any(|name| name.trim() == "otlp"));
    let own_endpoint = variables.get(&format!("OTEL_EXPORTER_OTLP_{}_ENDPOINT", signal.variable_part()));
    if !chosen.unwrap_or(wanted || own_endpoint.is_some()) {
        return None;
    }
    let protocol = variables.of_signal(signal, "PROTOCOL", |text| match text {
        "grpc" => Ok(Protocol::Grpc),
        "http/protobuf" => Ok(Protocol::HttpProtobuf),
        _ => Err("is neither http/protobuf nor grpc"),
    });
    let protocol = protocol.unwrap_or(settings.protocol);
    let base = variables.get("OTEL_EXPORTER_OTLP_ENDPOINT").or_else(|| settings.endpoint.clone());
    let base = base.or_else(|| chosen?.then(|| default_endpoint(protocol).to_owned()));
    let endpoint = match (own_endpoint, base, protocol) {
        (Some(own), ..) => own,
        (None, Some(base), Protocol::Grpc) => base,
        (None, Some(base), Protocol::HttpProtobuf) => format!("{}{}", base.trim_end_matches('/'), signal.path()),
        (None, None, _) => return None,
    };
    let insecure = variables.of_signal(signal, "INSECURE", |text| Ok(text.eq_ignore_ascii_case("true")));
    let endpoint = match protocol {
        Protocol::Grpc if !endpoint.contains("://") => {
            format!("{}://{endpoint}", if insecure == Some(true) { "http" } else { "https" })
        }
        _ => endpoint,
    };
    if let Some(problem) = endpoint_problem(&endpoint) {
        variables.warnings.push(format!("{} are not exported: the collector's address {problem}", signal.as_str()));
        return None;
    }
    variables.warnings.extend(port_warning(&endpoint, protocol, signal));
    let compression = variables.of_signal(signal, "COMPRESSION", |text| match text {
        "gzip" => Ok(Compression::Gzip),
        "none" => Ok(Compression::None),
        _ => Err("is neither gzip nor none"),
    });
    let timeout = variables.of_signal(signal, "TIMEOUT", milliseconds);
    let ca_file = variables.of_signal(signal, "CERTIFICATE", |path| Ok(PathBuf::from(path)));
    Some(Target {
        endpoint,
        protocol,
        headers: settings.headers.clone(),
        ca_file: ca_file.or_else(|| settings.ca_file.clone()),
        compression: compression.unwrap_or(settings.compression),
        timeout: timeout.unwrap_or(settings.timeout),
    })
}

fn default_endpoint(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Grpc => "http://localhost:4317",
        Protocol::HttpProtobuf => "http://localhost:4318",
    }
}

/// Warns of the usual port of the other protocol: collectors answer that mistake with an unrelated error.
fn port_warning(endpoint: &str, protocol: Protocol, signal: Signal) -> Option<String> {
    let port = url::Url::parse(endpoint).ok()?.port()?;
    let (usual, other) = match (port, protocol) {
        (4317, Protocol::HttpProtobuf) => ("grpc", "http/protobuf"),
        (4318, Protocol::Grpc) => ("http/protobuf", "grpc"),
        _ => return None,
    };
    Some(format!(
        "{} are exported to {endpoint} with {other}, but port {port} is usually for {usual}: check telemetry.protocol",
        signal.as_str()
    ))
}

fn sampler(settings: &TelemetrySettings, variables: &mut Variables<'_>) -> SamplerOptions {
    let options = SamplerOptions::of(settings);
    let Some(name) = variables.get("OTEL_TRACES_SAMPLER") else { return options };
    let (follows_submitter, kind) = match name.strip_prefix("parentbased_") {
        Some(kind) => (true, kind),
        None => (false, name.as_str()),
    };
    let sample_ratio = match kind {
        "always_on" => 1.0,
        "always_off" => 0.0,
        "traceidratio" => variables.parsed("OTEL_TRACES_SAMPLER_ARG", ratio).unwrap_or(1.0),
        _ => {
            variables.warnings.push(format!("OTEL_TRACES_SAMPLER is ignored: {name:?} is no sampler of this program"));
            return options;
        }
    };
    SamplerOptions { follows_submitter, sample_ratio, ..options }
}

fn ratio(text: &str) -> Result<f64, &'static str> {
    text.parse().ok().filter(|ratio| (0.0..=1.0).contains(ratio)).ok_or("is no number in 0 to 1")
}

fn milliseconds(text: &str) -> Result<Duration, &'static str> {
    match text.parse() {
        Ok(milliseconds @ 1..) => Ok(Duration::from_millis(milliseconds)),
        _ => Err("is no number of milliseconds above 0"),
    }
}

/// Reads variables, and collects what is wrong with them.
struct Variables<'a> {
    variable: &'a dyn Fn(&str) -> Option<String>,
    warnings: Vec<String>,
}

impl Variables<'_> {
    /// Its value; an empty one counts as unset.
    fn get(&self, name: &str) -> Option<String> {
        (self.variable)(name).map(|value| value.trim().to_owned()).filter(|value| !value.is_empty())
    }

    fn is_true(&self, name: &str) -> bool {
        self.get(name).is_some_and(|value| value.eq_ignore_ascii_case("true"))
    }

    fn parsed<T>(&mut self, name: &str, parse: impl Fn(&str) -> Result<T, &'static str>) -> Option<T> {
        let value = self.get(name)?;
        match parse(&value) {
            Ok(parsed) => Some(parsed),
            Err(problem) => {
                self.warnings.push(format!("{name} is ignored: {value:?} {problem}"));
                None
            }
        }
    }

    fn milliseconds(&mut self, name: &str) -> Option<Duration> {
        self.parsed(name, milliseconds)
    }

    /// The variable of the signal, or else the one for all signals.
    fn of_signal<T>(
        &mut self,
        signal: Signal,
        what: &str,
        parse: impl Fn(&str) -> Result<T, &'static str>,
    ) -> Option<T> {
        let own = format!("OTEL_EXPORTER_OTLP_{}_{what}", signal.variable_part());
        self.parsed(&own, &parse).or_else(|| self.parsed(&format!("OTEL_EXPORTER_OTLP_{what}"), &parse))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(settings: &TelemetrySettings, variables: &[(&str, &str)]) -> ExportPlan {
        ExportPlan::new(settings, |name| {
            variables.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned())
        })
    }

    fn endpoints(plan: &ExportPlan) -> [Option<&str>; 3] {
        [&plan.traces, &plan.metrics, &plan.logs].map(|target| target.as_ref().map(|target| target.endpoint.as_str()))
    }

    fn exporting() -> TelemetrySettings {
        TelemetrySettings { endpoint: Some("http://file:4318".into()), ..Default::default() }
    }

    #[test]
    fn nothing_is_exported_unless_an_endpoint_is_named() {
        let plan = plan(&TelemetrySettings::default(), &[]);
        assert!(plan.prometheus && !plan.exports() && plan.warnings.is_empty());
    }

    #[test]
    fn the_endpoint_of_the_settings_gets_the_path_of_each_signal() {
        let all = ["http://file:4318/v1/traces", "http://file:4318/v1/metrics", "http://file:4318/v1/logs"];
        assert_eq!(endpoints(&plan(&exporting(), &[])), all.map(Some));
        let settings = TelemetrySettings { logs: false, protocol: Protocol::Grpc, ..exporting() };
        let plan = plan(&settings, &[]);
        assert_eq!(endpoints(&plan), [Some("http://file:4318"), Some("http://file:4318"), None]);
        assert!(plan.warnings[0].contains("usually for http/protobuf"), "{:?}", plan.warnings);
    }

    #[test]
    fn variables_override_settings_and_those_of_a_signal_override_all() {
        let plan = plan(
            &exporting(),
            &[
                ("OTEL_EXPORTER_OTLP_ENDPOINT", "https://env:4318/"),
                ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "traces:4317"),
                ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "grpc"),
                ("OTEL_EXPORTER_OTLP_TRACES_INSECURE", "true"),
                ("OTEL_EXPORTER_OTLP_TIMEOUT", "1500"),
                ("OTEL_EXPORTER_OTLP_LOGS_TIMEOUT", "2500"),
                ("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip"),
                ("OTEL_EXPORTER_OTLP_CERTIFICATE", "/ca.pem"),
                ("OTEL_METRIC_EXPORT_INTERVAL", "250"),
            ],
        );
        assert_eq!(plan.warnings, Vec::<String>::new());
        assert_eq!(
            endpoints(&plan),
            [Some("http://traces:4317"), Some("https://env:4318/v1/metrics"), Some("https://env:4318/v1/logs")]
        );
        let (traces, logs) = (plan.traces.unwrap(), plan.logs.unwrap());
        assert_eq!((traces.protocol, logs.protocol), (Protocol::Grpc, Protocol::HttpProtobuf));
        assert_eq!((traces.timeout.as_millis(), logs.timeout.as_millis()), (1500, 2500));
        assert_eq!((traces.compression, logs.ca_file), (Compression::Gzip, Some("/ca.pem".into())));
        assert_eq!(plan.metrics_interval, Duration::from_millis(250));
    }

    #[test]
    fn exporters_are_chosen_by_name() {
        let variables = [("OTEL_TRACES_EXPORTER", "none"), ("OTEL_METRICS_EXPORTER", "prometheus,otlp")];
        let all = ["http://file:4318/v1/metrics", "http://file:4318/v1/logs"];
        assert_eq!(endpoints(&plan(&exporting(), &variables)), [None, Some(all[0]), Some(all[1])]);
        let only_traces = plan(&TelemetrySettings::default(), &[("OTEL_TRACES_EXPORTER", "otlp")]);
        assert_eq!(endpoints(&only_traces), [Some("http://localhost:4318/v1/traces"), None, None]);
    }

    #[test]
    fn a_disabled_sdk_does_nothing_at_all() {
        let plan = plan(&exporting(), &[("OTEL_SDK_DISABLED", "TRUE")]);
        assert!(!plan.prometheus && !plan.exports());
    }

    #[test]
    fn what_cannot_be_used_is_ignored_with_a_warning() {
        for (name, value) in [
            ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/json"),
            ("OTEL_EXPORTER_OTLP_COMPRESSION", "zstd"),
            ("OTEL_EXPORTER_OTLP_TIMEOUT", "10s"),
            ("OTEL_METRIC_EXPORT_INTERVAL", "0"),
            ("OTEL_TRACES_SAMPLER", "xray"),
        ] {
            let plan = plan(&exporting(), &[(name, value)]);
            assert!(plan.warnings.iter().all(|text| text.contains(name)) && !plan.warnings.is_empty(), "{name}");
            assert!(plan.traces.is_some());
        }
        let bad = plan(&exporting(), &[("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "nowhere")]);
        assert!(bad.traces.is_none() && bad.metrics.is_some());
        assert!(bad.warnings[0].starts_with("traces are not exported"), "{:?}", bad.warnings);
    }

    #[test]
    fn samplers_have_the_names_of_the_specification() {
        let sampler = |name: &str, argument: &str| {
            let variables = [("OTEL_TRACES_SAMPLER", name), ("OTEL_TRACES_SAMPLER_ARG", argument)];
            let SamplerOptions { follows_submitter, sample_ratio, .. } =
                plan(&TelemetrySettings::default(), &variables).sampler;
            (follows_submitter, sample_ratio)
        };
        assert_eq!(sampler("", ""), (true, 0.01));
        assert_eq!(sampler("always_on", ""), (false, 1.0));
        assert_eq!(sampler("traceidratio", "0.5"), (false, 0.5));
        assert_eq!(sampler("parentbased_always_off", ""), (true, 0.0));
        assert_eq!(sampler("parentbased_traceidratio", "0.25"), (true, 0.25));
        assert_eq!(sampler("traceidratio", "many"), (false, 1.0));
    }
}
