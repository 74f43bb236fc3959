//! What is compared: objects of the source, and what is known about objects in the streams.

use serde::{Deserialize, Serialize};
use wire::v1::{ImageAnnotation, ImageJob, ObjectIdentity, S3Object, image_job};

use crate::digest::sha256_u128;
use crate::object::{SourceObject, unquoted_etag};

/// Bytes of a record on disk.
pub(super) const RECORD_BYTES: usize = 33;

/// Which object: a hash of bucket and key.
pub(super) type KeyHash = u128;

/// What became of an object, the best first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Outcome {
    Done,
    Waiting,
    Failed,
}

/// Which state of an object: hashes of its version and ETag, 0 where they are not known.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct State {
    version: u64,
    etag: u64,
}

/// What is known about an object, of one message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Record {
    pub(super) key: KeyHash,
    pub(super) outcome: Outcome,
    pub(super) state: State,
}

/// An object of the source on disk, as a line of a manifest.
#[derive(Debug, Serialize, Deserialize)]
struct Line {
    bucket: String,
    key: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    size: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    etag: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    version_id: Option<String>,
    /// In seconds since 1970.
    #[serde(skip_serializing_if = "Option::is_none")]
    changed: Option<i64>,
}

impl State {
    fn new(version: Option<&str>, etag: Option<&str>) -> Self {
        let hash = |text: Option<&str>| text.filter(|text| !text.is_empty()).map_or(0, |text| hash64(text).max(1));
        Self { version: hash(version), etag: hash(etag.map(unquoted_etag)) }
    }

    /// Whether both can be the same state: by the versions if both are known, or else by the ETags.
    pub(super) fn matches(self, other: Self) -> bool {
        if self.version != 0 && other.version != 0 {
            return self.version == other.version;
        }
        self.etag == 0 || other.etag == 0 || self.etag == other.etag
    }
}

impl Record {
    /// Of the object that an annotation is about; `None` for a picture within its job.
    pub(super) fn of_annotation(annotation: &ImageAnnotation) -> Option<Self> {
        let ObjectIdentity { bucket, key, etag, version_id } = annotation.picture.as_ref()?.object.as_ref()?;
        let state = State::new(version_id.as_deref(), etag.as_deref());
        Some(Self { key: key_hash(bucket, key), outcome: Outcome::Done, state })
    }

    /// Of the object that a job is about; `None` for a picture within the job.
    pub(super) fn of_job(job: &ImageJob, outcome: Outcome) -> Option<Self> {
        let Some(image_job::Source::S3(S3Object { bucket, key, version_id, etag })) = &job.source else { return None };
        let state = State::new(version_id.as_deref(), etag.as_deref());
        Some(Self { key: key_hash(bucket, key), outcome, state })
    }

    pub(super) fn to_bytes(self) -> [u8; RECORD_BYTES] {
        let mut bytes = [0; RECORD_BYTES];
        let (key, rest) = bytes.split_at_mut(16);
        let (version, rest) = rest.split_at_mut(8);
        let (etag, outcome) = rest.split_at_mut(8);
        key.copy_from_slice(&self.key.to_le_bytes());
        version.copy_from_slice(&self.state.version.to_le_bytes());
        etag.copy_from_slice(&self.state.etag.to_le_bytes());
        outcome.fill(match self.outcome {
            Outcome::Done => 0,
            Outcome::Waiting => 1,
            Outcome::Failed => 2,
        });
        bytes
    }

    pub(super) fn from_bytes(bytes: &[u8; RECORD_BYTES]) -> Self {
        let mut key = [0; 16];
        let (mut version, mut etag) = ([0; 8], [0; 8]);
        key.copy_from_slice(&bytes[..16]);
        version.copy_from_slice(&bytes[16..24]);
        etag.copy_from_slice(&bytes[24..32]);
        let state = State { version: u64::from_le_bytes(version), etag: u64::from_le_bytes(etag) };
        let outcome = match bytes[32] {
            0 => Outcome::Done,
            1 => Outcome::Waiting,
            _ => Outcome::Failed,
        };
        Self { key: u128::from_le_bytes(key), outcome, state }
    }
}

/// Hash and state of an object of the source.
pub(super) fn identity(object: &SourceObject) -> (KeyHash, State) {
    let state = State::new(object.version.as_deref(), object.etag.as_deref());
    (key_hash(&object.bucket, &object.key), state)
}

/// The object as a line of JSON, without the line break.
pub(super) fn to_line(object: &SourceObject) -> Result<String, serde_json::Error> {
    let SourceObject { bucket, key, size, etag, version, last_modified } = object.clone();
    serde_json::to_string(&Line { bucket, key, size, etag, version_id: version, changed: last_modified })
}

/// The object of a line.
pub(super) fn from_line(line: &str) -> Result<SourceObject, serde_json::Error> {
    let Line { bucket, key, size, etag, version_id, changed } = serde_json::from_str(line)?;
    Ok(SourceObject { bucket, key, size, etag, version: version_id, last_modified: changed })
}

fn key_hash(bucket: &str, key: &str) -> KeyHash {
    sha256_u128(format!("{bucket}/{key}").as_bytes())
}

fn hash64(text: &str) -> u64 {
    (sha256_u128(text.as_bytes()) >> 64) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_are_compared_by_what_both_of_them_know() {
        let state = |version: &str, etag: &str| State::new(Some(version), Some(etag));
        assert!(state("v1", "e").matches(state("v1", "f")), "a version is more exact than an ETag");
        assert!(!state("v1", "e").matches(state("v2", "e")));
        assert!(state("v1", "e").matches(state("", "e")) && !state("v1", "e").matches(state("", "f")));
        assert!(state("", "").matches(state("v1", "e")));
        assert!(state("", "\"e\"").matches(state("", "e")), "quotes do not count");
    }

    #[test]
    fn records_and_objects_come_back_from_the_disk_as_they_were() {
        for outcome in [Outcome::Done, Outcome::Waiting, Outcome::Failed] {
            let record = Record { key: u128::MAX - 5, outcome, state: State { version: 7, etag: u64::MAX } };
            assert_eq!(Record::from_bytes(&record.to_bytes()), record);
        }
        let object = SourceObject {
            bucket: "b".into(),
            key: "a\n\"ä".into(),
            size: Some(1),
            etag: Some("e".into()),
            version: Some("v".into()),
            last_modified: Some(-3),
        };
        let line = to_line(&object).unwrap();
        assert!(!line.contains('\n'));
        assert_eq!(from_line(&line).unwrap(), object);
    }
}
