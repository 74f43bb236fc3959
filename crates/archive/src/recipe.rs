//! Creates the job for an object.

use std::fmt::Write;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use wire::Message;
use wire::identity::sha256_hex;
use wire::job::{CheckedJob, JobError};
use wire::subjects::Dataset;
use wire::v1::{self, ImageJob, S3Object, image_job};

use crate::object::SourceObject;

/// Maximum length of an S3 key in bytes.
pub(crate) const MAX_KEY_BYTES: usize = 1024;

/// What of an object must not have changed when a worker reads it. Otherwise the job becomes a failure.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, JsonSchema, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Pin {
    /// The ETag, and the version if the source contains it.
    #[default]
    Version,
    /// The ETag.
    Etag,
    /// Nothing.
    None,
}

/// The tasks and options of a dataset: the same for every object.
#[derive(Debug, Clone)]
pub struct Recipe {
    /// The dataset.
    pub dataset: Dataset,
    /// The tasks of each job.
    pub tasks: Vec<v1::Task>,
    /// The generation options; `None` for the defaults.
    pub options: Option<v1::GenerationOptions>,
    /// What the jobs pin.
    pub pin: Pin,
}

impl Recipe {
    /// The job for an object. Equal objects have equal jobs, byte for byte.
    pub fn job(&self, object: &SourceObject) -> ImageJob {
        let is_pinned = self.pin != Pin::None;
        let s3 = S3Object {
            bucket: object.bucket.clone(),
            key: object.key.clone(),
            version_id: object.version.clone().filter(|_| self.pin == Pin::Version),
            etag: object.etag.clone().filter(|_| is_pinned),
        };
        ImageJob {
            job_id: self.job_id(object),
            dataset: self.dataset.as_str().to_owned(),
            source: Some(image_job::Source::S3(s3)),
            tasks: self.tasks.clone(),
            options: self.options,
            ..ImageJob::default()
        }
    }

    /// The SHA-256, in lower-case hexadecimal, of five lines: `groundling enqueue 1`, dataset, bucket, key, and version, or
    /// ETag if there is no version. Each line begins with its length in bytes and a colon.
    fn job_id(&self, object: &SourceObject) -> String {
        let state = object.version.as_deref().or(object.etag.as_deref()).unwrap_or_default();
        hash_of_lines(["groundling enqueue 1", self.dataset.as_str(), &object.bucket, &object.key, state])
    }

    /// The maximum size of a job in bytes. Checks tasks and options as a worker does.
    ///
    /// # Errors
    /// [`JobError`] if they are invalid.
    pub fn max_job_bytes(&self) -> Result<usize, JobError> {
        let text = |length: usize| Some("0".repeat(length));
        let example = SourceObject {
            bucket: "b".repeat(63),
            key: "k".repeat(MAX_KEY_BYTES),
            etag: text(64),
            version: text(64),
            ..SourceObject::default()
        };
        let job = self.job(&example);
        let size = job.encoded_len();
        CheckedJob::new(job)?;
        Ok(size)
    }
}

/// The SHA-256, in lower-case hexadecimal, of lines that each begin with their length in bytes and a colon.
pub(crate) fn hash_of_lines(lines: [&str; 5]) -> String {
    let mut text = String::with_capacity(lines.iter().map(|line| line.len() + 6).sum());
    for line in lines {
        // Writing to a string cannot fail.
        _ = writeln!(text, "{}:{line}", line.len());
    }
    sha256_hex(text.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn recipe(pin: Pin) -> Recipe {
        let task = v1::Task { task_id: "brief".into(), kind: Some(v1::task::Kind::BriefCaption(v1::BriefCaption {})) };
        Recipe { dataset: "cats".parse().unwrap(), tasks: vec![task], options: None, pin }
    }

    fn object() -> SourceObject {
        SourceObject {
            bucket: "b".into(),
            key: "k.jpg".into(),
            etag: Some("e".into()),
            version: Some("v".into()),
            ..SourceObject::default()
        }
    }

    #[test]
    fn a_job_pins_what_it_is_told_to() {
        let pins = |pin| match recipe(pin).job(&object()).source {
            Some(image_job::Source::S3(s3)) => (s3.version_id, s3.etag),
            other => panic!("{other:?}"),
        };
        assert_eq!(pins(Pin::Version), (Some("v".into()), Some("e".into())));
        assert_eq!(pins(Pin::Etag), (None, Some("e".into())));
        assert_eq!(pins(Pin::None), (None, None));
    }

    #[test]
    fn a_job_has_the_id_of_its_object_and_keeps_the_rules() {
        let id = |change: fn(&mut SourceObject)| {
            let mut object = object();
            change(&mut object);
            recipe(Pin::None).job(&object).job_id
        };
        // Worked out by a line of Python from the encoding as documented above.
        assert_eq!(id(|_| ()), "7dfa3dc1c990e5cf7de98a8d16e9322beced8d25d72cd7a378255239016e15e1");
        for changed in [
            id(|object| object.key = "l.jpg".into()),
            id(|object| object.bucket = "c".into()),
            id(|object| object.version = Some("w".into())),
            id(|object| object.version = None),
        ] {
            assert_ne!(changed, id(|_| ()));
        }
        assert!(recipe(Pin::Version).max_job_bytes().unwrap() < 2000);
        let empty = Recipe { tasks: Vec::new(), ..recipe(Pin::Version) };
        assert!(empty.max_job_bytes().unwrap_err().to_string().contains("no tasks"));
    }
}
