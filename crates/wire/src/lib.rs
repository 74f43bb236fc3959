//! The wire format: protobuf messages, NATS subjects, annotation ids, and the checks of jobs that need no model.
//!
//! The crate depends on no network library, no async runtime and no model, so a client builds it in seconds.
//! [`job::CheckedJob`] checks a job as a worker does, except for prompts, which need the model's tokenizer.
//! `docs/protocol.md` describes the protocol.
//!
//! Build a job, check it, and find its subject:
//!
//! ```
//! use wire::job::CheckedJob;
//! use wire::subjects::Dataset;
//! use wire::v1::{BriefCaption, ImageJob, S3Object, Task, image_job::Source, task::Kind};
//! use wire::Message;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let object = S3Object { bucket: "pictures".into(), key: "2024/beach.webp".into(), ..S3Object::default() };
//! let caption = Task { task_id: "caption".into(), kind: Some(Kind::BriefCaption(BriefCaption {})) };
//! let job = ImageJob {
//!     job_id: "42".into(),
//!     dataset: "holiday".into(),
//!     source: Some(Source::S3(object)),
//!     tasks: vec![caption],
//!     ..ImageJob::default()
//! };
//! CheckedJob::new(job.clone())?;
//!
//! // Publish `payload` to `subject`, with the job's id as `Nats-Msg-Id`.
//! let (subject, payload) = (job.dataset.parse::<Dataset>()?.jobs_subject(), job.encode_to_vec());
//! assert_eq!(subject, "groundling.jobs.holiday");
//! # assert!(!payload.is_empty());
//! # Ok(())
//! # }
//! ```
#![forbid(unsafe_code)]
#![warn(clippy::print_stderr, clippy::print_stdout)]

mod failure;
pub mod identity;
pub mod job;
pub mod json;
pub mod options;
mod scan;
pub mod subjects;
mod tasks;
pub mod v1;

pub use prost::{DecodeError, Message};
pub use prost_types;

/// A duration as a protobuf message.
pub fn proto_duration(duration: std::time::Duration) -> prost_types::Duration {
    prost_types::Duration {
        seconds: i64::try_from(duration.as_secs()).unwrap_or(i64::MAX),
        // `subsec_nanos` is below 10⁹.
        nanos: i32::try_from(duration.subsec_nanos()).unwrap_or(0),
    }
}
