//! Records what happens to one job: its span, the stages, and how its delivery is settled.

use std::time::{Duration, Instant, SystemTime};

use async_nats::HeaderMap;
use broker::publish::{PublishAck, PublishError};
use engine::{EngineError, Response};
use kosmos2::options::FinishReason;
use telemetry::attributes::{Acknowledgement, Destination, JobOutcome, RequestError, Stage};
use telemetry::job_span::{EngineTimes, LogScope, ReceivedJob};
use telemetry::stage_span::AcknowledgeSpan;
use telemetry::{Instruments, JobSpan, JobSpans};
use wire::subjects::dataset_token;

use crate::delivery_info::DeliveryInfo;
use crate::faults::Fault;
use crate::fetch::s3::ReadError;
use crate::queue::Queue;
use crate::telemetry_words::{outcome_error, read_result, reason, request_error, source};

/// The telemetry of an active job.
pub(crate) struct JobTelemetry {
    span: JobSpan,
    instruments: Instruments,
    from: Destination,
    outcome: Option<JobOutcome>,
}

impl JobTelemetry {
    /// Starts the job's span.
    pub(crate) fn start(
        spans: &JobSpans,
        queue: Queue,
        headers: Option<&HeaderMap>,
        subject: &str,
        info: &DeliveryInfo,
        received: Instant,
        size_bytes: usize,
    ) -> Self {
        let from = source(queue);
        let span = spans.start(ReceivedJob {
            headers,
            from,
            subject,
            dataset: dataset_token(subject).unwrap_or_default(),
            sequence: info.sequence,
            deliveries: info.deliveries,
            published: SystemTime::UNIX_EPOCH + Duration::from_nanos(info.published_nanos),
            received,
            size_bytes,
        });
        Self { span, instruments: spans.instruments().clone(), from, outcome: None }
    }

    /// What the job's log lines carry.
    pub(crate) fn log_scope(&self) -> LogScope {
        self.span.log_scope()
    }

    pub(crate) fn job_id(&self, id: &str) {
        self.span.job_id(id);
    }

    /// Runs a stage.
    pub(crate) async fn stage<T>(
        &self,
        stage: Stage,
        work: impl Future<Output = Result<T, Fault>>,
    ) -> Result<T, Fault> {
        let span = self.span.stage(stage);
        let result = work.await;
        match &result {
            Ok(_) => span.end(),
            Err(fault) => span.fail(reason(fault).as_str()),
        }
        result
    }

    /// Reading the object has ended.
    pub(crate) fn object_read<T>(&self, read: &Result<T, ReadError>, duration: Duration) {
        if let Some(result) = read_result(read) {
            self.instruments.object_read(result, duration);
        }
    }

    /// Waits for the engine's response.
    pub(crate) async fn engine(
        &self,
        response: impl Future<Output = Result<Response, EngineError>>,
    ) -> Result<Response, EngineError> {
        let mut request = EngineRequest { telemetry: self, submitted: Instant::now(), has_ended: false };
        let response = response.await;
        request.ended(&response);
        response
    }

    /// Publishes a message in a span, whose trace context `publish` adds to the message's headers.
    pub(crate) async fn publish(
        &self,
        to: Destination,
        subject: &str,
        publish: impl AsyncFnOnce(HeaderMap) -> Result<PublishAck, PublishError>,
    ) -> Result<PublishAck, PublishError> {
        let span = self.span.publish(to, subject);
        let mut headers = HeaderMap::new();
        span.inject(&mut headers);
        let result = publish(headers).await;
        span.end(result.as_ref().map(drop).map_err(outcome_error));
        result
    }

    /// The submitter's trace context, for the headers of a copy of the job.
    pub(crate) fn submitter_headers(&self) -> HeaderMap {
        let mut headers = HeaderMap::new();
        self.span.inject_submitter(&mut headers);
        headers
    }

    /// How the delivery is about to be settled.
    pub(crate) fn set_outcome(&mut self, outcome: JobOutcome) {
        self.outcome = Some(outcome);
    }

    /// The delivery is being acknowledged.
    pub(crate) fn acknowledge(&self, acknowledgement: Acknowledgement) -> AcknowledgeSpan {
        self.span.acknowledge(acknowledgement, self.from)
    }

    /// The delivery is settled.
    pub(crate) fn settled(&mut self) {
        if let Some(outcome) = self.outcome {
            self.span.settled(outcome);
        }
    }
}

/// A request to the engine. Dropped without an end, it was cancelled.
struct EngineRequest<'a> {
    telemetry: &'a JobTelemetry,
    submitted: Instant,
    has_ended: bool,
}

impl EngineRequest<'_> {
    fn ended(&mut self, response: &Result<Response, EngineError>) {
        self.has_ended = true;
        match response {
            Ok(Response { texts, timings }) => {
                let generated = texts.iter().filter(|text| text.finish_reason != FinishReason::Scored);
                self.telemetry.span.engine_answered(EngineTimes {
                    submitted: self.submitted,
                    queue: timings.queued,
                    vision: timings.vision,
                    prefill: timings.prefill,
                    generate: timings.decode,
                    // Scored texts are not generated token by token.
                    longest_answer: generated.map(|text| text.token_ids.len()).max().unwrap_or(0),
                });
            }
            Err(error) => self.failed(request_error(error)),
        }
    }

    fn failed(&self, error: RequestError) {
        self.telemetry.instruments.request_failed(error, self.submitted.elapsed());
    }
}

impl Drop for EngineRequest<'_> {
    fn drop(&mut self) {
        if !self.has_ended {
            self.failed(RequestError::Cancelled);
        }
    }
}
