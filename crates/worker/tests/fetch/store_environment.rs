//! Stores that pause, proxies, and environment variables of AWS's own tools.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a panic in a test is the report")]

use crate::common;

use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use common::{PATIENCE, parts};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::Command;
use tokio_util::sync::CancellationToken;
use wire::v1::S3Object;
use worker::Settings;
use worker::fetch::FetchErrorKind;
use worker::fetch::s3::ObjectStore;
use worker::settings::{S3Settings, Secret};

fn object() -> S3Object {
    S3Object { bucket: "pictures".into(), key: "one".into(), ..Default::default() }
}

fn settings(endpoint: String) -> S3Settings {
    S3Settings {
        endpoint: Some(endpoint),
        path_style: true,
        access_key: Some("AK".into()),
        secret_key: Some(Secret::new("SK")),
        allow: vec!["*".into()],
        attempts: 1,
        ..Default::default()
    }
}

/// Answers each connection with ten bytes and pauses after five of them. Returns its address and the first lines of the
/// requests.
async fn listen(pause: Duration) -> (String, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let asked: Arc<Mutex<Vec<String>>> = Arc::default();
    let lines = Arc::clone(&asked);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(answer(stream, pause, Arc::clone(&lines)));
        }
    });
    (address, asked)
}

async fn answer(mut stream: TcpStream, pause: Duration, lines: Arc<Mutex<Vec<String>>>) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(_) => return,
        }
    }
    let line = String::from_utf8_lossy(&head).lines().next().unwrap_or_default().to_owned();
    lines.lock().unwrap().push(line);
    let head = "HTTP/1.1 200 OK\r\nContent-Length: 10\r\nConnection: close\r\n\r\n";
    stream.write_all(format!("{head}01234").as_bytes()).await.unwrap();
    tokio::time::sleep(pause).await;
    // The reader may have closed the connection.
    let _ = stream.write_all(b"56789").await;
}

#[tokio::test]
async fn a_store_that_pauses_for_less_than_the_read_timeout_is_waited_for() {
    let (address, _) = listen(Duration::from_secs(9)).await;
    let settings = S3Settings { read_timeout: Duration::from_secs(25), ..settings(format!("http://{address}")) };
    let fetched = ObjectStore::open(&settings).await.unwrap().read(&object()).await.unwrap();
    assert_eq!(&fetched.bytes[..], b"0123456789");
}

#[tokio::test]
async fn a_store_that_pauses_for_longer_than_the_read_timeout_is_not() {
    let (address, _) = listen(PATIENCE * 4).await;
    let settings = S3Settings { read_timeout: Duration::from_secs(2), ..settings(format!("http://{address}")) };
    let started = Instant::now();
    let error = ObjectStore::open(&settings).await.unwrap().read(&object()).await.unwrap_err();
    assert_eq!(error.kind(), FetchErrorKind::Unavailable);
    assert!(started.elapsed() < PATIENCE, "{:?}", started.elapsed());
}

/// Environment variable: the store's address, for the processes of the tests below. Empty for none.
const ENDPOINT: &str = "ENVIRONMENT_TEST_ENDPOINT";

/// Not a test: reads one object.
#[tokio::test]
#[ignore = "run by the tests below, with another environment"]
async fn reader_in_another_environment() {
    let Ok(endpoint) = std::env::var(ENDPOINT) else { return };
    match ObjectStore::open(&settings(endpoint)).await.unwrap().read(&object()).await {
        Ok(fetched) => println!("read {:?}", fetched.bytes),
        Err(error) => println!("not read: {error} {:?}", std::error::Error::source(&error)),
    }
}

/// Not a test: a worker that is shut down before it starts.
#[tokio::test]
#[ignore = "run by the tests below, with another environment"]
async fn worker_in_another_environment() {
    let Ok(endpoint) = std::env::var(ENDPOINT) else { return };
    let mut s3 = settings(endpoint);
    s3.endpoint = s3.endpoint.filter(|endpoint| !endpoint.is_empty());
    let stop = CancellationToken::new();
    stop.cancel();
    match worker::run(parts(Settings { s3, ..Default::default() }), stop).await {
        Ok(_) => println!("started"),
        Err(error) => println!("refused: {error}"),
    }
}

/// The output of a process with these environment variables and none of this process's proxy variables.
async fn said(test: &str, endpoint: &str, variables: &[(&str, &str)]) -> String {
    let mut command = Command::from(sandbox::child_test(&format!("store_environment::{test}")));
    command.stderr(Stdio::inherit()).kill_on_drop(true);
    for name in ["HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"] {
        command.env_remove(name).env_remove(name.to_lowercase());
    }
    command.env(ENDPOINT, endpoint).envs(variables.iter().copied());
    let output = tokio::time::timeout(PATIENCE, command.output()).await.expect("the process ends").unwrap();
    String::from_utf8(output.stdout).unwrap()
}

#[tokio::test]
async fn proxies_of_the_environment_are_used_for_the_store() {
    let (proxy, asked) = listen(Duration::ZERO).await;
    let through = format!("http://{proxy}");
    for name in ["HTTP_PROXY", "http_proxy", "ALL_PROXY"] {
        // The name does not resolve, so only the proxy can be reached.
        let said = said("reader_in_another_environment", "http://store.invalid", &[(name, &through)]).await;
        assert!(said.contains("read b\"0123456789\""), "{name}: {said}");
        let line = asked.lock().unwrap().pop().unwrap();
        assert!(line.starts_with("GET http://store.invalid/pictures/one"), "{name}: {line}");
    }
    // An https store is reached through a tunnel.
    let said = said("reader_in_another_environment", "https://store.invalid", &[("HTTPS_PROXY", &through)]).await;
    assert!(said.contains("not read"), "{said}");
    let line = asked.lock().unwrap().pop().unwrap();
    assert!(line.starts_with("CONNECT store.invalid:443"), "{line}");
}

#[tokio::test]
async fn a_store_that_is_excepted_from_proxies_is_asked_itself() {
    let (proxy, through_proxy) = listen(Duration::ZERO).await;
    let (store, asked) = listen(Duration::ZERO).await;
    let variables = [("HTTP_PROXY", format!("http://{proxy}")), ("NO_PROXY", "127.0.0.1,.internal".into())];
    let variables = variables.each_ref().map(|(name, value)| (*name, value.as_str()));
    let said = said("reader_in_another_environment", &format!("http://{store}"), &variables).await;
    assert!(said.contains("read b\"0123456789\""), "{said}");
    assert!(asked.lock().unwrap()[0].starts_with("GET /pictures/one"), "{asked:?}");
    assert!(through_proxy.lock().unwrap().is_empty(), "{through_proxy:?}");
}

#[tokio::test]
async fn only_the_settings_say_where_the_store_is() {
    let (store, _) = listen(Duration::ZERO).await;
    let (another, asked) = listen(Duration::ZERO).await;
    let (store, another) = (format!("http://{store}"), format!("http://{another}"));
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("config");
    let profile = format!(
        "[default]\nendpoint_url = {another}\nuse_dualstack_endpoint = true\nuse_fips_endpoint = true\n\
         services = here\nregion = eu-west-1\n[services here]\ns3 =\n  endpoint_url = {another}\n"
    );
    std::fs::write(&file, profile).unwrap();
    let file = file.to_str().unwrap();
    for variables in [
        &[("AWS_ENDPOINT_URL", another.as_str()), ("AWS_ENDPOINT_URL_S3", another.as_str())][..],
        &[("AWS_IGNORE_CONFIGURED_ENDPOINT_URLS", "true")],
        &[("AWS_CONFIG_FILE", file)],
        &[("AWS_USE_DUALSTACK_ENDPOINT", "true"), ("AWS_USE_FIPS_ENDPOINT", "true")],
    ] {
        let said = said("reader_in_another_environment", &store, variables).await;
        assert!(said.contains("read b\"0123456789\""), "{variables:?}: {said}");
    }
    assert!(asked.lock().unwrap().is_empty(), "{asked:?}");
}

#[tokio::test]
async fn variables_that_contradict_the_settings_are_refused_at_the_start() {
    let store = "http://127.0.0.1:9";
    for (endpoint, name, value) in [
        (store, "AWS_USE_DUALSTACK_ENDPOINT", "true"),
        (store, "AWS_USE_FIPS_ENDPOINT", "true"),
        ("", "AWS_ENDPOINT_URL", store),
        ("", "AWS_ENDPOINT_URL_S3", store),
    ] {
        let said = said("worker_in_another_environment", endpoint, &[(name, value)]).await;
        assert!(said.contains("refused: ") && said.contains(name), "{name}: {said}");
    }
    let said = said("worker_in_another_environment", store, &[("AWS_ENDPOINT_URL", store)]).await;
    assert!(said.contains("started"), "{said}");
}
