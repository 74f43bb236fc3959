//! Resubmits failed jobs, and checks what failures and log lines say about their objects.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a panic in a test is the report")]

use crate::common;
use crate::fake_store;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use async_nats::jetstream::message::PublishMessage;
use async_nats::jetstream::publish::PublishAck;
use bytes::Bytes;
use common::{Running, TestEnv, bitmap, eventually, job, settings, submit};
use fake_store::{Answer, FakeStore};
use tracing::field::{Field, Visit};
use wire::Message;
use wire::identity::resubmission_id;
use wire::v1::{FailureReason, ImageJob, JobFailure, S3Object, image_job};
use worker::settings::S3Settings;
use worker::{JobEvent, Settings};

fn of_store(env: &TestEnv, store: &FakeStore) -> Settings {
    let s3 = S3Settings {
        endpoint: Some(store.endpoint().to_owned()),
        path_style: true,
        anonymous: true,
        allow: vec!["*".into()],
        attempts: 1,
        ..Default::default()
    };
    Settings { s3, ..settings(env) }
}

fn of_object(id: &str, version_id: Option<&str>) -> ImageJob {
    let version_id = version_id.map(str::to_owned);
    let object = S3Object { bucket: "imgs".into(), key: "a/b.bmp".into(), version_id, etag: None };
    ImageJob { source: Some(image_job::Source::S3(object)), ..job(id, Vec::new()) }
}

async fn publish(env: &TestEnv, subject: &str, payload: Bytes, id: &str) -> PublishAck {
    let message = PublishMessage::build().payload(payload).message_id(id);
    env.jetstream.send_publish(subject.to_owned(), message).await.unwrap().await.unwrap()
}

/// The last failure.
async fn failure(env: &TestEnv) -> JobFailure {
    let stream = env.jetstream.get_stream(&env.streams.failed).await.unwrap();
    let last = stream.cached_info().state.last_sequence;
    JobFailure::decode(stream.get_raw_message(last).await.unwrap().payload).unwrap()
}

#[tokio::test]
async fn a_failed_job_is_dropped_under_its_old_id_and_done_under_that_of_the_recipe() {
    let is_there = Arc::new(AtomicBool::new(false));
    let seen = Arc::clone(&is_there);
    let store = FakeStore::start(move |_| match seen.load(Ordering::SeqCst) {
        true => Answer::ok(bitmap()),
        false => Answer::error(404, "NoSuchKey", "m"),
    })
    .await;
    let env = TestEnv::ready().await;
    let mut running = Running::start_with(of_store(&env, &store), Arc::new(common::Yes));
    let payload = Bytes::from(of_object("42", None).encode_to_vec());
    assert!(!publish(&env, "groundling.jobs.cats", payload.clone(), "42").await.duplicate);
    assert!(matches!(running.event().await, JobEvent::Failed { .. }));
    let first = failure(&env).await;

    let again = publish(&env, &first.subject, first.job.clone(), "42").await;
    assert!(again.duplicate, "the stream drops it under its old id");
    assert_eq!(env.messages_in(&env.streams.jobs).await, 0);

    // If it fails again, that is another failure.
    let id = resubmission_id(&first);
    assert!(!publish(&env, &first.subject, first.job.clone(), &id).await.duplicate);
    assert!(matches!(running.event().await, JobEvent::Failed { .. }));
    assert_eq!(env.messages_in(&env.streams.failed).await, 2);
    assert!(publish(&env, &first.subject, first.job.clone(), &id).await.duplicate, "once for each failure");

    // The outcome of the first message does not count for it.
    is_there.store(true, Ordering::SeqCst);
    let second = failure(&env).await;
    assert_ne!(resubmission_id(&second), id);
    assert!(!publish(&env, &second.subject, second.job.clone(), &resubmission_id(&second)).await.duplicate);
    match running.event().await {
        JobEvent::Finished { annotation, duplicate } => {
            assert_eq!((annotation.job_id.as_str(), duplicate), ("42", false))
        }
        other => panic!("{other:?}"),
    }
    running.end().await;
    let ended = [&env.streams.annotations, &env.streams.failed].map(|stream| env.messages_in(stream));
    assert_eq!(futures::future::join_all(ended).await, [1, 2]);
}

#[tokio::test]
async fn a_failure_names_the_object() {
    let store = FakeStore::start(|_| Answer::error(404, "NoSuchVersion", "m")).await;
    let env = TestEnv::ready().await;
    let mut running = Running::start_with(of_store(&env, &store), Arc::new(common::Yes));
    let no_tasks = ImageJob { tasks: Vec::new(), ..of_object("no tasks", None) };
    for (job, reason, version) in [
        (of_object("plain", None), FailureReason::ObjectNotFound, None),
        (of_object("versioned", Some("v1")), FailureReason::ObjectNotFound, Some("v1")),
        (no_tasks, FailureReason::InvalidJob, None),
    ] {
        submit(&env, &job).await;
        running.event().await;
        let failure = failure(&env).await;
        assert_eq!(failure.reason(), reason);
        assert_eq!((failure.bucket.as_deref(), failure.key.as_deref()), (Some("imgs"), Some("a/b.bmp")));
        assert_eq!(failure.version_id.as_deref(), version);
    }
    submit(&env, &job("inline", b"no picture".to_vec())).await;
    running.event().await;
    let failure = failure(&env).await;
    assert_eq!((failure.bucket, failure.key, failure.version_id), (None, None, None));
    running.end().await;
}

/// Captures the messages and fields of log lines.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<Line>>>);

#[derive(Debug, Clone, Default, PartialEq)]
struct Line {
    message: String,
    fields: Vec<(&'static str, String)>,
}

impl Line {
    fn field(&self, name: &str) -> Option<&str> {
        self.fields.iter().find(|(found, _)| *found == name).map(|(_, value)| value.as_str())
    }
}

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        match field.name() {
            "message" => self.message = format!("{value:?}"),
            name => self.fields.push((name, format!("{value:?}"))),
        }
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.fields.push((field.name(), value.to_owned()));
    }
}

impl<S: tracing::Subscriber> tracing_subscriber::Layer<S> for Lines {
    fn on_event(&self, event: &tracing::Event<'_>, _: tracing_subscriber::layer::Context<'_, S>) {
        let mut line = Line::default();
        event.record(&mut line);
        self.0.lock().unwrap().push(line);
    }
}

#[tokio::test]
async fn log_lines_about_a_job_name_the_object() {
    use tracing_subscriber::layer::SubscriberExt;
    let lines = Lines::default();
    let _guard = tracing::subscriber::set_default(tracing_subscriber::registry().with(lines.clone()));
    let asked = Arc::new(Mutex::new(0));
    let count = Arc::clone(&asked);
    let store = FakeStore::start(move |_| {
        let mut count = count.lock().unwrap();
        *count += 1;
        match *count {
            1 => Answer::error(503, "SlowDown", "m"),
            2 => Answer::ok(bitmap()),
            _ => Answer::error(404, "NoSuchKey", "m"),
        }
    })
    .await;
    let env = TestEnv::ready().await;
    let mut running = Running::start_with(of_store(&env, &store), Arc::new(common::Yes));
    submit(&env, &of_object("retried", Some("v1"))).await;
    assert!(matches!(running.event().await, JobEvent::Retried { .. }));
    assert!(matches!(running.event().await, JobEvent::Finished { .. }));
    submit(&env, &of_object("given up", Some("v1"))).await;
    assert!(matches!(running.event().await, JobEvent::Failed { .. }));
    running.end().await;
    eventually("all is logged", || async { lines.0.lock().unwrap().len() > 3 }).await;
    let lines = lines.0.lock().unwrap();
    for (message, job_id) in
        [("job will be retried", "retried"), ("job is done", "retried"), ("job failed permanently", "given up")]
    {
        let line = lines.iter().find(|line| line.message.starts_with(message)).expect(message);
        let named = ["job_id", "bucket", "key"].map(|name| line.field(name));
        assert_eq!(named, [Some(job_id), Some("imgs"), Some("a/b.bmp")], "{line:?}");
        // The store of this test does not return versions.
        assert_eq!(line.field("version_id"), (message != "job is done").then_some("v1"), "{line:?}");
    }
}
