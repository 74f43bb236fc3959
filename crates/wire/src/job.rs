//! Checks of jobs.

use std::collections::{HashMap, HashSet};

use bytes::Bytes;
use prost::Message;

use crate::options::{self, Options};
use crate::scan::JobScan;
use crate::subjects::Dataset;
use crate::v1::task;
use crate::{tasks, v1};

const MAX_JOB_ID_BYTES: usize = 256;
const MAX_TASK_ID_BYTES: usize = 128;
const MAX_BUCKET_BYTES: usize = 255;
/// An annotation contains all answers, so their number bounds its size.
const MAX_TASKS: usize = 64;
const MAX_LABELS: usize = 64;
const MAX_LABEL_NAME_BYTES: usize = 256;
const MAX_LABEL_BYTES: usize = 4096;
/// Encoded size of all tasks together. Decoded, they take about twenty times as much.
const MAX_TASKS_BYTES: usize = 1 << 20;

/// A job that has passed all checks that need no model.
#[derive(Debug, Clone, PartialEq)]
pub struct CheckedJob {
    /// The submitter's id for the job.
    pub job_id: String,
    /// The dataset of the picture.
    pub dataset: Dataset,
    /// Where the picture is.
    pub source: Source,
    /// The tasks, 1 to 64.
    pub tasks: Vec<v1::Task>,
    /// The generation options, with the defaults filled in.
    pub options: Options,
    /// The labels, which are copied to the annotation.
    pub labels: HashMap<String, String>,
}

/// The source of a job's picture.
#[derive(Debug, Clone, PartialEq)]
pub enum Source {
    /// An object in the S3 store.
    S3(v1::S3Object),
    /// The encoded picture, contained in the job.
    Inline(Bytes),
}

/// A check of one task by the model's rules. Its arguments are the task's name in sentences, the task, the options, and
/// the list of problems to which it adds one sentence for each broken rule.
pub type CheckTask<'a> = &'a mut dyn FnMut(&str, &task::Kind, &Options, &mut Vec<String>);

/// Why a job is invalid.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum JobError {
    /// The bytes are not an `ImageJob`.
    #[error("the job cannot be read as groundling.v1.ImageJob: {0}")]
    Unreadable(#[from] prost::DecodeError),
    /// The job breaks rules.
    #[error("the job breaks the rules: {}", .problems.join("; "))]
    Invalid {
        /// The job's id, if it is valid.
        job_id: Option<String>,
        /// One sentence for each broken rule, all of them.
        problems: Vec<String>,
    },
}

impl JobError {
    /// The job's id, if it could be read and is valid.
    pub fn job_id(&self) -> Option<&str> {
        match self {
            Self::Unreadable(_) => None,
            Self::Invalid { job_id, .. } => job_id.as_deref(),
        }
    }
}

impl CheckedJob {
    /// Decodes and checks a job. An inline picture shares `bytes` and is not copied.
    ///
    /// # Errors
    /// [`JobError`] with all problems.
    pub fn from_bytes(bytes: Bytes) -> Result<Self, JobError> {
        Self::from_bytes_with(bytes, &mut |_, _, _, _| ())
    }

    /// Like [`CheckedJob::from_bytes`], and also calls `check_task` for each task that keeps the rules.
    ///
    /// # Errors
    /// [`JobError`] with all problems, including those that `check_task` added.
    pub fn from_bytes_with(bytes: Bytes, check_task: CheckTask<'_>) -> Result<Self, JobError> {
        let scan = JobScan::of(&bytes);
        let mut problems = Vec::new();
        check_task_count(scan.tasks, &mut problems);
        if scan.task_bytes > MAX_TASKS_BYTES {
            let bytes = scan.task_bytes;
            problems
                .push(format!("the job's tasks have {bytes} bytes, more than {MAX_TASKS_BYTES}: shorten their texts"));
        }
        if problems.is_empty() {
            return Self::new_with(v1::ImageJob::decode(bytes)?, check_task);
        }
        Err(JobError::Invalid { job_id: scan.job_id.and_then(valid_job_id).map(str::to_owned), problems })
    }

    /// The id of the first task whose prompt contains markup (a raw prompt or text scoring), if there is one.
    pub fn task_with_markup(&self) -> Option<&str> {
        let has_markup = |task: &&v1::Task| matches!(task.kind, Some(task::Kind::Raw(_) | task::Kind::TextScoring(_)));
        self.tasks.iter().find(has_markup).map(|task| task.task_id.as_str())
    }

    /// Checks a job.
    ///
    /// ```
    /// use wire::job::{CheckedJob, JobError};
    /// use wire::v1::ImageJob;
    ///
    /// let error = CheckedJob::new(ImageJob { job_id: "42".into(), ..ImageJob::default() }).unwrap_err();
    /// let JobError::Invalid { job_id, problems } = error else { unreachable!() };
    /// assert_eq!(job_id.as_deref(), Some("42"));
    /// assert_eq!(problems.len(), 3, "no dataset, no picture and no tasks");
    /// ```
    ///
    /// # Errors
    /// [`JobError::Invalid`] with all problems.
    pub fn new(job: v1::ImageJob) -> Result<Self, JobError> {
        Self::new_with(job, &mut |_, _, _, _| ())
    }

    /// Like [`CheckedJob::new`], and also calls `check_task` for each task that keeps the rules.
    ///
    /// # Errors
    /// [`JobError::Invalid`] with all problems, including those that `check_task` added.
    pub fn new_with(job: v1::ImageJob, check_task: CheckTask<'_>) -> Result<Self, JobError> {
        let mut problems = Vec::new();
        check_name("job_id", &job.job_id, MAX_JOB_ID_BYTES, &mut problems);
        let dataset = job.dataset.parse::<Dataset>().map_err(|error| problems.push(error.to_string())).ok();
        let source = check_source(job.source, &mut problems);
        let options = options::check(&job.options.unwrap_or_default(), &mut problems);
        check_tasks(&job.tasks, &options, check_task, &mut problems);
        check_labels(&job.labels, &mut problems);
        match (dataset, source) {
            (Some(dataset), Some(source)) if problems.is_empty() => {
                Ok(Self { job_id: job.job_id, dataset, source, tasks: job.tasks, options, labels: job.labels })
            }
            _ => Err(JobError::Invalid { job_id: valid_job_id(&job.job_id).map(str::to_owned), problems }),
        }
    }
}

/// The id in the bytes of a job, if it is valid. The rest of the job may be invalid.
pub fn job_id_from_bytes(job: &[u8]) -> Option<&str> {
    JobScan::of(job).job_id.and_then(valid_job_id)
}

/// The S3 object in the bytes of a job, if it is valid. The rest of the job may be invalid.
pub fn object_from_bytes(job: &[u8]) -> Option<v1::S3Object> {
    let object = v1::S3Object::decode(JobScan::of(job).s3?).ok()?;
    let mut problems = Vec::new();
    check_object(&object, &mut problems);
    problems.is_empty().then_some(object)
}

fn valid_job_id(id: &str) -> Option<&str> {
    (1..=MAX_JOB_ID_BYTES).contains(&id.len()).then_some(id)
}

fn check_labels(labels: &HashMap<String, String>, problems: &mut Vec<String>) {
    if labels.len() > MAX_LABELS {
        problems.push(format!("the job has {} labels, more than {MAX_LABELS}", labels.len()));
        return;
    }
    for (name, label) in labels {
        if name.len() > MAX_LABEL_NAME_BYTES {
            problems.push(format!("a label's name has {} bytes, more than {MAX_LABEL_NAME_BYTES}", name.len()));
        } else if label.len() > MAX_LABEL_BYTES {
            problems.push(format!("the label {name:?} has {} bytes, more than {MAX_LABEL_BYTES}", label.len()));
        }
    }
}

/// Only plain bucket names are allowed: S3 clients take other forms (an ARN, a URL) as the choice of another region,
/// account or host, which a job must not make.
fn check_bucket(bucket: &str, problems: &mut Vec<String>) {
    check_name("s3.bucket", bucket, MAX_BUCKET_BYTES, problems);
    let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    if bucket.len() <= MAX_BUCKET_BYTES && (!bucket.chars().all(legal) || bucket.starts_with('.')) {
        problems.push(format!("s3.bucket {bucket:?} is not a bucket name: use letters, digits, '.', '-' and '_', and do not begin with '.'"));
    }
}

fn check_name(what: &str, name: &str, max_bytes: usize, problems: &mut Vec<String>) {
    if name.is_empty() {
        problems.push(format!("{what} is empty"));
    } else if name.len() > max_bytes {
        problems.push(format!("{what} has {} bytes, more than {max_bytes}", name.len()));
    }
}

fn check_source(source: Option<v1::image_job::Source>, problems: &mut Vec<String>) -> Option<Source> {
    match source {
        None => {
            problems.push("no picture: give s3 or inline".to_owned());
            None
        }
        Some(v1::image_job::Source::Inline(bytes)) => {
            if bytes.is_empty() {
                problems.push("inline is empty: put the encoded picture there".to_owned());
            }
            Some(Source::Inline(bytes))
        }
        Some(v1::image_job::Source::S3(object)) => {
            check_object(&object, problems);
            Some(Source::S3(object))
        }
    }
}

fn check_object(object: &v1::S3Object, problems: &mut Vec<String>) {
    // 1024 bytes is S3's own limit on keys. The others have no limit of their own.
    check_bucket(&object.bucket, problems);
    check_name("s3.key", &object.key, 1024, problems);
    for (name, value) in [("s3.version_id", &object.version_id), ("s3.etag", &object.etag)] {
        if let Some(value) = value {
            check_name(name, value, 1024, problems);
            if value.len() <= 1024 && value.chars().any(|c| c.is_control() || !c.is_ascii()) {
                problems.push(format!("{name} {value:?} contains control characters or characters outside ASCII"));
            }
        }
    }
}

fn check_task_count(count: usize, problems: &mut Vec<String>) -> bool {
    if count > MAX_TASKS {
        problems.push(format!("the job has {count} tasks, more than {MAX_TASKS}"));
    }
    count <= MAX_TASKS
}

fn check_tasks(tasks: &[v1::Task], options: &Options, check_task: CheckTask<'_>, problems: &mut Vec<String>) {
    if tasks.is_empty() {
        problems.push("the job has no tasks: give at least one".to_owned());
    }
    if !check_task_count(tasks.len(), problems) {
        return;
    }
    let mut seen = HashSet::new();
    for (i, task) in tasks.iter().enumerate() {
        let at = format!("tasks[{i}]");
        check_name(&format!("{at}.task_id"), &task.task_id, MAX_TASK_ID_BYTES, problems);
        let is_valid = (1..=MAX_TASK_ID_BYTES).contains(&task.task_id.len());
        if is_valid && !seen.insert(task.task_id.as_str()) {
            problems.push(format!("{at}.task_id {:?} is also the id of an earlier task", task.task_id));
        }
        if let Some(kind) = tasks::check(&at, task.kind.as_ref(), problems) {
            check_task(&at, kind, options, problems);
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::v1::{image_job, task};

    /// A valid job.
    pub(crate) fn job() -> v1::ImageJob {
        let object = v1::S3Object { bucket: "imgs".into(), key: "a/b.jpg".into(), version_id: None, etag: None };
        v1::ImageJob {
            job_id: "job-1".into(),
            dataset: "cats".into(),
            source: Some(image_job::Source::S3(object)),
            tasks: vec![
                v1::Task { task_id: "brief".into(), kind: Some(task::Kind::BriefCaption(v1::BriefCaption {})) },
                v1::Task {
                    task_id: "cat".into(),
                    kind: Some(task::Kind::PhraseGrounding(v1::PhraseGrounding { phrase: "a cat".into() })),
                },
            ],
            options: None,
            labels: HashMap::new(),
        }
    }

    fn problems(change: impl FnOnce(&mut v1::ImageJob)) -> Vec<String> {
        let mut wire = job();
        change(&mut wire);
        match CheckedJob::new(wire) {
            Ok(_) => Vec::new(),
            Err(JobError::Invalid { problems, .. }) => problems,
            Err(other) => panic!("{other}"),
        }
    }

    #[test]
    fn a_job_survives_the_way_over_the_wire() {
        let checked = CheckedJob::from_bytes(job().encode_to_vec().into()).unwrap();
        assert_eq!(checked, CheckedJob::new(job()).unwrap());
        assert_eq!(checked.tasks.len(), 2);
        assert_eq!(checked.options, Options::default());
    }

    #[test]
    fn every_broken_rule_is_reported_at_once() {
        let empty = v1::ImageJob {
            options: Some(v1::GenerationOptions { max_new_tokens: Some(0), ..Default::default() }),
            ..Default::default()
        };
        let Err(JobError::Invalid { job_id: None, problems }) = CheckedJob::new(empty) else { panic!("accepted") };
        let wanted = ["job_id", "dataset", "no picture", "no tasks", "max_new_tokens"];
        assert_eq!(problems.len(), wanted.len(), "{problems:?}");
        for part in wanted {
            assert!(problems.iter().any(|p| p.contains(part)), "{part} in {problems:?}");
        }
    }

    #[test]
    fn an_invalid_job_still_tells_its_id() {
        let mut wire = job();
        wire.tasks.clear();
        assert_eq!(CheckedJob::new(wire).unwrap_err().job_id(), Some("job-1"));
    }

    #[test]
    fn a_jobs_bytes_tell_the_object_that_it_names() {
        let of = |change: fn(&mut v1::ImageJob)| {
            let mut wire = job();
            change(&mut wire);
            object_from_bytes(&wire.encode_to_vec()).map(|object| (object.bucket, object.key))
        };
        let named = Some(("imgs".to_owned(), "a/b.jpg".to_owned()));
        assert_eq!(of(|_| ()), named);
        assert_eq!(of(|job| job.tasks.clear()), named, "of a job that breaks rules too");
        assert_eq!(of(|job| job.source = Some(image_job::Source::Inline(Bytes::from_static(b"x")))), None);
        assert_eq!(of(|job| job.source = None), None);
        let set = |job: &mut v1::ImageJob, bucket: &str, key: String| {
            job.source = Some(image_job::Source::S3(v1::S3Object { bucket: bucket.into(), key, ..Default::default() }));
        };
        let mut long = job();
        set(&mut long, "imgs", "k".repeat(1025));
        assert_eq!(object_from_bytes(&long.encode_to_vec()), None, "a failure has no room for it");
        assert_eq!(object_from_bytes(b"\xffnot a job"), None);
    }

    #[test]
    fn bytes_that_are_no_protobuf_are_unreadable() {
        let error = CheckedJob::from_bytes(Bytes::from_static(b"\xff\xff\xff")).unwrap_err();
        assert!(matches!(error, JobError::Unreadable(_)));
        assert!(error.to_string().starts_with("the job cannot be read as groundling.v1.ImageJob"));
    }

    #[test]
    fn task_ids_are_given_and_different() {
        assert!(problems(|job| job.tasks[1].task_id = "brief".into())[0].contains("earlier task"));
        assert_eq!(problems(|job| job.tasks[1].task_id.clear()), ["tasks[1].task_id is empty"]);
        assert!(problems(|job| job.tasks[0].kind = None)[0].contains("tasks[0]"));
    }

    #[test]
    fn an_object_needs_bucket_and_key_and_plain_pins() {
        let wrong = v1::S3Object { version_id: Some("a\nb".into()), etag: Some(String::new()), ..Default::default() };
        let found = problems(|job| job.source = Some(image_job::Source::S3(wrong)));
        assert_eq!(found.len(), 4, "{found:?}");
    }

    #[test]
    fn too_many_tasks_and_labels_are_refused() {
        let many = problems(|job| {
            job.tasks = vec![job.tasks[0].clone(); 65];
            job.labels = (0..65).map(|i| (i.to_string(), String::new())).collect();
        });
        assert_eq!(many, ["the job has 65 tasks, more than 64", "the job has 65 labels, more than 64"]);
    }
}
