//! Workers never receive the cursors of `groundling enqueue`, which are in the jobs stream too.
#![allow(clippy::unwrap_used, reason = "a panic in a test is the report")]

use crate::common;

use common::{Running, TestEnv, bitmap, eventually, given_up, job, submit};
use worker::JobEvent;

async fn store_cursor(env: &TestEnv, lane: u32) {
    let subject = format!("groundling.cursor.cats.{lane}");
    env.jetstream.publish(subject, "{}".into()).await.unwrap().await.unwrap();
}

#[tokio::test]
async fn a_worker_takes_jobs_and_leaves_cursors() {
    let env = TestEnv::ready().await;
    store_cursor(&env, 0).await;
    submit(&env, &job("job", bitmap())).await;
    store_cursor(&env, 1).await;
    let mut running = Running::start(&env);
    let event = running.event().await;
    assert!(matches!(event, JobEvent::Finished { .. }), "{event:?}");
    let report = running.end().await;
    assert_eq!((report.finished, report.failed), (1, 0));
    assert_eq!(env.messages_in(&env.streams.jobs).await, 2);
}

#[tokio::test]
async fn a_job_that_the_server_has_lost_track_of_is_requeued_and_cursors_around_it_stay() {
    let env = TestEnv::ready().await;
    store_cursor(&env, 0).await;
    given_up(&env).await;
    store_cursor(&env, 1).await;
    // As if there had been no advisory.
    env.jetstream.get_stream(&env.streams.advisories).await.unwrap().purge().await.unwrap();
    let mut running = Running::start(&env);
    let event = running.event().await;
    assert!(matches!(&event, JobEvent::Finished { .. }), "{event:?}");
    eventually("the job has left the queue", || async { env.messages_in(&env.streams.jobs).await == 2 }).await;
    // Long enough for some more scans.
    tokio::time::sleep(std::time::Duration::from_secs(8)).await;
    running.end().await;
    assert_eq!(env.messages_in(&env.streams.jobs).await, 2);
    let ended = [&env.streams.annotations, &env.streams.failed].map(|stream| env.messages_in(stream));
    assert_eq!(futures::future::join_all(ended).await, [1, 0]);
}
