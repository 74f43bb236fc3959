//! The keys of all attributes of instruments, with their values. Values are chosen by the types in
//! [`crate::attributes`].

use crate::attributes::{
    Acknowledgement, BatchPass, Destination, JobOutcome, MessagingError, ReadResult, Reason, Server, Stage,
};
use crate::ingest_attributes::{IngestOutcome, IngestReason, IngestStatus};
use crate::signal::Signal;

/// The key of an attribute.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Key {
    /// The key, as OTLP has it; in a scrape its dots are underscores.
    pub name: &'static str,
    /// What its values mean.
    pub help: &'static str,
    /// Its values.
    pub values: Values,
}

/// The values of an attribute.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Values {
    /// One of these.
    OneOf(&'static [&'static str]),
    /// Any value of this description.
    Described(&'static str),
}

/// How a delivery was settled.
pub const OUTCOME: Key =
    Key { name: "outcome", help: "how the delivery was settled", values: Values::OneOf(JobOutcome::WORDS) };
/// Why a job failed or was sent back.
pub const REASON: Key = Key {
    name: "reason",
    help: "why the job failed or was sent back; absent from annotated ones",
    values: Values::OneOf(Reason::WORDS),
};
/// The job's dataset.
pub const DATASET: Key = Key {
    name: "dataset",
    help: "the job's dataset, only with `telemetry.dataset_label`",
    values: Values::Described("names of datasets; after 2000 time series all further ones are counted together"),
};
/// A stage of a job.
pub const STAGE: Key = Key { name: "stage", help: "stage of the job", values: Values::OneOf(Stage::WORDS) };
/// What a batch goes through.
pub const BATCH_PASS: Key =
    Key { name: "pass", help: "what the batch went through", values: Values::OneOf(BatchPass::WORDS) };
/// Whether tokens were read or generated.
pub const TOKEN_TYPE: Key = Key {
    name: "type",
    help: "tokens of prompts, or of answers",
    values: Values::OneOf(&[TOKEN_TYPE_PROMPT, TOKEN_TYPE_ANSWER]),
};
pub(crate) const TOKEN_TYPE_PROMPT: &str = "prompt";
pub(crate) const TOKEN_TYPE_ANSWER: &str = "answer";
/// How reading an object ended.
pub const READ_RESULT: Key =
    Key { name: "result", help: "how the read ended", values: Values::OneOf(ReadResult::WORDS) };
/// A stream.
pub const STREAM: Key = Key {
    name: "stream",
    help: "the stream",
    values: Values::Described("names of streams, of `streams` in the settings"),
};
/// What a connection goes to.
pub const SERVER: Key = Key { name: "server", help: "what it is connected to", values: Values::OneOf(Server::WORDS) };
/// What is exported.
pub const EXPORT_SIGNAL: Key = Key {
    name: "signal",
    help: "what was exported",
    values: Values::OneOf(&[Signal::Traces.as_str(), Signal::Metrics.as_str(), Signal::Logs.as_str()]),
};
/// How an export ended.
pub const EXPORT_RESULT: Key = Key {
    name: "result",
    help: "whether the collector took it",
    values: Values::OneOf(&[EXPORT_RESULT_OK, EXPORT_RESULT_FAILED]),
};
pub(crate) const EXPORT_RESULT_OK: &str = "ok";
pub(crate) const EXPORT_RESULT_FAILED: &str = "failed";

/// The messaging system.
pub const MESSAGING_SYSTEM: Key =
    Key { name: "messaging.system", help: "the messaging system", values: Values::OneOf(&[SYSTEM]) };
pub(crate) const SYSTEM: &str = "nats";
/// The operation, as NATS calls it.
pub const MESSAGING_OPERATION: Key = Key {
    name: "messaging.operation.name",
    help: "the operation, as NATS calls it",
    values: Values::OneOf(&[
        OPERATION_RECEIVE,
        OPERATION_PROCESS,
        OPERATION_PUBLISH,
        Acknowledgement::Ack.as_str(),
        Acknowledgement::Nack.as_str(),
        Acknowledgement::Term.as_str(),
    ]),
};
pub(crate) const OPERATION_RECEIVE: &str = "receive";
pub(crate) const OPERATION_PROCESS: &str = "process";
pub(crate) const OPERATION_PUBLISH: &str = "publish";
/// The operation, as the semantic conventions call it.
pub const MESSAGING_OPERATION_TYPE: Key = Key {
    name: "messaging.operation.type",
    help: "the operation's type in the semantic conventions",
    values: Values::OneOf(&[OPERATION_TYPE_SEND, OPERATION_TYPE_SETTLE]),
};
pub(crate) const OPERATION_TYPE_SEND: &str = "send";
pub(crate) const OPERATION_TYPE_SETTLE: &str = "settle";
/// Where messages go to or come from.
pub const DESTINATION: Key = Key {
    name: "messaging.destination.template",
    help: "the subjects, with a place for the dataset",
    values: Values::OneOf(Destination::WORDS),
};
/// The durable consumer.
pub const CONSUMER_GROUP: Key = Key {
    name: "messaging.consumer.group.name",
    help: "the durable consumer",
    values: Values::Described("`streams.consumer`"),
};
/// Why an operation failed.
pub const MESSAGING_ERROR: Key = Key {
    name: "error.type",
    help: "why it failed; absent from successes",
    values: Values::OneOf(MessagingError::WORDS),
};

/// The operation in the conventions for generative models.
pub const GEN_AI_OPERATION: Key = Key {
    name: "gen_ai.operation.name",
    help: "the operation in the semantic conventions",
    values: Values::OneOf(&[GENERATE_CONTENT]),
};
pub(crate) const GENERATE_CONTENT: &str = "generate_content";
/// Who serves the model.
pub const GEN_AI_PROVIDER: Key =
    Key { name: "gen_ai.provider.name", help: "who serves the model", values: Values::OneOf(&[PROVIDER]) };
pub(crate) const PROVIDER: &str = "groundling";
/// The model.
pub const GEN_AI_MODEL: Key = Key {
    name: "gen_ai.request.model",
    help: "the model",
    values: Values::Described("the model's name, as annotations have it"),
};
/// Why a request has no answer.
pub const GEN_AI_ERROR: Key = Key {
    name: "error.type",
    help: "why there was no answer; absent from successes",
    values: Values::OneOf(crate::attributes::RequestError::WORDS),
};

/// A rule of `groundling ingest`.
pub const INGEST_RULE: Key = Key {
    name: "rule",
    help: "the rule that matched",
    values: Values::Described("names of `[[ingest]]` rules; absent from messages that no rule could read"),
};
/// What became of a record of an event.
pub const INGEST_OUTCOME: Key =
    Key { name: "outcome", help: "what became of the record", values: Values::OneOf(IngestOutcome::WORDS) };
/// Why a record of an event became no job, or not yet.
pub const INGEST_REASON: Key = Key {
    name: "reason",
    help: "why it was skipped, failed or was sent back; absent from jobs",
    values: Values::OneOf(IngestReason::WORDS),
};
/// The status of an answer of the webhook server.
pub const INGEST_STATUS: Key =
    Key { name: "status", help: "the HTTP status of the answer", values: Values::OneOf(IngestStatus::WORDS) };

/// A piece of hardware.
pub const HW_ID: Key =
    Key { name: "hw.id", help: "the GPU", values: Values::Described("the GPU's number, as `nvidia-smi` has it") };
/// The kind of hardware.
pub const HW_TYPE: Key = Key { name: "hw.type", help: "the kind of hardware", values: Values::OneOf(&[GPU]) };
pub(crate) const GPU: &str = "gpu";
/// The kind of an error of hardware.
pub const HW_ERROR_TYPE: Key = Key {
    name: "error.type",
    help: "kind of error",
    values: Values::OneOf(&[HW_ERROR_CORRECTED, HW_ERROR_UNCORRECTED]),
};
pub(crate) const HW_ERROR_CORRECTED: &str = "corrected";
pub(crate) const HW_ERROR_UNCORRECTED: &str = "uncorrected";
