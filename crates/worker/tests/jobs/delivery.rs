//! Intake and the delivery guard against a real NATS server.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a panic in a test is the report")]

use crate::common;

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use broker::setup;
use common::{TestEnv, annotation, eventually};
use wire::v1::JobFailure;

#[tokio::test]
async fn a_worker_holds_no_more_jobs_than_it_has_slots() {
    let env = TestEnv::ready().await;
    env.publish_jobs(10).await;
    let mut intake = env.intake(env.consumer().await, 3);
    let mut active = vec![intake.next().await, intake.next().await, intake.next().await];
    intake.nothing_comes().await;
    assert_eq!(env.consumer_info().await.num_ack_pending, 3, "the server has delivered as many as there are slots");
    let receipt = env.publisher().annotation("groundling.annotations.cats".into(), &annotation("a")).await.unwrap();
    active.pop().unwrap().ack(&receipt).await.unwrap();
    assert_eq!(&intake.next().await.payload()[..], b"job 3");
}

#[tokio::test]
async fn a_job_in_hand_for_longer_than_the_ack_wait_is_not_handed_out_again() {
    let env = TestEnv::ready().await;
    let consumer = env.hasty_consumer(Duration::from_secs(3)).await;
    env.publish_jobs(1).await;
    let mut intake = env.intake(consumer.clone(), 2);
    let active = intake.next().await;
    let mut other = env.intake(consumer, 2);
    tokio::time::sleep(Duration::from_secs(8)).await;
    other.nothing_comes().await;
    intake.nothing_comes().await;
    assert_eq!(env.consumer_info().await.num_redelivered, 0);
    drop(active);
}

#[tokio::test]
async fn a_dropped_job_comes_back() {
    let env = TestEnv::ready().await;
    env.publish_jobs(1).await;
    let mut intake = env.intake(env.consumer().await, 1);
    let first = intake.next().await;
    assert_eq!(first.info().deliveries, 1);
    drop(first);
    let second = intake.next().await;
    assert_eq!((second.info().deliveries, &second.payload()[..]), (2, &b"job 0"[..]));
}

#[tokio::test]
async fn a_retried_job_comes_back_after_its_delay_and_not_by_the_ack_wait() {
    let env = TestEnv::ready().await;
    let consumer = env.hasty_consumer(Duration::from_secs(3)).await;
    env.publish_jobs(1).await;
    let mut intake = env.intake(consumer, 1);
    let first = intake.next().await;
    // Until progress acks are being sent: one after the nack would undo its delay.
    tokio::time::sleep(Duration::from_millis(1500)).await;
    let retried = Instant::now();
    first.nack(Duration::from_millis(4500)).await.unwrap();
    let second = intake.next().await;
    assert!(retried.elapsed() >= Duration::from_millis(4400), "{:?}", retried.elapsed());
    assert_eq!(second.info().deliveries, 2);
}

#[tokio::test]
async fn delivered_and_rejected_jobs_leave_the_queue() {
    let env = TestEnv::ready().await;
    env.publish_jobs(2).await;
    let mut intake = env.intake(env.consumer().await, 2);
    let (first, second) = (intake.next().await, intake.next().await);
    let publisher = env.publisher();
    let annotated = publisher.annotation("groundling.annotations.cats".into(), &annotation("a")).await.unwrap();
    first.ack(&annotated).await.unwrap();
    assert_eq!(env.messages_in(&env.streams.jobs).await, 1);
    let failure = JobFailure { job: second.payload().clone(), ..Default::default() };
    let failed = publisher.failure("groundling.failed.cats".into(), "f".into(), failure).await.unwrap();
    second.term(&failed, "INVALID_JOB").await.unwrap();
    eventually("the jobs stream is empty", || async { env.messages_in(&env.streams.jobs).await == 0 }).await;
    assert_eq!(env.consumer_info().await.num_ack_pending, 0);
}

#[tokio::test]
async fn at_shutdown_jobs_on_their_way_go_straight_back() {
    let env = TestEnv::ready().await;
    let mut intake = env.intake(env.consumer().await, 4);
    intake.nothing_comes().await;
    let start = Instant::now();
    intake.stop.cancel();
    // Published at the moment of the shutdown, while a pull request is open.
    env.publish_jobs(20).await;
    tokio::time::timeout(Duration::from_secs(5), &mut intake.task).await.expect("intake ends").unwrap();
    while let Some(delivery) = intake.deliveries.recv().await {
        drop(delivery);
    }
    everything_comes_before_the_ack_wait(&env, start).await;
}

/// A nacked job counts as pending until it is delivered again, so the test waits for its delivery.
async fn everything_comes_before_the_ack_wait(env: &TestEnv, start: Instant) {
    let mut other = env.intake(env.consumer().await, 20);
    let mut all = Vec::new();
    for _ in 0..20 {
        all.push(other.next().await);
    }
    assert!(start.elapsed() < env.streams.ack_wait, "not after ack_wait: {:?}", start.elapsed());
    let sequences: BTreeSet<u64> = all.iter().map(|delivery| delivery.info().sequence).collect();
    assert_eq!(sequences, (1..=20).collect());
}

#[tokio::test]
async fn shutdown_right_after_a_slot_came_free_leaves_no_job_on_its_way_to_nobody() {
    let env = TestEnv::ready().await;
    env.publish_jobs(20).await;
    let start = Instant::now();
    for _ in 0..5 {
        let mut intake = env.intake(env.consumer().await, 1);
        drop(intake.next().await);
        tokio::task::yield_now().await;
        intake.stop.cancel();
        intake.task.await.unwrap();
    }
    everything_comes_before_the_ack_wait(&env, start).await;
}

#[tokio::test]
async fn intake_goes_on_after_the_server_was_killed_and_came_back() {
    let mut env = TestEnv::ready().await;
    let mut intake = env.intake(env.consumer().await, 2);
    env.publish_jobs(1).await;
    let first = intake.next().await;
    env.server.kill();
    env.server.restart().await.unwrap();
    eventually("the connection is back", || async {
        env.jetstream.publish("groundling.jobs.cats", "after".into()).await.unwrap().await.is_ok()
    })
    .await;
    let receipt = env.publisher().annotation("groundling.annotations.cats".into(), &annotation("a")).await.unwrap();
    first.ack(&receipt).await.unwrap();
    // A killed server may have lost the delivery of the first job and deliver it again.
    loop {
        let next = intake.next().await;
        let is_new = next.payload() == "after";
        next.ack(&receipt).await.unwrap();
        if is_new {
            break;
        }
    }
    eventually("the jobs stream is empty", || async { env.messages_in(&env.streams.jobs).await == 0 }).await;
}

#[tokio::test]
async fn intake_goes_on_after_the_consumer_was_deleted_and_made_anew() {
    let env = TestEnv::ready().await;
    let mut intake = env.intake(env.consumer().await, 2);
    env.publish_jobs(1).await;
    drop(intake.next().await);
    let jobs = env.jetstream.get_stream(&env.streams.jobs).await.unwrap();
    jobs.delete_consumer(&env.streams.consumer).await.unwrap();
    intake.nothing_comes().await;
    setup::setup(&env.jetstream, &env.streams).await.unwrap();
    assert_eq!(&intake.next().await.payload()[..], b"job 0");
}
