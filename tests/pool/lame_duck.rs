//! A NATS server of a cluster in lame duck mode, and the real program with active jobs on it.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use crate::support;

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use async_nats::jetstream::{self, message::PublishMessage};
use sandbox::{NatsCluster, NatsOptions, NatsServer};
use support::{DATASET, DEADLINE, Worker, caption, demo, groundling, messages, read};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::process::Command;
use wire::Message;
use wire::subjects::{ANNOTATIONS_STREAM, Dataset, FAILED_STREAM, JOBS_STREAM};
use wire::v1::{ImageAnnotation, ImageJob, image_job};

/// The server closes connections only after this minute: a worker that leaves sooner has left on its own.
const LAME_DUCK: &str = "lame_duck_grace_period: \"60s\"\nlame_duck_duration: \"90s\"\n";
/// Jobs submitted before lame duck mode, during it, and after the server has ended.
const JOBS: [usize; 3] = [40, 20, 10];

/// The program with the addresses of the cluster. Pictures are inline in the jobs.
fn program(cluster: &NatsCluster, health: SocketAddr) -> Command {
    let urls: Vec<&str> = cluster.nodes.iter().map(NatsServer::client_url).collect();
    let mut command = groundling();
    command
        .env("GROUNDLING__NATS__URL", urls.join(","))
        // Requests that are lost with a connection are repeated after this time.
        .env("GROUNDLING__NATS__REQUEST_TIMEOUT", "3s")
        .env("GROUNDLING__STREAMS__REPLICAS", "3")
        .env("GROUNDLING__S3__ANONYMOUS", "true")
        .env("GROUNDLING__S3__REGION", "us-east-1")
        .env("GROUNDLING__S3__ALLOW", "*")
        // Few, so that jobs are left when the worker moves.
        .env("GROUNDLING__WORKER__SLOTS", "8")
        .env("GROUNDLING__WORKER__HEALTH_ADDRESS", health.to_string())
        .env("GROUNDLING_MODEL", demo().model_dir);
    command
}

async fn eventually<T>(what: &str, mut check: impl AsyncFnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(found) = check().await {
            return found;
        }
        assert!(start.elapsed() < DEADLINE, "timed out: {what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// The index of the server that the worker is connected to.
async fn worker_node(cluster: &NatsCluster) -> Option<usize> {
    for (node, server) in cluster.nodes.iter().enumerate() {
        let names = server.client_names().await.unwrap_or_default();
        if names.iter().any(|name| name.starts_with("groundling worker")) {
            return Some(node);
        }
    }
    None
}

async fn is_ready(health: SocketAddr) -> bool {
    let request = async || {
        let mut stream = TcpStream::connect(health).await.ok()?;
        stream.write_all(b"GET /readyz HTTP/1.1\r\nHost: worker\r\nConnection: close\r\n\r\n").await.ok()?;
        let mut response = String::new();
        stream.read_to_string(&mut response).await.ok()?;
        Some(response.starts_with("HTTP/1.1 200 "))
    };
    request().await.unwrap_or(false)
}

async fn enqueue(jetstream: &jetstream::Context, numbers: std::ops::Range<usize>) {
    let scenes = demo().scenes;
    for number in numbers {
        let picture = std::fs::read(&scenes[number % scenes.len()].path).unwrap();
        let job = ImageJob {
            job_id: format!("job-{number}"),
            dataset: DATASET.into(),
            source: Some(image_job::Source::Inline(picture.into())),
            tasks: vec![caption()],
            ..ImageJob::default()
        };
        let subject = DATASET.parse::<Dataset>().unwrap().jobs_subject();
        // A stream without a leader does not acknowledge; the message id makes it safe to submit again.
        eventually("a job is taken", async || {
            let message = PublishMessage::build().payload(job.encode_to_vec().into()).message_id(&job.job_id);
            jetstream.send_publish(subject.clone(), message).await.ok()?.await.ok()
        })
        .await;
    }
}

/// The number of messages in a stream; `None` while it has no leader.
async fn count(jetstream: &jetstream::Context, stream: &str) -> Option<u64> {
    Some(jetstream.get_stream(stream).await.ok()?.cached_info().state.messages)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_leaves_a_server_that_will_end_and_every_job_ends_as_one_annotation() {
    let options = NatsOptions { extra_config: LAME_DUCK.into(), ..NatsOptions::default() };
    let mut cluster = NatsCluster::start(3, &options).await.unwrap();
    let health = sandbox::free_address().unwrap();
    // The cluster may not have a leader yet.
    eventually("setup succeeds", async || {
        let setup = program(&cluster, health).arg("setup").output().await.unwrap();
        setup.status.success().then_some(())
    })
    .await;
    let mut worker = Worker::start(program(&cluster, health));
    eventually("the worker is ready", async || {
        assert!(worker.is_running(), "the worker has ended");
        is_ready(health).await.then_some(())
    })
    .await;
    let first = worker_node(&cluster).await.unwrap();
    let others = cluster.nodes.iter().enumerate().filter(|(node, _)| *node != first);
    let others: Vec<async_nats::ServerAddr> = others.map(|(_, node)| node.client_url().parse().unwrap()).collect();
    let jetstream = jetstream::new(async_nats::connect(others).await.unwrap());
    let [before, meanwhile, after] = JOBS;

    enqueue(&jetstream, 0..before).await;
    eventually("jobs run", async || count(&jetstream, ANNOTATIONS_STREAM).await.filter(|count| *count > 0)).await;
    cluster.nodes[first].lame_duck();
    let announced = Instant::now();
    enqueue(&jetstream, before..before + meanwhile).await;
    let second = eventually("the worker is connected to another server", async || {
        worker_node(&cluster).await.filter(|node| *node != first)
    })
    .await;
    println!("moved from n{first} to n{second} after {:?}", announced.elapsed());
    assert!(announced.elapsed() < Duration::from_secs(55), "the worker left only when its connection was closed");
    let done = eventually("annotations are counted", async || count(&jetstream, ANNOTATIONS_STREAM).await).await;
    assert!(
        done < (before + meanwhile) as u64,
        "all jobs had ended before the worker moved, so the test shows nothing"
    );
    eventually("the worker is ready again", async || is_ready(health).await.then_some(())).await;
    assert_eq!(worker_node(&cluster).await, Some(second));
    cluster.nodes[first].kill();

    let all = before + meanwhile + after;
    enqueue(&jetstream, before + meanwhile..all).await;
    eventually("all jobs are done", async || {
        let ended = count(&jetstream, ANNOTATIONS_STREAM).await? + count(&jetstream, FAILED_STREAM).await?;
        (count(&jetstream, JOBS_STREAM).await? == 0 && ended >= all as u64).then_some(())
    })
    .await;
    assert!(worker.is_running() && is_ready(health).await);
    assert!(worker.terminate().await.success());
    // The worker has published everything by now.
    assert_eq!(messages(&jetstream, FAILED_STREAM).await, 0);
    let count = messages(&jetstream, ANNOTATIONS_STREAM).await;
    let annotations: Vec<ImageAnnotation> = read(&jetstream, ANNOTATIONS_STREAM, count).await;
    let jobs: BTreeSet<&str> = annotations.iter().map(|annotation| annotation.job_id.as_str()).collect();
    assert_eq!((annotations.len(), jobs.len()), (all, all));
}
