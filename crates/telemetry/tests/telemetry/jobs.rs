//! Jobs without a collector.

use std::io::Write;
use std::sync::{Arc, Mutex};

use async_nats::HeaderMap;
use telemetry::JobSpans;
use telemetry::attributes::JobOutcome;
use telemetry::job_span::ReceivedJob;
use telemetry::settings::TelemetrySettings;
use tracing_subscriber::fmt::MakeWriter;

use crate::everything::{do_job, received, start};

const SUBMITTER: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
const TRACE_ID: &str = "0af7651916cd43dd8448eb211c80319c";

#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl MakeWriter<'_> for Lines {
    type Writer = Self;

    fn make_writer(&self) -> Self {
        self.clone()
    }
}

impl Lines {
    fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

fn submitted(name: &str) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(name, SUBMITTER);
    headers
}

#[test]
fn a_trace_context_travels_on_though_nothing_is_traced() {
    for jobs in [JobSpans::off(), start(&TelemetrySettings::default()).jobs().clone()] {
        for name in ["traceparent", "Traceparent", "Xraceparent"] {
            let headers = submitted(name);
            let job = ReceivedJob { headers: Some(&headers), ..received() };
            assert_eq!(do_job(&jobs, job, JobOutcome::Annotated), submitted("traceparent"), "{name}");
            let mut copy = HeaderMap::new();
            jobs.start(job).inject_submitter(&mut copy);
            assert_eq!(copy, submitted("traceparent"), "{name}");
        }
        assert!(do_job(&jobs, received(), JobOutcome::Annotated).is_empty());
    }
}

async fn log_a_job(jobs: &JobSpans) {
    let headers = submitted("traceparent");
    let span = jobs.start(ReceivedJob { headers: Some(&headers), ..received() });
    span.job_id("job-1");
    span.scope(async {
        tokio::task::yield_now().await;
        tracing::warn!(target: "worker::settle", "job failed permanently");
    })
    .await;
    let unknown = jobs.start(received());
    unknown.scope(async { tracing::warn!(target: "worker::settle", "job has no trace") }).await;
}

#[tokio::test]
async fn lines_of_text_carry_job_dataset_and_trace() {
    let lines = Lines::default();
    let filter = tracing_subscriber::EnvFilter::new("worker=info");
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_ansi(false).with_writer(lines.clone()).finish();
    {
        let _guard = tracing::subscriber::set_default(log);
        log_a_job(&JobSpans::off()).await;
    }
    let text = lines.text();
    let place = format!("job{{dataset=\"cats\" trace_id={TRACE_ID} job_id=\"job-1\"}}: worker::settle: job failed");
    assert!(text.contains(&place), "{text}");
    assert!(text.contains("job{dataset=\"cats\"}: worker::settle: job has no trace"), "{text}");
}

#[tokio::test]
async fn lines_of_json_carry_job_dataset_and_trace() {
    let lines = Lines::default();
    let log = tracing_subscriber::fmt().json().with_writer(lines.clone()).finish();
    {
        let _guard = tracing::subscriber::set_default(log);
        log_a_job(&JobSpans::off()).await;
    }
    let line: serde_json::Value = serde_json::from_str(lines.text().lines().next().unwrap()).unwrap();
    for (field, value) in [("trace_id", TRACE_ID), ("dataset", "cats"), ("job_id", "job-1")] {
        assert_eq!(line["span"][field], value, "{line}");
    }
}
