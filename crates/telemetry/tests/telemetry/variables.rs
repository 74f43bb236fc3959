//! The standard variables, in a process of their own: the SDK reads some of them itself.

use sandbox::child_test;
use telemetry::attributes::JobOutcome;
use telemetry::settings::TelemetrySettings;
use telemetry::{InstrumentOptions, LogLayer, ServiceIdentity, Telemetry};

use crate::collector::{Collector, attribute};
use crate::everything::{do_job, received};

/// Exports a job as the environment says.
#[tokio::test]
#[ignore = "the other tests of this file start it"]
async fn exports_as_the_environment_says() {
    let service = ServiceIdentity { version: "1.2.3".into(), instance: "worker-7".into() };
    let variable = |name: &str| std::env::var(name).ok();
    let (settings, options) = (TelemetrySettings::default(), InstrumentOptions::default());
    let telemetry = Telemetry::start(&settings, options, &service, &LogLayer::default(), variable).unwrap();
    do_job(telemetry.jobs(), received(), JobOutcome::Annotated);
    telemetry.shutdown().await;
}

async fn export(variables: &[(&str, &str)]) {
    let mut child = child_test("variables::exports_as_the_environment_says");
    child.envs(variables.iter().copied());
    let output = tokio::task::spawn_blocking(move || child.output()).await.unwrap().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && said.contains("1 passed"), "{said}");
}

#[tokio::test]
async fn the_standard_variables_are_enough_to_export() {
    let collector = Collector::start().await;
    export(&[
        ("OTEL_EXPORTER_OTLP_ENDPOINT", &collector.url),
        ("OTEL_EXPORTER_OTLP_HEADERS", "x-token=a%20b"),
        ("OTEL_EXPORTER_OTLP_METRICS_PROTOCOL", "grpc"),
        ("OTEL_SERVICE_NAME", "pool-eu"),
        ("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment.name=test,service.instance.id=pod-3"),
        ("OTEL_TRACES_SAMPLER", "always_on"),
    ])
    .await;
    let received = &collector.received;
    assert!(received.spans().iter().any(|span| span.name == "generate"));
    assert!(received.metrics().iter().any(|metric| metric.name == "groundling.jobs"));
    for resource in received.resources() {
        let value = |key| attribute(&resource.attributes, key);
        assert_eq!(value("service.name").as_deref(), Some("pool-eu"));
        assert_eq!(value("deployment.environment.name").as_deref(), Some("test"));
        assert_eq!(value("service.instance.id").as_deref(), Some("pod-3"));
        assert_eq!(value("service.version").as_deref(), Some("1.2.3"));
    }
    for (path, headers) in received.requests() {
        assert_eq!(headers.get("x-token").unwrap(), "a b", "{path}");
    }
    let paths: Vec<_> = received.requests().into_iter().map(|(path, _)| path).collect();
    assert!(paths.contains(&"/v1/traces".to_owned()), "{paths:?}");
    assert!(paths.iter().any(|path| path.ends_with("MetricsService/Export")), "{paths:?}");
}

#[tokio::test]
async fn a_disabled_sdk_exports_nothing() {
    let collector = Collector::start().await;
    export(&[("OTEL_EXPORTER_OTLP_ENDPOINT", &collector.url), ("OTEL_SDK_DISABLED", "true")]).await;
    assert!(collector.received.requests().is_empty());
}
