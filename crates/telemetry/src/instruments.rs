//! The instruments, as methods that say what happened. Clones share them.

use std::fmt;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use opentelemetry::KeyValue;
use opentelemetry::metrics::{Counter, Gauge, Histogram, Meter, MeterProvider, UpDownCounter};
use opentelemetry_sdk::metrics::SdkMeterProvider;

use crate::attribute_keys::{
    BATCH_PASS, CONSUMER_GROUP, DATASET, DESTINATION, GEN_AI_ERROR, GEN_AI_MODEL, GEN_AI_OPERATION, GEN_AI_PROVIDER,
    GENERATE_CONTENT, Key, MESSAGING_ERROR, MESSAGING_OPERATION, MESSAGING_OPERATION_TYPE, MESSAGING_SYSTEM,
    OPERATION_PROCESS, OPERATION_PUBLISH, OPERATION_RECEIVE, OPERATION_TYPE_SEND, OPERATION_TYPE_SETTLE, OUTCOME,
    PROVIDER, READ_RESULT, REASON, STAGE, SYSTEM,
};
use crate::attributes::{
    Acknowledgement, BatchPass, Destination, JobOutcome, MessagingError, ReadResult, RequestError, Stage,
};
use crate::ingest_instruments::IngestInstruments;
use crate::table::{
    CONSUMED_MESSAGES, ENGINE_BATCH_SIZE, InstrumentInfo, JOB_AGE, JOB_DELIVERIES, JOB_STAGE_DURATION, JOBS,
    JOBS_IN_HAND, MODEL_LOAD_DURATION, OPERATION_DURATION, PROCESS_DURATION, PULLS_LOST, REQUEST_DURATION,
    S3_GET_DURATION, SENT_MESSAGES, TIME_PER_OUTPUT_TOKEN, TIME_TO_FIRST_TOKEN,
};

/// The scope of all instruments and spans.
pub(crate) const SCOPE: &str = "groundling";

/// Settings of the instruments.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct InstrumentOptions {
    /// `streams.consumer`.
    pub consumer: String,
    /// `telemetry.dataset_label`.
    pub dataset_label: bool,
}

/// All instruments. Clones share them.
#[derive(Clone)]
pub struct Instruments(Arc<Inner>);

struct Inner {
    meter: Meter,
    options: InstrumentOptions,
    model: OnceLock<String>,
    jobs: Counter<u64>,
    jobs_in_hand: UpDownCounter<i64>,
    job_stage_duration: Histogram<f64>,
    job_age: Histogram<f64>,
    job_deliveries: Histogram<u64>,
    engine_batch_size: Histogram<u64>,
    s3_get_duration: Histogram<f64>,
    pulls_lost: Counter<u64>,
    model_load_duration: Gauge<f64>,
    consumed_messages: Counter<u64>,
    sent_messages: Counter<u64>,
    operation_duration: Histogram<f64>,
    process_duration: Histogram<f64>,
    request_duration: Histogram<f64>,
    time_to_first_token: Histogram<f64>,
    time_per_output_token: Histogram<f64>,
    ingest: OnceLock<IngestInstruments>,
}

/// A request that the engine has answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AnsweredRequest {
    /// From its submission until its answer.
    pub duration: Duration,
    /// From its submission until the first token of its first prompt.
    pub time_to_first_token: Duration,
    /// Tokens of its longest answer.
    pub longest_answer: usize,
}

/// An active job; counted until this is dropped.
pub struct ActiveJob(Instruments);

impl Drop for ActiveJob {
    fn drop(&mut self) {
        self.0.0.jobs_in_hand.add(-1, &[]);
    }
}

impl fmt::Debug for Instruments {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Instruments").field("options", &self.0.options).finish_non_exhaustive()
    }
}

impl Instruments {
    pub(crate) fn new(meter: Meter, options: InstrumentOptions) -> Self {
        Self(Arc::new(Inner {
            jobs: counter(&meter, &JOBS),
            jobs_in_hand: up_down_counter(&meter, &JOBS_IN_HAND),
            job_stage_duration: histogram(&meter, &JOB_STAGE_DURATION),
            job_age: histogram(&meter, &JOB_AGE),
            job_deliveries: integer_histogram(&meter, &JOB_DELIVERIES),
            engine_batch_size: integer_histogram(&meter, &ENGINE_BATCH_SIZE),
            s3_get_duration: histogram(&meter, &S3_GET_DURATION),
            pulls_lost: counter(&meter, &PULLS_LOST),
            model_load_duration: gauge(&meter, &MODEL_LOAD_DURATION),
            consumed_messages: counter(&meter, &CONSUMED_MESSAGES),
            sent_messages: counter(&meter, &SENT_MESSAGES),
            operation_duration: histogram(&meter, &OPERATION_DURATION),
            process_duration: histogram(&meter, &PROCESS_DURATION),
            request_duration: histogram(&meter, &REQUEST_DURATION),
            time_to_first_token: histogram(&meter, &TIME_TO_FIRST_TOKEN),
            time_per_output_token: histogram(&meter, &TIME_PER_OUTPUT_TOKEN),
            model: OnceLock::new(),
            ingest: OnceLock::new(),
            meter,
            options,
        }))
    }

    /// Instruments whose values are not collected.
    pub fn off() -> Self {
        Self::new(SdkMeterProvider::default().meter(SCOPE), InstrumentOptions::default())
    }

    /// Begins the counters of a worker at 0: a rate misses the first increase of a counter that appears with it. An
    /// instrument without a value is not shown, so programs other than workers have none of these.
    pub fn worker_started(&self) {
        let Inner { jobs, jobs_in_hand, pulls_lost, options, .. } = &*self.0;
        jobs_in_hand.add(0, &[]);
        pulls_lost.add(0, &[]);
        if !options.dataset_label {
            for outcome in JobOutcome::without_reason().chain(JobOutcome::failed_and_retried()) {
                let reason = outcome.reason().map(|reason| word(REASON, reason.as_str()));
                let attributes: Vec<_> = [word(OUTCOME, outcome.as_str())].into_iter().chain(reason).collect();
                jobs.add(0, &attributes);
            }
        }
    }

    pub(crate) fn meter(&self) -> &Meter {
        &self.0.meter
    }

    /// Those of `groundling ingest`, which other programs do not register.
    pub(crate) fn ingest(&self) -> &IngestInstruments {
        self.0.ingest.get_or_init(|| IngestInstruments::new(&self.0.meter))
    }

    pub(crate) fn consumer(&self) -> &str {
        &self.0.options.consumer
    }

    /// A job has become active.
    pub fn job_started(&self) -> ActiveJob {
        self.0.jobs_in_hand.add(1, &[]);
        ActiveJob(self.clone())
    }

    /// A delivery from `from` was settled, `processing` after it was received. `age`: the time since the job's submission.
    pub fn job_settled(
        &self,
        from: Destination,
        outcome: JobOutcome,
        dataset: &str,
        deliveries: u64,
        age: Duration,
        processing: Duration,
    ) {
        self.count_job(outcome, dataset, age);
        if outcome.is_final() {
            self.0.job_deliveries.record(deliveries, &[word(OUTCOME, outcome.as_str())]);
        }
        let error = match outcome {
            JobOutcome::Annotated | JobOutcome::Duplicate => None,
            JobOutcome::Failed(_) => Some(MessagingError::JobFailed),
            _ => Some(MessagingError::SentBack),
        };
        let mut attributes = vec![
            word(MESSAGING_SYSTEM, SYSTEM),
            word(MESSAGING_OPERATION, OPERATION_PROCESS),
            word(DESTINATION, from.as_str()),
            self.consumer_group(),
        ];
        attributes.extend(error.map(|error| word(MESSAGING_ERROR, error.as_str())));
        self.0.process_duration.record(processing.as_secs_f64(), &attributes);
    }

    /// A job that the server no longer delivers was ended. `age`: the time since the job's submission.
    pub fn undelivered_job_ended(&self, outcome: JobOutcome, dataset: &str, age: Duration) {
        self.count_job(outcome, dataset, age);
    }

    fn count_job(&self, outcome: JobOutcome, dataset: &str, age: Duration) {
        let dataset = self.0.options.dataset_label.then(|| KeyValue::new(DATASET.name, dataset.to_owned()));
        let reason = outcome.reason().map(|reason| word(REASON, reason.as_str()));
        let outcome_word = word(OUTCOME, outcome.as_str());
        let attributes: Vec<_> = [outcome_word.clone()].into_iter().chain(reason).chain(dataset.clone()).collect();
        self.0.jobs.add(1, &attributes);
        if outcome.is_final() {
            let attributes: Vec<_> = [outcome_word].into_iter().chain(dataset).collect();
            self.0.job_age.record(age.as_secs_f64(), &attributes);
        }
    }

    /// A stage of a job has ended.
    pub fn stage_ended(&self, stage: Stage, duration: Duration) {
        self.0.job_stage_duration.record(duration.as_secs_f64(), &[word(STAGE, stage.as_str())]);
    }

    /// Reading an object has ended.
    pub fn object_read(&self, result: ReadResult, duration: Duration) {
        self.0.s3_get_duration.record(duration.as_secs_f64(), &[word(READ_RESULT, result.as_str())]);
    }

    /// A pull request was refused or lost.
    pub fn pull_lost(&self) {
        self.0.pulls_lost.add(1, &[]);
    }

    /// A message was delivered.
    pub fn message_received(&self, from: Destination) {
        self.0.consumed_messages.add(
            1,
            &[
                word(MESSAGING_SYSTEM, SYSTEM),
                word(MESSAGING_OPERATION, OPERATION_RECEIVE),
                word(DESTINATION, from.as_str()),
                self.consumer_group(),
            ],
        );
    }

    /// A message was published and confirmed, or was not.
    pub fn message_published(&self, to: Destination, result: Result<(), MessagingError>, duration: Duration) {
        let mut attributes = vec![
            word(MESSAGING_SYSTEM, SYSTEM),
            word(MESSAGING_OPERATION, OPERATION_PUBLISH),
            word(DESTINATION, to.as_str()),
        ];
        attributes.extend(result.err().map(|error| word(MESSAGING_ERROR, error.as_str())));
        self.0.sent_messages.add(1, &attributes);
        attributes.push(word(MESSAGING_OPERATION_TYPE, OPERATION_TYPE_SEND));
        self.0.operation_duration.record(duration.as_secs_f64(), &attributes);
    }

    /// The end of a delivery was confirmed by the server, or was not.
    pub fn delivery_acknowledged(
        &self,
        acknowledgement: Acknowledgement,
        from: Destination,
        result: Result<(), MessagingError>,
        duration: Duration,
    ) {
        let mut attributes = vec![
            word(MESSAGING_SYSTEM, SYSTEM),
            word(MESSAGING_OPERATION, acknowledgement.as_str()),
            word(MESSAGING_OPERATION_TYPE, OPERATION_TYPE_SETTLE),
            word(DESTINATION, from.as_str()),
        ];
        attributes.extend(result.err().map(|error| word(MESSAGING_ERROR, error.as_str())));
        self.0.operation_duration.record(duration.as_secs_f64(), &attributes);
    }

    /// The model was loaded. From then on, the metrics of requests have its name.
    pub fn model_loaded(&self, name: &str, duration: Duration) {
        // A process loads one model; the first name counts.
        drop(self.0.model.set(name.to_owned()));
        self.0.model_load_duration.record(duration.as_secs_f64(), &[]);
    }

    /// The engine computed a batch.
    pub fn batch_computed(&self, pass: BatchPass, size: usize) {
        self.0.engine_batch_size.record(size as u64, &[word(BATCH_PASS, pass.as_str())]);
    }

    /// The engine answered a request.
    pub fn request_answered(&self, request: AnsweredRequest) {
        let AnsweredRequest { duration, time_to_first_token, longest_answer } = request;
        let attributes = self.gen_ai_attributes();
        self.0.request_duration.record(duration.as_secs_f64(), &attributes);
        self.0.time_to_first_token.record(time_to_first_token.as_secs_f64(), &attributes);
        if let Ok(intervals @ 1..) = u32::try_from(longest_answer.saturating_sub(1)) {
            let generating = duration.saturating_sub(time_to_first_token);
            self.0.time_per_output_token.record((generating / intervals).as_secs_f64(), &attributes);
        }
    }

    /// The engine did not answer a request.
    pub fn request_failed(&self, error: RequestError, duration: Duration) {
        let mut attributes = self.gen_ai_attributes();
        attributes.push(word(GEN_AI_ERROR, error.as_str()));
        self.0.request_duration.record(duration.as_secs_f64(), &attributes);
    }

    fn gen_ai_attributes(&self) -> Vec<KeyValue> {
        let mut attributes = vec![word(GEN_AI_OPERATION, GENERATE_CONTENT), word(GEN_AI_PROVIDER, PROVIDER)];
        attributes.extend(self.0.model.get().map(|model| KeyValue::new(GEN_AI_MODEL.name, model.clone())));
        attributes
    }

    fn consumer_group(&self) -> KeyValue {
        KeyValue::new(CONSUMER_GROUP.name, self.0.options.consumer.clone())
    }
}

pub(crate) fn word(key: Key, value: &'static str) -> KeyValue {
    KeyValue::new(key.name, value)
}

pub(crate) fn counter(meter: &Meter, info: &InstrumentInfo) -> Counter<u64> {
    meter.u64_counter(info.name).with_unit(info.unit).with_description(info.help).build()
}

fn up_down_counter(meter: &Meter, info: &InstrumentInfo) -> UpDownCounter<i64> {
    meter.i64_up_down_counter(info.name).with_unit(info.unit).with_description(info.help).build()
}

fn gauge(meter: &Meter, info: &InstrumentInfo) -> Gauge<f64> {
    meter.f64_gauge(info.name).with_unit(info.unit).with_description(info.help).build()
}

pub(crate) fn histogram(meter: &Meter, info: &InstrumentInfo) -> Histogram<f64> {
    let builder = meter.f64_histogram(info.name).with_unit(info.unit).with_description(info.help);
    builder.with_boundaries(info.buckets.to_vec()).build()
}

fn integer_histogram(meter: &Meter, info: &InstrumentInfo) -> Histogram<u64> {
    let builder = meter.u64_histogram(info.name).with_unit(info.unit).with_description(info.help);
    builder.with_boundaries(info.buckets.to_vec()).build()
}
