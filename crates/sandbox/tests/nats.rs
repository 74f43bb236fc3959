//! The NATS server of the sandbox.
#![allow(clippy::unwrap_used, reason = "a panic in a test is the report")]

use std::io::{BufRead, BufReader};
use std::time::{Duration, Instant};

use async_nats::jetstream::{self, consumer, stream};
use futures::StreamExt;
use sandbox::{NatsOptions, NatsServer, child_test};

const WAIT: Duration = Duration::from_secs(20);

async fn jetstream_of(server: &NatsServer) -> jetstream::Context {
    jetstream::new(async_nats::connect(server.client_url()).await.unwrap())
}

async fn create_stream(jetstream: &jetstream::Context) -> stream::Stream {
    let config = stream::Config {
        name: "JOBS".into(),
        subjects: vec!["jobs.>".into()],
        retention: stream::RetentionPolicy::WorkQueue,
        ..Default::default()
    };
    jetstream.create_stream(config).await.unwrap()
}

async fn publish(jetstream: &jetstream::Context, text: &str) {
    jetstream.publish("jobs.test", text.to_string().into()).await.unwrap().await.unwrap();
}

async fn read(stream: &stream::Stream, count: usize) -> Vec<String> {
    let config = consumer::pull::Config { durable_name: Some("worker".into()), ..Default::default() };
    let consumer = stream.create_consumer(config).await.unwrap();
    let messages = consumer.fetch().max_messages(count).expires(WAIT).messages().await.unwrap();
    let mut texts: Vec<String> = Vec::new();
    let mut messages = messages.take(count);
    while let Some(message) = messages.next().await {
        let message = message.unwrap();
        message.double_ack().await.unwrap();
        texts.push(String::from_utf8(message.payload.to_vec()).unwrap());
    }
    texts
}

#[tokio::test]
async fn a_published_job_is_read_back_and_the_server_stops() {
    let mut server = NatsServer::start(&NatsOptions::default()).await.unwrap();
    assert!(server.client_url().starts_with("nats://127.0.0.1:"), "{}", server.client_url());
    assert!(server.monitoring_url().starts_with("http://127.0.0.1:"), "{}", server.monitoring_url());
    let jetstream = jetstream_of(&server).await;
    let stream = create_stream(&jetstream).await;
    publish(&jetstream, "one").await;
    publish(&jetstream, "two").await;
    assert_eq!(read(&stream, 2).await, ["one", "two"]);

    server.stop().await.unwrap();
    assert_eq!(server.process_id(), None);
    assert!(async_nats::connect(server.client_url()).await.is_err());
}

#[tokio::test]
async fn what_was_acknowledged_outlives_a_crash_at_the_same_address() {
    let data = tempfile::tempdir().unwrap();
    let options = NatsOptions { data_dir: Some(data.path().into()), sync_always: true, ..NatsOptions::default() };
    let mut server = NatsServer::start(&options).await.unwrap();
    let (client_url, monitoring_url) = (server.client_url().to_string(), server.monitoring_url().to_string());
    let jetstream = jetstream_of(&server).await;
    create_stream(&jetstream).await;
    let expected: Vec<String> = (0..50).map(|number| format!("job {number}")).collect();
    for text in &expected {
        publish(&jetstream, text).await;
    }

    server.kill();
    server.restart().await.unwrap();
    assert_eq!((server.client_url(), server.monitoring_url()), (client_url.as_str(), monitoring_url.as_str()));
    let stream = jetstream_of(&server).await.get_stream("JOBS").await.unwrap();
    assert_eq!(read(&stream, expected.len()).await, expected);
}

#[tokio::test]
async fn the_same_folder_serves_a_second_server() {
    let data = tempfile::tempdir().unwrap();
    let options = NatsOptions { data_dir: Some(data.path().into()), ..NatsOptions::default() };
    let first = NatsServer::start(&options).await.unwrap();
    let jetstream = jetstream_of(&first).await;
    create_stream(&jetstream).await;
    publish(&jetstream, "kept").await;
    drop(first);

    let second = NatsServer::start(&options).await.unwrap();
    let stream = jetstream_of(&second).await.get_stream("JOBS").await.unwrap();
    assert_eq!(read(&stream, 1).await, ["kept"]);
}

#[tokio::test]
async fn the_configuration_can_be_extended() {
    let options = NatsOptions {
        extra_config: "authorization { user: reader, password: known }".into(),
        ..NatsOptions::default()
    };
    let server = NatsServer::start(&options).await.unwrap();
    assert!(async_nats::connect(server.client_url()).await.is_err());
    let known = async_nats::ConnectOptions::with_user_and_password("reader".into(), "known".into());
    known.connect(server.client_url()).await.unwrap();
}

#[tokio::test]
async fn a_server_that_cannot_start_says_why() {
    let options = NatsOptions { extra_config: "no_such_setting: 1".into(), ..NatsOptions::default() };
    let error = NatsServer::start(&options).await.unwrap_err().to_string();
    assert!(error.starts_with("nats-server exited with "), "{error}");
    assert!(error.contains("no_such_setting"), "{error}");
}

#[tokio::test]
async fn a_dropped_server_is_gone() {
    let server = NatsServer::start(&NatsOptions::default()).await.unwrap();
    let process = server.process_id().unwrap();
    let url = server.client_url().to_string();
    drop(server);
    assert!(!std::path::Path::new(&format!("/proc/{process}")).exists());
    assert!(async_nats::connect(url).await.is_err());
}

/// The parent process of the next test: starts a server, prints its process id, and runs until it is killed.
#[tokio::test]
#[ignore = "run by a_server_ends_when_its_parent_is_killed"]
async fn parent() {
    let server = NatsServer::start(&NatsOptions::default()).await.unwrap();
    println!("\nserver {}", server.process_id().unwrap());
    // Returns only if the test that started it has ended.
    std::io::stdin().read_line(&mut String::new()).unwrap();
}

#[tokio::test]
async fn a_server_ends_when_its_parent_is_killed() {
    // For the files of the killed process.
    let temporary = tempfile::tempdir().unwrap();
    let mut parent = child_test("parent")
        .env("TMPDIR", temporary.path())
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(parent.stdout.take().unwrap()).lines();
    let server: u32 = lines
        .map_while(Result::ok)
        .find_map(|line| line.strip_prefix("server ").and_then(|number| number.parse().ok()))
        .unwrap();
    let status = format!("/proc/{server}/stat");
    // A process that has ended and was not waited for is listed as Z.
    let runs = || std::fs::read_to_string(&status).is_ok_and(|line| !line.contains(") Z "));
    assert!(runs());
    parent.kill().unwrap();
    parent.wait().unwrap();
    let deadline = Instant::now() + WAIT;
    while runs() {
        assert!(Instant::now() < deadline, "the server {server} outlived its parent");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
