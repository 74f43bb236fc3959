//! What a worker needs of the program's telemetry, and the readings that it registers there.

use std::sync::Arc;
use std::time::Duration;

use engine::{Annotator, EngineSnapshot, Pass};
use telemetry::attributes::BatchPass;
use telemetry::readings::{EngineReading, WorkerReading};
use telemetry::{Instruments, JobSpans, Scraper, Telemetry};

use crate::byte_budget::ByteBudget;
use crate::health::HealthReader;

/// The telemetry of a worker. Clones share it.
#[derive(Clone)]
pub struct WorkerTelemetry {
    /// The spans of jobs, and the instruments.
    pub jobs: JobSpans,
    /// Renders `/metrics`; `None`: not served.
    pub scraper: Option<Scraper>,
}

impl WorkerTelemetry {
    /// Records nothing.
    pub fn off() -> Self {
        Self { jobs: JobSpans::off(), scraper: None }
    }

    pub(crate) fn instruments(&self) -> &Instruments {
        self.jobs.instruments()
    }

    /// Registers the readings of the worker and of its engine.
    pub(crate) fn observe(&self, engine: &Arc<dyn Annotator>, budget: ByteBudget, health: HealthReader) {
        let instruments = self.instruments();
        instruments.observe_worker(move || WorkerReading {
            bytes_in_flight: budget.used(),
            nats_connections: u64::from(health.is_connected()),
            is_ready: health.is_ready(),
            refusing_streams: health.refusing_streams(),
        });
        if engine.snapshot().is_none() {
            return;
        }
        let batches = instruments.clone();
        engine.observe_batches(Box::new(move |pass, size| batches.batch_computed(batch_pass(pass), size)));
        // The readings must not keep the engine's thread alive.
        let engine = Arc::downgrade(engine);
        instruments.observe_engine(move || {
            let Some(engine) = engine.upgrade() else { return EngineReading::default() };
            reading(engine.snapshot().unwrap_or_default(), engine.stall_timeout())
        });
    }
}

impl From<&Telemetry> for WorkerTelemetry {
    fn from(telemetry: &Telemetry) -> Self {
        Self { jobs: telemetry.jobs().clone(), scraper: telemetry.scraper().cloned() }
    }
}

fn batch_pass(pass: Pass) -> BatchPass {
    match pass {
        Pass::Vision => BatchPass::Vision,
        Pass::Decoder => BatchPass::Decoder,
    }
}

fn reading(snapshot: EngineSnapshot, stall_timeout: Option<Duration>) -> EngineReading {
    EngineReading {
        slots_used: snapshot.slots_used,
        slots_limit: snapshot.slots_limit,
        queue_size: snapshot.queue_size,
        steps: snapshot.steps,
        last_progress_age: snapshot.last_progress_age,
        stall_timeout,
        prompt_tokens: snapshot.prompt_tokens,
        answer_tokens: snapshot.answer_tokens,
        kv_tokens: snapshot.kv_tokens,
    }
}
