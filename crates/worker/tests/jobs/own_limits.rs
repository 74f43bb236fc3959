//! Workers of one pool with different settings: a job that one of them forbids is left to the others for a while.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a panic in a test is the report")]

use crate::common;

use std::sync::Arc;
use std::time::{Duration, Instant};

use aws_sdk_s3::primitives::ByteStream;
use common::{Running, TestEnv, Yes, bitmap, job, settings, submit};
use sandbox::EmbeddedS3;
use wire::v1::{self, FailureReason, image_job, task};
use worker::fetch::s3::ObjectStore;
use worker::settings::{S3Settings, Secret};
use worker::{JobEvent, Settings};

fn object(id: &str) -> v1::ImageJob {
    let object = v1::S3Object { bucket: "pictures".into(), key: "one.bmp".into(), ..Default::default() };
    v1::ImageJob { source: Some(image_job::Source::S3(object)), ..job(id, Vec::new()) }
}

fn raw(id: &str) -> v1::ImageJob {
    let raw = v1::RawPrompt { text: "<grounding> An image of".into(), phrase_boxes: Vec::new() };
    let tasks = vec![v1::Task { task_id: "raw".into(), kind: Some(task::Kind::Raw(raw)) }];
    v1::ImageJob { tasks, ..job(id, bitmap()) }
}

/// A store with one picture, and settings to read it.
async fn store(folder: &std::path::Path) -> (EmbeddedS3, S3Settings) {
    let store = EmbeddedS3::start(folder).await.unwrap();
    let access = store.access();
    let s3 = S3Settings {
        endpoint: Some(access.endpoint.clone()),
        path_style: true,
        access_key: Some(access.access_key.clone()),
        secret_key: Some(Secret::new(access.secret_key.clone())),
        allow: vec!["pictures".into()],
        ..Default::default()
    };
    let client = ObjectStore::open(&s3).await.unwrap();
    let body = ByteStream::from(bitmap());
    client.client().put_object().bucket("pictures").key("one.bmp").body(body).send().await.unwrap();
    (store, s3)
}

/// All jobs go to a worker that may not do them, and then one that may joins it.
async fn a_pool_does(jobs: &[v1::ImageJob], older: impl Fn(&mut Settings), s3: &S3Settings) {
    let env = TestEnv::ready().await;
    for job in jobs {
        submit(&env, job).await;
    }
    let newer = Settings { s3: s3.clone(), ..settings(&env) };
    let mut refusing = newer.clone();
    older(&mut refusing);
    let mut refusing = Running::start_with(refusing, Arc::new(Yes));
    for _ in jobs {
        let event = refusing.event().await;
        assert!(matches!(event, JobEvent::Retried { .. }), "{event:?}");
    }
    let mut doing = Running::start_with(newer, Arc::new(Yes));
    for _ in jobs {
        let event = doing.event().await;
        assert!(matches!(event, JobEvent::Finished { duplicate: false, .. }), "{event:?}");
    }
    assert_eq!((refusing.end().await.failed, doing.end().await.finished), (0, jobs.len() as u64));
    assert_eq!(env.messages_in(&env.streams.jobs).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn jobs_of_a_bucket_that_only_the_newer_workers_may_read_are_done_by_them() {
    let folder = tempfile::tempdir().unwrap();
    let (_store, s3) = store(folder.path()).await;
    let jobs: Vec<_> = (0..8).map(|i| object(&format!("job-{i}"))).collect();
    a_pool_does(&jobs, |older| older.s3.allow = vec!["another".into()], &s3).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn objects_that_are_too_large_for_some_workers_are_done_by_others() {
    let folder = tempfile::tempdir().unwrap();
    let (_store, s3) = store(folder.path()).await;
    a_pool_does(&[object("large")], |older| older.s3.max_object_bytes = 20, &s3).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn prompts_that_some_workers_do_not_take_are_done_by_others() {
    let s3 = S3Settings { allow: vec!["*".into()], anonymous: true, ..Default::default() };
    a_pool_does(&[raw("raw")], |older| older.worker.allow_raw_prompts = false, &s3).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn being_left_to_others_costs_a_job_none_of_its_tries() {
    let env = TestEnv::ready().await;
    submit(&env, &raw("raw")).await;
    let mut older = settings(&env);
    (older.worker.allow_raw_prompts, older.worker.max_deliveries) = (false, 2);
    let mut refusing = Running::start_with(older.clone(), Arc::new(Yes));
    for _ in 0..4 {
        let event = refusing.event().await;
        assert!(matches!(event, JobEvent::Retried { .. }), "{event:?}");
    }
    refusing.end().await;
    older.worker.allow_raw_prompts = true;
    let mut doing = Running::start_with(older, Arc::new(Yes));
    let event = doing.event().await;
    assert!(matches!(event, JobEvent::Finished { .. }), "{event:?}");
    doing.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_all_workers_forbid_becomes_a_failure_when_the_time_is_over() {
    for seconds in [0, 4] {
        let env = TestEnv::ready().await;
        submit(&env, &object("denied")).await;
        let mut settings = settings(&env);
        settings.s3.allow = vec!["another".into()];
        settings.worker.release_own_limits_for = Duration::from_secs(seconds);
        // Both workers forbid it. The time counts for both together.
        let started = Instant::now();
        let mut workers = [(); 2].map(|()| Running::start_with(settings.clone(), Arc::new(Yes)));
        let [first, second] = &mut workers;
        let (reason, message) = loop {
            let event = tokio::select! { event = first.event() => event, event = second.event() => event };
            match event {
                JobEvent::Failed { reason, message, .. } => break (reason, message),
                JobEvent::Retried { delay, .. } => assert!(delay <= Duration::from_secs(seconds), "{delay:?}"),
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(reason, FailureReason::ObjectForbidden);
        assert!(message.contains("s3.allow"), "{message}");
        assert!(started.elapsed() >= Duration::from_secs(seconds), "{:?}", started.elapsed());
        let requeued: u64 = futures::future::join_all(workers.map(Running::end)).await.iter().map(|r| r.retried).sum();
        assert_eq!(requeued > 0, seconds > 0, "requeued {requeued} times");
    }
}
