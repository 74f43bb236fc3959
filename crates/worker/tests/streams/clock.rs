//! A worker with a wrong clock, in a process of its own.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a panic in a test is the report")]

use crate::common;

use std::process::Stdio;
use std::time::{Duration, Instant, SystemTime};

use common::{PATIENCE, TestEnv, annotated, bitmap, eventually, job, parts, settings, submit};
use sandbox::ShiftedClock;
use tokio::process::Command;
use tokio_util::sync::CancellationToken;
use worker::Settings;
use worker::outcomes::Outcomes;
use worker::settings::NatsSettings;

/// Environment variable: the server's address, for the process with the wrong clock.
const URL: &str = "CLOCK_TEST_NATS_URL";
/// Environment variable: the right time, in seconds since 1970.
const RIGHT: &str = "CLOCK_TEST_SECONDS";

/// Short time limits, so that outcomes are soon old.
fn hasty(mut settings: Settings) -> Settings {
    settings.streams.ack_wait = Duration::from_secs(3);
    settings.worker.max_retry_delay = Duration::from_secs(1);
    settings.worker.job_timeout = Duration::from_secs(1);
    settings.worker.publish_timeout = Duration::from_secs(1);
    settings.streams.duplicate_window = settings.longest_redelivery();
    settings
}

fn seconds() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs()
}

/// Not a test: the worker of the tests below.
#[tokio::test]
#[ignore = "run by the tests below, with a clock that is wrong"]
async fn worker_with_a_wrong_clock() {
    let (Ok(url), Ok(right)) = (std::env::var(URL), std::env::var(RIGHT)) else { return };
    let off = seconds().abs_diff(right.parse().unwrap());
    assert!(off > 3000, "the clock is wrong by {off} s only");
    let s3 = worker::settings::S3Settings { allow: vec!["*".into()], anonymous: true, ..Default::default() };
    let nats = NatsSettings { url, ..Default::default() };
    let settings = hasty(Settings { nats, s3, ..Default::default() });
    worker::run(parts(settings), CancellationToken::new()).await.unwrap();
}

async fn an_old_annotation_is_stored_once_by_a_clock_that_is_off_by(shift: i64) {
    let clock = ShiftedClock::build().unwrap();
    let env = TestEnv::ready().await;
    let outcomes = Outcomes::new(env.jetstream.clone(), &env.streams.outcomes, PATIENCE);
    let mut intake = env.intake(env.consumer().await, 3);
    // The annotation was published, but the acknowledgement was lost.
    for i in 0..3 {
        submit(&env, &job(&format!("job-{i}"), bitmap())).await;
        let delivery = intake.next().await;
        let outcome = annotated(&format!("a-{i}"));
        outcomes.claim(delivery.info(), outcome.clone()).await.unwrap();
        env.publisher().outcome(&outcome).await.unwrap();
        std::mem::forget(delivery);
    }
    let written = Instant::now();
    intake.stop.cancel();
    intake.task.await.unwrap();
    let stream = env.jetstream.get_stream(&env.streams.annotations).await.unwrap();
    let mut config = stream.cached_info().config.clone();
    // As if the ids had expired.
    config.duplicate_window = Duration::from_millis(100);
    env.jetstream.update_stream(&config).await.unwrap();
    let old = hasty(settings(&env)).streams.duplicate_window;
    tokio::time::sleep(old.saturating_sub(written.elapsed())).await;
    env.hasty_consumer(Duration::from_secs(3)).await;
    let mut worker = Command::from(sandbox::child_test("clock::worker_with_a_wrong_clock"))
        .envs(clock.variables(shift))
        .env(URL, &env.nats.url)
        .env(RIGHT, seconds().to_string())
        .stdout(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    eventually("the queue is empty", || async { env.messages_in(&env.streams.jobs).await == 0 }).await;
    assert!(worker.try_wait().unwrap().is_none(), "the worker still runs");
    worker.kill().await.unwrap();
    let ended = [&env.streams.annotations, &env.streams.failed].map(|stream| env.messages_in(stream));
    assert_eq!(futures::future::join_all(ended).await, [3, 0]);
}

#[tokio::test]
async fn a_clock_that_is_an_hour_behind_stores_no_annotation_twice() {
    an_old_annotation_is_stored_once_by_a_clock_that_is_off_by(-3600).await;
}

#[tokio::test]
async fn a_clock_that_is_an_hour_ahead_stores_no_annotation_twice() {
    an_old_annotation_is_stored_once_by_a_clock_that_is_off_by(3600).await;
}
