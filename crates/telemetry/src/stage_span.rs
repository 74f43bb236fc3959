//! Stages of a job: each is measured, and has a span if the job is traced.

use std::time::Instant;

use async_nats::HeaderMap;
use opentelemetry::trace::{Status, TraceContextExt};
use opentelemetry::{Context, KeyValue};

use crate::attribute_keys::MESSAGING_ERROR;
use crate::attributes::{Acknowledgement, Destination, MessagingError, Stage};
use crate::instruments::Instruments;
use crate::propagation::inject;

/// A running stage. Dropped before it has ended, it is not measured, and its span gets an error status.
pub struct StageSpan {
    instruments: Instruments,
    stage: Stage,
    started: Instant,
    /// With its span, if the job is traced.
    context: Option<Context>,
    has_ended: bool,
}

/// A message that is being published.
pub struct PublishSpan {
    stage: StageSpan,
    to: Destination,
    context: Context,
}

/// A delivery that is being acknowledged.
pub struct AcknowledgeSpan {
    stage: StageSpan,
    acknowledgement: Acknowledgement,
    from: Destination,
}

impl StageSpan {
    pub(crate) fn new(instruments: Instruments, stage: Stage, context: Option<Context>) -> Self {
        Self { instruments, stage, started: Instant::now(), context, has_ended: false }
    }

    /// The stage has ended.
    pub fn end(self) {
        self.end_with(None);
    }

    /// The stage has ended with an error, in one word such as `store_unavailable`.
    pub fn fail(self, error: &'static str) {
        self.end_with(Some(error));
    }

    fn end_with(mut self, error: Option<&'static str>) {
        self.has_ended = true;
        self.instruments.stage_ended(self.stage, self.started.elapsed());
        if let Some(context) = &self.context {
            let span = context.span();
            if let Some(error) = error {
                span.set_attribute(KeyValue::new(MESSAGING_ERROR.name, error));
                span.set_status(Status::error(error));
            }
            span.end();
        }
    }
}

impl Drop for StageSpan {
    fn drop(&mut self) {
        if !self.has_ended
            && let Some(context) = &self.context
        {
            let span = context.span();
            span.set_status(Status::error("the stage was cancelled"));
            span.end();
        }
    }
}

impl PublishSpan {
    pub(crate) fn new(stage: StageSpan, to: Destination, context: Context) -> Self {
        Self { stage, to, context }
    }

    /// Writes its trace context into the headers of the message.
    pub fn inject(&self, headers: &mut HeaderMap) {
        inject(&self.context, headers);
    }

    /// The stream has confirmed the message, or publishing failed.
    pub fn end(self, result: Result<(), MessagingError>) {
        let Self { stage, to, .. } = self;
        stage.instruments.message_published(to, result, stage.started.elapsed());
        stage.end_with(result.err().map(MessagingError::as_str));
    }
}

impl AcknowledgeSpan {
    pub(crate) fn new(stage: StageSpan, acknowledgement: Acknowledgement, from: Destination) -> Self {
        Self { stage, acknowledgement, from }
    }

    /// The server has confirmed the acknowledgement, or it failed.
    pub fn end(self, result: Result<(), MessagingError>) {
        let Self { stage, acknowledgement, from } = self;
        stage.instruments.delivery_acknowledged(acknowledgement, from, result, stage.started.elapsed());
        stage.end_with(result.err().map(MessagingError::as_str));
    }
}
