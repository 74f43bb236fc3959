//! Measurements: `cargo test -p groundling --test ingest -- --ignored --nocapture load`, number of events in `EVENTS`.

use std::time::{Duration, Instant};

use async_nats::header::NATS_MESSAGE_ID;
use async_nats::jetstream::message::PublishMessage;
use futures::StreamExt;
use wire::subjects::JOBS_STREAM;

use crate::env::{TestEnv, minio, request};
use crate::support::messages;

const RULES: &str = "[[ingest]]\nname = \"minio\"\nsubject = \"minio.events\"\ndataset = \"pictures\"\n\
    [[ingest]]\nname = \"http\"\npath = \"/e\"\ndataset = \"http\"\n";
/// Publishes in flight of the bare publisher, as many as ingest has slots.
const IN_FLIGHT: usize = 1024;

fn events() -> usize {
    std::env::var("EVENTS").ok().and_then(|events| events.parse().ok()).unwrap_or(20_000)
}

/// Publishes messages with ids, as fast as their acknowledgements come. Returns the rate.
async fn publish(env: &TestEnv, count: usize, message: impl Fn(usize) -> (String, PublishMessage)) -> f64 {
    let started = Instant::now();
    let each = (0..count).map(|number| {
        let (subject, message) = message(number);
        async { env.jetstream.send_publish(subject, message).await.unwrap().await.unwrap() }
    });
    let mut published = futures::stream::iter(each).buffer_unordered(IN_FLIGHT);
    while published.next().await.is_some() {}
    count as f64 / started.elapsed().as_secs_f64()
}

/// Publishes jobs with the payload of a stored one, and an id and other headers like its: what a program would do that has
/// all jobs at hand. Returns the rate.
async fn publish_bare(env: &TestEnv, count: usize) -> f64 {
    let stream = env.jetstream.get_stream(JOBS_STREAM).await.unwrap();
    let job = stream.get_raw_message(1).await.unwrap();
    let digits = job.headers.get(NATS_MESSAGE_ID).unwrap().as_str().len();
    publish(env, count, |number| {
        let message = PublishMessage::build().payload(job.payload.clone());
        let message = message.message_id(format!("{number:0digits$}")).expected_stream(JOBS_STREAM);
        ("groundling.jobs.bare".to_owned(), message)
    })
    .await
}

/// The resident memory of a process in MB, and its peak.
fn memory(id: u32) -> (f64, f64) {
    let status = std::fs::read_to_string(format!("/proc/{id}/status")).unwrap();
    let of = |name: &str| {
        let line = status.lines().find(|line| line.starts_with(name)).unwrap();
        // Linux writes kB for KiB.
        line.split_whitespace().nth(1).unwrap().parse::<f64>().unwrap() * 1024.0 / 1e6
    };
    (of("VmRSS:"), of("VmHWM:"))
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "a measurement"]
async fn load_of_one_process_beside_a_bare_publisher() {
    let (env, count) = (TestEnv::start(RULES).await, events());
    // All of them wait when the process starts: a burst.
    publish(&env, count, |number| {
        let event = minio(&[&format!("2026/11/29/{number:08}.jpg")]);
        ("minio.events".to_owned(), PublishMessage::build().payload(event.into()).message_id(number.to_string()))
    })
    .await;
    let started = Instant::now();
    let ingest = env.ingest().await;
    let idle = memory(ingest.id()).0;
    env.wait_until_events_are_done().await;
    let rate = count as f64 / started.elapsed().as_secs_f64();
    let (after, peak) = memory(ingest.id());
    assert_eq!(messages(&env.jetstream, JOBS_STREAM).await, count as u64);
    let bare = publish_bare(&env, count).await;
    // Requests of 16 senders, each on a connection of its own, as the helper of the tests makes them.
    let (webhook, requests) = (env.webhook.clone(), count.min(5000));
    let started = Instant::now();
    let each = (0..requests).map(|number| {
        let (webhook, body) = (webhook.clone(), minio(&[&format!("{number:08}.jpg")]));
        async move {
            let headers = [("Authorization", "Bearer secret")];
            request(&webhook, "POST", "/e", &headers, body.as_bytes()).await.unwrap().status
        }
    });
    let statuses: Vec<_> = futures::stream::iter(each).buffer_unordered(16).collect().await;
    let http = requests as f64 / started.elapsed().as_secs_f64();
    assert!(statuses.iter().all(|status| *status == 200));
    eprintln!(
        "{count} events: bare publisher {bare:.0}/s, ingest {rate:.0}/s ({:.0} %), webhook {http:.0}/s; memory {idle:.0} MB at the start, {after:.0} MB after, peak {peak:.0} MB",
        rate / bare * 100.0
    );
    tokio::time::timeout(Duration::from_secs(60), ingest.terminate()).await.unwrap();
}
