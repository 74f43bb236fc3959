//! Only attempts that fail or never end count towards `worker.max_deliveries`; what workers release does not.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a panic in a test is the report")]

use crate::common;

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use async_nats::jetstream::consumer::pull;
use async_nats::jetstream::stream::{Config, DiscardPolicy};
use common::{Held, Running, TestEnv, bitmap, eventually, job, settings, submit};
use wire::v1::{self, FailureReason, image_job};
use worker::attempts::Attempts;
use worker::{JobEvent, Settings, WorkerReport};

const MAX: u64 = 3;

fn few_attempts(env: &TestEnv) -> Settings {
    let mut settings = settings(env);
    settings.worker.max_deliveries = MAX;
    settings.worker.max_retry_delay = Duration::from_millis(300);
    settings.worker.publish_timeout = Duration::from_secs(1);
    settings.worker.shutdown_timeout = Duration::from_millis(200);
    settings
}

/// A job whose object is in a store that does not answer.
fn away(id: &str) -> v1::ImageJob {
    let object = v1::S3Object { bucket: "b".into(), key: "k".into(), ..Default::default() };
    v1::ImageJob { source: Some(image_job::Source::S3(object)), ..job(id, Vec::new()) }
}

fn without_store(env: &TestEnv) -> Settings {
    let mut settings = few_attempts(env);
    settings.s3.endpoint = Some("http://127.0.0.1:1".into());
    settings.s3.attempts = 1;
    settings
}

async fn change(env: &TestEnv, stream: &str, change: impl FnOnce(&mut Config)) {
    let mut config = env.jetstream.get_stream(stream).await.unwrap().cached_info().config.clone();
    change(&mut config);
    env.jetstream.update_stream(config).await.unwrap();
}

/// Waits until a job has ended. Returns its id, and the failure's reason and message if it failed.
async fn ended(running: &mut Running) -> (String, Option<(FailureReason, String)>) {
    loop {
        match running.event().await {
            JobEvent::Finished { annotation, .. } => return (annotation.job_id.clone(), None),
            JobEvent::Failed { job_id, reason, message, .. } => {
                return (job_id.unwrap_or_default(), Some((reason, message)));
            }
            JobEvent::Retried { .. } => {}
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn orderly_shutdowns_end_no_healthy_job_however_many() {
    let env = TestEnv::ready().await;
    for number in 0..8 {
        submit(&env, &job(&format!("job {number}"), bitmap())).await;
    }
    for _ in 0..MAX + 3 {
        let engine = Held::new();
        let running = Running::start_with(few_attempts(&env), engine.clone());
        // All jobs are in the engine, which does not answer before the worker shuts down.
        let all = engine.asked.acquire_many(8);
        tokio::time::timeout(common::PATIENCE, all).await.expect("all jobs should come").unwrap().forget();
        let report = running.end().await;
        assert_eq!((report.finished, report.failed), (0, 0), "{report:?}");
    }
    assert_eq!(env.messages_in(&env.streams.attempts).await, 0, "no attempt counts");
    let mut running = Running::start_with(few_attempts(&env), Arc::new(common::Yes));
    let mut done = HashSet::new();
    while done.len() < 8 {
        let (id, failure) = ended(&mut running).await;
        assert_eq!(failure, None, "{id}");
        done.insert(id);
    }
    running.end().await;
    assert_eq!(env.messages_in(&env.streams.failed).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals_by_full_streams_end_no_healthy_job_however_many() {
    let env = TestEnv::ready().await;
    // Only the outcomes stream, and all streams that a worker writes, as if the account's storage were used up.
    let names = [env.streams.outcomes.clone(), env.streams.annotations.clone(), env.streams.attempts.clone()];
    for full in [&names[..1], &names[..]] {
        for name in full {
            let subject = name.to_lowercase().replace("groundling_", "groundling.");
            let subject = if name == &env.streams.attempts { format!("{subject}.x.1") } else { format!("{subject}.x") };
            env.jetstream.publish(subject, "x".into()).await.unwrap().await.unwrap();
            let messages = env.messages_in(name).await;
            let limit = |config: &mut Config| {
                config.discard = DiscardPolicy::New;
                config.max_messages = i64::try_from(messages).unwrap();
            };
            change(&env, name, limit).await;
        }
        submit(&env, &job(&format!("job {}", full.len()), bitmap())).await;
        let mut running = Running::start_with(few_attempts(&env), Arc::new(common::Yes));
        for _ in 0..MAX + 3 {
            match running.event().await {
                JobEvent::Retried { message, .. } => assert!(message.contains("did not accept"), "{message}"),
                other => panic!("{other:?}"),
            }
        }
        for name in full {
            change(&env, name, |config| config.max_messages = -1).await;
        }
        assert_eq!(ended(&mut running).await, (format!("job {}", full.len()), None));
        running.end().await;
    }
    assert_eq!(env.messages_in(&env.streams.failed).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_kills_its_workers_ends_after_a_bounded_number_of_them() {
    let env = TestEnv::ready().await;
    submit(&env, &job("poison", bitmap())).await;
    // First deliveries are not recorded, so there is one more attempt than the setting allows.
    for _ in 0..=MAX {
        let engine = Held::new();
        let running = Running::start_with(few_attempts(&env), engine.clone());
        tokio::time::timeout(common::PATIENCE, engine.asked.acquire())
            .await
            .expect("the job should come")
            .unwrap()
            .forget();
        running.task.abort();
        drop(running.task.await);
    }
    let mut running = Running::start_with(few_attempts(&env), Held::new());
    let (id, failure) = ended(&mut running).await;
    let (reason, message) = failure.unwrap();
    assert_eq!((id.as_str(), reason), ("poison", FailureReason::RetriesExhausted));
    assert!(message.starts_with("the job was started 3 times and no worker finished it"), "{message}");
    running.end().await;
    assert_eq!(env.messages_in(&env.streams.attempts).await, 0, "the records go with the job");
}

#[tokio::test(flavor = "multi_thread")]
async fn released_deliveries_between_failed_ones_do_not_count() {
    let env = TestEnv::ready().await;
    submit(&env, &away("away")).await;
    for attempt in 1..MAX {
        let mut running = Running::start_with(without_store(&env), Arc::new(common::Yes));
        assert!(matches!(running.event().await, JobEvent::Retried { .. }), "attempt {attempt}");
        running.end().await;
        assert_eq!(env.messages_in(&env.streams.attempts).await, attempt);
        // Released deliveries in between.
        for _ in 0..4 {
            let mut intake = env.intake(env.retries_consumer().await, 1);
            intake.next().await.nack(Duration::ZERO).await.unwrap();
            intake.stop.cancel();
            intake.task.await.unwrap();
        }
    }
    let mut running = Running::start_with(without_store(&env), Arc::new(common::Yes));
    let (_, failure) = ended(&mut running).await;
    let (reason, message) = failure.unwrap();
    assert_eq!(reason, FailureReason::RetriesExhausted);
    assert!(message.contains("s3://b/k"), "{message}");
    assert_eq!(running.end().await, WorkerReport { failed: 1, ..Default::default() });
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failure_by_the_consumers_own_limit_names_the_last_known_error() {
    let env = TestEnv::ready().await;
    let stream = env.jetstream.get_stream(&env.streams.jobs).await.unwrap();
    stream.delete_consumer(&env.streams.consumer).await.unwrap();
    let durable_name = Some(env.streams.consumer.clone());
    let config = pull::Config {
        durable_name,
        filter_subject: wire::subjects::JOBS_FILTER.to_owned(),
        max_deliver: 1,
        max_ack_pending: 1000,
        ..Default::default()
    };
    stream.create_consumer(config).await.unwrap();
    // Otherwise the job would move to the retries stream.
    change(&env, &env.streams.retries, |config| config.max_message_size = 1).await;
    submit(&env, &away("away")).await;
    let mut running = Running::start_with(without_store(&env), Arc::new(common::Yes));
    let (id, failure) = ended(&mut running).await;
    let (reason, message) = failure.unwrap();
    assert_eq!((id.as_str(), reason), ("away", FailureReason::RetriesExhausted));
    assert!(message.contains("max_deliver") && message.contains("s3://b/k"), "{message}");
    running.end().await;
}

#[tokio::test]
async fn the_last_known_error_is_that_of_the_last_attempt_that_had_one() {
    let env = TestEnv::ready().await;
    env.publish_jobs(1).await;
    let attempts = Attempts::new(env.jetstream.clone(), &env.streams.attempts, "w");
    let mut intake = env.intake(env.consumer().await, 1);
    let mut info = intake.next().await.info().clone();
    assert_eq!(attempts.last_error(&info).await, None);
    for (delivery, error) in [(1, Some("first")), (2, None), (11, Some("last")), (12, None)] {
        info.deliveries = delivery;
        let earlier = attempts.start(&info).await.unwrap().earlier;
        assert_eq!(earlier, [0, 1, 2, 3][[1, 2, 11, 12].iter().position(|known| *known == delivery).unwrap()]);
        if let Some(error) = error {
            attempts.fail(&info, error).await;
        }
    }
    assert_eq!(attempts.last_error(&info).await.as_deref(), Some("last"));
    info.deliveries = 13;
    let started = attempts.start(&info).await.unwrap();
    attempts.release(started).await;
    assert_eq!(attempts.start(&info).await.unwrap().earlier, 4, "a released attempt leaves no record");
    attempts.forget(&info).await;
    eventually("the records are gone", || async { env.messages_in(&env.streams.attempts).await == 0 }).await;
}
