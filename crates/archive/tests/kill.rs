//! Kills a feeder process at random times, and measures its memory.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a panic in a test is the report")]

mod common;

use std::collections::HashMap;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use archive::feed::Progress;
use common::{Bench, SyntheticStore, feed, jetstream, memory, random, source, target};

const NATS: &str = "ARCHIVE_TEST_NATS";
const STORE: &str = "ARCHIVE_TEST_STORE";
const DATASET: &str = "ARCHIVE_TEST_DATASET";
const LANES: &str = "ARCHIVE_TEST_LANES";

/// Starts this test program as a feeder.
fn start(bench: &Bench, store: &SyntheticStore, dataset: &str, lanes: usize) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "a_feeder", "--ignored", "--nocapture"])
        .env(NATS, bench.server.client_url())
        .env(STORE, &store.endpoint)
        .env(DATASET, dataset)
        .env(LANES, lanes.to_string())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

#[tokio::test]
#[ignore = "the other tests of this file start it"]
async fn a_feeder() {
    let Ok(url) = std::env::var(NATS) else { return };
    let of = |name: &str| std::env::var(name).unwrap();
    let lanes = of(LANES).parse().unwrap();
    let feed = feed(&of(DATASET), vec![source(&of(STORE), "s3://archive/").await], lanes);
    let name = format!("process {}", std::process::id());
    let target = target(&jetstream(&url).await, &Default::default(), &name);
    let started = Instant::now();
    let summary = feed.run(&target, &Progress::default()).await.unwrap();
    let (now, most) = memory();
    println!(
        "jobs={} peak_mb={most:.1} mb={now:.1} seconds={:.1}",
        summary.total.jobs,
        started.elapsed().as_secs_f64()
    );
}

/// Kills feeders until this many were killed before their end, and compares the queue with the archive.
async fn kill_feeders(kills: u32) {
    const KEYS: u64 = 60_000;
    let (bench, store) = (Bench::ready().await, SyntheticStore::start(KEYS, Duration::from_millis(100)).await);
    let wanted: HashMap<String, u32> = store.keys().into_iter().map(|key| (key, 1)).collect();
    let (mut killed, mut runs, mut jobs) = (0, 0, 0);
    let mut random = random();
    while killed < kills {
        let dataset = format!("run-{runs}");
        loop {
            let mut feeder = start(&bench, &store, &dataset, 4);
            let until = Instant::now() + Duration::from_millis(100 + random(1500));
            let end = loop {
                match feeder.try_wait().unwrap() {
                    None if killed < kills && Instant::now() >= until => break None,
                    None => tokio::time::sleep(Duration::from_millis(5)).await,
                    Some(status) => break Some(status),
                }
            };
            match end {
                Some(status) => {
                    assert!(status.success());
                    break;
                }
                None => {
                    feeder.kill().unwrap();
                    feeder.wait().unwrap();
                    killed += 1;
                }
            }
        }
        let found = bench.drain().await;
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
    let bench = Bench::ready().await;
    let mut peaks = Vec::new();
    for &keys in sizes {
        let store = SyntheticStore::start(keys, Duration::ZERO).await;
        let feeder = start(&bench, &store, &format!("keys-{keys}"), 16);
        // The store answers on this thread.
        let output = tokio::task::spawn_blocking(|| feeder.wait_with_output()).await.unwrap().unwrap();
        let output = String::from_utf8(output.stdout).unwrap();
        let line = output.lines().find(|line| line.contains("peak_mb=")).unwrap();
        eprintln!("{keys} keys: {line}");
        let peak = line.split("peak_mb=").nth(1).unwrap().split(' ').next().unwrap();
        peaks.push(peak.parse::<f64>().unwrap());
    }
    let [.., smaller, larger] = peaks[..] else { panic!("two sizes are compared") };
    assert!(larger < smaller * 1.3, "{peaks:?} MB");
}
