//! Ids of annotations, failures and resubmitted jobs. They depend only on the job, the picture and the model, so repeated
//! work has the same id.
//!
//! The ids of annotations and failures are the SHA-256 of an encoding that a client in any language can compute:
//!
//! - a string: its length in bytes as u64, then its UTF-8 bytes;
//! - an integer: u64; a float: its IEEE 754 bits (f32 as u32, f64 as u64); all little-endian;
//! - an optional value: one byte 0, or one byte 1 and the value;
//! - a list: the number of entries as u64, then the entries.

use sha2::{Digest, Sha256};

use crate::job::CheckedJob;
use crate::options::{Options, Sampling};
use crate::v1;
use crate::v1::{prompt_box, task};

/// Where a picture was read from.
#[derive(Debug, Clone, Copy)]
pub enum PictureOrigin<'a> {
    /// An object, with the ETag and version that the store returned.
    Object(&'a v1::ObjectIdentity),
    /// Bytes in the job.
    Inline {
        /// SHA-256 of the bytes, in lower-case hexadecimal.
        sha256: &'a str,
    },
}

/// The id of the annotation of a job with this picture and this model: 64 lower-case hexadecimal digits.
///
/// The hashed encoding has, in this order: the string `groundling annotation 1`, the dataset, the job id, the picture (0,
/// bucket, key, optional ETag and optional version; or 1 and the SHA-256 in hexadecimal), the model digest, the tasks (id,
/// field number in `Task.kind`, parameters), and the options with the defaults filled in. Labels are not part of it.
/// `docs/protocol.md` has the parameters and options in detail.
///
/// ```
/// use wire::identity::{PictureOrigin, annotation_id};
/// use wire::job::CheckedJob;
/// use wire::v1::{BriefCaption, ImageJob, ObjectIdentity, S3Object, Task, image_job::Source, task::Kind};
///
/// # fn main() -> Result<(), wire::job::JobError> {
/// let job = CheckedJob::new(ImageJob {
///     job_id: "42".into(),
///     dataset: "holiday".into(),
///     source: Some(Source::S3(S3Object { bucket: "b".into(), key: "k".into(), ..S3Object::default() })),
///     tasks: vec![Task { task_id: "caption".into(), kind: Some(Kind::BriefCaption(BriefCaption {})) }],
///     ..ImageJob::default()
/// })?;
/// let object = ObjectIdentity { bucket: "b".into(), key: "k".into(), etag: Some("0123".into()), version_id: None };
/// let id = annotation_id(&job, PictureOrigin::Object(&object), "model digest");
/// assert_eq!(id, "947cbf52b0d17faa69f24f300dcbdddcba79e7ddfb9cff460447939aea441be3");
/// # Ok(())
/// # }
/// ```
pub fn annotation_id(job: &CheckedJob, picture: PictureOrigin<'_>, model_digest: &str) -> String {
    let mut hash = Encoder::new("groundling annotation 1");
    hash.text(job.dataset.as_str());
    hash.text(&job.job_id);
    match picture {
        PictureOrigin::Object(object) => {
            hash.number(0);
            hash.text(&object.bucket);
            hash.text(&object.key);
            hash.optional(object.etag.as_deref(), Encoder::text);
            hash.optional(object.version_id.as_deref(), Encoder::text);
        }
        PictureOrigin::Inline { sha256 } => {
            hash.number(1);
            hash.text(sha256);
        }
    }
    hash.text(model_digest);
    hash.number(job.tasks.len() as u64);
    for task in &job.tasks {
        encode_task(&mut hash, task);
    }
    encode_options(&mut hash, &job.options);
    hash.finish()
}

/// The id of the failure of one message of the jobs stream: 64 lower-case hexadecimal digits.
///
/// The hashed encoding has, in this order: the string `groundling failure 1`, the stream's name, the message's sequence,
/// the time of its publication (nanoseconds since 1970, since sequences repeat if the stream is created again), and the
/// SHA-256 of its bytes in hexadecimal. The reason is not part of it: a message fails once, even if another attempt would
/// fail for another reason.
pub fn failure_id(stream: &str, sequence: u64, published_nanos: u64, job_sha256: &str) -> String {
    let mut hash = Encoder::new("groundling failure 1");
    hash.text(stream);
    hash.number(sequence);
    hash.number(published_nanos);
    hash.text(job_sha256);
    hash.finish()
}

/// The `Nats-Msg-Id` for submitting the job of a failure again: the job's id (or the SHA-256 of its bytes, if there is
/// none), `#`, and the sequence of the failed message.
///
/// With its old id the job would be dropped: within the duplicate window, the jobs stream acknowledges a message with a
/// known id as a duplicate, whatever became of the first one. The id is different for each failure, and the same however
/// often the same failure is resubmitted.
///
/// ```
/// use wire::identity::resubmission_id;
/// use wire::v1::JobFailure;
///
/// let failure = JobFailure { job_id: Some("42".into()), stream_sequence: 7, ..JobFailure::default() };
/// // Publish `failure.job` to `failure.subject` with this id.
/// assert_eq!(resubmission_id(&failure), "42#7");
/// ```
pub fn resubmission_id(failure: &v1::JobFailure) -> String {
    let name = failure.job_id.as_deref().unwrap_or(&failure.job_sha256);
    format!("{name}#{}", failure.stream_sequence)
}

/// SHA-256 in lower-case hexadecimal, the form of all digests in messages.
pub fn sha256_hex(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}

fn encode_task(hash: &mut Encoder, task: &v1::Task) {
    hash.text(&task.task_id);
    match &task.kind {
        None => hash.number(0),
        Some(task::Kind::BriefCaption(v1::BriefCaption {})) => hash.number(2),
        Some(task::Kind::DetailedCaption(v1::DetailedCaption {})) => hash.number(3),
        Some(task::Kind::Question(v1::Question { question })) => {
            hash.number(4);
            hash.text(question);
        }
        Some(task::Kind::PhraseGrounding(v1::PhraseGrounding { phrase })) => {
            hash.number(5);
            hash.text(phrase);
        }
        Some(task::Kind::ReferringExpressionComprehension(v1::ReferringExpressionComprehension { expression })) => {
            hash.number(6);
            hash.text(expression);
        }
        Some(task::Kind::ReferringExpressionGeneration(v1::ReferringExpressionGeneration { boxes })) => {
            hash.number(7);
            encode_boxes(hash, boxes);
        }
        Some(task::Kind::Raw(raw)) => {
            hash.number(8);
            encode_raw(hash, raw);
        }
        Some(task::Kind::TextScoring(v1::TextScoring { prompt, text, with_end })) => {
            hash.number(9);
            hash.text(prompt);
            encode_raw(hash, text.as_ref().unwrap_or(&v1::RawPrompt::default()));
            hash.number(u64::from(*with_end));
        }
    }
}

fn encode_raw(hash: &mut Encoder, raw: &v1::RawPrompt) {
    hash.text(&raw.text);
    hash.number(raw.phrase_boxes.len() as u64);
    for phrase in &raw.phrase_boxes {
        encode_boxes(hash, &phrase.boxes);
    }
}

fn encode_boxes(hash: &mut Encoder, boxes: &[v1::PromptBox]) {
    hash.number(boxes.len() as u64);
    for prompt_box in boxes {
        match &prompt_box.r#box {
            None => hash.number(0),
            Some(prompt_box::Box::Patches(v1::PatchPair { upper_left, lower_right })) => {
                hash.number(1);
                hash.number(u64::from(*upper_left));
                hash.number(u64::from(*lower_right));
            }
            Some(prompt_box::Box::Fractions(v1::FractionBox { x0, y0, x1, y1 })) => {
                hash.number(2);
                for side in [x0, y0, x1, y1] {
                    hash.raw(&side.to_bits().to_le_bytes());
                }
            }
        }
    }
}

/// Encodes the options in the order of the fields of `GenerationOptions`, with those of sampling or beam search only if
/// they apply.
fn encode_options(hash: &mut Encoder, options: &Options) {
    let Options { max_new_tokens, no_repeat_ngram_size, repetition_penalty, sampling, well_formed } = *options;
    hash.number(u64::from(max_new_tokens));
    match sampling {
        Sampling::Greedy => hash.raw(&[0]),
        Sampling::Random { temperature, top_k, top_p, seed } => {
            hash.raw(&[1]);
            hash.raw(&temperature.to_bits().to_le_bytes());
            hash.optional(top_k.map(u64::from), Encoder::number);
            hash.raw(&top_p.to_bits().to_le_bytes());
            hash.number(seed);
        }
        Sampling::Beam { num_beams, length_penalty, early_stopping } => {
            hash.raw(&[2]);
            hash.number(u64::from(num_beams));
            hash.raw(&length_penalty.to_bits().to_le_bytes());
            hash.raw(&[match early_stopping {
                v1::EarlyStopping::Unspecified | v1::EarlyStopping::No => 0,
                v1::EarlyStopping::Yes => 1,
                v1::EarlyStopping::Never => 2,
            }]);
        }
    }
    hash.number(u64::from(no_repeat_ngram_size));
    hash.raw(&repetition_penalty.to_bits().to_le_bytes());
    hash.raw(&[u8::from(well_formed)]);
}

struct Encoder(Sha256);

impl Encoder {
    fn new(kind: &str) -> Self {
        let mut encoder = Self(Sha256::new());
        encoder.text(kind);
        encoder
    }

    fn raw(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    fn number(&mut self, number: u64) {
        self.raw(&number.to_le_bytes());
    }

    fn text(&mut self, text: &str) {
        self.number(text.len() as u64);
        self.raw(text.as_bytes());
    }

    fn optional<T>(&mut self, value: Option<T>, encode: impl FnOnce(&mut Self, T)) {
        self.raw(&[u8::from(value.is_some())]);
        if let Some(value) = value {
            encode(self, value);
        }
    }

    fn finish(self) -> String {
        hex::encode(self.0.finalize())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::tests::job;

    fn object() -> v1::ObjectIdentity {
        v1::ObjectIdentity { bucket: "imgs".into(), key: "a/b.jpg".into(), etag: Some("0123".into()), version_id: None }
    }

    fn id(change: impl FnOnce(&mut v1::ImageJob)) -> String {
        let mut wire = job();
        change(&mut wire);
        annotation_id(&CheckedJob::new(wire).unwrap(), PictureOrigin::Object(&object()), "d1")
    }

    // Both literals were computed in Python from the encoding documented above.
    #[test]
    fn the_annotation_id_of_a_known_job_is_this_literal() {
        assert_eq!(id(|_| ()), "ab52def047aaac8163c19d6b252677904884ba2969005d581c74d80f1e314856");
    }

    #[test]
    fn the_failure_id_of_a_known_message_is_this_literal() {
        assert_eq!(
            failure_id("GROUNDLING_JOBS", 7, 1_700_000_000_000_000_000, &sha256_hex(b"garbage")),
            "14acb02bc5a89901ac0d1147fc36236a294ee1e22108b5a50340ef24abb0d18e"
        );
    }

    #[test]
    fn each_failure_has_an_id_for_its_next_attempt() {
        let failure = |job_id: Option<&str>, stream_sequence| v1::JobFailure {
            job_id: job_id.map(str::to_owned),
            job_sha256: "14ac".into(),
            stream_sequence,
            ..Default::default()
        };
        assert_eq!(resubmission_id(&failure(Some("42"), 7)), "42#7");
        assert_eq!(resubmission_id(&failure(None, 7)), "14ac#7");
        assert_ne!(resubmission_id(&failure(Some("42"), 8)), "42#7");
    }

    #[test]
    fn defaults_spelt_out_and_labels_do_not_change_the_id() {
        let spelt_out = v1::GenerationOptions {
            max_new_tokens: Some(256),
            temperature: Some(0.0),
            seed: Some(9),
            no_repeat_ngram_size: Some(0),
            repetition_penalty: Some(1.0),
            ..Default::default()
        };
        assert_eq!(id(|_| ()), id(|job| job.options = Some(spelt_out)));
        assert_eq!(id(|_| ()), id(|job| drop(job.labels.insert("a".into(), "b".into()))));
    }

    #[test]
    fn whatever_changes_the_work_changes_the_id() {
        let base = id(|_| ());
        let others = [
            id(|job| job.job_id = "job-2".into()),
            id(|job| job.dataset = "dogs".into()),
            id(|job| job.tasks.truncate(1)),
            id(|job| job.tasks.reverse()),
            id(|job| job.tasks[0].task_id = "other".into()),
            id(|job| job.tasks[0].kind = Some(task::Kind::DetailedCaption(v1::DetailedCaption {}))),
            id(|job| {
                job.options = Some(v1::GenerationOptions { max_new_tokens: Some(255), ..Default::default() });
            }),
            id(|job| {
                job.options = Some(v1::GenerationOptions { temperature: Some(1.0), ..Default::default() });
            }),
        ];
        for (i, other) in others.iter().enumerate() {
            assert_ne!(&base, other, "change {i}");
        }
        let checked = CheckedJob::new(job()).unwrap();
        let changed = v1::ObjectIdentity { etag: Some("4567".into()), ..object() };
        let versioned = v1::ObjectIdentity { etag: None, version_id: Some("0123".into()), ..object() };
        for picture in [
            PictureOrigin::Object(&changed),
            PictureOrigin::Object(&versioned),
            PictureOrigin::Inline { sha256: "0123" },
        ] {
            assert_ne!(base, annotation_id(&checked, picture, "d1"));
        }
        assert_ne!(base, annotation_id(&checked, PictureOrigin::Object(&object()), "d2"));
    }

    #[test]
    fn moving_a_character_from_one_field_to_the_next_changes_the_id() {
        let moved = v1::ObjectIdentity { bucket: "imgsa".into(), key: "/b.jpg".into(), ..object() };
        let checked = CheckedJob::new(job()).unwrap();
        assert_ne!(id(|_| ()), annotation_id(&checked, PictureOrigin::Object(&moved), "d1"));
    }
}
