//! Observable instruments: values that callbacks read at each scrape or export.
//!
//! Callbacks run on the threads that serve a scrape or an export. They must neither block nor panic.

use std::time::Duration;

use opentelemetry::KeyValue;
use opentelemetry::metrics::{AsyncInstrument, Meter};

use crate::attribute_keys::{
    EXPORT_RESULT, EXPORT_RESULT_FAILED, EXPORT_RESULT_OK, EXPORT_SIGNAL, GPU, HW_ERROR_CORRECTED, HW_ERROR_TYPE,
    HW_ERROR_UNCORRECTED, HW_ID, HW_TYPE, SERVER, STREAM, TOKEN_TYPE, TOKEN_TYPE_ANSWER, TOKEN_TYPE_PROMPT,
};
use crate::attributes::Server;
use crate::export_state::ExportState;
use crate::instruments::{Instruments, word};
use crate::table::{
    BYTES_IN_FLIGHT, CONNECTIONS, ENGINE_KV_TOKENS, ENGINE_LAST_STEP_AGE, ENGINE_QUEUE_SIZE, ENGINE_SLOTS_LIMIT,
    ENGINE_SLOTS_USED, ENGINE_STALL_TIMEOUT, ENGINE_STEPS, ENGINE_TOKENS, GPU_MEMORY_USAGE, HW_ENERGY, HW_ERRORS,
    InstrumentInfo, READY, STREAMS_REFUSING, TELEMETRY_EXPORTS,
};

/// The engine's current state.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct EngineReading {
    /// Slots that hold a sequence.
    pub slots_used: u64,
    /// Slots there are.
    pub slots_limit: u64,
    /// Requests that wait.
    pub queue_size: u64,
    /// Steps since the start.
    pub steps: u64,
    /// Time since the last progress; `None` without work.
    pub last_progress_age: Option<Duration>,
    /// The time without progress after which the engine counts as stalled; `None` if it never does.
    pub stall_timeout: Option<Duration>,
    /// Tokens of prompts computed since the start.
    pub prompt_tokens: u64,
    /// Tokens of answers computed since the start.
    pub answer_tokens: u64,
    /// Tokens whose keys and values are held.
    pub kv_tokens: u64,
}

/// The worker's current state.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct WorkerReading {
    /// Bytes of encoded pictures in memory.
    pub bytes_in_flight: u64,
    /// Connections to the NATS server that are up.
    pub nats_connections: u64,
    /// Whether the worker is ready.
    pub is_ready: bool,
    /// The streams that refuse messages.
    pub refusing_streams: Vec<String>,
}

/// The current state of `groundling ingest`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct IngestReading {
    /// Connections to the NATS server that are up.
    pub nats_connections: u64,
    /// Whether the process is ready.
    pub is_ready: bool,
    /// The streams that refuse messages.
    pub refusing_streams: Vec<String>,
}

/// A GPU's current state. `None` for what its driver does not report.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct GpuReading {
    /// Its number, as `nvidia-smi` has it.
    pub number: u32,
    /// Bytes of its memory in use.
    pub memory_used: Option<u64>,
    /// Errors of its memory that were corrected, since the driver was loaded.
    pub corrected_errors: Option<u64>,
    /// Errors of its memory that were not, since the driver was loaded.
    pub uncorrected_errors: Option<u64>,
    /// Joules used since the driver was loaded.
    pub energy_joules: Option<f64>,
}

impl Instruments {
    /// Registers the callback that reads the engine's state.
    pub fn observe_engine(&self, read: impl Fn() -> EngineReading + Clone + Send + Sync + 'static) {
        let meter = self.meter();
        integer_gauge(meter, &ENGINE_SLOTS_USED, read.clone(), |reading| reading.slots_used);
        integer_gauge(meter, &ENGINE_SLOTS_LIMIT, read.clone(), |reading| reading.slots_limit);
        integer_gauge(meter, &ENGINE_QUEUE_SIZE, read.clone(), |reading| reading.queue_size);
        integer_gauge(meter, &ENGINE_KV_TOKENS, read.clone(), |reading| reading.kv_tokens);
        let (read_age, read_timeout, read_steps) = (read.clone(), read.clone(), read.clone());
        let age = meter.f64_observable_gauge(ENGINE_LAST_STEP_AGE.name).with_unit(ENGINE_LAST_STEP_AGE.unit);
        age.with_description(ENGINE_LAST_STEP_AGE.help)
            .with_callback(move |observer| {
                observer.observe(read_age().last_progress_age.unwrap_or_default().as_secs_f64(), &[]);
            })
            .build();
        let timeout = meter.f64_observable_gauge(ENGINE_STALL_TIMEOUT.name).with_unit(ENGINE_STALL_TIMEOUT.unit);
        timeout
            .with_description(ENGINE_STALL_TIMEOUT.help)
            .with_callback(move |observer| {
                if let Some(timeout) = read_timeout().stall_timeout {
                    observer.observe(timeout.as_secs_f64(), &[]);
                }
            })
            .build();
        integer_counter(meter, &ENGINE_STEPS, move |observer| observer.observe(read_steps().steps, &[]));
        integer_counter(meter, &ENGINE_TOKENS, move |observer| {
            let reading = read();
            observer.observe(reading.prompt_tokens, &[word(TOKEN_TYPE, TOKEN_TYPE_PROMPT)]);
            observer.observe(reading.answer_tokens, &[word(TOKEN_TYPE, TOKEN_TYPE_ANSWER)]);
        });
    }

    /// Registers the callback that reads the worker's state.
    pub fn observe_worker(&self, read: impl Fn() -> WorkerReading + Clone + Send + Sync + 'static) {
        integer_gauge(self.meter(), &BYTES_IN_FLIGHT, read.clone(), |reading| reading.bytes_in_flight);
        self.observe_ingest(move || {
            let WorkerReading { nats_connections, is_ready, refusing_streams, .. } = read();
            IngestReading { nats_connections, is_ready, refusing_streams }
        });
    }

    /// Registers the callback that reads the state of `groundling ingest`.
    pub fn observe_ingest(&self, read: impl Fn() -> IngestReading + Clone + Send + Sync + 'static) {
        integer_gauge(self.meter(), &READY, read.clone(), |reading| reading.is_ready.into());
        let read_streams = read.clone();
        let streams = self.meter().u64_observable_gauge(STREAMS_REFUSING.name).with_unit(STREAMS_REFUSING.unit);
        streams
            .with_description(STREAMS_REFUSING.help)
            .with_callback(move |observer| {
                for stream in read_streams().refusing_streams {
                    observer.observe(1, &[KeyValue::new(STREAM.name, stream)]);
                }
            })
            .build();
        let connections = self.meter().u64_observable_gauge(CONNECTIONS.name).with_unit(CONNECTIONS.unit);
        connections
            .with_description(CONNECTIONS.help)
            .with_callback(move |observer| {
                observer.observe(read().nats_connections, &[word(SERVER, Server::Nats.as_str())]);
            })
            .build();
    }

    /// Registers the callback that reads the state of the GPUs. Queries to the driver take milliseconds, so `read` should
    /// return a cached state.
    pub fn observe_gpus(&self, read: impl Fn() -> Vec<GpuReading> + Clone + Send + Sync + 'static) {
        let meter = self.meter();
        let (read_memory, read_errors) = (read.clone(), read.clone());
        let memory = meter.i64_observable_up_down_counter(GPU_MEMORY_USAGE.name).with_unit(GPU_MEMORY_USAGE.unit);
        memory
            .with_description(GPU_MEMORY_USAGE.help)
            .with_callback(move |observer| {
                for gpu in read_memory() {
                    if let Some(bytes) = gpu.memory_used.and_then(|bytes| i64::try_from(bytes).ok()) {
                        observer.observe(bytes, &[gpu_id(&gpu)]);
                    }
                }
            })
            .build();
        integer_counter(meter, &HW_ERRORS, move |observer| {
            for gpu in read_errors() {
                let kinds =
                    [(HW_ERROR_CORRECTED, gpu.corrected_errors), (HW_ERROR_UNCORRECTED, gpu.uncorrected_errors)];
                for (kind, count) in kinds {
                    if let Some(count) = count {
                        let attributes = [gpu_id(&gpu), word(HW_TYPE, GPU), word(HW_ERROR_TYPE, kind)];
                        observer.observe(count, &attributes);
                    }
                }
            }
        });
        let energy = meter.f64_observable_counter(HW_ENERGY.name).with_unit(HW_ENERGY.unit);
        energy
            .with_description(HW_ENERGY.help)
            .with_callback(move |observer| {
                for gpu in read() {
                    if let Some(joules) = gpu.energy_joules {
                        observer.observe(joules, &[gpu_id(&gpu), word(HW_TYPE, GPU)]);
                    }
                }
            })
            .build();
    }

    pub(crate) fn observe_exports(&self, states: Vec<ExportState>) {
        integer_counter(self.meter(), &TELEMETRY_EXPORTS, move |observer| {
            for state in &states {
                let signal = word(EXPORT_SIGNAL, state.signal().as_str());
                observer.observe(state.succeeded(), &[signal.clone(), word(EXPORT_RESULT, EXPORT_RESULT_OK)]);
                observer.observe(state.failed(), &[signal, word(EXPORT_RESULT, EXPORT_RESULT_FAILED)]);
            }
        });
    }
}

fn gpu_id(gpu: &GpuReading) -> KeyValue {
    KeyValue::new(HW_ID.name, gpu.number.to_string())
}

fn integer_gauge<R>(
    meter: &Meter,
    info: &InstrumentInfo,
    read: impl Fn() -> R + Send + Sync + 'static,
    value: impl Fn(R) -> u64 + Send + Sync + 'static,
) {
    let gauge = meter.u64_observable_gauge(info.name).with_unit(info.unit).with_description(info.help);
    gauge.with_callback(move |observer| observer.observe(value(read()), &[])).build();
}

fn integer_counter(
    meter: &Meter,
    info: &InstrumentInfo,
    observe: impl Fn(&dyn AsyncInstrument<u64>) + Send + Sync + 'static,
) {
    let counter = meter.u64_observable_counter(info.name).with_unit(info.unit).with_description(info.help);
    counter.with_callback(observe).build();
}
