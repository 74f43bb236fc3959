//! A worker without free file descriptors fails no job. The test is alone in its process, because it lowers its limit.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a panic in a test is the report")]

mod common;

use std::sync::Arc;
use std::time::Duration;

use common::{Running, TestEnv, Yes, bitmap, job, settings, submit};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use sandbox::EmbeddedS3;
use wire::v1::{self, image_job};
use worker::JobEvent;
use worker::settings::Secret;

#[tokio::test(flavor = "multi_thread")]
async fn a_job_is_released_until_there_are_descriptors_again() {
    let env = TestEnv::ready().await;
    let objects = tempfile::tempdir().unwrap();
    let store = EmbeddedS3::start(objects.path()).await.unwrap();
    let access = store.access().clone();
    std::fs::write(objects.path().join(&access.bucket).join("k.bmp"), bitmap()).unwrap();
    let mut settings = settings(&env);
    settings.worker.max_deliveries = 2;
    settings.worker.max_retry_delay = Duration::from_millis(300);
    settings.s3.anonymous = false;
    settings.s3.endpoint = Some(access.endpoint.clone());
    settings.s3.path_style = true;
    settings.s3.access_key = Some(access.access_key.clone());
    settings.s3.secret_key = Some(Secret::new(access.secret_key.clone()));
    settings.s3.attempts = 1;
    let mut running = Running::start_with(settings, Arc::new(Yes));
    // After a job that needs no store, the worker has opened everything that it opens at the start.
    submit(&env, &job("inline", bitmap())).await;
    assert!(matches!(running.event().await, JobEvent::Finished { .. }));

    let before = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: Some(3), ..before }).unwrap();
    let object = v1::S3Object { bucket: access.bucket, key: "k.bmp".into(), ..Default::default() };
    submit(&env, &v1::ImageJob { source: Some(image_job::Source::S3(object)), ..job("stored", Vec::new()) }).await;
    for _ in 0..5 {
        match running.event().await {
            JobEvent::Retried { message, .. } => assert!(message.contains("Too many open files"), "{message}"),
            other => panic!("{other:?}"),
        }
    }
    setrlimit(Resource::Nofile, before).unwrap();
    loop {
        match running.event().await {
            JobEvent::Retried { .. } => {}
            JobEvent::Finished { annotation, .. } => break assert_eq!(annotation.job_id, "stored"),
            JobEvent::Failed { message, .. } => panic!("{message}"),
        }
    }
    running.end().await;
    assert_eq!(env.messages_in(&env.streams.failed).await, 0);
}
