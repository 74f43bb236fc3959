//! Publishes to a real NATS server.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a panic in a test is the report")]

use crate::common;

use broker::publish::PublishError;
use bytes::Bytes;
use common::{TestEnv, annotation};
use wire::Message;
use wire::v1::{ImageAnnotation, JobFailure};

const SUBJECT: &str = "groundling.annotations.cats";

#[tokio::test]
async fn an_annotation_is_in_its_stream_once_however_often_it_is_published() {
    let env = TestEnv::ready().await;
    let publisher = env.publisher();
    let first = publisher.annotation(SUBJECT.into(), &annotation("a")).await.unwrap();
    let second = publisher.annotation(SUBJECT.into(), &annotation("a")).await.unwrap();
    assert!(!first.duplicate() && second.duplicate());
    assert_eq!(first.sequence(), second.sequence());
    assert_eq!(env.messages_in(&env.streams.annotations).await, 1);
    let stream = env.jetstream.get_stream(&env.streams.annotations).await.unwrap();
    let stored = stream.get_raw_message(first.sequence()).await.unwrap();
    assert_eq!(stored.subject.as_str(), SUBJECT);
    assert_eq!(stored.headers.get("Nats-Msg-Id").unwrap().as_str(), "a");
    assert_eq!(ImageAnnotation::decode(stored.payload).unwrap(), annotation("a"));
}

#[tokio::test]
async fn an_annotation_larger_than_the_server_takes_is_refused_at_once() {
    let env = TestEnv::ready().await;
    let large = ImageAnnotation { dataset: "x".repeat(2 << 20), ..annotation("a") };
    let error = env.publisher().annotation(SUBJECT.into(), &large).await.unwrap_err();
    assert!(matches!(error, PublishError::TooLarge { .. }), "{error}");
}

#[tokio::test]
async fn an_annotation_larger_than_its_stream_takes_is_refused_at_once() {
    let env = TestEnv::ready().await;
    let stream = env.jetstream.get_stream(&env.streams.annotations).await.unwrap();
    let mut config = stream.cached_info().config.clone();
    config.max_message_size = 1000;
    env.jetstream.update_stream(config).await.unwrap();
    let large = ImageAnnotation { dataset: "x".repeat(2000), ..annotation("a") };
    let error = env.publisher().annotation(SUBJECT.into(), &large).await.unwrap_err();
    assert!(matches!(error, PublishError::TooLarge { .. }), "{error}");
}

#[tokio::test]
async fn a_failure_too_large_with_its_job_is_published_without_it() {
    let env = TestEnv::ready().await;
    let failure = JobFailure { job: Bytes::from(vec![0; 1 << 20]), message: "why".into(), ..Default::default() };
    let receipt = env.publisher().failure("groundling.failed.cats".into(), "f".into(), failure).await.unwrap();
    let stream = env.jetstream.get_stream(&env.streams.failed).await.unwrap();
    let stored = JobFailure::decode(stream.get_raw_message(receipt.sequence()).await.unwrap().payload).unwrap();
    assert!(stored.job_omitted && stored.job.is_empty());
    assert_eq!(stored.message, "why");
}

#[tokio::test]
async fn an_annotation_never_ends_in_a_stream_of_another_name() {
    let env = TestEnv::ready().await;
    let publisher = broker::publish::Publisher::new(env.jetstream.clone(), "OTHER", "OTHER");
    let error = publisher.annotation(SUBJECT.into(), &annotation("a")).await.unwrap_err();
    assert!(matches!(error, PublishError::Unavailable { .. }), "{error}");
    assert_eq!(env.messages_in(&env.streams.annotations).await, 0);
}
