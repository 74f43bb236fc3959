//! Uses every instrument and every span once.

use std::time::{Duration, Instant, SystemTime};

use telemetry::attributes::{
    Acknowledgement, BatchPass, Destination, JobOutcome, MessagingError, ReadResult, Reason, RequestError, Stage,
};
use telemetry::ingest_attributes::{IngestOutcome, IngestReason, IngestStatus};
use telemetry::job_span::{EngineTimes, ReceivedJob};
use telemetry::readings::{EngineReading, GpuReading, WorkerReading};
use telemetry::settings::TelemetrySettings;
use telemetry::{InstrumentOptions, JobSpans, LogLayer, ServiceIdentity, Telemetry};

/// Starts telemetry without variables of the environment.
pub(crate) fn start(settings: &TelemetrySettings) -> Telemetry {
    start_with(settings, &LogLayer::default())
}

pub(crate) fn start_with(settings: &TelemetrySettings, logs: &LogLayer) -> Telemetry {
    let options = InstrumentOptions { consumer: "groundling-workers".into(), dataset_label: settings.dataset_label };
    let service = ServiceIdentity { version: "1.2.3".into(), instance: "worker-7".into() };
    Telemetry::start(settings, options, &service, logs, |_| None).unwrap()
}

/// A job as it is received now.
pub(crate) fn received() -> ReceivedJob<'static> {
    ReceivedJob {
        headers: None,
        from: Destination::Jobs,
        subject: "groundling.jobs.cats",
        dataset: "cats",
        sequence: 17,
        deliveries: 1,
        published: SystemTime::now() - Duration::from_secs(90),
        received: Instant::now(),
        size_bytes: 200,
    }
}

/// A job from its delivery to its acknowledgement.
pub(crate) fn do_job(jobs: &JobSpans, job: ReceivedJob<'_>, outcome: JobOutcome) -> async_nats::HeaderMap {
    let mut span = jobs.start(job);
    span.job_id("job-1");
    span.stage(Stage::Fetch).end();
    span.stage(Stage::Decode).end();
    span.engine_answered(EngineTimes {
        submitted: Instant::now() - Duration::from_millis(100),
        queue: Duration::from_millis(10),
        vision: Duration::from_millis(20),
        prefill: Duration::from_millis(30),
        generate: Duration::from_millis(40),
        longest_answer: 21,
    });
    let publish = span.publish(Destination::Annotations, "groundling.annotations.cats");
    let mut headers = async_nats::HeaderMap::new();
    publish.inject(&mut headers);
    publish.end(Ok(()));
    span.acknowledge(Acknowledgement::Ack, Destination::Jobs).end(Ok(()));
    span.settled(outcome);
    headers
}

/// Uses every instrument, with every value of the attributes that alerts look at.
pub(crate) fn record(telemetry: &Telemetry) {
    let instruments = telemetry.instruments();
    let second = Duration::from_secs(1);
    instruments.model_loaded("kosmos-2", second);
    for outcome in [JobOutcome::Annotated, JobOutcome::Failed(Reason::ObjectNotFound)] {
        do_job(telemetry.jobs(), received(), outcome);
    }
    for reason in Reason::ALL {
        instruments.job_settled(Destination::Retries, JobOutcome::Retried(*reason), "cats", 2, second, second);
    }
    for result in ReadResult::ALL {
        instruments.object_read(*result, second);
    }
    for pass in BatchPass::ALL {
        instruments.batch_computed(*pass, 8);
    }
    instruments.pull_lost();
    instruments.ingest_rule_started("uploads");
    for reason in IngestReason::ALL {
        instruments.record_ingested(Some("uploads"), IngestOutcome::Skipped, Some(*reason));
    }
    instruments.ingest_lag("uploads", second);
    instruments.ingest_webhook_started();
    instruments.ingest_request_answered(IngestStatus::Ok);
    instruments.message_published(Destination::Failed, Err(MessagingError::StreamFull), second);
    instruments.request_failed(RequestError::Model, second);
    instruments.observe_engine(|| EngineReading {
        slots_used: 3,
        slots_limit: 16,
        queue_size: 2,
        steps: 1000,
        last_progress_age: Some(Duration::from_millis(50)),
        stall_timeout: Some(Duration::from_secs(120)),
        prompt_tokens: 7100,
        answer_tokens: 300,
        kv_tokens: 400,
    });
    instruments.observe_worker(|| WorkerReading {
        bytes_in_flight: 1 << 20,
        nats_connections: 1,
        is_ready: false,
        refusing_streams: vec!["GROUNDLING_ANNOTATIONS".to_owned()],
    });
    instruments.observe_gpus(|| {
        vec![GpuReading {
            number: 0,
            memory_used: Some(1 << 30),
            corrected_errors: Some(1),
            uncorrected_errors: Some(0),
            energy_joules: Some(1234.5),
        }]
    });
}
