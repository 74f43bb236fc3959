//! The status of a pool.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use archive::feed::{Progress, SourceState, Target};
use archive::object::Position;
use archive::status::StatusReader;
use futures::StreamExt;
use wire::Message;
use wire::v1::{self, FailureReason, ImageAnnotation, ImageJob, JobFailure};

use crate::common::fixtures::{
    dataset, failure, job, pool, publish, publish_annotation, publish_failure, publish_many, status_of,
};
use crate::common::{SyntheticStore, TestEnv, feed, source};

#[tokio::test]
async fn a_status_tells_of_each_dataset_what_the_streams_hold() {
    let env = TestEnv::start().await;
    let store = SyntheticStore::start(1500, Duration::ZERO).await;
    let mut reader = StatusReader::new(pool(&env), Vec::new(), Some(3600.0));
    assert!(reader.read().await.unwrap().datasets.is_empty());

    let fed = feed("fed", vec![source(&store.endpoint, "s3://archive/").await], 4);
    let summary = fed.run(&env.target(), &Progress::default()).await.unwrap();
    env.jetstream
        .publish("groundling.jobs.sent", job("sent", "a").encode_to_vec().into())
        .await
        .unwrap()
        .await
        .unwrap();
    let retry = v1::Retry { job: job("sent", "b").encode_to_vec().into(), ..Default::default() };
    publish(&env, "groundling.retries.sent.9-1", "r", retry.encode_to_vec()).await;
    publish_failure(&env, &failure(&job("sent", "c"), 1, FailureReason::Internal)).await;
    publish_failure(&env, &failure(&job("sent", "d"), 2, FailureReason::ObjectNotFound)).await;
    publish_failure(&env, &failure(&job("sent", "e"), 3, FailureReason::ObjectNotFound)).await;
    publish(&env, "groundling.failed.sent", "old", JobFailure::default().encode_to_vec()).await;

    // A worker takes ten jobs and ends two of them.
    let consumer = broker::setup::find_consumer(&env.jetstream, &env.streams).await.unwrap().unwrap();
    let taken: Vec<_> = consumer.fetch().max_messages(10).messages().await.unwrap().collect().await;
    for message in taken.iter().take(2) {
        let message = message.as_ref().unwrap();
        publish_annotation(&env, &ImageJob::decode(message.payload.clone()).unwrap(), "worker-1").await;
        message.double_ack().await.unwrap();
    }
    tokio::time::sleep(Duration::from_millis(1200)).await;

    let fed = status_of(&mut reader, "fed").await;
    let from = fed.source.clone().unwrap();
    assert_eq!((from.objects, from.jobs, from.total_jobs), (1500, 1500, Some(1500)));
    assert_eq!((from.lanes, from.lanes_done), (summary.lanes, summary.lanes));
    assert_eq!((from.state, from.reason, from.pass), (Some(SourceState::Complete), None, 0));
    assert_eq!(from.feeder.as_deref(), Some("test"));
    assert!(from.feeder_age_seconds.is_some_and(|seconds| (0.0..600.0).contains(&seconds)));
    assert!(!fed.stalled, "the jobs are new");
    assert_eq!((fed.queued, fed.waiting, fed.in_flight, fed.done), (1498, Some(1490), Some(8), 2));
    assert_eq!(fed.workers.map(|workers| (workers.seen, workers.at_least)), Some((1, false)));
    let rate = fed.images_per_second.thirty_minutes.unwrap();
    assert!(rate > 0.0 && rate <= 2.0, "{rate}");
    let left = fed.eta_seconds.unwrap();
    assert!(left.least > 700.0 && left.most.unwrap() >= left.least, "{left:?}");
    let (spent, cost) = (fed.device_seconds.unwrap(), fed.cost.unwrap());
    assert!((cost.so_far.unwrap() - spent).abs() < 1e-9, "a worker costs 1 per second");
    assert_eq!(cost.per_thousand.unwrap(), cost.so_far.unwrap() / 2.0 * 1000.0);

    let sent = status_of(&mut reader, "sent").await;
    assert_eq!((sent.source, sent.queued, sent.retrying, sent.done, sent.failed), (None, 1, 1, 0, 4));
    let reasons = [("internal", 1), ("object_not_found", 2), ("unknown", 1)];
    assert_eq!(sent.failed_by_reason, reasons.map(|(reason, count)| (reason.to_owned(), count)).into());
    assert_eq!((sent.workers, sent.device_seconds, sent.eta_seconds), (None, None, None), "nothing is done yet");

    let total = reader.read().await.unwrap().total.unwrap();
    assert_eq!((total.queued, total.waiting, total.in_flight), (1499, Some(1491), Some(8)));
    assert_eq!((total.retrying, total.done, total.failed), (1, 2, 4));

    let mut one = StatusReader::new(pool(&env), vec![dataset("sent")], None);
    let status = one.read().await.unwrap();
    assert_eq!(status.total, None);
    let names: Vec<_> = status.datasets.into_iter().map(|dataset| dataset.dataset).collect();
    assert_eq!(names, ["sent"]);
}

#[tokio::test]
async fn positions_stay_in_the_order_of_the_lanes() {
    let env = TestEnv::start().await;
    let store = SyntheticStore::start(6000, Duration::ZERO).await;
    let fed = feed("fed", vec![source(&store.endpoint, "s3://archive/").await], 8);
    let (target, progress) = (Target { max_waiting: 3000, ..env.target() }, Progress::default());
    // Some lanes are at their end when it waits for workers.
    tokio::select! {
        ended = fed.run(&target, &progress) => panic!("{ended:?}"),
        _ = env.wait_until_stable("groundling.jobs.fed") => {}
    }
    let mut reader = StatusReader::new(pool(&env), vec![dataset("fed")], None);
    let first = status_of(&mut reader, "fed").await.source.unwrap();
    assert_eq!(first.state, Some(SourceState::Active));
    assert!(first.positions.contains(&Position::End) && first.positions.contains(&Position::Start), "{first:?}");
    for _ in 0..2 {
        assert_eq!(status_of(&mut reader, "fed").await.source.unwrap().positions, first.positions);
    }
}

#[tokio::test]
async fn the_time_of_several_workers_is_added() {
    let env = TestEnv::start().await;
    for second in 0..4 {
        for (worker, key) in [("one", "a"), ("two", "b"), ("three", "c")] {
            publish_annotation(&env, &job("cats", &format!("{key}{second}")), worker).await;
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    let mut reader = StatusReader::new(pool(&env), Vec::new(), None);
    let status = status_of(&mut reader, "cats").await;
    assert_eq!(status.workers.unwrap().seen, 3);
    let seconds = status.device_seconds.unwrap();
    assert!((6.0..=12.0).contains(&seconds), "three workers for about three seconds: {seconds}");
    assert_eq!(status.cost, None);
    assert_eq!(status.eta_seconds.unwrap().most, Some(0.0), "nothing is left");
}

#[tokio::test]
#[ignore = "takes minutes: ANNOTATIONS=1000000 cargo test -p archive --test repair -- --ignored --nocapture cost_of_a_refresh"]
async fn the_cost_of_a_refresh_does_not_grow_with_the_stream() {
    let count: u64 = std::env::var("ANNOTATIONS").map_or(1_000_000, |count| count.parse().unwrap());
    let env = TestEnv::start().await;
    let mut requests = Vec::new();
    for (name, count) in [("small", 1000), ("large", count)] {
        let subject = dataset(name).annotations_subject();
        let started = Instant::now();
        publish_many(&env, count, &subject, |i| {
            let worker = Some(v1::WorkerIdentity { worker_id: format!("worker-{}", i % 4), ..Default::default() });
            ImageAnnotation { worker, ..ImageAnnotation::default() }.encode_to_vec()
        })
        .await;
        let stored = started.elapsed();
        let mut reader = StatusReader::new(pool(&env), vec![dataset(name)], None);
        for what in ["first", "second"] {
            let statistics = env.jetstream.client().statistics();
            let sent = || statistics.out_messages.load(Ordering::Relaxed);
            let received = || statistics.in_bytes.load(Ordering::Relaxed);
            let (before, bytes, started) = (sent(), received(), Instant::now());
            let status = status_of(&mut reader, name).await;
            let took = started.elapsed();
            assert_eq!(status.done, count);
            eprintln!(
                "{count} annotations, stored in {stored:.0?}: the {what} refresh took {took:.1?}, {} requests, {} kB",
                sent() - before,
                (received() - bytes) / 1000
            );
            requests.push(sent() - before);
        }
    }
    assert!(requests[2] <= requests[0] + 60, "{requests:?} requests");
}
