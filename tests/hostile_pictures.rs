//! Hundreds of bad pictures, with good ones in between, through one worker with real NATS and a real S3 store.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::collections::BTreeMap;
use std::process::Stdio;

use futures::StreamExt;
use hostile::pictures::{PictureFault, costly, refused};
use support::{TestServers, demo, goldens, raw, send_signal};
use tokio::process::Child;
use wire::v1::FailureReason;

const MIB: u64 = 1 << 20;
const LARGEST_OBJECT: u64 = 4 * MIB;
const IN_FLIGHT: u64 = 32 * MIB;
const DECODING: u64 = 256 * MIB;
/// For memory that no setting limits: fragmentation in the allocator's per-thread arenas, connections, logs.
const MARGIN: u64 = 64 * MIB;
const GOOD: usize = 24;

#[tokio::test(flavor = "multi_thread")]
async fn every_bad_picture_is_a_dead_letter_and_the_worker_stays_small_and_right() {
    let servers = TestServers::start().await;
    let scenes: Vec<_> = goldens().into_iter().step_by(384 / GOOD).take(GOOD).collect();
    for golden in &scenes {
        servers.upload(&golden.file, std::fs::read(demo().scenes_dir.join(&golden.file)).unwrap()).await;
    }
    let good = async |from: usize, to: usize| {
        for (number, golden) in scenes.iter().enumerate().take(to).skip(from) {
            let task = raw("t", &golden.prompt);
            servers.enqueue(&servers.job(&format!("good {number}"), &golden.file, vec![task])).await;
        }
    };
    let (bad, costly) = (refused(), costly());
    assert!(bad.len() >= 300);
    let files = bad.iter().map(|picture| (&picture.name, &picture.bytes));
    let files = files.chain(costly.iter().map(|(name, bytes)| (name, bytes)));
    futures::stream::iter(files)
        .for_each_concurrent(8, async |(name, bytes)| servers.upload(&key(name), bytes.clone()).await)
        .await;

    let mut worker = start(&servers);
    good(0, 4).await;
    servers.wait_for_outcomes(4).await;
    // The program, the model, and the buffers that every annotation needs.
    let baseline = peak(&worker);

    let mut sent = 4;
    for (number, name) in bad.iter().map(|picture| &picture.name).chain(costly.iter().map(|(name, _)| name)).enumerate()
    {
        servers.enqueue(&servers.job(name, &key(name), vec![raw("t", "<grounding> An image of")])).await;
        if number % 25 == 0 && sent < GOOD {
            good(sent, sent + 1).await;
            sent += 1;
        }
    }
    good(sent, GOOD).await;
    let (annotations, failures) = servers.wait_for_outcomes((GOOD + bad.len() + costly.len()) as u64).await;
    servers.wait_until_queue_is_empty().await;
    assert!(worker.try_wait().unwrap().is_none(), "the worker has ended");
    let (peak, cap) = (peak(&worker), baseline + IN_FLIGHT + DECODING + MARGIN);
    println!(
        "{} bad and {} costly pictures: {} failures; peak {} MiB of at most {} = {} baseline + {} in flight + {} decoding + {} margin",
        bad.len(),
        costly.len(),
        failures.len(),
        peak / MIB,
        cap / MIB,
        baseline / MIB,
        IN_FLIGHT / MIB,
        DECODING / MIB,
        MARGIN / MIB
    );
    assert!(peak <= cap, "{peak} bytes of at most {cap}");

    let found: BTreeMap<_, _> = failures.iter().map(|f| (f.job_id(), (f.reason(), f.message.as_str()))).collect();
    assert_eq!(found.len(), failures.len(), "a job has more than one failure");
    for picture in &bad {
        let (reason, message) = found[picture.name.as_str()];
        assert_eq!(reason, reason_of(picture.fault), "{}: {message}", picture.name);
        let is_about_it = message.starts_with("the picture") || message.starts_with("the file is ");
        assert!(is_about_it, "{}: {message}", picture.name);
    }
    for (number, golden) in scenes.iter().enumerate() {
        let id = format!("good {number}");
        let mut matching = annotations.iter().filter(|annotation| annotation.job_id == id);
        assert_eq!(matching.next().unwrap().results[0].raw_text, golden.markup, "{id}");
        assert!(matching.next().is_none());
    }
    send_signal(worker.id().unwrap(), "TERM");
    assert!(worker.wait().await.unwrap().success());
}

fn start(servers: &TestServers) -> Child {
    servers
        .groundling()
        .env("GROUNDLING__S3__MAX_OBJECT_BYTES", LARGEST_OBJECT.to_string())
        .env("GROUNDLING__WORKER__MAX_BYTES_IN_FLIGHT", IN_FLIGHT.to_string())
        .env("GROUNDLING__WORKER__MAX_DECODE_BYTES", DECODING.to_string())
        .env("GROUNDLING__WORKER__MAX_PICTURE_PIXELS", "16000000")
        .arg("worker")
        .stderr(Stdio::inherit())
        .spawn()
        .unwrap()
}

fn key(name: &str) -> String {
    format!("bad/{}", name.replace(' ', "-"))
}

fn reason_of(fault: PictureFault) -> FailureReason {
    match fault {
        PictureFault::Unsupported => FailureReason::UnsupportedPicture,
        PictureFault::Damaged => FailureReason::UndecodablePicture,
        PictureFault::OverLimit => FailureReason::PictureTooLarge,
    }
}

/// Peak resident memory of the worker in bytes.
fn peak(worker: &Child) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", worker.id().unwrap())).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
}
