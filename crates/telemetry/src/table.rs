//! Every instrument: name, unit, kind, buckets, attributes, help.
//!
//! `docs/metrics.md` is made from this table, and the tests compare a scrape and an OTLP payload with it. Dots separate
//! the parts of a name; [`InstrumentInfo::prometheus_name`] is the name in a scrape.

use crate::attribute_keys::{
    BATCH_PASS, CONSUMER_GROUP, DATASET, DESTINATION, EXPORT_RESULT, EXPORT_SIGNAL, GEN_AI_ERROR, GEN_AI_MODEL,
    GEN_AI_OPERATION, GEN_AI_PROVIDER, HW_ERROR_TYPE, HW_ID, HW_TYPE, INGEST_OUTCOME, INGEST_REASON, INGEST_RULE,
    INGEST_STATUS, Key, MESSAGING_ERROR, MESSAGING_OPERATION, MESSAGING_OPERATION_TYPE, MESSAGING_SYSTEM, OUTCOME,
    READ_RESULT, REASON, SERVER, STAGE, STREAM, TOKEN_TYPE,
};

/// The definition of an instrument.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct InstrumentInfo {
    /// Name, as OTLP has it.
    pub name: &'static str,
    /// Unit in UCUM: `s`, `By`, `J`, or a word in braces for things that are counted.
    pub unit: &'static str,
    /// How values are aggregated.
    pub kind: Kind,
    /// Upper bounds of a histogram's buckets, in its unit.
    pub buckets: &'static [f64],
    /// Its attributes.
    pub attributes: &'static [Key],
    /// What it measures, in one sentence.
    pub help: &'static str,
}

/// How an instrument's values are aggregated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A sum that only grows.
    Counter,
    /// A sum that grows and shrinks.
    UpDownCounter,
    /// The current value.
    Gauge,
    /// A distribution.
    Histogram,
}

impl Kind {
    /// As Prometheus' `# TYPE` has it.
    pub fn prometheus_type(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::UpDownCounter | Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

impl InstrumentInfo {
    /// The name in a scrape: with underscores, the unit, and `_total` for counters.
    pub fn prometheus_name(&self) -> String {
        let unit = match self.unit {
            "s" => "_seconds",
            "By" => "_bytes",
            "J" => "_joules",
            _ => "",
        };
        let total = if self.kind == Kind::Counter { "_total" } else { "" };
        format!("{}{unit}{total}", self.name.replace('.', "_"))
    }
}

/// From 1 ms to 6 h, in seconds.
pub const DURATION_BUCKETS: &[f64] = &[
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0,
    1800.0, 3600.0, 7200.0, 21600.0,
];
const BATCH_BUCKETS: &[f64] = &[1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0];
const DELIVERY_BUCKETS: &[f64] = &[1.0, 2.0, 3.0, 4.0, 5.0, 7.0, 10.0, 20.0, 50.0, 100.0];

/// One constant for each instrument and the list of them all, from one listing: no instrument is left out of the list.
macro_rules! instruments {
    ($($constant:ident = $kind:ident $name:literal, $unit:literal, $buckets:expr, [$($attribute:ident),*], $help:literal;)+) => {
        $(
            #[doc = $help]
            pub const $constant: InstrumentInfo = InstrumentInfo {
                name: $name,
                unit: $unit,
                kind: Kind::$kind,
                buckets: $buckets,
                attributes: &[$($attribute),*],
                help: $help,
            };
        )+

        /// All instruments, in the order of the documentation.
        pub const INSTRUMENTS: &[InstrumentInfo] = &[$($constant),+];
    };
}

instruments! {
    JOBS = Counter "groundling.jobs", "{job}", &[], [OUTCOME, REASON, DATASET],
        "Settled deliveries of jobs, by outcome and reason.";
    JOBS_IN_HAND = UpDownCounter "groundling.jobs.in_hand", "{job}", &[], [],
        "Active jobs: delivered to this worker and not settled yet.";
    JOB_STAGE_DURATION = Histogram "groundling.job.stage.duration", "s", DURATION_BUCKETS, [STAGE],
        "Time that one stage of a job took.";
    JOB_AGE = Histogram "groundling.job.age", "s", DURATION_BUCKETS, [OUTCOME, DATASET],
        "Time from a job's submission to its outcome, for deliveries that ended the job.";
    JOB_DELIVERIES = Histogram "groundling.job.deliveries", "{delivery}", DELIVERY_BUCKETS, [OUTCOME],
        "Deliveries of a job until its outcome, for deliveries that ended the job.";
    ENGINE_BATCH_SIZE = Histogram "groundling.engine.batch.size", "{item}", BATCH_BUCKETS, [BATCH_PASS],
        "Sequences in a step of the decoder, or pictures in a pass of the vision tower.";
    ENGINE_SLOTS_USED = Gauge "groundling.engine.slots.used", "{slot}", &[], [],
        "Engine slots that hold a sequence.";
    ENGINE_SLOTS_LIMIT = Gauge "groundling.engine.slots.limit", "{slot}", &[], [],
        "Engine slots there are.";
    ENGINE_QUEUE_SIZE = Gauge "groundling.engine.queue.size", "{request}", &[], [],
        "Requests that wait for the engine.";
    ENGINE_STEPS = Counter "groundling.engine.steps", "{step}", &[], [],
        "Steps of the decoder.";
    ENGINE_LAST_STEP_AGE = Gauge "groundling.engine.last_step.age", "s", &[], [],
        "Time since the engine last made progress; 0 while it has no work.";
    ENGINE_STALL_TIMEOUT = Gauge "groundling.engine.stall_timeout", "s", &[], [],
        "Time without progress after which the engine counts as stalled and the worker exits.";
    ENGINE_TOKENS = Counter "groundling.engine.tokens", "{token}", &[], [TOKEN_TYPE],
        "Tokens that the decoder computed.";
    ENGINE_KV_TOKENS = Gauge "groundling.engine.kv.tokens", "{token}", &[], [],
        "Tokens whose keys and values are held in engine slots.";
    BYTES_IN_FLIGHT = Gauge "groundling.bytes_in_flight", "By", &[], [],
        "Bytes of encoded pictures in memory, of at most worker.max_bytes_in_flight.";
    S3_GET_DURATION = Histogram "groundling.s3.get.duration", "s", DURATION_BUCKETS, [READ_RESULT],
        "Time that reading one object took, retries included.";
    READY = Gauge "groundling.ready", "{worker}", &[], [],
        "1 while the worker is ready, as /readyz answers it; 0 otherwise.";
    STREAMS_REFUSING = Gauge "groundling.streams.refusing", "{stream}", &[], [STREAM],
        "1 for each stream that refuses this worker's messages, for example because it is full.";
    CONNECTIONS = Gauge "groundling.connections", "{connection}", &[], [SERVER],
        "Connections that are up.";
    PULLS_LOST = Counter "groundling.pulls.lost", "{request}", &[], [],
        "Pull requests for jobs that the server refused or that were lost with a connection.";
    MODEL_LOAD_DURATION = Gauge "groundling.model.load.duration", "s", &[], [],
        "Time that loading the model took.";
    TELEMETRY_EXPORTS = Counter "groundling.telemetry.exports", "{export}", &[], [EXPORT_SIGNAL, EXPORT_RESULT],
        "Exports to the OpenTelemetry collector.";
    INGEST_RECORDS = Counter "groundling.ingest.records", "{record}", &[], [INGEST_RULE, INGEST_OUTCOME, INGEST_REASON],
        "Records of events that `groundling ingest` has handled, for each rule that got them.";
    INGEST_LAG = Histogram "groundling.ingest.lag", "s", DURATION_BUCKETS, [INGEST_RULE],
        "Time from an event, by the clock of its store, until the jobs stream has acknowledged its job.";
    INGEST_REQUESTS = Counter "groundling.ingest.requests", "{request}", &[], [INGEST_STATUS],
        "Requests that the webhook server of `groundling ingest` has answered.";
    CONSUMED_MESSAGES = Counter "messaging.client.consumed.messages", "{message}", &[],
        [MESSAGING_SYSTEM, MESSAGING_OPERATION, DESTINATION, CONSUMER_GROUP],
        "Messages that were delivered to this worker.";
    SENT_MESSAGES = Counter "messaging.client.sent.messages", "{message}", &[],
        [MESSAGING_SYSTEM, MESSAGING_OPERATION, DESTINATION, MESSAGING_ERROR],
        "Messages that this worker published, or tried to.";
    OPERATION_DURATION = Histogram "messaging.client.operation.duration", "s", DURATION_BUCKETS,
        [MESSAGING_SYSTEM, MESSAGING_OPERATION, MESSAGING_OPERATION_TYPE, DESTINATION, MESSAGING_ERROR],
        "Time that one operation of the NATS client took, its confirmation included.";
    PROCESS_DURATION = Histogram "messaging.process.duration", "s", DURATION_BUCKETS,
        [MESSAGING_SYSTEM, MESSAGING_OPERATION, DESTINATION, CONSUMER_GROUP, MESSAGING_ERROR],
        "Time from a job's delivery to its settlement.";
    REQUEST_DURATION = Histogram "gen_ai.server.request.duration", "s", DURATION_BUCKETS,
        [GEN_AI_OPERATION, GEN_AI_PROVIDER, GEN_AI_MODEL, GEN_AI_ERROR],
        "Time from a request's submission to the engine until its answer.";
    TIME_TO_FIRST_TOKEN = Histogram "gen_ai.server.time_to_first_token", "s", DURATION_BUCKETS,
        [GEN_AI_OPERATION, GEN_AI_PROVIDER, GEN_AI_MODEL],
        "Time from a request's submission to the engine until the first token of its first prompt.";
    TIME_PER_OUTPUT_TOKEN = Histogram "gen_ai.server.time_per_output_token", "s", DURATION_BUCKETS,
        [GEN_AI_OPERATION, GEN_AI_PROVIDER, GEN_AI_MODEL],
        "Time from one token of an answer to the next, on average over a request.";
    GPU_MEMORY_USAGE = UpDownCounter "hw.gpu.memory.usage", "By", &[], [HW_ID],
        "Memory of the GPU in use, by all processes.";
    HW_ERRORS = Counter "hw.errors", "{error}", &[], [HW_ID, HW_TYPE, HW_ERROR_TYPE],
        "Errors that the GPU has reported since its driver was loaded.";
    HW_ENERGY = Counter "hw.energy", "J", &[], [HW_ID, HW_TYPE],
        "Energy that the GPU has used since its driver was loaded; divided by annotated jobs, joules per picture.";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_in_a_scrape_end_with_unit_and_total() {
        for (info, name) in [
            (JOBS, "groundling_jobs_total"),
            (JOBS_IN_HAND, "groundling_jobs_in_hand"),
            (JOB_AGE, "groundling_job_age_seconds"),
            (BYTES_IN_FLIGHT, "groundling_bytes_in_flight_bytes"),
            (HW_ENERGY, "hw_energy_joules_total"),
            (TIME_TO_FIRST_TOKEN, "gen_ai_server_time_to_first_token_seconds"),
        ] {
            assert_eq!(info.prometheus_name(), name);
        }
    }

    #[test]
    fn histograms_and_nothing_else_have_ascending_buckets() {
        for info in INSTRUMENTS {
            assert_eq!(info.kind == Kind::Histogram, !info.buckets.is_empty(), "{}", info.name);
            assert!(info.buckets.is_sorted_by(|a, b| a < b), "{}", info.name);
        }
        assert_eq!((DURATION_BUCKETS.first(), DURATION_BUCKETS.last()), (Some(&0.001), Some(&(6.0 * 3600.0))));
    }

    #[test]
    fn names_are_unique() {
        let mut names: Vec<_> = INSTRUMENTS.iter().map(|info| info.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), INSTRUMENTS.len());
    }
}
