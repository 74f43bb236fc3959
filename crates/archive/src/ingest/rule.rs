//! A rule: which records become jobs, and which jobs.

use telemetry::ingest_attributes::IngestReason;
use time::format_description::well_known::Rfc3339;
use wire::v1::{self, ImageJob};

use super::record::{ObjectRecord, decode_key};
use super::settings::{Format, IngestRule, KeyEncoding};
use crate::object::SourceObject;
use crate::recipe::{MAX_KEY_BYTES, Recipe, hash_of_lines};

/// The events of a rule without `events`.
const DEFAULT_EVENTS: &str = "ObjectCreated:*";
/// The beginnings of the names of events about deletions: by a client, and by a lifecycle rule of AWS or of Ceph.
const DELETIONS: [&str; 3] = ["ObjectRemoved:", "LifecycleExpiration:", "ObjectLifecycle:Expiration:"];
/// The names of the other events of objects that stores send, without `s3:`.
const EVENTS: [&str; 20] = [
    "ObjectCreated:Put",
    "ObjectCreated:Post",
    "ObjectCreated:Copy",
    "ObjectCreated:CompleteMultipartUpload",
    "ObjectCreated:Other",
    "ObjectCreated:PutTagging",
    "ObjectCreated:DeleteTagging",
    "ObjectCreated:PutRetention",
    "ObjectCreated:PutLegalHold",
    "ObjectRestore:Post",
    "ObjectRestore:Completed",
    "ObjectRestore:Delete",
    "ObjectSynced:Create",
    "ObjectTagging:Put",
    "ObjectTagging:Delete",
    "ObjectAcl:Put",
    "ObjectAccessed:Get",
    "ObjectAccessed:Head",
    "ObjectTransition:Complete",
    "ObjectTransition:Failed",
];

/// A rule that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum RuleError {
    /// The dataset's name is invalid.
    #[error(transparent)]
    Dataset(#[from] wire::subjects::DatasetError),
    /// A job for a deleted object would always fail.
    #[error("deleted objects cannot be annotated: remove it")]
    Deletion,
    /// No event would ever match.
    #[error("no event has such a name: write one of {}, or the beginning of some with '*', as in {}", EVENTS.join(", "), DEFAULT_EVENTS)]
    UnknownEvent,
    /// The tasks are invalid.
    #[error(transparent)]
    Tasks(#[from] wire::job::JobError),
}

/// A rule that is ready to be applied.
#[derive(Debug, Clone)]
pub struct Rule {
    name: String,
    source: Source,
    format: Format,
    key_encoding: Option<KeyEncoding>,
    bucket: Option<String>,
    prefix: String,
    /// In lower case.
    suffixes: Vec<String>,
    events: Vec<EventPattern>,
    max_size: Option<u64>,
    recipe: Recipe,
}

/// Where a rule's events come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// Messages on a NATS subject, which may have wildcards.
    Subject(String),
    /// Requests for a path of the webhook server.
    Path(String),
}

/// A name of events, or the beginning of names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct EventPattern {
    start: String,
    is_whole: bool,
}

/// What a rule makes of a record.
#[derive(Debug, Clone, PartialEq)]
pub enum Selected {
    /// A job.
    Job(Box<ImageJob>),
    /// Nothing, because the rule does not ask for it.
    Skipped(IngestReason),
    /// Nothing, because the record is invalid.
    Failed(IngestReason, String),
}

impl EventPattern {
    pub(super) fn new(pattern: &str) -> Result<Self, RuleError> {
        let pattern = pattern.strip_prefix("s3:").unwrap_or(pattern);
        let (start, is_whole) = match pattern.strip_suffix('*') {
            Some(start) => (start, false),
            None => (pattern, true),
        };
        if is_deletion(start) {
            return Err(RuleError::Deletion);
        }
        let pattern = Self { start: start.to_owned(), is_whole };
        if EVENTS.iter().any(|event| pattern.matches(event)) { Ok(pattern) } else { Err(RuleError::UnknownEvent) }
    }

    /// Whether there is a name that both match.
    pub(super) fn overlaps(&self, other: &Self) -> bool {
        EVENTS.iter().any(|event| self.matches(event) && other.matches(event))
    }

    fn matches(&self, event: &str) -> bool {
        if self.is_whole { event == self.start } else { event.starts_with(&self.start) }
    }
}

/// Whether an event with this name, or with this beginning of it, is about a deletion.
fn is_deletion(event: &str) -> bool {
    DELETIONS.iter().any(|deletion| event.starts_with(deletion))
}

/// The events of a rule with these settings.
pub(super) fn event_patterns(settings: &IngestRule) -> Result<Vec<EventPattern>, RuleError> {
    if settings.events.is_empty() {
        return Ok(vec![EventPattern::new(DEFAULT_EVENTS)?]);
    }
    settings.events.iter().map(|pattern| EventPattern::new(pattern)).collect()
}

impl Rule {
    /// A rule with these settings and tasks. Settings must have no
    /// [problems](super::settings::rule_problems); a rule with neither subject nor path never gets an event.
    ///
    /// # Errors
    /// [`RuleError`] if the dataset's name, the tasks or an event pattern is invalid.
    pub fn new(settings: &IngestRule, tasks: Vec<v1::Task>) -> Result<Self, RuleError> {
        let recipe = Recipe { dataset: settings.dataset.parse()?, tasks, options: None, pin: settings.pin };
        recipe.max_job_bytes()?;
        let source = match (&settings.subject, &settings.path) {
            (Some(subject), _) => Source::Subject(subject.clone()),
            (None, path) => Source::Path(path.clone().unwrap_or_default()),
        };
        Ok(Self {
            name: settings.name.clone(),
            source,
            format: settings.format,
            key_encoding: settings.key_encoding,
            bucket: settings.bucket.clone(),
            prefix: settings.prefix.clone(),
            suffixes: settings.suffixes.iter().map(|suffix| suffix.to_lowercase()).collect(),
            events: event_patterns(settings)?,
            max_size: settings.max_size,
            recipe,
        })
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where its events come from.
    pub fn source(&self) -> &Source {
        &self.source
    }

    /// The format of its events.
    pub fn format(&self) -> Format {
        self.format
    }

    /// A job of the rule, for checks of its tasks.
    pub fn example(&self) -> ImageJob {
        let record = ObjectRecord { bucket: "bucket".to_owned(), ..ObjectRecord::default() };
        self.job(&record, "key".to_owned())
    }

    /// The subject of its jobs.
    pub(super) fn jobs_subject(&self) -> String {
        self.recipe.dataset.jobs_subject()
    }

    /// Applies the rule to a record.
    pub fn select(&self, record: &ObjectRecord) -> Selected {
        if is_deletion(&record.event) {
            return Selected::Skipped(IngestReason::Delete);
        }
        if !self.events.iter().any(|pattern| pattern.matches(&record.event)) {
            return Selected::Skipped(IngestReason::EventName);
        }
        if self.bucket.as_ref().is_some_and(|bucket| *bucket != record.bucket) {
            return Selected::Skipped(IngestReason::Bucket);
        }
        let usual = if record.is_key_encoded { KeyEncoding::Form } else { KeyEncoding::Raw };
        let key = match decode_key(&record.key, self.key_encoding.unwrap_or(usual)) {
            Ok(key) if key.len() > MAX_KEY_BYTES => {
                let problem = format!("the key has {} bytes, and keys have at most {MAX_KEY_BYTES}", key.len());
                return Selected::Failed(IngestReason::InvalidKey, problem);
            }
            Ok(key) => key,
            Err(error) => return Selected::Failed(IngestReason::InvalidKey, error.to_string()),
        };
        match self.skips(&key, record.size) {
            Some(reason) => Selected::Skipped(reason),
            None => Selected::Job(Box::new(self.job(record, key))),
        }
    }

    fn skips(&self, key: &str, size: Option<u64>) -> Option<IngestReason> {
        if key.ends_with('/') {
            return Some(IngestReason::Directory);
        }
        if !key.starts_with(&self.prefix) {
            return Some(IngestReason::Prefix);
        }
        let lower = key.to_lowercase();
        if !self.suffixes.is_empty() && !self.suffixes.iter().any(|suffix| lower.ends_with(suffix)) {
            return Some(IngestReason::Suffix);
        }
        match size {
            Some(0) => Some(IngestReason::Empty),
            Some(size) if self.max_size.is_some_and(|max| size > max) => Some(IngestReason::TooLarge),
            _ => None,
        }
    }

    fn job(&self, record: &ObjectRecord, key: String) -> ImageJob {
        let job_id = self.job_id(record, &key);
        let object = SourceObject {
            bucket: record.bucket.clone(),
            key,
            etag: record.etag.clone(),
            version: record.version.clone(),
            ..SourceObject::default()
        };
        ImageJob { job_id, ..self.recipe.job(&object) }
    }

    /// The SHA-256, in lower-case hexadecimal, of five lines: `groundling ingest 1`, rule, bucket, key, and state. Each line
    /// begins with its length in bytes and a colon. The state is the version, or else the ETag, or else the sequencer, or
    /// else the time of the event: what is the same in each event about one state of the object.
    fn job_id(&self, record: &ObjectRecord, key: &str) -> String {
        let time = || record.time.and_then(|time| time.format(&Rfc3339).ok());
        let state = record.version.clone().or_else(|| record.etag.clone()).or_else(|| record.sequencer.clone());
        let state = state.or_else(time).unwrap_or_default();
        hash_of_lines(["groundling ingest 1", &self.name, &record.bucket, key, &state])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recipe::Pin;

    fn settings() -> IngestRule {
        IngestRule { name: "uploads".into(), path: Some("/e".into()), dataset: "cats".into(), ..IngestRule::default() }
    }

    fn rule(settings: &IngestRule) -> Rule {
        let kind = Some(v1::task::Kind::BriefCaption(v1::BriefCaption {}));
        Rule::new(settings, vec![v1::Task { task_id: "brief".into(), kind }]).unwrap()
    }

    fn record() -> ObjectRecord {
        ObjectRecord {
            event: "ObjectCreated:Put".into(),
            bucket: "b".into(),
            key: "in/k+1.jpg".into(),
            is_key_encoded: true,
            size: Some(10),
            etag: Some("e".into()),
            version: Some("v".into()),
            sequencer: Some("s".into()),
            time: None,
        }
    }

    fn object(selected: Selected) -> (String, v1::S3Object) {
        let Selected::Job(job) = selected else { panic!("{selected:?}") };
        let Some(v1::image_job::Source::S3(object)) = job.source else { panic!("no object") };
        (job.job_id, object)
    }

    #[test]
    fn each_condition_has_its_reason() {
        let strict = IngestRule {
            bucket: Some("b".into()),
            prefix: "in/".into(),
            suffixes: vec![".JPG".into()],
            max_size: Some(10),
            ..settings()
        };
        let reason = |change: fn(&mut ObjectRecord)| {
            let mut record = record();
            change(&mut record);
            match rule(&strict).select(&record) {
                Selected::Job(_) => None,
                Selected::Skipped(reason) | Selected::Failed(reason, _) => Some(reason),
            }
        };
        assert_eq!(reason(|_| ()), None);
        assert_eq!(reason(|record| record.size = None), None);
        assert_eq!(reason(|record| record.event = "ObjectRemoved:Delete".into()), Some(IngestReason::Delete));
        assert_eq!(reason(|record| record.event = "ObjectTagging:Put".into()), Some(IngestReason::EventName));
        assert_eq!(reason(|record| record.bucket = "c".into()), Some(IngestReason::Bucket));
        assert_eq!(reason(|record| record.key = "out/k.jpg".into()), Some(IngestReason::Prefix));
        assert_eq!(reason(|record| record.key = "in/".into()), Some(IngestReason::Directory));
        assert_eq!(reason(|record| record.key = "in/k.txt".into()), Some(IngestReason::Suffix));
        assert_eq!(reason(|record| record.key = "in/%zz".into()), Some(IngestReason::InvalidKey));
        assert_eq!(reason(|record| record.key = "k".repeat(1025)), Some(IngestReason::InvalidKey));
        assert_eq!(reason(|record| record.size = Some(0)), Some(IngestReason::Empty));
        assert_eq!(reason(|record| record.size = Some(11)), Some(IngestReason::TooLarge));
    }

    #[test]
    fn names_of_events_are_whole_or_beginnings_and_never_deletions() {
        let selects = |patterns: &[&str], event: &str| {
            let events = patterns.iter().map(|pattern| (*pattern).to_owned()).collect();
            let record = ObjectRecord { event: event.into(), ..record() };
            matches!(rule(&IngestRule { events, ..settings() }).select(&record), Selected::Job(_))
        };
        assert!(selects(&[], "ObjectCreated:Copy") && !selects(&[], "ObjectRestore:Completed"));
        assert!(selects(&["s3:ObjectCreated:Put", "ObjectRestore:Completed"], "ObjectRestore:Completed"));
        assert!(!selects(&["ObjectCreated:Put"], "ObjectCreated:Copy") && !selects(&["*"], "ObjectRemoved:Delete"));
        for deletion in ["s3:ObjectRemoved:*", "LifecycleExpiration:Delete", "ObjectLifecycle:Expiration:Current"] {
            assert!(matches!(EventPattern::new(deletion), Err(RuleError::Deletion)), "{deletion}");
            assert!(!selects(&["*"], deletion.trim_start_matches("s3:")), "{deletion}");
        }
        for unknown in ["ObjectCreate:*", "objectcreated:*", "ObjectCreated:put", "ObjectCreated:", "", "s3:s3:*"] {
            assert!(matches!(EventPattern::new(unknown), Err(RuleError::UnknownEvent)), "{unknown}");
        }
        for known in EVENTS.iter().copied().chain(["s3:ObjectCreated:*", "Object*", "*"]) {
            assert!(EventPattern::new(known).is_ok(), "{known}");
        }
    }

    #[test]
    fn the_key_is_decoded_as_the_sender_or_the_rule_says() {
        let key = |encoding, is_key_encoded| {
            let rule = rule(&IngestRule { key_encoding: encoding, ..settings() });
            object(rule.select(&ObjectRecord { is_key_encoded, ..record() })).1.key
        };
        assert_eq!(key(None, true), "in/k 1.jpg");
        assert_eq!(key(None, false), "in/k+1.jpg");
        assert_eq!(key(Some(KeyEncoding::Raw), true), "in/k+1.jpg");
        assert_eq!(key(Some(KeyEncoding::Form), false), "in/k 1.jpg");
    }

    #[test]
    fn pins_are_the_rules_and_the_id_depends_on_the_state_alone() {
        let job = |pin, change: fn(&mut ObjectRecord)| {
            let mut record = record();
            change(&mut record);
            object(rule(&IngestRule { pin, ..settings() }).select(&record))
        };
        let (id, pinned) = job(Pin::Version, |_| ());
        assert_eq!((pinned.version_id.as_deref(), pinned.etag.as_deref()), (Some("v"), Some("e")));
        let (same, pinned) = job(Pin::None, |record| (record.sequencer, record.etag) = (None, None));
        assert_eq!((same, pinned.version_id, pinned.etag), (id.clone(), None, None));
        // Worked out by a line of Python from the encoding as documented above.
        assert_eq!(id, "1472b86ca9f0b32abc5232e4c0be1748b0865f927e2956972d3d9129d8099dbd");
        let ids = [
            id,
            job(Pin::Version, |record| record.version = Some("w".into())).0,
            job(Pin::Version, |record| record.version = None).0,
            job(Pin::Version, |record| (record.version, record.etag) = (None, None)).0,
            job(Pin::Version, |record| record.bucket = "c".into()).0,
        ];
        let different: std::collections::BTreeSet<_> = ids.iter().collect();
        assert_eq!(different.len(), ids.len());
    }
}
