//! A job that the server no longer delivers.

use std::time::Duration;

use async_nats::jetstream::consumer::pull;
use wire::subjects::JOBS_FILTER;
use wire::v1::FailureReason;
use worker::JobEvent;
use worker::delivery_info::DeliveryInfo;

use super::{Running, TestEnv, bitmap, eventually, job, submit};

/// A job that the server has delivered as often as its consumer's `max_deliver` allows.
pub(crate) async fn given_up(env: &TestEnv) -> DeliveryInfo {
    for (name, max_deliver, seconds, filter) in
        [(&env.streams.jobs, 1, 3, JOBS_FILTER), (&env.streams.advisories, -1, 1, "")]
    {
        let stream = env.jetstream.get_stream(name).await.unwrap();
        stream.delete_consumer(&env.streams.consumer).await.unwrap();
        let durable_name = Some(env.streams.consumer.clone());
        let ack_wait = Duration::from_secs(seconds);
        let filter_subject = filter.to_owned();
        let config = pull::Config { durable_name, ack_wait, max_deliver, filter_subject, ..Default::default() };
        stream.create_consumer(config).await.unwrap();
    }
    submit(env, &job("given up", bitmap())).await;
    let mut intake = env.intake(env.consumer().await, 1);
    let delivery = intake.next().await;
    let info = delivery.info().clone();
    drop(delivery);
    intake.stop.cancel();
    intake.task.await.unwrap();
    // The server publishes the advisory only while there are pull requests.
    let idle = env.intake(env.consumer().await, 1);
    eventually("the server publishes an advisory", || async { env.messages_in(&env.streams.advisories).await == 1 })
        .await;
    idle.stop.cancel();
    idle.task.await.unwrap();
    info
}

/// A worker records a failure for it and removes it.
pub(crate) async fn ends_as_a_failure(env: &TestEnv) {
    let mut running = Running::start(env);
    match running.event().await {
        JobEvent::Failed { job_id, reason, .. } => {
            assert_eq!((job_id.as_deref(), reason), (Some("given up"), FailureReason::RetriesExhausted));
        }
        other => panic!("{other:?}"),
    }
    eventually("the job has left the queue", || async { env.messages_in(&env.streams.jobs).await == 0 }).await;
    eventually("the advisory is handled", || async { env.messages_in(&env.streams.advisories).await == 0 }).await;
    running.end().await;
    assert_eq!(env.messages_in(&env.streams.failed).await, 1);
}
