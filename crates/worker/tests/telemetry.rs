//! Metrics and traces of a whole worker with the demo model, on a real NATS server.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a panic in a test is the report")]

#[path = "../../telemetry/tests/telemetry/collector.rs"]
#[allow(dead_code, reason = "the tests of the crate telemetry use the rest")]
mod collector;
mod common;

use std::net::SocketAddr;
use std::sync::Arc;

use async_nats::HeaderMap;
use collector::{Collector, attribute};
use common::{PATIENCE, TestEnv, Yes, bitmap, given_up, job, parts, settings};
use engine::{Annotator, Engine, EngineOptions};
use kosmos2::Kosmos2;
use kosmos2::compute::{Compute, DeviceChoice};
use opentelemetry_proto::tonic::trace::v1::Span;
use sandbox::DemoData;
use telemetry::settings::TelemetrySettings;
use telemetry::{InstrumentOptions, LogLayer, ServiceIdentity, Telemetry};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use wire::Message;
use wire::v1::{self, FailureReason, image_job};
use worker::{Events, JobEvent, Settings, WorkerError, WorkerParts, WorkerReport, WorkerTelemetry};

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const SUBMITTER: &str = "b7ad6b7169203331";

fn traceparent() -> String {
    format!("00-{TRACE}-{SUBMITTER}-01")
}

fn start_telemetry(settings: &TelemetrySettings) -> Telemetry {
    let instruments = InstrumentOptions { consumer: "groundling-workers".into(), ..Default::default() };
    let service = ServiceIdentity { version: "1".into(), instance: "worker-1".into() };
    Telemetry::start(settings, instruments, &service, &LogLayer::default(), |_| None).unwrap()
}

struct Running {
    address: SocketAddr,
    stop: CancellationToken,
    events: mpsc::Receiver<JobEvent>,
    task: JoinHandle<Result<WorkerReport, WorkerError>>,
}

impl Running {
    fn start(mut settings: Settings, engine: Arc<dyn Annotator>, telemetry: &Telemetry) -> Self {
        let address = sandbox::free_address().unwrap();
        settings.worker.health_address = Some(address);
        let (sender, events) = mpsc::channel(100);
        let telemetry = WorkerTelemetry::from(telemetry);
        let parts = WorkerParts { engine, events: Events::to(sender), telemetry, ..parts(settings) };
        let stop = CancellationToken::new();
        Self { address, stop: stop.clone(), events, task: tokio::spawn(worker::run(parts, stop)) }
    }

    async fn event(&mut self) -> JobEvent {
        tokio::time::timeout(PATIENCE * 2, self.events.recv()).await.expect("a job should end").unwrap()
    }

    /// The headers and the metrics.
    async fn scrape(&self) -> (String, String) {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: worker\r\nConnection: close\r\n\r\n").await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
        (head.to_lowercase(), body.to_owned())
    }

    async fn end(self) {
        self.stop.cancel();
        tokio::time::timeout(PATIENCE * 2, self.task).await.expect("the worker should end").unwrap().unwrap();
    }
}

/// The value of a time series.
fn value(metrics: &str, series: &str) -> f64 {
    let line = metrics.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("{series} is not in\n{metrics}")).parse().unwrap()
}

async fn submit(env: &TestEnv, job: &v1::ImageJob, traceparent: Option<&str>) {
    let mut headers = HeaderMap::new();
    if let Some(traceparent) = traceparent {
        // As clients in Go write it.
        headers.insert("Traceparent", traceparent);
    }
    let payload = job.encode_to_vec().into();
    env.jetstream.publish_with_headers("groundling.jobs.cats", headers, payload).await.unwrap().await.unwrap();
}

async fn traceparent_of_last(env: &TestEnv, stream: &str, subject: &str) -> String {
    let stream = env.jetstream.get_stream(stream).await.unwrap();
    let message = stream.get_last_raw_message_by_subject(subject).await.unwrap();
    message.headers.get("traceparent").expect("a trace context").to_string()
}

fn hex(id: &[u8]) -> String {
    id.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_annotated_and_a_failed_job_are_measured_and_traced_from_the_submitter_to_the_annotation() {
    let demo = DemoData::locate().unwrap();
    let model = Kosmos2::open(&demo.model_dir, &Compute::open(DeviceChoice::Cpu, None).unwrap()).unwrap();
    let (engine, _thread) = Engine::start(model, EngineOptions::default()).unwrap();
    let (env, collector) = (TestEnv::ready().await, Collector::start().await);
    let telemetry = start_telemetry(&TelemetrySettings { endpoint: Some(collector.url.clone()), ..Default::default() });
    let mut running = Running::start(settings(&env), Arc::new(engine), &telemetry);
    let picture = std::fs::read(demo.scenes_dir.join("0000.jpg")).unwrap();
    submit(&env, &job("good", picture), Some(&traceparent())).await;
    let event = running.event().await;
    assert!(matches!(event, JobEvent::Finished { .. }), "{event:?}");
    submit(&env, &job("bad", b"no picture".to_vec()), None).await;
    let event = running.event().await;
    assert!(matches!(event, JobEvent::Failed { reason: FailureReason::UnsupportedPicture, .. }), "{event:?}");

    let (head, metrics) = running.scrape().await;
    assert!(head.contains("content-type: text/plain; version=0.0.4"), "{head}");
    for (series, expected) in [
        ("groundling_jobs_total{outcome=\"annotated\"}", 1.0),
        ("groundling_jobs_total{outcome=\"failed\",reason=\"unsupported_picture\"}", 1.0),
        ("groundling_jobs_in_hand", 0.0),
        ("groundling_job_deliveries_sum{outcome=\"annotated\"}", 1.0),
        ("groundling_job_age_seconds_count{outcome=\"failed\"}", 1.0),
        ("groundling_bytes_in_flight_bytes", 0.0),
        ("groundling_connections{server=\"nats\"}", 1.0),
        ("groundling_pulls_lost_total", 0.0),
        ("groundling_engine_slots_limit", 32.0),
        ("groundling_engine_queue_size", 0.0),
        ("groundling_engine_batch_size_sum{pass=\"vision\"}", 1.0),
    ] {
        assert_eq!(value(&metrics, series), expected, "{series}");
    }
    // The failed job ends with its decoding.
    let stages = ["fetch", "decode", "queue", "vision", "prefill", "generate", "publish", "acknowledge"];
    for (stage, count) in stages.iter().zip([2.0, 2.0, 1.0, 1.0, 1.0, 1.0, 2.0, 2.0]) {
        let series = format!("groundling_job_stage_duration_seconds_count{{stage=\"{stage}\"}}");
        assert_eq!(value(&metrics, &series), count, "{series}");
    }
    let steps = value(&metrics, "groundling_engine_steps_total");
    assert!(steps > 1.0);
    assert_eq!(value(&metrics, "groundling_engine_batch_size_count{pass=\"decoder\"}"), steps);
    assert!(value(&metrics, "groundling_engine_tokens_total{type=\"prompt\"}") > 64.0);
    assert_eq!(value(&metrics, "groundling_engine_tokens_total{type=\"answer\"}"), steps - 1.0);

    let published = traceparent_of_last(&env, &env.streams.annotations, "groundling.annotations.cats").await;
    running.end().await;
    telemetry.shutdown().await;
    let spans = collector.received.spans();
    let traced: Vec<&Span> = spans.iter().filter(|span| hex(&span.trace_id) == TRACE).collect();
    let named = |name: &str| *traced.iter().find(|span| span.name == name).unwrap_or_else(|| panic!("{name}"));
    let process = named("process groundling.jobs.{dataset}");
    assert_eq!(hex(&process.parent_span_id), SUBMITTER);
    assert_eq!(attribute(&process.attributes, "groundling.job.id").as_deref(), Some("good"));
    assert_eq!(attribute(&process.attributes, "groundling.job.outcome").as_deref(), Some("annotated"));
    let publish = "publish groundling.annotations.{dataset}";
    let children = ["fetch", "decode", "queue", "vision", "prefill", "generate", publish, "acknowledge"];
    for child in children {
        assert_eq!(named(child).parent_span_id, process.span_id, "{child}");
    }
    assert_eq!(traced.len(), children.len() + 1);
    assert_eq!(published, format!("00-{TRACE}-{}-01", hex(&named(publish).span_id)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_of_a_job_that_is_retried_has_its_submitters_trace_context() {
    let env = TestEnv::ready().await;
    let telemetry = start_telemetry(&TelemetrySettings::default());
    let mut settings = settings(&env);
    // Nothing listens there.
    settings.s3.endpoint = Some("http://127.0.0.1:1".into());
    settings.s3.attempts = 1;
    let mut running = Running::start(settings, Arc::new(Yes), &telemetry);
    let object = v1::S3Object { bucket: "pictures".into(), key: "a.jpg".into(), ..Default::default() };
    let source = Some(image_job::Source::S3(object));
    submit(&env, &v1::ImageJob { source, ..job("away", bitmap()) }, Some(&traceparent())).await;
    let event = running.event().await;
    assert!(matches!(event, JobEvent::Retried { .. }), "{event:?}");
    let copy = traceparent_of_last(&env, &env.streams.retries, "groundling.retries.cats.>").await;
    assert_eq!(copy, traceparent());
    let (_, metrics) = running.scrape().await;
    for series in [
        "groundling_jobs_total{outcome=\"retried\",reason=\"store_unavailable\"}",
        "groundling_s3_get_duration_seconds_count{result=\"unavailable\"}",
        "groundling_job_stage_duration_seconds_count{stage=\"fetch\"}",
    ] {
        assert_eq!(value(&metrics, series), 1.0, "{series}");
    }
    assert!(!metrics.contains("groundling_engine_"), "nothing is known of this engine");
    running.end().await;
    telemetry.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_the_server_no_longer_delivers_is_counted_when_a_worker_ends_it() {
    let env = TestEnv::ready().await;
    given_up(&env).await;
    let telemetry = start_telemetry(&TelemetrySettings::default());
    let mut running = Running::start(settings(&env), Arc::new(Yes), &telemetry);
    let event = running.event().await;
    assert!(matches!(event, JobEvent::Failed { reason: FailureReason::RetriesExhausted, .. }), "{event:?}");
    let (_, metrics) = running.scrape().await;
    for series in [
        "groundling_jobs_total{outcome=\"failed\",reason=\"retries_exhausted\"}",
        "groundling_job_age_seconds_count{outcome=\"failed\"}",
    ] {
        assert_eq!(value(&metrics, series), 1.0, "{series}");
    }
    assert!(!metrics.contains("messaging_process_duration_seconds_count"), "no delivery was processed");
    running.end().await;
    telemetry.shutdown().await;
}
