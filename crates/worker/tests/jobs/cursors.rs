//! Workers never receive the cursors of `groundling enqueue`, which are in the jobs stream too.
#![allow(clippy::unwrap_used, reason = "a panic in a test is the report")]

use crate::common;

use common::{Bench, Running, bitmap, eventually, given_up, job, submit};
use worker::JobEvent;

async fn store_cursor(bench: &Bench, lane: u32) {
    let subject = format!("groundling.cursor.cats.{lane}");
    bench.jetstream.publish(subject, "{}".into()).await.unwrap().await.unwrap();
}

#[tokio::test]
async fn a_worker_takes_jobs_and_leaves_cursors() {
    let bench = Bench::ready().await;
    store_cursor(&bench, 0).await;
    submit(&bench, &job("job", bitmap())).await;
    store_cursor(&bench, 1).await;
    let mut running = Running::start(&bench);
    let event = running.event().await;
    assert!(matches!(event, JobEvent::Finished { .. }), "{event:?}");
    let report = running.end().await;
    assert_eq!((report.finished, report.failed), (1, 0));
    assert_eq!(bench.messages_in(&bench.streams.jobs).await, 2);
}

#[tokio::test]
async fn a_job_that_the_server_has_lost_track_of_is_requeued_and_cursors_around_it_stay() {
    let bench = Bench::ready().await;
    store_cursor(&bench, 0).await;
    given_up(&bench).await;
    store_cursor(&bench, 1).await;
    // As if there had been no advisory.
    bench.jetstream.get_stream(&bench.streams.advisories).await.unwrap().purge().await.unwrap();
    let mut running = Running::start(&bench);
    let event = running.event().await;
    assert!(matches!(&event, JobEvent::Finished { .. }), "{event:?}");
    eventually("the job has left the queue", || async { bench.messages_in(&bench.streams.jobs).await == 2 }).await;
    // Long enough for some more scans.
    tokio::time::sleep(std::time::Duration::from_secs(8)).await;
    running.end().await;
    assert_eq!(bench.messages_in(&bench.streams.jobs).await, 2);
    let ended = [&bench.streams.annotations, &bench.streams.failed].map(|stream| bench.messages_in(stream));
    assert_eq!(futures::future::join_all(ended).await, [1, 0]);
}
