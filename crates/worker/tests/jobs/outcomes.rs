//! The first outcome counts, jobs that the server no longer delivers, and full streams; with an engine that answers at
//! once.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a panic in a test is the report")]

use crate::common;

use std::time::{Duration, Instant};

use async_nats::jetstream::stream::{Config, DiscardPolicy};
use common::{
    Held, Running, TestEnv, annotated, bitmap, ends_as_a_failure, eventually, given_up, job, settings, submit,
};
use futures::StreamExt;
use wire::Message;
use wire::subjects::retry_subject;
use wire::v1::{FailureReason, Retry};
use worker::JobEvent;
use worker::delivery_info::DeliveryInfo;
use worker::outcomes::Outcomes;

fn outcomes(env: &TestEnv) -> Outcomes {
    Outcomes::new(env.jetstream.clone(), &env.streams.outcomes, Duration::from_secs(10))
}

#[tokio::test]
async fn the_first_outcome_counts_whoever_comes_to_another() {
    let env = TestEnv::ready().await;
    env.publish_jobs(1).await;
    let mut intake = env.intake(env.consumer().await, 1);
    let delivery = intake.next().await;
    let outcomes = outcomes(&env);
    assert_eq!(outcomes.find(delivery.info()).await.unwrap(), None);
    let first = outcomes.claim(delivery.info(), annotated("a")).await.unwrap();
    let second = outcomes.claim(delivery.info(), annotated("b")).await.unwrap();
    assert_eq!((&first.outcome, &second.outcome), (&annotated("a"), &annotated("a")));
    assert_eq!(outcomes.find(delivery.info()).await.unwrap().unwrap().outcome, annotated("a"));
    let replaced = outcomes.replace(delivery.info(), &first, annotated("c")).await.unwrap();
    assert_eq!(replaced.outcome, annotated("c"));
    let late = outcomes.replace(delivery.info(), &first, annotated("d")).await.unwrap();
    assert_eq!(late.outcome, annotated("c"), "what was replaced cannot be replaced again");
}

#[tokio::test]
async fn a_job_whose_annotation_was_written_down_ends_with_it_even_if_its_picture_has_gone_bad() {
    let env = TestEnv::ready().await;
    submit(&env, &job("j", b"no picture".to_vec())).await;
    let mut intake = env.intake(env.consumer().await, 1);
    let delivery = intake.next().await;
    outcomes(&env).claim(delivery.info(), annotated("a")).await.unwrap();
    // As if the worker had died here.
    drop(delivery);
    intake.stop.cancel();
    intake.task.await.unwrap();
    let mut running = Running::start(&env);
    assert!(matches!(running.event().await, JobEvent::Finished { duplicate: false, .. }));
    running.end().await;
    assert_eq!(env.messages_in(&env.streams.annotations).await, 1);
    assert_eq!(env.messages_in(&env.streams.failed).await, 0);
    assert_eq!(env.messages_in(&env.streams.jobs).await, 0);
}

#[tokio::test]
async fn an_outcome_older_than_the_duplicate_window_is_looked_for_in_its_stream() {
    let env = TestEnv::ready().await;
    let publisher = env.publisher();
    for id in ["x", "a", "y"] {
        publisher.outcome(&annotated(id)).await.unwrap();
    }
    let found = publisher.find_published(&annotated("a"), Duration::from_secs(3600)).await.unwrap().unwrap();
    assert_eq!((found.sequence(), found.duplicate()), (2, true));
    assert_eq!(publisher.find_published(&annotated("b"), Duration::from_secs(3600)).await.unwrap(), None);
}

/// Changes the configuration of the annotations stream.
async fn change_annotations(env: &TestEnv, change: impl FnOnce(&mut Config)) {
    let stream = env.jetstream.get_stream(&env.streams.annotations).await.unwrap();
    let mut config = stream.cached_info().config.clone();
    change(&mut config);
    env.jetstream.update_stream(&config).await.unwrap();
}

/// The shortest duplicate window that servers allow: as if ids had expired.
const FORGETFUL: Duration = Duration::from_millis(100);

#[tokio::test]
async fn a_job_that_the_server_gives_up_becomes_a_failure_and_leaves_the_queue() {
    let env = TestEnv::ready().await;
    given_up(&env).await;
    ends_as_a_failure(&env).await;
}

/// As [`given_up`], without an advisory: nothing tells that the server no longer delivers the job.
async fn orphaned(env: &TestEnv) -> DeliveryInfo {
    let info = given_up(env).await;
    env.jetstream.get_stream(&env.streams.advisories).await.unwrap().purge().await.unwrap();
    info
}

async fn ends_as_an_annotation(env: &TestEnv) {
    let mut running = Running::start(env);
    let event = running.event().await;
    assert!(matches!(event, JobEvent::Finished { duplicate: false, .. }), "{event:?}");
    for stream in [&env.streams.jobs, &env.streams.retries, &env.streams.attempts] {
        eventually(&format!("{stream} is empty"), || async { env.messages_in(stream).await == 0 }).await;
    }
    running.end().await;
    let ended = [&env.streams.annotations, &env.streams.failed].map(|stream| env.messages_in(stream));
    assert_eq!(futures::future::join_all(ended).await, [1, 0]);
}

#[tokio::test]
async fn a_job_that_the_server_has_lost_track_of_is_requeued_and_annotated() {
    let env = TestEnv::ready().await;
    orphaned(&env).await;
    ends_as_an_annotation(&env).await;
}

#[tokio::test]
async fn a_retry_that_the_server_has_lost_track_of_is_requeued_and_annotated() {
    let env = TestEnv::ready().await;
    let info = orphaned(&env).await;
    let jobs = env.jetstream.get_stream(&env.streams.jobs).await.unwrap();
    let job = jobs.get_raw_message(info.sequence).await.unwrap();
    jobs.delete_message(info.sequence).await.unwrap();
    let retry = Retry {
        job: job.payload,
        subject: job.subject.to_string(),
        stream: info.stream.clone(),
        stream_sequence: info.sequence,
        published_nanos: info.published_nanos,
        deliveries: 1,
        delay_nanos: 0,
    };
    let subject = retry_subject(&retry.subject, info.sequence, info.published_nanos);
    take_for_acknowledged(&env, subject, retry.encode_to_vec()).await;
    ends_as_an_annotation(&env).await;
}

/// Publishes a message to the retries stream, whose consumer then takes it for acknowledged.
async fn take_for_acknowledged(env: &TestEnv, subject: String, payload: Vec<u8>) {
    env.jetstream.publish(subject, payload.into()).await.unwrap().await.unwrap();
    let retries = env.retries_consumer().await;
    let delivered = retries.fetch().max_messages(1).messages().await.unwrap().next().await;
    delivered.unwrap().unwrap().double_ack().await.unwrap();
    assert_eq!(env.messages_in(&env.streams.retries).await, 1, "no acknowledgement removes a retry");
}

#[tokio::test]
async fn a_message_in_the_retries_stream_that_is_no_retry_is_removed() {
    let env = TestEnv::ready().await;
    take_for_acknowledged(&env, "groundling.retries.d.1-1".to_owned(), b"no retry".to_vec()).await;
    env.jetstream.publish("groundling.retries.d.2-2", "nor this".into()).await.unwrap().await.unwrap();
    let running = Running::start(&env);
    eventually("both are removed", || async { env.messages_in(&env.streams.retries).await == 0 }).await;
    running.end().await;
    assert_eq!(env.messages_in(&env.streams.failed).await, 0);
}

#[tokio::test]
async fn an_old_annotation_of_a_job_that_the_server_gives_up_is_not_published_again() {
    let mut env = TestEnv::ready().await;
    let info = given_up(&env).await;
    outcomes(&env).claim(&info, annotated("a")).await.unwrap();
    let written = Instant::now();
    env.publisher().outcome(&annotated("a")).await.unwrap();
    change_annotations(&env, |config| config.duplicate_window = FORGETFUL).await;
    // Short time limits, so that outcomes are soon old to the worker.
    env.streams.ack_wait = Duration::from_secs(3);
    let mut settings = settings(&env);
    settings.worker.max_retry_delay = Duration::from_secs(1);
    settings.worker.job_timeout = Duration::from_secs(1);
    settings.worker.publish_timeout = Duration::from_secs(1);
    settings.streams.duplicate_window = settings.longest_redelivery();
    let old = settings.streams.duplicate_window;
    tokio::time::sleep(old.saturating_sub(written.elapsed())).await;
    let running = Running::start_with(settings, Held::new());
    eventually("the job has left the queue", || async { env.messages_in(&env.streams.jobs).await == 0 }).await;
    eventually("the advisory is handled", || async { env.messages_in(&env.streams.advisories).await == 0 }).await;
    running.end().await;
    let ended = [&env.streams.annotations, &env.streams.failed].map(|stream| env.messages_in(stream));
    assert_eq!(futures::future::join_all(ended).await, [1, 0]);
}

#[tokio::test]
async fn an_annotation_of_a_job_that_the_server_gives_up_and_no_stream_takes_gives_way_to_a_failure() {
    let env = TestEnv::ready().await;
    let info = given_up(&env).await;
    outcomes(&env).claim(&info, annotated("a")).await.unwrap();
    change_annotations(&env, |config| config.max_message_size = 1).await;
    let mut running = Running::start(&env);
    match running.event().await {
        JobEvent::Failed { reason, .. } => assert_eq!(reason, FailureReason::AnnotationTooLarge),
        other => panic!("{other:?}"),
    }
    eventually("the job has left the queue", || async { env.messages_in(&env.streams.jobs).await == 0 }).await;
    running.end().await;
    assert_eq!(env.messages_in(&env.streams.failed).await, 1);
}

#[tokio::test]
async fn an_annotation_that_is_published_stays_the_only_outcome_when_its_stream_takes_less_than_before() {
    let env = TestEnv::ready().await;
    submit(&env, &job("j", bitmap())).await;
    let mut intake = env.intake(env.consumer().await, 1);
    let delivery = intake.next().await;
    outcomes(&env).claim(delivery.info(), annotated("a")).await.unwrap();
    env.publisher().outcome(&annotated("a")).await.unwrap();
    // As if the worker had died here.
    drop(delivery);
    intake.stop.cancel();
    intake.task.await.unwrap();
    change_annotations(&env, |config| (config.max_message_size, config.duplicate_window) = (1, FORGETFUL)).await;
    tokio::time::sleep(FORGETFUL * 3).await;
    let mut running = Running::start(&env);
    let event = running.event().await;
    assert!(matches!(event, JobEvent::Finished { duplicate: true, .. }), "{event:?}");
    running.end().await;
    let ended = [&env.streams.annotations, &env.streams.failed].map(|stream| env.messages_in(stream));
    assert_eq!(futures::future::join_all(ended).await, [1, 0]);
}

#[tokio::test]
async fn an_advisory_of_a_stream_that_was_made_anew_does_no_harm_to_the_job_with_its_sequence() {
    let env = TestEnv::ready().await;
    given_up(&env).await;
    env.jetstream.delete_stream(&env.streams.jobs).await.unwrap();
    broker::setup::setup(&env.jetstream, &env.streams).await.unwrap();
    submit(&env, &job("another", bitmap())).await;
    let engine = Held::new();
    let mut running = Running::start_with(settings(&env), engine.clone());
    engine.asked.acquire().await.unwrap().forget();
    eventually("the advisory is handled", || async { env.messages_in(&env.streams.advisories).await == 0 }).await;
    engine.answers.add_permits(1);
    let event = running.event().await;
    assert!(matches!(event, JobEvent::Finished { .. }), "{event:?}");
    running.end().await;
    let ended = [&env.streams.annotations, &env.streams.failed].map(|stream| env.messages_in(stream));
    assert_eq!(futures::future::join_all(ended).await, [1, 0]);
}

#[tokio::test]
async fn jobs_wait_in_hand_while_the_stream_of_annotations_is_full() {
    let env = TestEnv::ready().await;
    change_annotations(&env, |config| (config.max_messages, config.discard) = (1, DiscardPolicy::New)).await;
    for i in 0..4 {
        submit(&env, &job(&format!("job-{i}"), bitmap())).await;
    }
    let mut running = Running::start(&env);
    running.event().await;
    // Longer than the first delays between attempts.
    tokio::time::sleep(Duration::from_secs(3)).await;
    let info = env.consumer_info().await;
    assert_eq!((info.num_ack_pending, info.num_redelivered), (3, 0), "three jobs are held");
    change_annotations(&env, |config| config.max_messages = -1).await;
    for _ in 0..3 {
        assert!(matches!(running.event().await, JobEvent::Finished { .. }));
    }
    let report = running.end().await;
    assert_eq!((report.finished, report.failed, report.retried), (4, 0, 0));
}
