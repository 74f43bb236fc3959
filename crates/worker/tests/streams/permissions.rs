//! NATS users and servers without JetStream, or with missing permissions: the error names the cause, without a timeout.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a panic in a test is the report")]

use crate::common;

use std::sync::Arc;
use std::time::Duration;

use broker::connection;
use broker::setup::{SetupError, setup};
use common::{PATIENCE, Running, TestEnv, eventually, settings, watch_log};
use sandbox::{NatsOptions, NatsServer};
use worker::settings::{NatsSettings, Secret, StreamSettings};

/// Longer than a test may take, so that waiting for a timeout fails the test.
const NEVER: Duration = Duration::from_secs(3600);

async fn server(extra_config: &str, without_jetstream: bool) -> (NatsServer, NatsSettings) {
    let extra_config = extra_config.to_owned();
    let options = NatsOptions { extra_config, without_jetstream, ..Default::default() };
    let server = NatsServer::start(&options).await.unwrap();
    let nats = NatsSettings {
        url: server.client_url().to_owned(),
        user: Some("u".into()),
        password: Some(Secret::new("p")),
        request_timeout: NEVER,
        ..Default::default()
    };
    (server, nats)
}

/// A user `u` with these permissions, and an administrator `a`.
fn user(permissions: &str) -> String {
    format!(
        "authorization {{ users = [ {{ user: a, password: p }}, {{ user: u, password: p, permissions: {{ {permissions} }} }} ] }}"
    )
}

async fn refusal(nats: &NatsSettings) -> SetupError {
    let connection = connection::open(nats, "test").await.unwrap();
    let streams = StreamSettings::default();
    let setup = setup(connection.broker(nats), &streams);
    tokio::time::timeout(PATIENCE, setup).await.expect("it does not wait for a timeout").unwrap_err()
}

#[tokio::test]
async fn a_missing_permission_is_named_at_once() {
    for (permissions, named) in [
        ("publish: \"groundling.>\"", "publish to $JS.API.STREAM.INFO.GROUNDLING_JOBS"),
        ("publish: { deny: \"$JS.>\" }", "publish to $JS.API.STREAM.INFO.GROUNDLING_JOBS"),
        ("publish: { deny: \"$JS.API.STREAM.CREATE.>\" }", "publish to $JS.API.STREAM.CREATE.GROUNDLING_JOBS"),
        ("publish: { deny: \"$JS.API.CONSUMER.INFO.>\" }", "publish to $JS.API.CONSUMER.INFO.GROUNDLING_JOBS"),
        ("publish: { deny: \"$JS.API.CONSUMER.CREATE.>\" }", "publish to $JS.API.CONSUMER.CREATE.GROUNDLING_JOBS"),
        ("subscribe: { deny: \"_INBOX.>\" }", "subscribe to _INBOX."),
    ] {
        let (_server, nats) = server(&user(permissions), false).await;
        let error = refusal(&nats).await;
        assert!(matches!(error, SetupError::NotPermitted { .. }), "{permissions}: {error:?}");
        let sentence = error.to_string();
        assert!(sentence.contains(named) && sentence.contains("permissions"), "{permissions}: {sentence}");
        assert_eq!(sentence.matches("permission to").count(), 1, "{sentence}");
        assert!(error.is_temporary(), "a worker waits until the permission is added");
    }
}

#[tokio::test]
async fn an_account_and_a_server_without_jetstream_are_told_apart() {
    let accounts = "accounts { A { users: [ { user: u, password: p } ] }, B { jetstream: enabled, users: [ { user: b, password: p } ] } }";
    let (_server, nats) = server(accounts, false).await;
    let error = refusal(&nats).await;
    assert!(matches!(error, SetupError::NotEnabled), "{error:?}");
    assert!(error.to_string().contains("not enabled for this NATS account") && error.is_temporary(), "{error}");

    let (_server, nats) = server(&user(""), true).await;
    let error = refusal(&nats).await;
    assert!(matches!(error, SetupError::Absent { .. }), "{error:?}");
    assert!(error.to_string().contains("$JS.API: run the NATS server with JetStream"), "{error}");
    let elsewhere = NatsSettings { jetstream_domain: Some("hub".into()), ..nats };
    let error = refusal(&elsewhere).await.to_string();
    assert!(error.contains("$JS.hub.API") && error.contains("nats.jetstream_domain"), "{error}");
}

/// A worker whose user lacks one permission, on a server that is set up.
async fn waiting_worker(permissions: &str, said: &[&str]) {
    let (log, _guard) = watch_log();
    let (server, nats) = server(&user(permissions), false).await;
    let admin = NatsSettings { user: Some("a".into()), request_timeout: PATIENCE, ..nats.clone() };
    let env = TestEnv::at(server, admin).await;
    setup(&env.jetstream, &env.streams).await.unwrap();
    let limited = worker::Settings { nats, ..settings(&env) };
    let running = Running::start_with(limited, Arc::new(common::Yes));
    for text in said {
        eventually(text, || async { log.contains(text) }).await;
    }
    assert!(!running.task.is_finished(), "it waits");
    assert_eq!(running.end().await.finished, 0);
}

#[tokio::test]
async fn a_worker_that_may_not_look_at_its_streams_waits_and_says_why() {
    let said = ["no permission to publish to $JS.API.STREAM.INFO.GROUNDLING_JOBS", "; retrying"];
    waiting_worker("publish: { deny: \"$JS.API.>\" }", &said).await;
}

#[tokio::test]
async fn a_worker_that_may_not_ask_for_jobs_waits_and_says_why() {
    let said = [
        "no jobs can be taken",
        "no permission to publish to $JS.API.CONSUMER.MSG.NEXT.GROUNDLING_JOBS.groundling-workers",
    ];
    waiting_worker("publish: { deny: \"$JS.API.CONSUMER.MSG.NEXT.GROUNDLING_JOBS.>\" }", &said).await;
}

#[tokio::test]
async fn a_worker_without_inboxes_waits_and_says_why() {
    waiting_worker("subscribe: { deny: \"_INBOX.>\" }", &["no permission to subscribe to _INBOX."]).await;
}

#[tokio::test]
async fn a_worker_waits_for_jetstream_on_its_account() {
    let (log, _guard) = watch_log();
    let accounts = "accounts { A { users: [ { user: u, password: p } ] } }";
    let (_server, nats) = server(accounts, false).await;
    let env = TestEnv::bare().await;
    let running = Running::start_with(worker::Settings { nats, ..settings(&env) }, Arc::new(common::Yes));
    eventually("it says why", || async { log.contains("JetStream is not enabled for this NATS account") }).await;
    assert!(!running.task.is_finished(), "it waits");
    running.end().await;
}

#[tokio::test]
async fn what_keeps_a_connection_from_coming_stands_once_in_its_error() {
    let nats = NatsSettings { url: "nats://127.0.0.1:9".into(), ..Default::default() };
    let error = connection::connect(&nats, "test").await.unwrap_err();
    assert!(std::error::Error::source(&error).is_none(), "the sentence includes the causes");
    assert_eq!(error.to_string().matches("refused").count(), 1, "{error}");
}
