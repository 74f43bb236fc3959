//! Jobs, annotations and failures as workers publish them.

use std::time::Duration;

use archive::failures::{Failure, Failures, Selection};
use archive::object::SourceObject;
use archive::pool::Pool;
use archive::status::{DatasetStatus, StatusReader};
use async_nats::jetstream::message::PublishMessage;
use broker::settings::NatsSettings;
use bytes::Bytes;
use futures::StreamExt;
use wire::Message;
use wire::identity::{failure_id, sha256_hex};
use wire::subjects::{Dataset, failed_subject_for};
use wire::v1::{self, FailureReason, ImageAnnotation, ImageJob, JobFailure, image_job};

use super::{TestEnv, feed};

pub(crate) fn pool(env: &TestEnv) -> Pool {
    let nats = NatsSettings { url: env.server.client_url().to_owned(), ..NatsSettings::default() };
    Pool::new(&env.jetstream.client(), &nats, env.streams.clone())
}

pub(crate) fn dataset(name: &str) -> Dataset {
    name.parse().unwrap()
}

pub(crate) fn object(key: &str) -> SourceObject {
    SourceObject { bucket: "archive".into(), key: key.into(), etag: Some("e".into()), ..SourceObject::default() }
}

pub(crate) fn job(dataset: &str, key: &str) -> ImageJob {
    feed(dataset, Vec::new(), 1).recipe.job(&object(key))
}

pub(crate) fn s3(job: &ImageJob) -> &v1::S3Object {
    match &job.source {
        Some(image_job::Source::S3(object)) => object,
        other => panic!("{other:?}"),
    }
}

/// What a worker publishes about a job that failed as message `sequence` of the stream of jobs.
pub(crate) fn failure(job: &ImageJob, sequence: u64, reason: FailureReason) -> JobFailure {
    let bytes = Bytes::from(job.encode_to_vec());
    JobFailure {
        job_sha256: sha256_hex(&bytes),
        job: bytes,
        subject: format!("groundling.jobs.{}", job.dataset),
        job_id: Some(job.job_id.clone()),
        reason: reason.into(),
        message: "m".into(),
        deliveries: 1,
        stream_sequence: sequence,
        bucket: Some(s3(job).bucket.clone()),
        key: Some(s3(job).key.clone()),
        ..JobFailure::default()
    }
}

pub(crate) async fn publish(env: &TestEnv, subject: &str, id: &str, payload: Vec<u8>) {
    let message = PublishMessage::build().payload(payload.into()).message_id(id);
    env.jetstream.send_publish(subject.to_owned(), message).await.unwrap().await.unwrap();
}

pub(crate) async fn publish_failure(env: &TestEnv, failure: &JobFailure) {
    let subject = failed_subject_for(&failure.subject, failure.reason());
    let id = failure_id(&env.streams.jobs, failure.stream_sequence, 1, &failure.job_sha256);
    publish(env, &subject, &id, failure.encode_to_vec()).await;
}

pub(crate) fn annotation(job: &ImageJob, worker: &str) -> ImageAnnotation {
    let v1::S3Object { bucket, key, etag, version_id } = s3(job).clone();
    let object = v1::ObjectIdentity { bucket, key, etag, version_id };
    ImageAnnotation {
        annotation_id: sha256_hex(job.job_id.as_bytes()),
        job_id: job.job_id.clone(),
        dataset: job.dataset.clone(),
        picture: Some(v1::PictureFacts { object: Some(object), ..Default::default() }),
        worker: Some(v1::WorkerIdentity { worker_id: worker.into(), ..Default::default() }),
        ..ImageAnnotation::default()
    }
}

pub(crate) async fn publish_annotation(env: &TestEnv, job: &ImageJob, worker: &str) {
    let annotation = annotation(job, worker);
    let subject = dataset(&job.dataset).annotations_subject();
    publish(env, &subject, &annotation.annotation_id, annotation.encode_to_vec()).await;
}

pub(crate) async fn all(pool: &Pool, selection: Selection) -> Vec<Failure> {
    let mut failures = Failures::open(pool, selection).await.unwrap();
    let mut found = Vec::new();
    while let Some(failure) = failures.next().await.unwrap() {
        found.push(failure);
    }
    found
}

pub(crate) fn keys(failures: &[Failure]) -> Vec<&str> {
    failures.iter().map(|failure| failure.record.key.as_deref().unwrap()).collect()
}

pub(crate) async fn status_of(reader: &mut StatusReader, name: &str) -> DatasetStatus {
    let status = reader.read().await.unwrap();
    status.datasets.into_iter().find(|dataset| dataset.dataset == name).unwrap()
}

/// The number of annotations on a subject.
pub(crate) async fn stored(env: &TestEnv, subject: &str) -> u64 {
    let stream = env.jetstream.get_stream(&env.streams.annotations).await.unwrap();
    let subjects: Vec<_> = stream.info_with_subjects(subject).await.unwrap().collect().await;
    subjects.into_iter().map(|subject| subject.unwrap().1 as u64).sum()
}

/// Stores many annotations on a subject, without waiting for each.
pub(crate) async fn publish_many(env: &TestEnv, count: u64, subject: &str, payload: impl Fn(u64) -> Vec<u8>) {
    let client = env.jetstream.client();
    for i in 0..count {
        client.publish(subject.to_owned(), payload(i).into()).await.unwrap();
        // The server drops messages that it cannot keep up with.
        if i % 20_000 == 19_999 {
            client.flush().await.unwrap();
            while stored(env, subject).await < i + 1 {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
    client.flush().await.unwrap();
    while stored(env, subject).await < count {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
