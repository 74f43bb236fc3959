//! Limits of a worker: bytes in transit, time for shutdown, time with refused credentials, open files.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a panic in a test is the report")]

use crate::common;

use std::sync::Arc;
use std::time::{Duration, Instant};

use async_nats::jetstream::stream::{Config, DiscardPolicy};
use common::{Held, PATIENCE, Running, TestEnv, Yes, bitmap, eventually, job, parts, settings, submit};
use futures::StreamExt;
use rustix::process::{Resource, getrlimit};
use sandbox::{NatsCluster, NatsOptions, NatsServer};
use tokio_util::sync::CancellationToken;
use wire::Message;
use worker::settings::{NatsSettings, S3Settings, Secret, StreamSettings};
use worker::{JobEvent, Settings};

#[tokio::test(flavor = "multi_thread")]
async fn hundreds_of_slots_and_large_jobs_do_not_overrun_the_connection() {
    const JOBS: usize = 600;
    let env = TestEnv::ready().await;
    let padding = vec![0; 500_000];
    futures::stream::iter(0..JOBS)
        .for_each_concurrent(8, |i| {
            let job = job(&format!("job-{i}"), [bitmap(), padding.clone()].concat());
            let env = &env;
            async move { submit(env, &job).await }
        })
        .await;
    let mut settings = settings(&env);
    settings.worker.slots = Some(JOBS);
    let mut running = Running::start_with(settings, Arc::new(Yes));
    for _ in 0..JOBS {
        let event = running.event().await;
        assert!(matches!(event, JobEvent::Finished { .. }), "{event:?}");
    }
    let info = env.consumer_info().await;
    assert_eq!(info.delivered.consumer_sequence, JOBS as u64, "each was delivered once");
    let report = running.end().await;
    assert_eq!((report.finished, report.retried, report.pulls_lost), (JOBS as u64, 0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn in_a_cluster_the_last_jobs_of_a_request_come_after_the_word_that_it_is_over() {
    const JOBS: usize = 60;
    let cluster = NatsCluster::start(3, &NatsOptions::default()).await.unwrap();
    let nats = NatsSettings { url: cluster.nodes[0].client_url().to_owned(), ..Default::default() };
    let client = broker::connection::connect(&nats, "test").await.unwrap();
    let jetstream = broker::connection::jetstream(&client, &nats);
    let streams = StreamSettings { replicas: 3, ..Default::default() };
    // The cluster may have no leader yet.
    eventually("the streams are made", || async { broker::setup::setup(&jetstream, &streams).await.is_ok() }).await;
    let padding = vec![0; 300_000];
    for i in 0..JOBS {
        let job = job(&format!("job-{i}"), [bitmap(), padding.clone()].concat());
        let payload = job.encode_to_vec();
        jetstream.publish("groundling.jobs.cats", payload.into()).await.unwrap().await.unwrap();
    }
    let s3 = S3Settings { allow: vec!["*".into()], anonymous: true, ..Default::default() };
    let mut settings = Settings { nats, streams: streams.clone(), s3, ..Default::default() };
    settings.worker.slots = Some(JOBS);
    let mut running = Running::start_with(settings, Arc::new(Yes));
    for _ in 0..JOBS {
        let event = running.event().await;
        assert!(matches!(event, JobEvent::Finished { duplicate: false, .. }), "{event:?}");
    }
    let report = running.end().await;
    assert_eq!((report.finished, report.retried, report.pulls_lost), (JOBS as u64, 0, 0));
    let stream = jetstream.get_stream(&streams.jobs).await.unwrap();
    let info = stream.consumer_info(&streams.consumer).await.unwrap();
    assert_eq!(info.delivered.consumer_sequence, JOBS as u64, "each was delivered once");
}

async fn change_annotations(env: &TestEnv, change: impl FnOnce(&mut Config)) {
    let stream = env.jetstream.get_stream(&env.streams.annotations).await.unwrap();
    let mut config = stream.cached_info().config.clone();
    change(&mut config);
    env.jetstream.update_stream(&config).await.unwrap();
}

#[tokio::test]
async fn at_the_end_an_outcome_that_is_written_down_does_not_wait_for_its_stream() {
    let env = TestEnv::ready().await;
    change_annotations(&env, |config| (config.max_messages, config.discard) = (1, DiscardPolicy::New)).await;
    for id in ["first", "second"] {
        submit(&env, &job(id, bitmap())).await;
    }
    let mut running = Running::start(&env);
    running.event().await;
    eventually("both outcomes are claimed", || async { env.messages_in(&env.streams.outcomes).await == 2 }).await;
    let told = Instant::now();
    running.stop.cancel();
    // The default of worker.publish_timeout is two minutes.
    let report = tokio::time::timeout(PATIENCE, running.task).await.expect("the worker should end").unwrap().unwrap();
    assert_eq!((report.finished, report.failed, report.retried), (1, 0, 1), "{:?}", told.elapsed());
    change_annotations(&env, |config| config.max_messages = -1).await;
    // Another worker publishes the claimed outcome without processing the job.
    let mut other = Running::start_with(settings(&env), Held::new());
    let event = other.event().await;
    assert!(matches!(event, JobEvent::Finished { duplicate: false, .. }), "{event:?}");
    other.end().await;
    assert_eq!(env.messages_in(&env.streams.annotations).await, 2);
}

#[tokio::test]
async fn a_worker_whose_password_is_no_longer_taken_ends_after_a_while() {
    let with = |password: &str| NatsOptions {
        extra_config: format!("authorization {{ user: worker, password: {password} }}"),
        ..Default::default()
    };
    let server = NatsServer::start(&with("before")).await.unwrap();
    let nats = NatsSettings {
        url: server.client_url().to_owned(),
        user: Some("worker".into()),
        password: Some(Secret::new("before")),
        refused_timeout: Duration::from_secs(5),
        ..Default::default()
    };
    let client = broker::connection::connect(&nats, "test").await.unwrap();
    let jetstream = broker::connection::jetstream(&client, &nats);
    let env = TestEnv { server, nats, streams: Default::default(), client, jetstream };
    broker::setup::setup(&env.jetstream, &env.streams).await.unwrap();
    submit(&env, &job("in hand", bitmap())).await;
    let engine = Held::new();
    let mut running = Running::start_with(settings(&env), engine.clone());
    engine.asked.acquire().await.unwrap().forget();
    // Only for a moment: the worker continues.
    env.server.reload(&with("after")).unwrap();
    tokio::time::sleep(Duration::from_secs(2)).await;
    env.server.reload(&with("before")).unwrap();
    engine.answers.add_permits(1);
    assert!(matches!(running.event().await, JobEvent::Finished { .. }));
    env.server.reload(&with("after")).unwrap();
    let ended = tokio::time::timeout(PATIENCE * 2, running.task).await.expect("the worker should end");
    let error = ended.unwrap().unwrap_err().to_string();
    assert!(error.contains("nats.refused_timeout") && error.contains("credentials"), "{error}");
}

/// Environment variable: the slots of the worker of the tests below.
const SLOTS: &str = "DESCRIPTORS_TEST_SLOTS";

/// Not a test: a worker that is shut down before it starts and prints how many files it may open.
#[tokio::test]
#[ignore = "run by the tests below, with limits of open files"]
async fn worker_with_a_limit_of_open_files() {
    let Ok(slots) = std::env::var(SLOTS) else { return };
    let s3 = S3Settings { allow: vec!["*".into()], anonymous: true, ..Default::default() };
    let mut settings = Settings { s3, ..Default::default() };
    settings.worker.slots = Some(slots.parse().unwrap());
    let stop = CancellationToken::new();
    stop.cancel();
    match worker::run(parts(settings), stop).await {
        Ok(_) => println!("may open {:?}", getrlimit(Resource::Nofile).current),
        Err(error) => println!("refused: {error}"),
    }
}

fn started_with(limits: &str, slots: usize) -> String {
    let test = std::env::current_exe().unwrap();
    let command =
        format!("{limits} && exec \"$0\" --exact bounds::worker_with_a_limit_of_open_files --ignored --nocapture");
    let mut shell = std::process::Command::new("sh");
    let output = shell.args(["-c", &command]).arg(test).env(SLOTS, slots.to_string()).output().unwrap();
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn a_limit_of_open_files_that_is_too_low_is_raised_as_far_as_the_slots_need() {
    let said = started_with("ulimit -Sn 100", 300);
    let limit: u64 =
        said.split("may open Some(").nth(1).and_then(|rest| rest.split(')').next()?.parse().ok()).expect(&said);
    assert!((2700..3000).contains(&limit), "{said}");
    assert!(started_with("ulimit -Sn 700", 8).contains("may open Some(700)"), "what is enough stays");
}

#[test]
fn a_worker_whose_slots_need_more_files_than_it_may_open_does_not_start() {
    let said = started_with("ulimit -n 700", 300);
    assert!(said.contains("refused: 300 slots need") && said.contains("may have 700 at most"), "{said}");
    let possible: usize =
        said.split("lower worker.slots to ").nth(1).and_then(|rest| rest.lines().next()?.parse().ok()).expect(&said);
    assert!(started_with("ulimit -n 700", possible).contains("may open"), "{possible} slots are possible");
}
