//! The span of a job, its children, and what is measured of them.
//!
//! ```text
//! process groundling.jobs.{dataset}            CONSUMER, child of the submitter's span or linked to it
//! ├ fetch, decode                              while they run
//! ├ queue, vision, prefill, generate           created from the engine's timings
//! ├ publish groundling.annotations.{dataset}   PRODUCER; the consumer of the annotation continues from here
//! └ acknowledge
//! ```

use std::borrow::Cow;
use std::time::{Duration, Instant, SystemTime};

use async_nats::HeaderMap;
use async_nats::header::NATS_MESSAGE_ID;
use opentelemetry::context::FutureExt;
use opentelemetry::trace::{Link, Span, SpanKind, Status, TraceContextExt, Tracer};
use opentelemetry::{Context, KeyValue};
use opentelemetry_sdk::trace::SdkTracer;
use tracing::Instrument;

use crate::attribute_keys::{
    CONSUMER_GROUP, DESTINATION, MESSAGING_ERROR, MESSAGING_OPERATION, MESSAGING_OPERATION_TYPE, MESSAGING_SYSTEM,
    OPERATION_PROCESS, OPERATION_PUBLISH, OPERATION_TYPE_SEND, OPERATION_TYPE_SETTLE, SYSTEM,
};
use crate::attributes::{Acknowledgement, Destination, JobOutcome, Stage};
use crate::instruments::{ActiveJob, AnsweredRequest, Instruments, word};
use crate::propagation::{extract, inject};
use crate::settings::Submitter;
use crate::stage_span::{AcknowledgeSpan, PublishSpan, StageSpan};

const DESTINATION_NAME: &str = "messaging.destination.name";
const MESSAGE_ID: &str = "messaging.message.id";
const BODY_SIZE: &str = "messaging.message.body.size";
const JOB_ID: &str = "groundling.job.id";
const JOB_DATASET: &str = "groundling.job.dataset";
const JOB_SEQUENCE: &str = "groundling.job.sequence";
const JOB_DELIVERIES: &str = "groundling.job.deliveries";
const JOB_OUTCOME: &str = "groundling.job.outcome";
const JOB_REASON: &str = "groundling.job.reason";

/// Creates the spans of jobs.
#[derive(Clone)]
pub struct JobSpans {
    instruments: Instruments,
    /// `None`: nothing is traced, but the submitter's context is passed on.
    tracer: Option<SdkTracer>,
    submitter: Submitter,
}

/// Facts about a received job.
#[derive(Debug, Clone, Copy)]
pub struct ReceivedJob<'a> {
    /// Headers of its message.
    pub headers: Option<&'a HeaderMap>,
    /// Where it was delivered from: jobs or retries.
    pub from: Destination,
    /// The subject that it was published to.
    pub subject: &'a str,
    /// Its dataset.
    pub dataset: &'a str,
    /// Its sequence in the stream of jobs.
    pub sequence: u64,
    /// Deliveries, this one included.
    pub deliveries: u64,
    /// When it was published.
    pub published: SystemTime,
    /// When it was received.
    pub received: Instant,
    /// Bytes of its message, without headers.
    pub size_bytes: usize,
}

/// What the engine did for a request, one stage after the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EngineTimes {
    /// When the request was submitted.
    pub submitted: Instant,
    /// From then to the start of work on it.
    pub queue: Duration,
    /// The vision tower.
    pub vision: Duration,
    /// From then until the first token of the first prompt.
    pub prefill: Duration,
    /// From then until the last token of the last prompt.
    pub generate: Duration,
    /// Tokens of the longest answer.
    pub longest_answer: usize,
}

/// The span of an active job. It also counts the job as active, and measures its stages.
///
/// Dropped without [`JobSpan::settled`], its span ends with an error status.
pub struct JobSpan {
    spans: JobSpans,
    /// With the job's span, or with the submitter's if nothing is traced.
    context: Context,
    submitter: Context,
    log_span: tracing::Span,
    dataset: String,
    from: Destination,
    deliveries: u64,
    published: SystemTime,
    received: Instant,
    is_settled: bool,
    _active: ActiveJob,
}

/// What the log lines of a job carry.
pub struct LogScope {
    log_span: tracing::Span,
    context: Context,
}

impl JobSpans {
    pub(crate) fn new(instruments: Instruments, tracer: Option<SdkTracer>, submitter: Submitter) -> Self {
        Self { instruments, tracer, submitter }
    }

    /// Spans that are not exported. Trace contexts are still passed on.
    pub fn off() -> Self {
        Self::new(Instruments::off(), None, Submitter::default())
    }

    /// The instruments that the spans measure with.
    pub fn instruments(&self) -> &Instruments {
        &self.instruments
    }

    /// Starts the span of a job, and counts the job and its message.
    pub fn start(&self, job: ReceivedJob<'_>) -> JobSpan {
        self.instruments.message_received(job.from);
        let submitter = extract(job.headers);
        let context = match &self.tracer {
            Some(tracer) => self.start_span(tracer, &job, &submitter),
            None => submitter.clone(),
        };
        let trace_id = context.span().span_context().trace_id();
        let is_known = context.span().span_context().is_valid();
        // The target of most log lines about jobs: a filter that enables them must enable the span as well.
        let log_span = tracing::info_span!(
            target: "worker",
            "job",
            job_id = tracing::field::Empty,
            dataset = job.dataset,
            trace_id = is_known.then(|| tracing::field::display(trace_id)),
        );
        JobSpan {
            _active: self.instruments.job_started(),
            spans: self.clone(),
            context,
            submitter,
            log_span,
            dataset: job.dataset.to_owned(),
            from: job.from,
            deliveries: job.deliveries,
            published: job.published,
            received: job.received,
            is_settled: false,
        }
    }

    fn start_span(&self, tracer: &SdkTracer, job: &ReceivedJob<'_>, submitter: &Context) -> Context {
        let template = Destination::Jobs.as_str();
        let mut attributes = vec![
            word(MESSAGING_SYSTEM, SYSTEM),
            word(MESSAGING_OPERATION, OPERATION_PROCESS),
            word(MESSAGING_OPERATION_TYPE, OPERATION_PROCESS),
            word(DESTINATION, template),
            KeyValue::new(DESTINATION_NAME, job.subject.to_owned()),
            KeyValue::new(CONSUMER_GROUP.name, self.instruments.consumer().to_owned()),
            KeyValue::new(BODY_SIZE, integer(job.size_bytes as u64)),
            KeyValue::new(JOB_DATASET, job.dataset.to_owned()),
            KeyValue::new(JOB_SEQUENCE, integer(job.sequence)),
            KeyValue::new(JOB_DELIVERIES, integer(job.deliveries)),
        ];
        if let Some(id) = job.headers.and_then(|headers| headers.get(NATS_MESSAGE_ID)) {
            attributes.push(KeyValue::new(MESSAGE_ID, id.as_str().to_owned()));
        }
        let mut builder = tracer
            .span_builder(format!("{OPERATION_PROCESS} {template}"))
            .with_kind(SpanKind::Consumer)
            .with_start_time(at(job.received))
            .with_attributes(attributes);
        let submitted_in = submitter.span().span_context().clone();
        let parent = match self.submitter {
            Submitter::Parent => submitter.clone(),
            Submitter::Link => {
                if submitted_in.is_valid() {
                    builder = builder.with_links(vec![Link::new(submitted_in, Vec::new(), 0)]);
                }
                Context::new()
            }
        };
        let span = tracer.build_with_context(builder, &parent);
        parent.with_span(span)
    }
}

impl JobSpan {
    /// Its trace id; `None` if nothing is traced and the submitter sent no trace context.
    pub fn trace_id(&self) -> Option<String> {
        let span = self.context.span();
        let span_context = span.span_context();
        span_context.is_valid().then(|| span_context.trace_id().to_string())
    }

    /// Records the job's id, once it has been read from the payload.
    pub fn job_id(&self, id: &str) {
        self.log_span.record("job_id", id);
        self.context.span().set_attribute(KeyValue::new(JOB_ID, id.to_owned()));
    }

    /// Runs a future so that its log lines carry the job's id, dataset and trace id.
    pub fn scope<F: Future>(&self, future: F) -> impl Future<Output = F::Output> + use<F> {
        self.log_scope().run(future)
    }

    /// The same for a future that owns this span.
    pub fn log_scope(&self) -> LogScope {
        LogScope { log_span: self.log_span.clone(), context: self.context.clone() }
    }

    /// Starts a stage.
    pub fn stage(&self, stage: Stage) -> StageSpan {
        let context = self.child(stage.as_str(), SpanKind::Internal, Vec::new());
        StageSpan::new(self.spans.instruments.clone(), stage, context)
    }

    /// Records the stages of a request that the engine has answered, and creates their spans.
    pub fn engine_answered(&self, times: EngineTimes) {
        let time_to_first_token = times.queue + times.vision + times.prefill;
        self.spans.instruments.request_answered(AnsweredRequest {
            duration: time_to_first_token + times.generate,
            time_to_first_token,
            longest_answer: times.longest_answer,
        });
        let mut start = at(times.submitted);
        let stages = [
            (Stage::Queue, times.queue),
            (Stage::Vision, times.vision),
            (Stage::Prefill, times.prefill),
            (Stage::Generate, times.generate),
        ];
        for (stage, duration) in stages {
            self.spans.instruments.stage_ended(stage, duration);
            let end = start + duration;
            if let Some(tracer) = self.sampled_tracer() {
                let builder = tracer.span_builder(stage.as_str()).with_start_time(start);
                let mut span = tracer.build_with_context(builder, &self.context);
                span.end_with_timestamp(end);
            }
            start = end;
        }
    }

    /// Starts the span of publishing a message. The span's context goes into the message's headers.
    pub fn publish(&self, to: Destination, subject: &str) -> PublishSpan {
        let name = format!("{} {}", OPERATION_PUBLISH, to.as_str());
        let attributes = vec![
            word(MESSAGING_SYSTEM, SYSTEM),
            word(MESSAGING_OPERATION, OPERATION_PUBLISH),
            word(MESSAGING_OPERATION_TYPE, OPERATION_TYPE_SEND),
            word(DESTINATION, to.as_str()),
            KeyValue::new(DESTINATION_NAME, subject.to_owned()),
        ];
        let child = self.child(name, SpanKind::Producer, attributes);
        let context = child.clone().unwrap_or_else(|| self.context.clone());
        PublishSpan::new(StageSpan::new(self.spans.instruments.clone(), Stage::Publish, child), to, context)
    }

    /// Starts the span of acknowledging the delivery.
    pub fn acknowledge(&self, acknowledgement: Acknowledgement, from: Destination) -> AcknowledgeSpan {
        let attributes = vec![
            word(MESSAGING_SYSTEM, SYSTEM),
            word(MESSAGING_OPERATION, acknowledgement.as_str()),
            word(MESSAGING_OPERATION_TYPE, OPERATION_TYPE_SETTLE),
            word(DESTINATION, from.as_str()),
        ];
        let context = self.child(Stage::Acknowledge.as_str(), SpanKind::Client, attributes);
        let stage = StageSpan::new(self.spans.instruments.clone(), Stage::Acknowledge, context);
        AcknowledgeSpan::new(stage, acknowledgement, from)
    }

    /// Writes the submitter's trace context into the headers of a copy of the job, whose next attempt continues from it.
    pub fn inject_submitter(&self, headers: &mut HeaderMap) {
        inject(&self.submitter, headers);
    }

    /// Counts the settled delivery, and ends the span. Only the first call counts.
    pub fn settled(&mut self, outcome: JobOutcome) {
        if std::mem::replace(&mut self.is_settled, true) {
            return;
        }
        let age = self.published.elapsed().unwrap_or_default();
        let (instruments, processing) = (&self.spans.instruments, self.received.elapsed());
        instruments.job_settled(self.from, outcome, &self.dataset, self.deliveries, age, processing);
        let span = self.context.span();
        if self.spans.tracer.is_none() || !span.is_recording() {
            return;
        }
        span.set_attribute(KeyValue::new(JOB_OUTCOME, outcome.as_str()));
        if let Some(reason) = outcome.reason() {
            span.set_attribute(KeyValue::new(JOB_REASON, reason.as_str()));
            if matches!(outcome, JobOutcome::Failed(_) | JobOutcome::Retried(_)) {
                span.set_attribute(KeyValue::new(MESSAGING_ERROR.name, reason.as_str()));
                span.set_status(Status::error(reason.as_str()));
            }
        }
        span.end();
    }

    /// The context of a child span; `None` if the job is not traced.
    fn child(&self, name: impl Into<Cow<'static, str>>, kind: SpanKind, attributes: Vec<KeyValue>) -> Option<Context> {
        let tracer = self.sampled_tracer()?;
        let builder = tracer.span_builder(name).with_kind(kind).with_attributes(attributes);
        Some(self.context.with_span(tracer.build_with_context(builder, &self.context)))
    }

    fn sampled_tracer(&self) -> Option<&SdkTracer> {
        self.spans.tracer.as_ref().filter(|_| self.context.span().is_recording())
    }
}

impl LogScope {
    /// Runs a future so that its log lines carry the job's id, dataset and trace id.
    pub fn run<F: Future>(self, future: F) -> impl Future<Output = F::Output> + use<F> {
        future.instrument(self.log_span).with_context(self.context)
    }
}

impl Drop for JobSpan {
    fn drop(&mut self) {
        if !self.is_settled && self.sampled_tracer().is_some() {
            let span = self.context.span();
            span.set_status(Status::error("the job was dropped"));
            span.end();
        }
    }
}

/// The wall-clock time of an instant.
fn at(moment: Instant) -> SystemTime {
    let now = SystemTime::now();
    now.checked_sub(moment.elapsed()).unwrap_or(now)
}

fn integer(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}
