//! The rate of the feeder, compared with a publisher without its guarantee.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a panic in a test is the report")]

use crate::common;

use std::time::{Duration, Instant};

use archive::feed::Progress;
use archive::object::SourceObject;
use async_nats::jetstream::Context;
use async_nats::jetstream::message::PublishMessage;
use broker::settings::StreamSettings;
use broker::setup;
use common::{TestEnv, feed, jetstream, open, target};
use futures::{StreamExt, TryStreamExt, stream};
use sandbox::NatsCluster;
use wire::Message;

const JOBS: usize = 200_000;
/// Maximum number of unacknowledged messages of each lane.
const UNACKNOWLEDGED: usize = 512;

fn object(i: usize) -> SourceObject {
    SourceObject {
        bucket: "archive".into(),
        key: format!("2024/11/29/scene-{i:08}.jpg"),
        etag: Some(format!("{i:032x}")),
        ..SourceObject::default()
    }
}

/// Publishes the same jobs one by one. With `run`, with their ids as `Nats-Msg-Id` as docs/protocol.md says, followed by the
/// run's name: the server knows those of the runs before. Returns jobs per second.
async fn publish(jetstream: &Context, lanes: usize, run: Option<&str>) -> f64 {
    let recipe = feed("published", Vec::new(), 1).recipe;
    let started = Instant::now();
    let runs = (0..lanes).map(|lane| {
        let recipe = &recipe;
        let publishes = (lane..JOBS).step_by(lanes).map(move |i| async move {
            let job = recipe.job(&object(i));
            let mut message = PublishMessage::build().payload(job.encode_to_vec().into());
            if let Some(run) = run {
                message = message.message_id(format!("{}{run}", job.job_id));
            }
            jetstream.send_publish("groundling.jobs.published", message).await.unwrap().await.unwrap();
        });
        stream::iter(publishes).buffer_unordered(UNACKNOWLEDGED).for_each(|()| std::future::ready(()))
    });
    futures::future::join_all(runs).await;
    JOBS as f64 / started.elapsed().as_secs_f64()
}

/// Feeds as many files of keys as there are lanes. Returns jobs per second.
async fn enqueue(jetstream: &Context, streams: &StreamSettings, lanes: usize) -> f64 {
    let dir = tempfile::tempdir().unwrap();
    let sources = (0..lanes).map(|lane| {
        let path = dir.path().join(format!("{lane}.csv"));
        let rows = (lane..JOBS).step_by(lanes).map(object).map(|o| format!("archive,{},{}\n", o.key, o.etag.unwrap()));
        std::fs::write(&path, format!("bucket,key,etag\n{}", rows.collect::<String>())).unwrap();
        async move { open("http://127.0.0.1:9", path.to_str().unwrap(), None).await }
    });
    let sources = stream::iter(sources).buffered(1).try_collect().await.unwrap();
    let feed = feed(&format!("fed-{lanes}"), sources, lanes);
    let started = Instant::now();
    let summary = feed.run(&target(jetstream, streams, "rates"), &Progress::default()).await.unwrap();
    assert_eq!(summary.total.jobs, JOBS as u64);
    JOBS as f64 / started.elapsed().as_secs_f64()
}

/// The rates of the feeder as parts of those of a bare publisher with ids, for 1, 4 and 16 lanes.
async fn compare(what: &str, jetstream: &Context, streams: &StreamSettings) -> Vec<f64> {
    let mut parts = Vec::new();
    for lanes in [1, 4, 16] {
        let purge = async || {
            let stream = jetstream.get_stream(&streams.jobs).await.unwrap();
            stream.purge().await.unwrap();
        };
        let mut rates = [const { Vec::new() }; 3];
        for run in ["a", "b", "c"] {
            rates[0].push(publish(jetstream, lanes, None).await);
            purge().await;
            rates[1].push(publish(jetstream, lanes, Some(&format!("{lanes}{run}"))).await);
            purge().await;
            rates[2].push(enqueue(jetstream, streams, lanes).await);
            purge().await;
        }
        let [without_ids, with_ids, batches] = rates.map(|mut rates| {
            rates.sort_by(f64::total_cmp);
            rates[1]
        });
        eprintln!(
            "{what}, {lanes} lanes: jobs/s one by one {without_ids:.0}, with ids {with_ids:.0}; in batches with cursors \
             {batches:.0}, {:.0} % and {:.0} %",
            100.0 * batches / without_ids,
            100.0 * batches / with_ids
        );
        parts.push(batches / with_ids);
    }
    parts
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "a measurement: cargo test --workspace --test feeding rates -- --ignored --nocapture"]
async fn the_feeder_is_as_fast_as_a_bare_publisher() {
    let env = TestEnv::start().await;
    let mut parts = compare("one server", &env.jetstream, &env.streams).await;
    drop(env);
    let cluster = NatsCluster::start(3, &Default::default()).await.unwrap();
    let jetstream = jetstream(cluster.nodes[0].client_url()).await;
    let streams = StreamSettings { replicas: 3, jobs_max_bytes: Some(4 << 30), ..StreamSettings::default() };
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert!(setup::setup(&jetstream, &streams).await.unwrap().is_ready());
    parts.extend(compare("three servers, three copies", &jetstream, &streams).await);
    assert!(parts.iter().all(|part| *part >= 0.8), "{parts:.2?}");
}
