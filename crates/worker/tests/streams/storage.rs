//! Full streams and accounts: submissions are refused before workers are, and a worker names the stream that refuses.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a panic in a test is the report")]

use crate::common;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use async_nats::jetstream::stream::{Config, DiscardPolicy};
use broker::connection;
use broker::setup::{SetupError, setup};
use common::{Running, TestEnv, Yes, bitmap, eventually, job, settings, submit, watch_log};
use futures::future::join_all;
use sandbox::{NatsOptions, NatsServer};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use wire::Message;
use worker::settings::{NatsSettings, Secret};
use worker::{JobEvent, Settings};

const LIMIT: u64 = 4 << 20;

/// A user of an account with this storage limit, on a server of its own without streams.
async fn limited(bytes: u64) -> TestEnv {
    let extra_config = format!(
        "accounts {{ A {{ jetstream {{ max_file: {bytes}, max_mem: 1MB }}, users: [ {{ user: u, password: p }} ] }} }}"
    );
    let server = NatsServer::start(&NatsOptions { extra_config, ..Default::default() }).await.unwrap();
    let url = server.client_url().to_owned();
    let nats = NatsSettings { url, user: Some("u".into()), password: Some(Secret::new("p")), ..Default::default() };
    let mut env = TestEnv::at(server, nats).await;
    env.streams.ack_wait = Duration::from_secs(3);
    env
}

/// Submits jobs until one is refused. Returns the number of accepted jobs and the error.
async fn submit_until_refused(env: &TestEnv) -> (u64, String) {
    for batch in 0.. {
        let jobs = (0..200).map(|i| job(&format!("job-{batch}-{i}"), bitmap()).encode_to_vec().into());
        let published = jobs.map(|job| async {
            env.jetstream.publish("groundling.jobs.cats", job).await.unwrap().await.map_err(|error| {
                std::error::Error::source(&error).map_or_else(|| error.to_string(), |cause| cause.to_string())
            })
        });
        if let Some(error) = join_all(published).await.into_iter().find_map(Result::err) {
            return (env.messages_in(&env.streams.jobs).await, error);
        }
    }
    unreachable!("the account has a limit")
}

async fn change(env: &TestEnv, stream: &str, change: impl FnOnce(&mut Config)) {
    let stream = env.jetstream.get_stream(stream).await.unwrap();
    let mut config = stream.cached_info().config.clone();
    change(&mut config);
    env.jetstream.update_stream(&config).await.unwrap();
}

/// A worker with its health address.
struct Told {
    running: Running,
    address: SocketAddr,
}

impl Told {
    fn start(env: &TestEnv) -> Self {
        Self::start_with(settings(env))
    }

    fn start_with(mut settings: Settings) -> Self {
        let address = sandbox::free_address().unwrap();
        settings.worker.health_address = Some(address);
        // Refused jobs are delivered again soon.
        settings.worker.max_retry_delay = Duration::from_secs(2);
        settings.worker.slots = Some(16);
        Self { running: Running::start_with(settings, Arc::new(Yes)), address }
    }

    async fn readiness(&self) -> Option<(u16, String)> {
        let mut stream = TcpStream::connect(self.address).await.ok()?;
        stream.write_all(b"GET /readyz HTTP/1.1\r\nHost: worker\r\nConnection: close\r\n\r\n").await.ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.ok()?;
        let (head, body) = answer.split_once("\r\n\r\n")?;
        Some((head.split(' ').nth(1)?.parse().ok()?, body.to_owned()))
    }

    async fn becomes(&self, status: u16, says: &str) {
        eventually(&format!("/readyz answers {status} {says:?}"), || async {
            self.readiness().await.is_some_and(|(found, body)| found == status && body.contains(says))
        })
        .await;
    }
}

/// Messages in the streams of jobs, annotations and failures.
async fn counts(env: &TestEnv) -> Vec<u64> {
    let streams = [&env.streams.jobs, &env.streams.annotations, &env.streams.failed];
    join_all(streams.map(|stream| env.messages_in(stream))).await
}

#[tokio::test]
async fn waiting_jobs_without_a_bound_use_up_an_account_until_somebody_removes_some() {
    let env = limited(LIMIT).await;
    setup(&env.jetstream, &env.streams).await.unwrap();
    // Without bounds, as older versions of `setup` created the streams.
    let streams = &env.streams;
    for name in [&streams.jobs, &streams.annotations, &streams.failed, &streams.outcomes, &streams.attempts] {
        change(&env, name, |config| config.max_bytes = -1).await;
    }
    let report = setup(&env.jetstream, &env.streams).await.unwrap();
    assert_eq!(report.differences.len(), 1, "{report:?}");
    assert!(report.differences[0].contains("stream GROUNDLING_JOBS has no max_bytes"), "{report:?}");
    let (waiting, _) = submit_until_refused(&env).await;
    let told = Told::start(&env);
    told.becomes(503, "the storage of the NATS account is used up").await;
    let (_, body) = told.readiness().await.unwrap();
    assert!(body.contains("GROUNDLING_OUTCOMES") && body.lines().count() == 1, "{body}");
    assert_eq!(counts(&env).await, [waiting, 0, 0], "no job can be finished");
    let jobs = env.jetstream.get_stream(&env.streams.jobs).await.unwrap();
    let last = jobs.cached_info().state.last_sequence;
    jobs.purge().sequence(last - 1000).await.unwrap();
    told.becomes(200, "ready").await;
    eventually("what is left is done", || async { counts(&env).await[0] == 0 }).await;
    told.running.end().await;
}

#[tokio::test]
async fn submitters_are_refused_before_the_account_is_full_and_all_jobs_that_were_taken_are_done() {
    let env = limited(LIMIT).await;
    let report = setup(&env.jetstream, &env.streams).await.unwrap();
    assert!(report.is_ready(), "{report:?}");
    assert!(setup(&env.jetstream, &env.streams).await.unwrap().is_ready());
    let (waiting, refused) = submit_until_refused(&env).await;
    assert!(waiting > 500 && refused.contains("maximum bytes exceeded"), "{waiting}: {refused}");
    let account = env.jetstream.query_account().await.unwrap();
    assert!(account.storage < LIMIT / 8, "{account:?}");
    let reserved = account.reserved_storage;
    assert!(reserved > LIMIT / 2 && reserved < LIMIT, "all streams have reserved what they may hold: {reserved}");
    let told = Told::start(&env);
    eventually("all jobs are done", || async { counts(&env).await == [0, waiting, 0] }).await;
    told.running.end().await;
}

#[tokio::test]
async fn a_reservation_that_the_account_has_no_room_for_is_named_with_its_setting() {
    let mut env = limited(LIMIT).await;
    env.streams.jobs_max_bytes = Some(1 << 20);
    env.streams.outcomes_max_bytes = Some(LIMIT);
    let error = setup(&env.jetstream, &env.streams).await.unwrap_err();
    assert!(matches!(error, SetupError::NoStorage { .. }) && !error.is_temporary(), "{error}");
    let sentence = error.to_string();
    assert!(sentence.contains("GROUNDLING_OUTCOMES") && sentence.contains("streams.*_max_bytes"), "{sentence}");
}

#[tokio::test]
async fn bounds_that_are_set_are_compared_and_derived_ones_are_not() {
    let mut env = TestEnv::bare().await;
    env.streams.annotations_max_bytes = Some(5 << 20);
    assert!(setup(&env.jetstream, &env.streams).await.unwrap().is_ready());
    let config = |stream: &str| {
        let (jetstream, stream) = (env.jetstream.clone(), stream.to_owned());
        async move { jetstream.get_stream(stream).await.unwrap().cached_info().config.clone() }
    };
    let (jobs, annotations) = (config(&env.streams.jobs).await, config(&env.streams.annotations).await);
    assert_eq!((jobs.max_bytes, jobs.discard), (1 << 30, DiscardPolicy::New), "no limit of the account");
    assert_eq!((annotations.max_bytes, annotations.discard), (5 << 20, DiscardPolicy::New));
    assert_eq!(config(&env.streams.outcomes).await.max_bytes, -1);
    change(&env, &env.streams.jobs, |config| config.max_bytes = 1 << 20).await;
    change(&env, &env.streams.annotations, |config| config.max_bytes = 1 << 20).await;
    let report = setup(&env.jetstream, &env.streams).await.unwrap();
    let said = "stream GROUNDLING_ANNOTATIONS has the max_bytes 1048576, and the settings say 5242880";
    assert_eq!(report.differences, [said]);
}

#[tokio::test]
async fn a_user_who_may_not_ask_for_the_accounts_limits_is_told_so() {
    let users =
        "authorization { users = [ { user: u, password: p, permissions: { publish: { deny: \"$JS.API.INFO\" } } } ] }";
    let options = NatsOptions { extra_config: users.to_owned(), ..Default::default() };
    let server = NatsServer::start(&options).await.unwrap();
    let url = server.client_url().to_owned();
    let nats = NatsSettings { url, user: Some("u".into()), password: Some(Secret::new("p")), ..Default::default() };
    let connection = connection::open(&nats, "test").await.unwrap();
    let error = setup(connection.broker(&nats), &Default::default()).await.unwrap_err();
    assert!(matches!(error, SetupError::NotPermitted { .. }), "{error}");
    assert!(error.to_string().contains("publish to $JS.API.INFO"), "{error}");
}

#[tokio::test]
async fn a_missing_stream_of_outcomes_is_named_once_and_until_it_is_back() {
    let (log, _guard) = watch_log();
    let env = TestEnv::ready().await;
    let mut told = Told::start(&env);
    told.becomes(200, "ready").await;
    env.jetstream.delete_stream(&env.streams.outcomes).await.unwrap();
    for i in 0..5 {
        submit(&env, &job(&format!("job-{i}"), bitmap())).await;
    }
    told.becomes(503, "the stream GROUNDLING_OUTCOMES does not exist: run `groundling setup`").await;
    // Longer than the first delays between attempts.
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(log.count("GROUNDLING_OUTCOMES does not exist"), 1, "once for five jobs");
    setup(&env.jetstream, &env.streams).await.unwrap();
    told.becomes(200, "ready").await;
    for _ in 0..5 {
        told.running.event().await;
    }
    assert_eq!(log.count("GROUNDLING_OUTCOMES accepts messages again"), 1);
    assert_eq!(told.running.end().await.finished, 5);
}

#[tokio::test]
async fn a_full_stream_is_named_once_and_until_it_takes_messages() {
    for name in ["GROUNDLING_OUTCOMES", "GROUNDLING_ANNOTATIONS", "GROUNDLING_FAILED"] {
        let (log, _guard) = watch_log();
        let env = TestEnv::ready().await;
        change(&env, name, |config| (config.max_bytes, config.discard) = (200, DiscardPolicy::New)).await;
        let mut told = Told::start(&env);
        told.becomes(200, "ready").await;
        let picture = if name == "GROUNDLING_FAILED" { b"no picture".to_vec() } else { bitmap() };
        for i in 0..3 {
            submit(&env, &job(&format!("job-{i}"), picture.clone())).await;
        }
        told.becomes(503, &format!("the stream {name} is full (maximum bytes exceeded)")).await;
        tokio::time::sleep(Duration::from_secs(3)).await;
        assert_eq!(log.count(&format!("{name} is full")), 1);
        change(&env, name, |config| config.max_bytes = -1).await;
        told.becomes(200, "ready").await;
        for _ in 0..3 {
            told.running.event().await;
        }
        assert_eq!(log.count(&format!("{name} accepts messages again")), 1);
        told.running.end().await;
    }
}

#[tokio::test]
async fn a_missing_stream_of_attempts_is_named_until_it_is_back() {
    let env = TestEnv::ready().await;
    submit(&env, &job("redelivered", bitmap())).await;
    let mut intake = env.intake(env.consumer().await, 1);
    let delivery = intake.next().await;
    intake.stop.cancel();
    intake.task.await.unwrap();
    let mut told = Told::start(&env);
    told.becomes(200, "ready").await;
    env.jetstream.delete_stream(&env.streams.attempts).await.unwrap();
    drop(delivery);
    told.becomes(503, "the stream GROUNDLING_ATTEMPTS does not exist").await;
    setup(&env.jetstream, &env.streams).await.unwrap();
    told.becomes(200, "ready").await;
    while !matches!(told.running.event().await, JobEvent::Finished { .. }) {}
    told.running.end().await;
}
