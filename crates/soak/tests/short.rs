//! Short soak runs.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a panic in a test is the report")]

use std::path::{Path, PathBuf};
use std::time::Duration;

use soak::faults::Fault;
use soak::scale::{Scale, ScaleOptions, scale};
use soak::{Options, Summary, run};

fn options(name: &str, nodes: usize) -> Options {
    Options {
        jobs: 300,
        events: 0,
        faults: 24,
        only: None,
        seed: 7,
        nodes,
        workers: 3,
        groundling: None,
        previous: None,
        soak: PathBuf::from(env!("CARGO_BIN_EXE_soak")),
        logs: Path::new(env!("CARGO_TARGET_TMPDIR")).join(name),
    }
}

async fn keeps_the_promise(options: Options) {
    let (summary, problems) = run(&options).await.unwrap();
    assert!(problems.is_empty(), "{problems:#?}");
    let Summary { jobs, annotations, failures, lost, duplicates, stored_again, unexpected, .. } = summary;
    assert_eq!((jobs, lost, duplicates, unexpected), (options.jobs + options.events, 0, 0, 0));
    assert!((jobs..=jobs + stored_again).contains(&(annotations + failures)), "{annotations} + {failures}");
    assert!(failures > 0, "the plan has jobs that cannot be done");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_accepted_job_ends_exactly_once_whatever_dies_around_one_server() {
    keeps_the_promise(Options { events: 60, ..options("short-1", 1) }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_accepted_job_ends_exactly_once_whatever_dies_in_a_cluster_of_three() {
    keeps_the_promise(Options { events: 60, faults: 16, seed: 8, ..options("short-3", 3) }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rolling_restart_of_a_cluster_under_load_loses_nothing_and_doubles_nothing() {
    let only = Some(Fault::Roll { all: true });
    keeps_the_promise(Options { faults: 1, seed: 9, only, workers: 2, ..options("roll", 3) }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_is_killed_and_comes_back_costs_no_job_its_life() {
    let only = Some(Fault::CrashStore);
    keeps_the_promise(Options { faults: 2, seed: 10, only, workers: 2, ..options("store", 1) }).await;
}

/// Two runs at a time: each has servers and workers of its own.
#[tokio::test(flavor = "multi_thread")]
async fn no_healthy_job_fails_whatever_operators_do() {
    // With seed 5, the first fault replaces all workers after the duplicate window.
    let restarts_and_clocks = [("restart-workers", 1, 11), ("skew-clock", 2, 5)];
    let limits = [("fill-stream", 2, 11), ("exhaust-storage", 2, 11)];
    let consumers = [("recreate-consumer", 2, 11), ("change-consumer", 1, 11)];
    let stores = [("stall", 2, 11), ("drip", 2, 11)];
    for runs in [restarts_and_clocks, limits, consumers, stores] {
        let runs = runs.map(|(name, faults, seed)| {
            let (_, only) = Fault::NAMED.into_iter().find(|(known, _)| *known == name).unwrap();
            keeps_the_promise(Options { jobs: 100, faults, seed, only: Some(only), ..options(name, 1) })
        });
        futures::future::join_all(runs).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_number_of_workers_is_measured_with_what_a_job_costs() {
    let options = ScaleOptions {
        workers: vec![1, 2],
        request_time: Duration::from_millis(10),
        duration: Duration::from_secs(1),
        soak: PathBuf::from(env!("CARGO_BIN_EXE_soak")),
        logs: Path::new(env!("CARGO_TARGET_TMPDIR")).join("scale"),
    };
    let mut results = Vec::new();
    scale(&options, |result| results.push(result.clone())).await.unwrap();
    assert_eq!(results.iter().map(|result| (result.workers, result.jobs)).collect::<Vec<_>>(), [(1, 100), (2, 200)]);
    for Scale { images_per_s, engine_share, cpu_share, job, .. } in &results {
        assert!(*images_per_s > 0.0 && *cpu_share > 0.0 && *engine_share <= 1.05, "{engine_share}");
        // At least the claim, the annotation and the acknowledgement; the job and the answers to the publishes.
        assert!(job.nats_messages_in >= 3.0 && job.nats_messages_out >= 3.0, "{job:?}");
        assert!(job.stored_bytes.values().all(|bytes| *bytes > 50.0) && job.worker_cpu_ms > 0.0, "{job:?}");
    }
}
