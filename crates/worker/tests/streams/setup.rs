//! `groundling setup` on a real NATS server.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a panic in a test is the report")]

use crate::common;

use std::time::Duration;

use async_nats::jetstream::stream::{Config, RetentionPolicy};
use broker::migration::{Migration, MigrationError};
use broker::setup::{SetupError, check, setup};
use common::TestEnv;

const ALL: [&str; 11] = [
    "stream GROUNDLING_JOBS",
    "stream GROUNDLING_ANNOTATIONS",
    "stream GROUNDLING_FAILED",
    "stream GROUNDLING_OUTCOMES",
    "stream GROUNDLING_ATTEMPTS",
    "stream GROUNDLING_RETRIES",
    "stream GROUNDLING_ADVISORIES",
    "consumer groundling-workers",
    "consumer groundling-workers of the retries",
    "consumer groundling-workers of the advisories",
    "consumer groundling-workers-urgent",
];

#[tokio::test]
async fn setup_makes_everything_and_a_second_time_finds_it() {
    let env = TestEnv::bare().await;
    let first = setup(&env.jetstream, &env.streams).await.unwrap();
    assert_eq!(first.created, ALL);
    assert!(first.is_ready());
    let second = setup(&env.jetstream, &env.streams).await.unwrap();
    assert_eq!(second.found, ALL);
    assert!(second.created.is_empty() && second.is_ready(), "{second:?}");
    let jobs = env.jetstream.get_stream(&env.streams.jobs).await.unwrap();
    assert_eq!(jobs.cached_info().config.retention, RetentionPolicy::WorkQueue);
    let retries = env.jetstream.get_stream(&env.streams.retries).await.unwrap();
    assert_eq!(retries.cached_info().config.retention, RetentionPolicy::Limits);
    assert_eq!(env.consumer_info().await.config.max_deliver, -1);
}

#[tokio::test]
async fn a_check_makes_nothing() {
    let env = TestEnv::bare().await;
    let report = check(&env.jetstream, &env.streams).await.unwrap();
    assert_eq!(report.missing, ALL);
    assert!(!report.is_ready());
    assert_eq!(check(&env.jetstream, &env.streams).await.unwrap().missing, ALL);
}

#[tokio::test]
async fn what_differs_is_told_and_left_as_it_is() {
    let mut env = TestEnv::ready().await;
    env.streams.ack_wait = Duration::from_secs(90);
    env.streams.failed_max_age = Duration::from_secs(86_400);
    let report = setup(&env.jetstream, &env.streams).await.unwrap();
    assert_eq!(
        report.differences,
        [
            "stream GROUNDLING_FAILED has the maximum age 0ns, and the settings say 86400s",
            "consumer groundling-workers has the ack wait 60s, and the settings say 90s",
            "consumer groundling-workers of the retries has the ack wait 60s, and the settings say 90s",
            "consumer groundling-workers-urgent has the ack wait 60s, and the settings say 90s",
        ]
    );
    assert_eq!(env.consumer_info().await.config.ack_wait, Duration::from_secs(60));
}

#[tokio::test]
async fn a_subject_that_another_stream_listens_to_is_named() {
    let env = TestEnv::bare().await;
    let other = Config { name: "OTHER".into(), subjects: vec!["groundling.>".into()], ..Default::default() };
    env.jetstream.create_stream(other).await.unwrap();
    let error = setup(&env.jetstream, &env.streams).await.unwrap_err();
    assert!(matches!(error, SetupError::SubjectTaken { .. }), "{error}");
}

#[tokio::test]
async fn a_retries_stream_of_an_earlier_version_is_replaced_once_it_is_empty() {
    let env = TestEnv::ready().await;
    let name = &env.streams.retries;
    // As an earlier version made it.
    let wanted = env.jetstream.get_stream(name).await.unwrap().cached_info().config.clone();
    env.jetstream.delete_stream(name).await.unwrap();
    let old = Config { retention: RetentionPolicy::WorkQueue, max_bytes: 1 << 20, ..wanted.clone() };
    env.jetstream.create_stream(&old).await.unwrap();
    env.jetstream.publish("groundling.retries.d.1-1", "".into()).await.unwrap().await.unwrap();

    let report = setup(&env.jetstream, &env.streams).await.unwrap();
    assert!(report.errors.is_empty(), "{report:?}");
    assert_eq!(
        report.differences,
        [
            "stream GROUNDLING_RETRIES has the retention WorkQueue, and the settings say Limits: run `groundling setup --migrate`"
        ]
    );
    let plan = Migration::plan(&env.jetstream, &env.streams).await.unwrap();
    let [postponed] = plan.postponed() else { panic!("{plan:?}") };
    assert!(plan.steps().is_empty() && postponed.contains("not empty (messages: 1)"), "{plan:?}");

    let retries = env.jetstream.get_stream(name).await.unwrap();
    retries.purge().await.unwrap();
    let plan = Migration::plan(&env.jetstream, &env.streams).await.unwrap();
    assert_eq!((plan.steps().len(), plan.postponed().len()), (1, 0), "{plan:?}");
    // A retry that arrives in between is not lost.
    env.jetstream.publish("groundling.retries.d.2-2", "".into()).await.unwrap().await.unwrap();
    let error = plan.apply(&env.jetstream, &env.streams).await.unwrap_err();
    assert!(matches!(error, MigrationError::NotEmpty(_)), "{error}");
    assert_eq!(env.jetstream.get_stream(name).await.unwrap().cached_info().config.subjects, wanted.subjects);
    retries.purge().await.unwrap();

    let plan = Migration::plan(&env.jetstream, &env.streams).await.unwrap();
    plan.apply(&env.jetstream, &env.streams).await.unwrap();
    let replaced = env.jetstream.get_stream(name).await.unwrap();
    let config = &replaced.cached_info().config;
    assert_eq!((config.retention, config.max_bytes), (RetentionPolicy::Limits, 1 << 20));
    assert_eq!(config.subjects, wanted.subjects);
    let report = setup(&env.jetstream, &env.streams).await.unwrap();
    assert!(report.created.is_empty() && report.differences.is_empty(), "{report:?}");
}
