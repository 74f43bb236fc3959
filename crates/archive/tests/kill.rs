//! Kills a feeder process at random times, and measures its memory.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a panic in a test is the report")]

mod common;

use std::collections::HashMap;
use std::time::{Duration, Instant};

use archive::feed::Progress;
use common::{SyntheticStore, TestEnv, child, feed, jetstream, random, source, target};

#[tokio::test]
#[ignore = "the other tests of this file start it"]
async fn a_feeder_of_4_lanes() {
    run_feeder(4).await;
}

#[tokio::test]
#[ignore = "the other tests of this file start it"]
async fn a_feeder_of_16_lanes() {
    run_feeder(16).await;
}

async fn run_feeder(lanes: usize) {
    let Some(inputs) = child::inputs() else { return };
    let feed = feed(&inputs.dataset, vec![source(&inputs.store, "s3://archive/").await], lanes);
    let name = format!("process {}", std::process::id());
    let target = target(&jetstream(&inputs.nats).await, &Default::default(), &name);
    let started = Instant::now();
    let summary = feed.run(&target, &Progress::default()).await.unwrap();
    child::report(&format!("jobs={} seconds={:.1}", summary.total.jobs, started.elapsed().as_secs_f64()));
}

/// Kills feeders until this many were killed before their end, and compares the queue with the archive.
async fn kill_feeders(kills: u32) {
    const KEYS: u64 = 60_000;
    let (env, store) = (TestEnv::start().await, SyntheticStore::start(KEYS, Duration::from_millis(100)).await);
    let wanted: HashMap<String, u32> = store.keys().into_iter().map(|key| (key, 1)).collect();
    let (mut killed, mut runs, mut jobs) = (0, 0, 0);
    let mut random = random();
    while killed < kills {
        let dataset = format!("run-{runs}");
        loop {
            let feeder = child::spawn("a_feeder_of_4_lanes", &env, &store.endpoint, &dataset);
            let time = if killed < kills { Duration::from_millis(100 + random(1500)) } else { Duration::MAX };
            if !child::kill_after(feeder, time).await {
                break;
            }
            killed += 1;
        }
        let found = env.drain().await;
        let lost = wanted.keys().filter(|key| !found.contains_key(*key)).count();
        let twice = found.values().filter(|times| **times > 1).count();
        assert_eq!((lost, twice, found.len()), (0, 0, wanted.len()), "dataset {dataset}");
        runs += 1;
        jobs += found.len();
    }
    eprintln!("{killed} feeders killed in {runs} runs over {jobs} objects: jobs lost 0, jobs twice 0");
}

#[tokio::test]
async fn fifty_killed_feeders_lose_no_job_and_repeat_none() {
    kill_feeders(50).await;
}

#[tokio::test]
#[ignore = "takes minutes: cargo test -p archive --test kill -- --ignored --nocapture two_hundred"]
async fn two_hundred_killed_feeders_lose_no_job_and_repeat_none() {
    kill_feeders(200).await;
}

#[tokio::test]
#[ignore = "takes minutes: cargo test -p archive --test kill -- --ignored --nocapture memory_does"]
async fn memory_does_not_grow_with_the_archive() {
    measure_memory(&[1_000_000, 2_000_000]).await;
}

#[tokio::test]
#[ignore = "takes an hour: cargo test -p archive --test kill -- --ignored --nocapture memory_of_ten"]
async fn memory_of_ten_million_keys_is_that_of_a_million() {
    measure_memory(&[100_000, 1_000_000, 10_000_000]).await;
}

async fn measure_memory(sizes: &[u64]) {
    let env = TestEnv::start().await;
    let mut peaks = Vec::new();
    for &keys in sizes {
        let store = SyntheticStore::start(keys, Duration::ZERO).await;
        let feeder = child::spawn("a_feeder_of_16_lanes", &env, &store.endpoint, &format!("keys-{keys}"));
        let (line, peak) = child::result(feeder).await;
        eprintln!("{keys} keys: {line}");
        peaks.push(peak);
    }
    let [.., smaller, larger] = peaks[..] else { panic!("two sizes are compared") };
    assert!(larger < smaller * 1.3, "{peaks:?} MB");
}
