//! What the streams know about the objects of a dataset.

use async_nats::jetstream::message::StreamMessage;
use async_nats::jetstream::stream::{Info, LastRawMessageErrorKind, Stream};
use broker::read::{Range, read};
use futures::{StreamExt, TryStreamExt};
use tokio::sync::mpsc;
use wire::Message;
use wire::subjects::Dataset;
use wire::v1::{ImageAnnotation, ImageJob, JobFailure, Retry};

use super::record::{Outcome, Record};
use crate::pool::{Pool, PoolError};

/// Parts of a stream of jobs that are read at once.
const CONCURRENCY: u64 = 16;
/// Records that wait to be written.
const WAITING: usize = 1024;

/// Sequences up to which the streams were read.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Until {
    jobs: u64,
    annotations: u64,
    failed: u64,
}

/// Reads all that the streams hold after `until`, and moves it. Jobs are read before outcomes, since a job leaves its stream
/// only after its outcome is stored.
pub(super) async fn read_all(
    pool: &Pool,
    dataset: &Dataset,
    until: &mut Until,
    records: &mpsc::Sender<Record>,
) -> Result<(), PoolError> {
    let jobs = pool.stream(&pool.streams.jobs).await?;
    let last = jobs.cached_info().state.last_sequence;
    let of_job = |message: &StreamMessage| {
        let job = ImageJob::decode(message.payload.clone()).ok()?;
        Record::of_job(&job, Outcome::Waiting)
    };
    for subject in [dataset.jobs_subject(), dataset.urgent_subject()] {
        walk(&jobs, &subject, until.jobs + 1, last, of_job, records).await?;
    }
    until.jobs = last;

    // A job can be stored here again at any time, so all of it is read each time.
    let retries = pool.stream(&pool.streams.retries).await?;
    let last = retries.cached_info().state.last_sequence;
    let of_retry = |message: &StreamMessage| {
        let retry = Retry::decode(message.payload.clone()).ok()?;
        Record::of_job(&ImageJob::decode(retry.job).ok()?, Outcome::Waiting)
    };
    walk(&retries, &dataset.retries_subject(), 1, last, of_retry, records).await?;

    let streams = &pool.streams;
    let of_annotation = |payload| Record::of_annotation(&ImageAnnotation::decode(payload).ok()?);
    let subject = dataset.annotations_subject();
    until.annotations =
        follow(pool, &streams.annotations, &[subject], until.annotations, of_annotation, records).await?;
    let of_failure = |payload| of_failure(&JobFailure::decode(payload).ok()?);
    let subjects = [dataset.failed_subject_without_reason(), dataset.failed_wildcard()];
    until.failed = follow(pool, &streams.failed, &subjects, until.failed, of_failure, records).await?;
    Ok(())
}

/// Of the object that a failure is about. If it does not contain its job, the ETag that the job names is unknown.
fn of_failure(failure: &JobFailure) -> Option<Record> {
    if !failure.job_omitted
        && let Ok(job) = ImageJob::decode(failure.job.clone())
    {
        return Record::of_job(&job, Outcome::Failed);
    }
    let object = wire::v1::S3Object {
        bucket: failure.bucket.clone()?,
        key: failure.key.clone()?,
        version_id: failure.version_id.clone(),
        etag: None,
    };
    let source = Some(wire::v1::image_job::Source::S3(object));
    Record::of_job(&ImageJob { source, ..ImageJob::default() }, Outcome::Failed)
}

/// Reads a work queue, whose messages no other consumer may have: one request for each message.
async fn walk(
    stream: &Stream<Info>,
    subject: &str,
    first: u64,
    last: u64,
    record: impl Fn(&StreamMessage) -> Option<Record>,
    records: &mpsc::Sender<Record>,
) -> Result<(), PoolError> {
    let state = &stream.cached_info().state;
    let first = first.max(state.first_sequence);
    if state.messages == 0 || first > last {
        return Ok(());
    }
    let length = (last - first) / CONCURRENCY + 1;
    let starts = (0..CONCURRENCY).map(|walker| first + walker * length).filter(|start| *start <= last);
    let record = &record;
    let walks = starts.map(|start| async move {
        let (mut sequence, end) = (start, (start + length - 1).min(last));
        while sequence <= end {
            let request = stream.raw_message_builder().sequence(sequence).next_by_subject(subject);
            let message: StreamMessage = match request.send().await {
                Ok(message) => message,
                Err(error) if error.kind() == LastRawMessageErrorKind::NoMessageFound => break,
                Err(error) => return Err(PoolError::broker(format!("reading {subject}"), &error)),
            };
            sequence = message.sequence + 1;
            if message.sequence <= end
                && let Some(record) = record(&message)
            {
                // Fails only if the comparison has ended with an error.
                let _ = records.send(record).await;
            }
        }
        Ok(())
    });
    let walks: Vec<_> = walks.collect();
    futures::stream::iter(walks).buffer_unordered(CONCURRENCY as usize).try_collect::<()>().await
}

/// Reads the messages of some subjects after `after`. Returns the sequence up to which the stream was read.
async fn follow(
    pool: &Pool,
    name: &str,
    subjects: &[String],
    after: u64,
    record: impl Fn(bytes::Bytes) -> Option<Record>,
    records: &mpsc::Sender<Record>,
) -> Result<u64, PoolError> {
    let last = pool.stream(name).await?.cached_info().state.last_sequence;
    if last <= after {
        return Ok(after);
    }
    for subject in subjects {
        let range = Range { subject: subject.clone(), sequences: after + 1..=last, deduplicate: false, ..Range::all() };
        let mut messages = std::pin::pin!(read(&pool.jetstream, name, range).await?);
        while let Some(message) = messages.try_next().await? {
            if let Some(record) = record(message.payload) {
                let _ = records.send(record).await;
            }
        }
    }
    Ok(last)
}

/// A channel for records.
pub(super) fn channel() -> (mpsc::Sender<Record>, mpsc::Receiver<Record>) {
    mpsc::channel(WAITING)
}
