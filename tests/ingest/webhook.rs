//! Events over HTTP.

use std::time::Instant;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use wire::subjects::JOBS_STREAM;

use crate::env::{TestEnv, minio, request};
use crate::support::messages;

const RULES: &str = "[[ingest]]\nname = \"uploads\"\npath = \"/events/uploads\"\ndataset = \"pictures\"\n\
    [[ingest]]\nname = \"bridge\"\npath = \"/bridge\"\nformat = \"eventbridge\"\ndataset = \"bridge\"\n";

fn fixture(name: &str) -> Vec<u8> {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/events").join(name);
    std::fs::read(path).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_are_answered_by_what_became_of_their_event() {
    let env = TestEnv::start(RULES).await;
    let ingest = env.ingest().await;
    let path = "/events/uploads";
    let answer = env.post(path, minio(&["a.jpg", "b.jpg", "c/", "%zz"]).as_bytes()).await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.body, r#"{"jobs":2,"duplicates":0,"skipped":1,"failed":1}"#);
    // A job that is answered for is stored.
    assert_eq!(env.keys().await, ["a.jpg", "b.jpg"]);
    let again = env.post(path, minio(&["b.jpg"]).as_bytes()).await;
    assert_eq!(again.body, r#"{"jobs":0,"duplicates":1,"skipped":0,"failed":0}"#);
    for (name, skipped) in [("aws-test-event.json", "test_event"), ("aws-sns-confirmation.json", "confirmation")] {
        let answer = env.post(path, &fixture(name)).await;
        assert_eq!((answer.status, answer.body.contains("\"skipped\":1")), (200, true), "{answer:?}");
        assert_eq!(env.records("uploads", "skipped", Some(skipped)).await, 1);
    }
    let unreadable = env.post(path, b"{}").await;
    assert_eq!(unreadable.status, 400);
    assert!(unreadable.body.contains("format is not recognized"), "{}", unreadable.body);
    let queued = env.post(path, &fixture("aws-sqs-pipes-batch.json")).await;
    assert_eq!((queued.status, queued.body.as_str()), (200, r#"{"jobs":2,"duplicates":0,"skipped":0,"failed":1}"#));
    assert_eq!(env.post("/bridge", minio(&["a.jpg"]).as_bytes()).await.status, 400);
    assert_eq!(env.post("/bridge", &fixture("eventbridge-created.json")).await.status, 200);
    assert_eq!(env.post("/elsewhere", b"{}").await.status, 404);
    assert_eq!(env.post(path, &vec![b' '; 100_001]).await.status, 413);
    let get = request(&env.webhook, "GET", path, &[("Authorization", "Bearer secret")], b"").await.unwrap();
    assert_eq!((get.status, get.head.contains("allow: post")), (405, true));
    for credentials in [None, Some(("Authorization", "Bearer secreT")), Some(("Authorization", "Basic c2VjcmV0"))] {
        let headers: Vec<_> = credentials.into_iter().collect();
        let answer = request(&env.webhook, "POST", path, &headers, minio(&["x.jpg"]).as_bytes()).await.unwrap();
        assert_eq!((answer.status, answer.head.contains("www-authenticate: bearer")), (401, true));
    }
    assert_eq!(messages(&env.jetstream, JOBS_STREAM).await, 5);
    let mut requests = Vec::new();
    for status in [200, 400, 401, 404, 405, 408, 413, 500, 503] {
        requests.push((status, env.requests(status).await));
    }
    let expected = [(200, 6), (400, 2), (401, 3), (404, 1), (405, 1), (408, 0), (413, 1), (500, 0), (503, 0)];
    assert_eq!(requests, expected);
    let lag = env.health("/metrics").await.unwrap().body;
    assert!(lag.contains("groundling_ingest_lag_seconds_count{rule=\"uploads\"} 4"), "{lag}");
    assert!(!lag.contains("groundling_jobs"), "it has the instruments of a worker: {lag}");
    ingest.terminate().await;
    let log = env.log();
    let refused =
        ["status=401 path=\"/events/uploads\"", "status=404 path=\"/elsewhere\"", "status=405 ", "status=413 "];
    for refused in refused {
        assert_eq!(log.matches(refused).count(), 1, "{refused} in\n{log}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_without_a_length_is_bounded_too() {
    let env = TestEnv::start(RULES).await;
    let _ingest = env.ingest().await;
    let mut stream = TcpStream::connect(&env.webhook).await.unwrap();
    let head = "POST /events/uploads HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer secret\r\nTransfer-Encoding: chunked\r\n\r\n";
    stream.write_all(head.as_bytes()).await.unwrap();
    let chunk = format!("2710\r\n{}\r\n", " ".repeat(10_000));
    for _ in 0..11 {
        if stream.write_all(chunk.as_bytes()).await.is_err() {
            break;
        }
    }
    let mut answer = [0; 12];
    stream.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"HTTP/1.1 413");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_stream_holds_a_request_and_then_asks_to_try_again() {
    let env = TestEnv::start(RULES).await;
    env.bound_jobs(1).await;
    let ingest = env.ingest().await;
    let post = async |key: &str| env.post("/events/uploads", minio(&[key]).as_bytes()).await;
    assert_eq!(post("1.jpg").await.status, 200);
    let started = Instant::now();
    let refused = post("2.jpg").await;
    assert_eq!((refused.status, refused.head.contains("retry-after: 10")), (503, true), "{refused:?}");
    assert!(refused.body.contains("the jobs stream is full") && started.elapsed().as_secs() >= 1, "{refused:?}");
    assert_eq!(env.health("/readyz").await.unwrap().status, 200, "the Service must keep sending requests here");
    // Room appears while the request waits.
    let (answer, ()) = tokio::join!(post("2.jpg"), async {
        env.until("waiting", async || env.records("uploads", "sent_back", Some("stream_full")).await >= 1).await;
        env.bound_jobs(-1).await;
    });
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(env.keys().await, ["1.jpg", "2.jpg"]);
    ingest.terminate().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outage_of_the_broker_is_waited_out_or_answered_with_503() {
    let mut env = TestEnv::start(RULES).await;
    let ingest = env.ingest().await;
    env.nats.kill();
    let refused = env.post("/events/uploads", minio(&["1.jpg"]).as_bytes()).await;
    assert_eq!((refused.status, refused.head.contains("retry-after: ")), (503, true), "{refused:?}");
    assert_eq!(env.health("/livez").await.unwrap().status, 200);
    let webhook = env.webhook.clone();
    let restart = env.nats.restart();
    let event = minio(&["2.jpg"]);
    let waiting = request(&webhook, "POST", "/events/uploads", &[("Authorization", "Bearer secret")], event.as_bytes());
    let (answer, restarted) = tokio::join!(waiting, restart);
    restarted.unwrap();
    // A machine may be too slow for the two seconds that the request waits.
    if answer.unwrap().status != 200 {
        env.until("stored", async || env.post("/events/uploads", event.as_bytes()).await.status == 200).await;
    }
    assert_eq!(env.post("/events/uploads", minio(&["1.jpg"]).as_bytes()).await.status, 200);
    assert_eq!(env.keys().await, ["1.jpg", "2.jpg"]);
    ingest.terminate().await;
    let log = env.log();
    let cause = "a new one cannot be made: 127.0.0.1:";
    assert!((1..=3).contains(&log.matches(cause).count()) && log.contains("refused"), "{log}");
    assert_eq!(log.matches("connected to NATS again after ").count(), 1, "{log}");
    assert!(!log.contains("the NATS client reports"), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_without_a_broker_listens_and_asks_to_try_again() {
    let mut env = TestEnv::start(RULES).await;
    env.nats.kill();
    let ingest = env.ingest_unready();
    // It listens before its first attempt to connect.
    env.until("unready for want of a connection", async || {
        let Some(ready) = env.health("/readyz").await else { return false };
        assert_eq!(ready.status, 503, "{ready:?}");
        ready.body.contains("no connection to NATS")
    })
    .await;
    let answer = env.post("/events/uploads", minio(&["1.jpg"]).as_bytes()).await;
    assert_eq!(answer.status, 503, "{answer:?}");
    ingest.terminate().await;
}
