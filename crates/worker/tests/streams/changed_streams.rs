//! Streams and consumers that are created or changed by hand, before a worker starts and while it runs.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a panic in a test is the report")]

use crate::common;

use std::sync::Arc;
use std::time::Duration;

use async_nats::jetstream::consumer::pull;
use async_nats::jetstream::stream::{Config, RetentionPolicy};
use common::{Bench, Held, Running, Yes, bitmap, eventually, job, settings, submit};
use futures::StreamExt;
use worker::JobEvent;

/// Recreates the jobs stream with a changed configuration, and its consumer.
async fn remake_jobs(bench: &Bench, change: impl FnOnce(&mut Config)) {
    let stream = bench.jetstream.get_stream(&bench.streams.jobs).await.unwrap();
    let mut config = stream.cached_info().config.clone();
    change(&mut config);
    bench.jetstream.delete_stream(&bench.streams.jobs).await.unwrap();
    bench.jetstream.create_stream(config).await.unwrap();
    broker::setup::setup(&bench.jetstream, &bench.streams).await.unwrap();
}

/// A consumer of advisories with which a worker scans the queues every few seconds.
async fn scan_often(bench: &Bench) {
    let stream = bench.jetstream.get_stream(&bench.streams.advisories).await.unwrap();
    stream.delete_consumer(&bench.streams.consumer).await.unwrap();
    let durable_name = Some(bench.streams.consumer.clone());
    let config = pull::Config {
        durable_name,
        filter_subject: wire::subjects::JOBS_FILTER.to_owned(),
        ack_wait: Duration::from_secs(1),
        ..Default::default()
    };
    stream.create_consumer(config).await.unwrap();
}

async fn change_consumer(bench: &Bench, change: impl FnOnce(&mut pull::Config)) {
    let stream = bench.jetstream.get_stream(&bench.streams.jobs).await.unwrap();
    let mut config = pull::Config {
        durable_name: Some(bench.streams.consumer.clone()),
        filter_subject: wire::subjects::JOBS_FILTER.to_owned(),
        ack_wait: bench.streams.ack_wait,
        max_ack_pending: bench.streams.max_ack_pending,
        max_deliver: bench.streams.max_deliver,
        ..Default::default()
    };
    change(&mut config);
    stream.update_consumer(config).await.unwrap();
}

#[tokio::test]
async fn a_worker_does_not_start_on_a_jobs_stream_that_keeps_what_is_done() {
    for (retention, name) in [(RetentionPolicy::Limits, "Limits"), (RetentionPolicy::Interest, "Interest")] {
        let bench = Bench::ready().await;
        remake_jobs(&bench, |config| config.retention = retention).await;
        let running = Running::start(&bench);
        let ended = tokio::time::timeout(common::PATIENCE, running.task).await;
        let error = ended.expect("the worker should not start").unwrap().unwrap_err().to_string();
        assert!(error.contains("GROUNDLING_JOBS") && error.contains(name), "{error}");
    }
}

#[tokio::test]
async fn done_jobs_of_a_stream_that_keeps_them_are_neither_deleted_nor_made_failures() {
    let bench = Bench::ready().await;
    scan_often(&bench).await;
    let running = Running::start(&bench);
    eventually("the worker pulls", || async { bench.consumer_info().await.num_waiting > 0 }).await;
    remake_jobs(&bench, |config| config.retention = RetentionPolicy::Limits).await;
    for i in 0..5 {
        submit(&bench, &job(&format!("job-{i}"), bitmap())).await;
    }
    // Another program acknowledges all jobs.
    let others = bench.consumer().await;
    eventually("all jobs are done", || async {
        let mut batch = others.fetch().max_messages(5).messages().await.unwrap();
        while let Some(Ok(message)) = batch.next().await {
            message.double_ack().await.unwrap();
        }
        let info = bench.consumer_info().await;
        info.num_pending == 0 && info.num_ack_pending == 0
    })
    .await;
    // Longer than two scans, after which a job counts as orphaned.
    tokio::time::sleep(Duration::from_secs(30)).await;
    assert_eq!(bench.messages_in(&bench.streams.jobs).await, 5);
    assert_eq!(bench.messages_in(&bench.streams.failed).await, 0);
    assert_eq!(running.end().await.failed, 0);
}

/// The engine processes a job while the consumer changes. The job must not be attempted twice.
async fn one_try_while(change: impl AsyncFnOnce(&Bench)) {
    let bench = Bench::ready().await;
    submit(&bench, &job("slow", bitmap())).await;
    let engine = Held::new();
    let mut running = Running::start_with(settings(&bench), engine.clone());
    engine.asked.acquire().await.unwrap().forget();
    change(&bench).await;
    // Several times the new ack_wait. Deliveries in the first moments are ignored.
    tokio::time::sleep(Duration::from_secs(10)).await;
    let delivered = bench.consumer_info().await.delivered.consumer_sequence;
    tokio::time::sleep(Duration::from_secs(8)).await;
    assert_eq!(bench.consumer_info().await.delivered.consumer_sequence, delivered, "nothing is delivered again");
    assert_eq!(engine.asked.available_permits(), 0, "the job is in the engine once");
    engine.answers.add_permits(100);
    let event = running.event().await;
    assert!(matches!(event, JobEvent::Finished { duplicate: false, .. }), "{event:?}");
    eventually("the queue is empty", || async { bench.messages_in(&bench.streams.jobs).await == 0 }).await;
    let report = running.end().await;
    assert_eq!((report.finished, report.failed, report.retried), (1, 0, 0));
}

#[tokio::test]
async fn a_slow_job_stays_one_try_when_the_ack_wait_is_lowered() {
    one_try_while(async |bench| change_consumer(bench, |config| config.ack_wait = Duration::from_secs(3)).await).await;
}

#[tokio::test]
async fn a_slow_job_stays_one_try_when_the_consumer_is_made_anew_with_other_settings() {
    one_try_while(async |bench| {
        let stream = bench.jetstream.get_stream(&bench.streams.jobs).await.unwrap();
        stream.delete_consumer(&bench.streams.consumer).await.unwrap();
        let config = pull::Config {
            durable_name: Some(bench.streams.consumer.clone()),
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
    let bench = Bench::ready().await;
    change_consumer(&bench, |config| {
        (config.max_batch, config.max_bytes, config.max_expires) = (2, 1000, Duration::from_secs(1));
    })
    .await;
    for i in 0..8 {
        // Only the smaller jobs fit the byte limit.
        let padding = vec![0; if i % 2 == 0 { 100 } else { 5000 }];
        submit(&bench, &job(&format!("job-{i}"), [bitmap(), padding].concat())).await;
    }
    let mut settings = settings(&bench);
    settings.worker.slots = Some(8);
    let mut running = Running::start_with(settings, Arc::new(Yes));
    for _ in 0..8 {
        let event = running.event().await;
        assert!(matches!(event, JobEvent::Finished { .. }), "{event:?}");
    }
    assert_eq!(running.end().await.pulls_lost, 0);
}
