//! What a collector receives, with each protocol.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use async_nats::HeaderMap;
use opentelemetry_proto::tonic::metrics::v1::metric::Data;
use opentelemetry_proto::tonic::trace::v1::Span;
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use telemetry::attributes::{JobOutcome, Reason};
use telemetry::job_span::ReceivedJob;
use telemetry::settings::{Compression, Protocol, Secret, Submitter, TelemetrySettings};
use telemetry::table::{INSTRUMENTS, Kind};
use telemetry::{LogLayer, propagation};
use tracing_subscriber::layer::SubscriberExt;

use crate::collector::{Collector, attribute};
use crate::everything::{do_job, received, record, start, start_with};

const SUBMITTER: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

pub(crate) fn exporting(collector: &Collector, protocol: Protocol) -> TelemetrySettings {
    TelemetrySettings {
        endpoint: Some(collector.url.clone()),
        protocol,
        sample_ratio: 1.0,
        headers: [("authorization".to_owned(), Secret::new("Basic a%2Bb="))].into(),
        ..TelemetrySettings::default()
    }
}

fn submitted() -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert("Traceparent", SUBMITTER);
    headers.insert("Nats-Trace-Dest", "trace.inbox");
    headers
}

async fn all_signals_arrive(protocol: Protocol, compression: Compression) {
    let collector = Collector::start().await;
    let logs = LogLayer::default();
    let telemetry = start_with(&TelemetrySettings { compression, ..exporting(&collector, protocol) }, &logs);
    record(&telemetry);
    let trace_id = {
        let _guard = tracing::subscriber::set_default(tracing_subscriber::registry().with(logs));
        let span = telemetry.jobs().start(received());
        span.job_id("job-9");
        span.scope(async { tracing::warn!(key = "a.jpg", "job failed permanently: not found") }).await;
        span.trace_id().unwrap()
    };
    telemetry.shutdown().await;

    let received = &collector.received;
    let names: BTreeSet<_> = received.spans().into_iter().map(|span| span.name).collect();
    assert!(names.contains("process groundling.jobs.{dataset}") && names.contains("prefill"), "{names:?}");
    let metrics: BTreeMap<_, _> = received.metrics().into_iter().map(|metric| (metric.name.clone(), metric)).collect();
    assert_eq!(metrics.len(), INSTRUMENTS.len(), "{:?}", metrics.keys());
    for info in INSTRUMENTS {
        let metric = &metrics[info.name];
        assert_eq!((metric.unit.as_str(), metric.description.as_str()), (info.unit, info.help), "{}", info.name);
        match (info.kind, metric.data.as_ref().unwrap()) {
            (Kind::Counter, Data::Sum(sum)) => assert!(sum.is_monotonic, "{}", info.name),
            (Kind::UpDownCounter, Data::Sum(sum)) => assert!(!sum.is_monotonic, "{}", info.name),
            (Kind::Gauge, Data::Gauge(_)) => {}
            (Kind::Histogram, Data::Histogram(histogram)) => {
                assert_eq!(histogram.data_points[0].explicit_bounds, info.buckets, "{}", info.name);
            }
            (kind, data) => panic!("{} is a {kind:?}, and came as {data:?}", info.name),
        }
    }
    let record = received.logs().into_iter().find(|record| attribute(&record.attributes, "key").is_some()).unwrap();
    assert_eq!(hex(&record.trace_id), trace_id);
    assert_eq!(attribute(&record.attributes, "job_id").as_deref(), Some("job-9"));
    assert_eq!(attribute(&record.attributes, "dataset").as_deref(), Some("cats"));

    for resource in received.resources() {
        let value = |key| attribute(&resource.attributes, key);
        assert_eq!(value("service.name").as_deref(), Some("groundling"));
        assert_eq!(value("service.version").as_deref(), Some("1.2.3"));
        assert_eq!(value("service.instance.id").as_deref(), Some("worker-7"));
    }
    for (path, headers) in received.requests() {
        assert_eq!(headers.get("authorization").unwrap(), "Basic a%2Bb=", "{path}");
        let encoding = headers.get("content-encoding").or(headers.get("grpc-encoding"));
        assert_eq!(encoding.is_some_and(|encoding| encoding == "gzip"), compression == Compression::Gzip, "{path}");
    }
}

#[tokio::test]
async fn traces_metrics_and_logs_arrive_with_grpc() {
    all_signals_arrive(Protocol::Grpc, Compression::None).await;
    all_signals_arrive(Protocol::Grpc, Compression::Gzip).await;
}

#[tokio::test]
async fn traces_metrics_and_logs_arrive_with_http() {
    all_signals_arrive(Protocol::HttpProtobuf, Compression::None).await;
    all_signals_arrive(Protocol::HttpProtobuf, Compression::Gzip).await;
}

#[tokio::test]
async fn metrics_are_exported_at_each_interval_and_exports_are_counted() {
    let collector = Collector::start().await;
    let interval = Duration::from_millis(100);
    let settings = TelemetrySettings { metrics_interval: interval, ..exporting(&collector, Protocol::HttpProtobuf) };
    let telemetry = start(&settings);
    let arrived = |count| {
        collector.received.until("metrics are exported again and again", move |received| {
            received.requests().iter().filter(|(path, _)| path == "/v1/metrics").count() >= count
        })
    };
    arrived(3).await;
    let text = telemetry.scraper().unwrap().render().unwrap();
    let line = text.lines().find(|line| line.contains("exports_total{result=\"ok\",signal=\"metrics\"}")).unwrap();
    let exports: f64 = line.rsplit_once(' ').unwrap().1.parse().unwrap();
    assert!(exports >= 2.0, "{line}");
    assert!(text.contains("groundling_telemetry_exports_total{result=\"failed\",signal=\"traces\"} 0"), "{text}");
}

/// The spans of one job, submitted with these headers.
async fn spans(settings: TelemetrySettings, collector: &Collector, outcome: JobOutcome) -> (Vec<Span>, HeaderMap) {
    let telemetry = start(&settings);
    let headers = submitted();
    let job = ReceivedJob { headers: Some(&headers), ..received() };
    let published = do_job(telemetry.jobs(), job, outcome);
    telemetry.shutdown().await;
    (collector.received.spans(), published)
}

#[tokio::test]
async fn a_job_is_one_trace_from_its_submitter_to_the_consumer_of_its_annotation() {
    let collector = Collector::start().await;
    let settings = exporting(&collector, Protocol::HttpProtobuf);
    let (spans, published) = spans(settings, &collector, JobOutcome::Annotated).await;
    let named = |name: &str| spans.iter().find(|span| span.name == name).unwrap();
    let process = named("process groundling.jobs.{dataset}");
    assert_eq!(process.kind(), SpanKind::Consumer);
    assert_eq!(hex(&process.parent_span_id), "b7ad6b7169203331");
    for (key, value) in [
        ("messaging.system", "nats"),
        ("messaging.operation.type", "process"),
        ("messaging.destination.name", "groundling.jobs.cats"),
        ("messaging.destination.template", "groundling.jobs.{dataset}"),
        ("messaging.consumer.group.name", "groundling-workers"),
        ("messaging.message.body.size", "200"),
        ("groundling.job.id", "job-1"),
        ("groundling.job.sequence", "17"),
        ("groundling.job.outcome", "annotated"),
    ] {
        assert_eq!(attribute(&process.attributes, key).as_deref(), Some(value), "{key}");
    }
    let children = ["fetch", "decode", "queue", "vision", "prefill", "generate", "acknowledge"];
    let publish = named("publish groundling.annotations.{dataset}");
    assert_eq!(publish.kind(), SpanKind::Producer);
    for child in children.map(named).into_iter().chain([publish]) {
        assert_eq!(child.parent_span_id, process.span_id, "{}", child.name);
        assert_eq!(child.trace_id, process.trace_id, "{}", child.name);
    }
    assert_eq!(spans.len(), children.len() + 2);
    assert_eq!(hex(&process.trace_id), "0af7651916cd43dd8448eb211c80319c");
    // The stages of the engine lie one behind the other, with its own durations.
    let stages = ["queue", "vision", "prefill", "generate"].map(named);
    for pair in stages.windows(2) {
        assert_eq!(pair[0].end_time_unix_nano, pair[1].start_time_unix_nano);
    }
    let durations = stages.map(|span| (span.end_time_unix_nano - span.start_time_unix_nano) / 1_000_000);
    assert_eq!(durations, [10, 20, 30, 40]);

    assert_eq!(published.len(), 1, "{published:?}");
    let parent = format!("00-0af7651916cd43dd8448eb211c80319c-{}-01", hex(&publish.span_id));
    assert_eq!(published.get("traceparent").unwrap().as_str(), parent);
}

#[tokio::test]
async fn a_linked_job_begins_a_trace_of_its_own() {
    let collector = Collector::start().await;
    let settings = TelemetrySettings { submitter: Submitter::Link, ..exporting(&collector, Protocol::HttpProtobuf) };
    let (spans, published) = spans(settings, &collector, JobOutcome::Annotated).await;
    let process = spans.iter().find(|span| span.name.starts_with("process")).unwrap();
    assert!(process.parent_span_id.is_empty());
    let linked: Vec<_> = process.links.iter().map(|link| (hex(&link.trace_id), hex(&link.span_id))).collect();
    assert_eq!(linked, [("0af7651916cd43dd8448eb211c80319c".to_owned(), "b7ad6b7169203331".to_owned())]);
    let context = propagation::extract(Some(&published));
    let trace_id = opentelemetry::trace::TraceContextExt::span(&context).span_context().trace_id().to_string();
    assert_eq!(trace_id, hex(&process.trace_id));
}

#[tokio::test]
async fn a_failed_job_is_a_failed_span() {
    let collector = Collector::start().await;
    let settings = exporting(&collector, Protocol::Grpc);
    let (spans, _) = spans(settings, &collector, JobOutcome::Failed(Reason::ObjectNotFound)).await;
    let process = spans.iter().find(|span| span.name.starts_with("process")).unwrap();
    assert_eq!(process.status.as_ref().unwrap().message, "object_not_found");
    assert_eq!(attribute(&process.attributes, "error.type").as_deref(), Some("object_not_found"));
}

#[tokio::test]
async fn jobs_that_submitters_trace_are_capped() {
    let collector = Collector::start().await;
    let settings =
        TelemetrySettings { max_submitter_traces_per_second: 5.0, ..exporting(&collector, Protocol::HttpProtobuf) };
    let telemetry = start(&settings);
    let headers = submitted();
    let published: Vec<_> = (0..200)
        .map(|_| {
            let job = ReceivedJob { headers: Some(&headers), ..received() };
            do_job(telemetry.jobs(), job, JobOutcome::Annotated)
        })
        .collect();
    telemetry.shutdown().await;
    let traced = collector.received.spans().iter().filter(|span| span.name.starts_with("process")).count();
    assert!((5..=10).contains(&traced), "{traced}");
    // A job that is not traced still hands its trace on, as one that is not.
    let [sampled, not] = ["-01", "-00"].map(|flag| {
        let contexts = published.iter().map(|headers| headers.get("traceparent").unwrap().as_str());
        contexts.filter(|context| context.starts_with(&SUBMITTER[..35]) && context.ends_with(flag)).count()
    });
    assert_eq!((sampled, not), (traced, 200 - traced));
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
