//! Streams and consumers that are created or changed by hand, before a worker starts and while it runs.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a panic in a test is the report")]

use crate::common;

use std::sync::Arc;
use std::time::Duration;

use async_nats::jetstream::consumer::pull;
use async_nats::jetstream::stream::{Config, RetentionPolicy};
use common::{Held, Running, TestEnv, Yes, bitmap, eventually, job, settings, submit};
use futures::StreamExt;
use worker::JobEvent;

/// Recreates the jobs stream with a changed configuration, and its consumer.
async fn remake_jobs(env: &TestEnv, change: impl FnOnce(&mut Config)) {
    let stream = env.jetstream.get_stream(&env.streams.jobs).await.unwrap();
    let mut config = stream.cached_info().config.clone();
    change(&mut config);
    env.jetstream.delete_stream(&env.streams.jobs).await.unwrap();
    env.jetstream.create_stream(config).await.unwrap();
    broker::setup::setup(&env.jetstream, &env.streams).await.unwrap();
}

/// A consumer of advisories with which a worker scans the queues every few seconds.
async fn scan_often(env: &TestEnv) {
    let stream = env.jetstream.get_stream(&env.streams.advisories).await.unwrap();
    stream.delete_consumer(&env.streams.consumer).await.unwrap();
    let durable_name = Some(env.streams.consumer.clone());
    let config = pull::Config {
        durable_name,
        filter_subject: wire::subjects::JOBS_FILTER.to_owned(),
        ack_wait: Duration::from_secs(1),
        ..Default::default()
    };
    stream.create_consumer(config).await.unwrap();
}

async fn change_consumer(env: &TestEnv, change: impl FnOnce(&mut pull::Config)) {
    let stream = env.jetstream.get_stream(&env.streams.jobs).await.unwrap();
    let mut config = pull::Config {
        durable_name: Some(env.streams.consumer.clone()),
        filter_subject: wire::subjects::JOBS_FILTER.to_owned(),
        ack_wait: env.streams.ack_wait,
        max_ack_pending: env.streams.max_ack_pending,
        max_deliver: env.streams.max_deliver,
        ..Default::default()
    };
    change(&mut config);
    stream.update_consumer(config).await.unwrap();
}

#[tokio::test]
async fn a_worker_does_not_start_on_a_jobs_stream_that_keeps_what_is_done() {
    for (retention, name) in [(RetentionPolicy::Limits, "Limits"), (RetentionPolicy::Interest, "Interest")] {
        let env = TestEnv::ready().await;
        remake_jobs(&env, |config| config.retention = retention).await;
        let running = Running::start(&env);
        let ended = tokio::time::timeout(common::PATIENCE, running.task).await;
        let error = ended.expect("the worker should not start").unwrap().unwrap_err().to_string();
        assert!(error.contains("GROUNDLING_JOBS") && error.contains(name), "{error}");
    }
}

#[tokio::test]
async fn done_jobs_of_a_stream_that_keeps_them_are_neither_deleted_nor_made_failures() {
    let env = TestEnv::ready().await;
    scan_often(&env).await;
    let running = Running::start(&env);
    eventually("the worker pulls", || async { env.consumer_info().await.num_waiting > 0 }).await;
    remake_jobs(&env, |config| config.retention = RetentionPolicy::Limits).await;
    for i in 0..5 {
        submit(&env, &job(&format!("job-{i}"), bitmap())).await;
    }
    // Another program acknowledges all jobs.
    let others = env.consumer().await;
    eventually("all jobs are done", || async {
        let mut batch = others.fetch().max_messages(5).messages().await.unwrap();
        while let Some(Ok(message)) = batch.next().await {
            message.double_ack().await.unwrap();
        }
        let info = env.consumer_info().await;
        info.num_pending == 0 && info.num_ack_pending == 0
    })
    .await;
    // Longer than two scans, after which a job counts as orphaned.
    tokio::time::sleep(Duration::from_secs(30)).await;
    assert_eq!(env.messages_in(&env.streams.jobs).await, 5);
    assert_eq!(env.messages_in(&env.streams.failed).await, 0);
    assert_eq!(running.end().await.failed, 0);
}

/// The engine processes a job while the consumer changes. The job must not be attempted twice.
async fn one_try_while(change: impl AsyncFnOnce(&TestEnv)) {
    let env = TestEnv::ready().await;
    submit(&env, &job("slow", bitmap())).await;
    let engine = Held::new();
    let mut running = Running::start_with(settings(&env), engine.clone());
    engine.asked.acquire().await.unwrap().forget();
    change(&env).await;
    // Several times the new ack_wait. Deliveries in the first moments are ignored.
    tokio::time::sleep(Duration::from_secs(10)).await;
    let delivered = env.consumer_info().await.delivered.consumer_sequence;
    tokio::time::sleep(Duration::from_secs(8)).await;
    assert_eq!(env.consumer_info().await.delivered.consumer_sequence, delivered, "nothing is delivered again");
    assert_eq!(engine.asked.available_permits(), 0, "the job is in the engine once");
    engine.answers.add_permits(100);
    let event = running.event().await;
    assert!(matches!(event, JobEvent::Finished { duplicate: false, .. }), "{event:?}");
    eventually("the queue is empty", || async { env.messages_in(&env.streams.jobs).await == 0 }).await;
    let report = running.end().await;
    assert_eq!((report.finished, report.failed, report.retried), (1, 0, 0));
}

#[tokio::test]
async fn a_slow_job_stays_one_try_when_the_ack_wait_is_lowered() {
    one_try_while(async |env| change_consumer(env, |config| config.ack_wait = Duration::from_secs(3)).await).await;
}

#[tokio::test]
async fn a_slow_job_stays_one_try_when_the_consumer_is_made_anew_with_other_settings() {
    one_try_while(async |env| {
        let stream = env.jetstream.get_stream(&env.streams.jobs).await.unwrap();
        stream.delete_consumer(&env.streams.consumer).await.unwrap();
        let config = pull::Config {
            durable_name: Some(env.streams.consumer.clone()),
            filter_subject: wire::subjects::JOBS_FILTER.to_owned(),
            backoff: vec![Duration::from_secs(3), Duration::from_secs(10)],
            max_deliver: 10,
            ..Default::default()
        };
        stream.create_consumer(config).await.unwrap();
    })
    .await;
}

#[tokio::test]
async fn requests_keep_to_the_limits_that_the_consumer_has_for_them() {
    let env = TestEnv::ready().await;
    change_consumer(&env, |config| {
        (config.max_batch, config.max_bytes, config.max_expires) = (2, 1000, Duration::from_secs(1));
    })
    .await;
    for i in 0..8 {
        // Only the smaller jobs fit the byte limit.
        let padding = vec![0; if i % 2 == 0 { 100 } else { 5000 }];
        submit(&env, &job(&format!("job-{i}"), [bitmap(), padding].concat())).await;
    }
    let mut settings = settings(&env);
    settings.worker.slots = Some(8);
    let mut running = Running::start_with(settings, Arc::new(Yes));
    for _ in 0..8 {
        let event = running.event().await;
        assert!(matches!(event, JobEvent::Finished { .. }), "{event:?}");
    }
    assert_eq!(running.end().await.pulls_lost, 0);
}
