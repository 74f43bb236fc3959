//! Watching and repairing a pool: status, failures, and an archive compared with its outcomes.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a panic in a test is the report")]

mod common;

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use archive::failures::{Failures, Replay, Replayed, Selection, drop_failures};
use archive::feed::{Feed, FeedError, Progress};
use archive::object::SourceObject;
use archive::pool::Pool;
use archive::reconcile::{ReconcileProgress, Reconciled, reconcile};
use archive::status::{DatasetStatus, Watch};
use async_nats::jetstream::message::PublishMessage;
use async_nats::jetstream::stream::Config;
use broker::settings::{NatsSettings, StreamSettings};
use bytes::Bytes;
use common::{Bench, SyntheticStore, feed, jetstream, memory, source};
use futures::StreamExt;
use sandbox::{NatsOptions, NatsServer};
use wire::Message;
use wire::identity::{failure_id, resubmission_id, sha256_hex};
use wire::subjects::{Dataset, failed_subject_for};
use wire::v1::{self, FailureReason, ImageAnnotation, ImageJob, JobFailure, image_job};

const NATS: &str = "ARCHIVE_TEST_NATS";

fn pool(bench: &Bench) -> Pool {
    let nats = NatsSettings { url: bench.server.client_url().to_owned(), ..NatsSettings::default() };
    Pool::new(&bench.jetstream.client(), &nats, bench.streams.clone())
}

fn dataset(name: &str) -> Dataset {
    name.parse().unwrap()
}

fn object(key: &str) -> SourceObject {
    SourceObject { bucket: "archive".into(), key: key.into(), etag: Some("e".into()), ..SourceObject::default() }
}

fn job(dataset: &str, key: &str) -> ImageJob {
    feed(dataset, Vec::new(), 1).recipe.job(&object(key))
}

fn s3(job: &ImageJob) -> &v1::S3Object {
    match &job.source {
        Some(image_job::Source::S3(object)) => object,
        other => panic!("{other:?}"),
    }
}

/// What a worker publishes about a job that failed as message `sequence` of the stream of jobs.
fn failure(job: &ImageJob, sequence: u64, reason: FailureReason) -> JobFailure {
    let bytes = Bytes::from(job.encode_to_vec());
    JobFailure {
        job_sha256: sha256_hex(&bytes),
        job: bytes,
        subject: format!("groundling.jobs.{}", job.dataset),
        job_id: Some(job.job_id.clone()),
        reason: reason.into(),
        message: "m".into(),
        deliveries: 1,
        stream_sequence: sequence,
        bucket: Some(s3(job).bucket.clone()),
        key: Some(s3(job).key.clone()),
        ..JobFailure::default()
    }
}

async fn publish(bench: &Bench, subject: &str, id: &str, payload: Vec<u8>) {
    let message = PublishMessage::build().payload(payload.into()).message_id(id);
    bench.jetstream.send_publish(subject.to_owned(), message).await.unwrap().await.unwrap();
}

async fn publish_failure(bench: &Bench, failure: &JobFailure) {
    let subject = failed_subject_for(&failure.subject, failure.reason());
    let id = failure_id(&bench.streams.jobs, failure.stream_sequence, 1, &failure.job_sha256);
    publish(bench, &subject, &id, failure.encode_to_vec()).await;
}

fn annotation(job: &ImageJob, worker: &str) -> ImageAnnotation {
    let v1::S3Object { bucket, key, etag, version_id } = s3(job).clone();
    let object = v1::ObjectIdentity { bucket, key, etag, version_id };
    ImageAnnotation {
        annotation_id: sha256_hex(job.job_id.as_bytes()),
        job_id: job.job_id.clone(),
        dataset: job.dataset.clone(),
        picture: Some(v1::PictureFacts { object: Some(object), ..Default::default() }),
        worker: Some(v1::WorkerIdentity { worker_id: worker.into(), ..Default::default() }),
        ..ImageAnnotation::default()
    }
}

async fn publish_annotation(bench: &Bench, job: &ImageJob, worker: &str) {
    let annotation = annotation(job, worker);
    let subject = dataset(&job.dataset).annotations_subject();
    publish(bench, &subject, &annotation.annotation_id, annotation.encode_to_vec()).await;
}

async fn all(pool: &Pool, selection: Selection) -> Vec<archive::failures::Failure> {
    let mut failures = Failures::open(pool, selection).await.unwrap();
    let mut found = Vec::new();
    while let Some(failure) = failures.next().await.unwrap() {
        found.push(failure);
    }
    found
}

fn keys(failures: &[archive::failures::Failure]) -> Vec<&str> {
    failures.iter().map(|failure| failure.record.key.as_deref().unwrap()).collect()
}

#[tokio::test]
async fn failures_are_listed_by_dataset_reason_time_and_number() {
    let bench = Bench::ready().await;
    let pool = pool(&bench);
    // More than a page.
    for i in 0..250 {
        let reason = if i % 2 == 0 { FailureReason::ObjectNotFound } else { FailureReason::Internal };
        let name = if i < 200 { "cats" } else { "dogs" };
        publish_failure(&bench, &failure(&job(name, &format!("{i:03}")), i + 1, reason)).await;
    }
    // As earlier versions published it.
    let old = failure(&job("cats", "old"), 900, FailureReason::Internal);
    publish(&bench, "groundling.failed.cats", "old", old.encode_to_vec()).await;
    assert_eq!(all(&pool, Selection::default()).await.len(), 251);
    let cats = Selection { dataset: Some(dataset("cats")), ..Selection::default() };
    let found = all(&pool, cats.clone()).await;
    assert_eq!((found.len(), keys(&found)[0], keys(&found)[200]), (201, "old", "199"));
    let internal = Selection { reason: Some(FailureReason::Internal), ..cats.clone() };
    assert_eq!(all(&pool, internal.clone()).await.len(), 101);
    assert_eq!(all(&pool, Selection { dataset: None, ..internal.clone() }).await.len(), 126);
    let few = all(&pool, Selection { limit: Some(3), ..internal.clone() }).await;
    assert_eq!(keys(&few), ["old", "001", "003"]);
    let since = found[100].published;
    let recent = all(&pool, Selection { since: Some(since), ..cats.clone() }).await;
    assert_eq!(recent.len(), 101 + 1, "from the hundredth on, and the one of the earlier version");

    let shown = Failures::find(&pool, found[1].sequence).await.unwrap().unwrap();
    assert_eq!(shown, found[1]);
    assert_eq!(shown.address().as_deref(), Some("s3://archive/000"));
    assert_eq!(Failures::find(&pool, 10_000).await.unwrap(), None);

    assert_eq!(drop_failures(&pool, &few).await.unwrap(), 3);
    assert_eq!(drop_failures(&pool, &few).await.unwrap(), 0, "they are gone");
    assert_eq!(all(&pool, internal).await.len(), 98);
}

#[tokio::test]
async fn a_failure_is_replayed_once_under_an_id_of_its_own() {
    let bench = Bench::ready().await;
    let pool = pool(&bench);
    let failed = failure(&job("cats", "a"), 7, FailureReason::ObjectNotFound);
    publish_failure(&bench, &failed).await;
    let [found] = &all(&pool, Selection::default()).await[..] else { panic!("one failure") };
    let replay = Replay::open(&pool).await.unwrap();
    assert_eq!(replay.replay(found).await.unwrap(), Replayed::Done);
    // A second operator who had read it before.
    assert_eq!(replay.replay(found).await.unwrap(), Replayed::Before);
    assert!(all(&pool, Selection::default()).await.is_empty());
    assert_eq!(bench.count("groundling.cursor.cats.*").await, 0, "the marker is removed");
    let jobs = bench.jetstream.get_stream(&bench.streams.jobs).await.unwrap();
    let stored = jobs.get_last_raw_message_by_subject("groundling.jobs.cats").await.unwrap();
    assert_eq!(stored.payload, failed.job, "exactly this job");
    assert_eq!(stored.headers.get("Nats-Msg-Id").unwrap().as_str(), resubmission_id(&failed));
    assert_eq!(bench.drain().await, HashMap::from([("a".to_owned(), 1)]));

    // It fails again: another failure, which is replayed again.
    publish_failure(&bench, &JobFailure { stream_sequence: 8, ..failed.clone() }).await;
    let again = all(&pool, Selection::default()).await;
    assert_eq!(replay.replay_all(&again).await.unwrap(), [(again[0].sequence, Replayed::Done)]);
    assert_eq!(bench.drain().await, HashMap::from([("a".to_owned(), 1)]));
}

#[tokio::test]
async fn a_failure_that_cannot_be_replayed_stays() {
    let bench = Bench::ready().await;
    let pool = pool(&bench);
    let whole = failure(&job("cats", "a"), 7, FailureReason::ObjectNotFound);
    publish_failure(&bench, &whole.without_job().unwrap()).await;
    publish_failure(&bench, &JobFailure { subject: "elsewhere".into(), stream_sequence: 8, ..whole.clone() }).await;
    let long = format!("groundling.jobs.{}", "x".repeat(200));
    publish_failure(&bench, &JobFailure { subject: long, stream_sequence: 9, ..whole }).await;
    let found = all(&pool, Selection::default()).await;
    let replayed = Replay::open(&pool).await.unwrap().replay_all(&found).await.unwrap();
    let reasons: Vec<_> = replayed
        .iter()
        .map(|(_, replayed)| match replayed {
            Replayed::Impossible(why) => why.as_str(),
            other => panic!("{other:?}"),
        })
        .collect();
    for (why, part) in reasons.iter().zip(["submit the job from its source", "not the subject of a job", "200 bytes"]) {
        assert!(why.contains(part), "{why}");
    }
    assert_eq!(all(&pool, Selection::default()).await.len(), 3);
    assert!(bench.drain().await.is_empty());
}

#[tokio::test]
async fn a_replay_needs_streams_of_this_version() {
    let bench = Bench::ready().await;
    let stream = bench.jetstream.get_stream(&bench.streams.jobs).await.unwrap();
    let subjects = vec!["groundling.jobs.*".to_owned()];
    bench.jetstream.update_stream(&Config { subjects, ..stream.cached_info().config.clone() }).await.unwrap();
    let error = Replay::open(&pool(&bench)).await.unwrap_err().to_string();
    assert!(error.contains("GROUNDLING_JOBS") && error.contains("setup --migrate"), "{error}");
}

/// This test program again, as a command that replays all failures.
fn start_replay(bench: &Bench) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "a_replay", "--ignored", "--nocapture"])
        .env(NATS, bench.server.client_url())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

#[tokio::test]
#[ignore = "the other tests of this file start it"]
async fn a_replay() {
    let Ok(url) = std::env::var(NATS) else { return };
    let nats = NatsSettings { url: url.clone(), ..NatsSettings::default() };
    let pool = Pool::new(&jetstream(&url).await.client(), &nats, Default::default());
    let replay = Replay::open(&pool).await.unwrap();
    let found = all(&pool, Selection::default()).await;
    for failures in found.chunks(100) {
        replay.replay_all(failures).await.unwrap();
    }
}

/// Kills replays until `kills` of them were killed in the middle, and looks whether each job is in the queue once.
async fn kill_replays(kills: u32) {
    const FAILURES: u64 = 1500;
    let bench = Bench::ready().await;
    // The stream forgets ids at once, so that they protect from nothing.
    let stream = bench.jetstream.get_stream(&bench.streams.jobs).await.unwrap();
    let duplicate_window = Duration::from_millis(100);
    let config = Config { duplicate_window, ..stream.cached_info().config.clone() };
    bench.jetstream.update_stream(&config).await.unwrap();
    let (mut killed, mut runs) = (0, 0);
    // SplitMix64.
    let mut seed = u64::from(std::process::id());
    eprintln!("seed {seed}");
    let mut random = move |below: u64| {
        seed = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut x = seed;
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (x ^ (x >> 31)) % below
    };
    while killed < kills {
        for i in 0..FAILURES {
            let sequence = runs * FAILURES + i + 1;
            let failed = failure(&job("cats", &format!("{i}")), sequence, FailureReason::Internal);
            let payload = failed.encode_to_vec();
            let subject = failed_subject_for(&failed.subject, failed.reason());
            bench.jetstream.client().publish(subject, payload.into()).await.unwrap();
        }
        bench.jetstream.client().flush().await.unwrap();
        loop {
            let mut replay = start_replay(&bench);
            let until = Instant::now() + Duration::from_millis(30 + random(250));
            let end = loop {
                match replay.try_wait().unwrap() {
                    None if killed < kills && Instant::now() >= until => break None,
                    None => tokio::time::sleep(Duration::from_millis(5)).await,
                    Some(status) => break Some(status),
                }
            };
            if let Some(status) = end {
                assert!(status.success());
                break;
            }
            replay.kill().unwrap();
            replay.wait().unwrap();
            killed += 1;
        }
        assert!(all(&pool(&bench), Selection::default()).await.is_empty(), "a failure stayed");
        let found = bench.drain().await;
        let twice = found.values().filter(|times| **times > 1).count();
        assert_eq!((found.len() as u64, twice), (FAILURES, 0), "jobs, and jobs twice");
        Replay::open(&pool(&bench)).await.unwrap();
        assert_eq!(bench.count("groundling.cursor.cats.*").await, 0, "a marker stayed");
        runs += 1;
    }
    eprintln!("{killed} replays killed in {runs} runs over {} failures: lost 0, twice 0", runs * FAILURES);
}

#[tokio::test]
async fn twenty_killed_replays_lose_no_job_and_repeat_none() {
    kill_replays(20).await;
}

#[tokio::test]
#[ignore = "takes minutes: cargo test -p archive --test pool -- --ignored --nocapture two_hundred"]
async fn two_hundred_killed_replays_lose_no_job_and_repeat_none() {
    kill_replays(200).await;
}

async fn look(watch: &mut Watch, name: &str) -> DatasetStatus {
    let status = watch.look().await.unwrap();
    status.datasets.into_iter().find(|dataset| dataset.dataset == name).unwrap()
}

#[tokio::test]
async fn a_status_tells_of_each_dataset_what_the_streams_hold() {
    let bench = Bench::ready().await;
    let store = SyntheticStore::start(1500, Duration::ZERO).await;
    let mut watch = Watch::new(pool(&bench), Vec::new(), Some(3600.0));
    assert!(watch.look().await.unwrap().datasets.is_empty());

    let fed = feed("fed", vec![source(&store.endpoint, "s3://archive/").await], 4);
    let summary = fed.run(&bench.target(), &Progress::default()).await.unwrap();
    bench
        .jetstream
        .publish("groundling.jobs.sent", job("sent", "a").encode_to_vec().into())
        .await
        .unwrap()
        .await
        .unwrap();
    let retry = v1::Retry { job: job("sent", "b").encode_to_vec().into(), ..Default::default() };
    publish(&bench, "groundling.retries.sent.9-1", "r", retry.encode_to_vec()).await;
    publish_failure(&bench, &failure(&job("sent", "c"), 1, FailureReason::Internal)).await;
    publish_failure(&bench, &failure(&job("sent", "d"), 2, FailureReason::ObjectNotFound)).await;
    publish_failure(&bench, &failure(&job("sent", "e"), 3, FailureReason::ObjectNotFound)).await;
    publish(&bench, "groundling.failed.sent", "old", JobFailure::default().encode_to_vec()).await;

    // A worker takes ten jobs and ends two of them.
    let consumer = broker::setup::find_consumer(&bench.jetstream, &bench.streams).await.unwrap().unwrap();
    let taken: Vec<_> = consumer.fetch().max_messages(10).messages().await.unwrap().collect().await;
    for message in taken.iter().take(2) {
        let message = message.as_ref().unwrap();
        publish_annotation(&bench, &ImageJob::decode(message.payload.clone()).unwrap(), "worker-1").await;
        message.double_ack().await.unwrap();
    }
    tokio::time::sleep(Duration::from_millis(1200)).await;

    let fed = look(&mut watch, "fed").await;
    let from = fed.source.clone().unwrap();
    assert_eq!((from.objects, from.jobs, from.total_jobs), (1500, 1500, Some(1500)));
    assert_eq!((from.lanes, from.lanes_done), (summary.lanes, summary.lanes));
    assert_eq!((fed.queued, fed.waiting, fed.in_flight, fed.done), (1498, Some(1490), Some(8), 2));
    assert_eq!(fed.workers.map(|workers| (workers.seen, workers.at_least)), Some((1, false)));
    let rate = fed.images_per_second.thirty_minutes.unwrap();
    assert!(rate > 0.0 && rate <= 2.0, "{rate}");
    let left = fed.eta_seconds.unwrap();
    assert!(left.least > 700.0 && left.most.unwrap() >= left.least, "{left:?}");
    let (spent, cost) = (fed.device_seconds.unwrap(), fed.cost.unwrap());
    assert!((cost.so_far.unwrap() - spent).abs() < 1e-9, "a worker costs 1 per second");
    assert_eq!(cost.per_thousand.unwrap(), cost.so_far.unwrap() / 2.0 * 1000.0);

    let sent = look(&mut watch, "sent").await;
    assert_eq!((sent.source, sent.queued, sent.retrying, sent.done, sent.failed), (None, 1, 1, 0, 4));
    let reasons = [("internal", 1), ("object_not_found", 2), ("unknown", 1)];
    assert_eq!(sent.failed_by_reason, reasons.map(|(reason, count)| (reason.to_owned(), count)).into());
    assert_eq!((sent.workers, sent.device_seconds, sent.eta_seconds), (None, None, None), "nothing is done yet");

    let mut one = Watch::new(pool(&bench), vec![dataset("sent")], None);
    let names: Vec<_> = one.look().await.unwrap().datasets.into_iter().map(|dataset| dataset.dataset).collect();
    assert_eq!(names, ["sent"]);
}

#[tokio::test]
async fn the_time_of_several_workers_is_added() {
    let bench = Bench::ready().await;
    for second in 0..4 {
        for (worker, key) in [("one", "a"), ("two", "b"), ("three", "c")] {
            publish_annotation(&bench, &job("cats", &format!("{key}{second}")), worker).await;
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    let mut watch = Watch::new(pool(&bench), Vec::new(), None);
    let status = look(&mut watch, "cats").await;
    assert_eq!(status.workers.unwrap().seen, 3);
    let seconds = status.device_seconds.unwrap();
    assert!((6.0..=12.0).contains(&seconds), "three workers for about three seconds: {seconds}");
    assert_eq!(status.cost, None);
    assert_eq!(status.eta_seconds.unwrap().most, Some(0.0), "nothing is left");
}

/// The number of annotations on a subject.
async fn stored(bench: &Bench, subject: &str) -> u64 {
    let stream = bench.jetstream.get_stream(&bench.streams.annotations).await.unwrap();
    let subjects: Vec<_> = stream.info_with_subjects(subject).await.unwrap().collect().await;
    subjects.into_iter().map(|subject| subject.unwrap().1 as u64).sum()
}

/// Stores many annotations on a subject, without waiting for each.
async fn publish_many(bench: &Bench, count: u64, subject: &str, payload: impl Fn(u64) -> Vec<u8>) {
    let client = bench.jetstream.client();
    for i in 0..count {
        client.publish(subject.to_owned(), payload(i).into()).await.unwrap();
        // The server drops messages that it cannot keep up with.
        if i % 20_000 == 19_999 {
            client.flush().await.unwrap();
            while stored(bench, subject).await < i + 1 {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
    client.flush().await.unwrap();
    while stored(bench, subject).await < count {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
#[ignore = "takes minutes: ANNOTATIONS=1000000 cargo test -p archive --test pool -- --ignored --nocapture cost_of_a_look"]
async fn the_cost_of_a_look_does_not_grow_with_the_stream() {
    let count: u64 = std::env::var("ANNOTATIONS").map_or(1_000_000, |count| count.parse().unwrap());
    let bench = Bench::ready().await;
    let mut looks = Vec::new();
    for (name, count) in [("small", 1000), ("large", count)] {
        let subject = dataset(name).annotations_subject();
        let started = Instant::now();
        publish_many(&bench, count, &subject, |i| {
            let worker = Some(v1::WorkerIdentity { worker_id: format!("worker-{}", i % 4), ..Default::default() });
            ImageAnnotation { worker, ..ImageAnnotation::default() }.encode_to_vec()
        })
        .await;
        let stored = started.elapsed();
        let mut watch = Watch::new(pool(&bench), vec![dataset(name)], None);
        for what in ["first", "second"] {
            let statistics = bench.jetstream.client().statistics();
            let sent = || statistics.out_messages.load(std::sync::atomic::Ordering::Relaxed);
            let received = || statistics.in_bytes.load(std::sync::atomic::Ordering::Relaxed);
            let (before, bytes, started) = (sent(), received(), Instant::now());
            let status = look(&mut watch, name).await;
            let took = started.elapsed();
            assert_eq!(status.done, count);
            eprintln!(
                "{count} annotations, stored in {stored:.0?}: the {what} look took {took:.1?}, {} requests, {} kB",
                sent() - before,
                (received() - bytes) / 1000
            );
            looks.push(sent() - before);
        }
    }
    assert!(looks[2] <= looks[0] + 60, "{looks:?} requests");
}

async fn compare(bench: &Bench, feed: &Feed) -> (Reconciled, Vec<String>) {
    let mut found = reconcile(&pool(bench), feed, &ReconcileProgress::default()).await.unwrap();
    let mut missing: Vec<_> = found.missing_objects.objects().unwrap().map(|object| object.unwrap().key).collect();
    missing.sort();
    (found, missing)
}

fn numbers(found: &Reconciled) -> [u64; 5] {
    [found.objects, found.done, found.failed, found.waiting, found.missing]
}

#[tokio::test]
async fn what_is_missing_from_a_dataset_is_found_and_submitted_once() {
    let bench = Bench::ready().await;
    let store = SyntheticStore::start(3000, Duration::ZERO).await;
    let sources = || async { vec![source(&store.endpoint, "s3://archive/").await] };
    let fed = feed("fed", sources().await, 4);
    assert_eq!(numbers(&compare(&bench, &fed).await.0), [3000, 0, 0, 0, 3000]);
    fed.run(&bench.target(), &Progress::default()).await.unwrap();
    assert_eq!(numbers(&compare(&bench, &fed).await.0), [3000, 0, 0, 3000, 0]);

    let consumer = broker::setup::find_consumer(&bench.jetstream, &bench.streams).await.unwrap().unwrap();
    let mut lost = Vec::new();
    let mut messages = consumer.fetch().max_messages(1000).messages().await.unwrap();
    let mut i = 0;
    while let Some(message) = messages.next().await {
        let message = message.unwrap();
        let job = ImageJob::decode(message.payload.clone()).unwrap();
        match i % 5 {
            0 | 1 => publish_annotation(&bench, &job, "w").await,
            2 => publish_failure(&bench, &failure(&job, i + 1, FailureReason::Internal)).await,
            // It waits for its next attempt.
            3 => {
                let retry = v1::Retry { job: message.payload.clone(), ..Default::default() };
                publish(&bench, &format!("groundling.retries.fed.{i}-1"), &format!("r{i}"), retry.encode_to_vec())
                    .await;
            }
            // A disaster.
            _ => lost.push(s3(&job).key.clone()),
        }
        message.double_ack().await.unwrap();
        i += 1;
    }
    lost.sort();
    // Annotations of another dataset, and of an object that the source does not have.
    publish_annotation(&bench, &job("other", &lost[0]), "w").await;
    publish_annotation(&bench, &job("fed", "gone.jpg"), "w").await;
    let (found, missing) = compare(&bench, &fed).await;
    assert_eq!(numbers(&found), [3000, 400, 200, 200 + 2000, 200]);
    assert_eq!((missing, found.elsewhere), (lost.clone(), 1));
    assert!(!found.annotations_removed);

    let mut other = feed("fed", sources().await, 4);
    other.arguments.insert("--task".into(), "detailed".into());
    let error = other.begin_repair(&bench.target()).await.unwrap_err();
    assert!(matches!(error, FeedError::OtherArguments { .. }), "{error}");

    // Two at once: the first one can no longer store anything.
    let first = fed.begin_repair(&bench.target()).await.unwrap();
    let second = fed.begin_repair(&bench.target()).await.unwrap();
    let (mut found, _) = compare(&bench, &fed).await;
    let objects = found.missing_objects.objects().unwrap();
    let error = fed.repair(first, objects, &Progress::default()).await.unwrap_err();
    assert!(matches!(error, FeedError::FencedOut { .. }), "{error}");
    let objects = found.missing_objects.objects().unwrap();
    let stored = fed.repair(second, objects, &Progress::default()).await.unwrap();
    assert_eq!(stored.jobs, 200);
    assert_eq!(numbers(&compare(&bench, &fed).await.0), [3000, 400, 200, 2400, 0]);
    let queue = bench.drain().await;
    assert!(queue.values().all(|times| *times == 1) && queue.len() == 2200);
    assert!(lost.iter().all(|key| queue.contains_key(key)));
}

#[tokio::test]
async fn nothing_is_submitted_while_the_source_is_being_read() {
    let bench = Bench::ready().await;
    let store = SyntheticStore::start(3000, Duration::ZERO).await;
    let fed = feed("fed", vec![source(&store.endpoint, "s3://archive/").await], 1);
    let target = archive::feed::Target { max_waiting: 1000, ..bench.target() };
    let feeding = fed.run(&target, &Progress::default());
    tokio::time::timeout(Duration::from_secs(3), feeding).await.expect_err("it waits for workers");
    let error = fed.begin_repair(&bench.target()).await.unwrap_err();
    assert!(matches!(error, FeedError::Unfinished(_)), "{error}");
}

#[tokio::test]
#[ignore = "takes minutes: cargo test -p archive --test pool -- --ignored --nocapture memory_of_a_comparison"]
async fn the_memory_of_a_comparison_does_not_grow_with_the_archive() {
    let bench = Bench::ready().await;
    let mut peaks = BTreeMap::new();
    for count in [100_000, 1_000_000] {
        let store = SyntheticStore::start(count, Duration::ZERO).await;
        let name = format!("keys-{count}");
        let fed = feed(&name, vec![source(&store.endpoint, "s3://archive/").await], 16);
        // Three of four objects are annotated.
        let keys = store.keys();
        publish_many(&bench, count / 4 * 3, &dataset(&name).annotations_subject(), |i| {
            let mut annotation = annotation(&job(&name, &keys[i as usize]), "w");
            // The store makes up its ETags.
            annotation.picture.as_mut().unwrap().object.as_mut().unwrap().etag = None;
            annotation.encode_to_vec()
        })
        .await;
        drop(keys);
        let (before, started) = (memory().0, Instant::now());
        let (stop, stopped) = mpsc::channel::<()>();
        let sampling = std::thread::spawn(move || {
            let mut most = 0.0_f64;
            while stopped.recv_timeout(Duration::from_millis(20)) == Err(RecvTimeoutError::Timeout) {
                most = most.max(memory().0);
            }
            most
        });
        let found = reconcile(&pool(&bench), &fed, &ReconcileProgress::default()).await.unwrap();
        drop(stop);
        let grown = sampling.join().unwrap() - before;
        eprintln!("{count} keys: {grown:.1} MB more at most, {:.1?}", started.elapsed());
        assert_eq!((found.objects, found.done), (count, count / 4 * 3));
        peaks.insert(count, grown);
    }
    assert!(peaks[&1_000_000] < peaks[&100_000] + 60.0, "{peaks:?} MB");
}

#[tokio::test]
async fn an_operator_needs_no_more_than_its_permissions() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/nats/operator-permissions.conf");
    let permissions = std::fs::read_to_string(file).unwrap();
    let users = "{ user: admin, password: a }, { user: operator, password: o, permissions: $GROUNDLING_OPERATOR }";
    let extra_config = format!("{permissions}\nauthorization {{ users = [ {users} ] }}");
    let server = NatsServer::start(&NatsOptions { extra_config, ..NatsOptions::default() }).await.unwrap();
    let errors: Arc<Mutex<Vec<String>>> = Arc::default();
    let seen = Arc::clone(&errors);
    let options = async_nats::ConnectOptions::with_user_and_password("operator".into(), "o".into());
    let options = options.event_callback(move |event| {
        if let async_nats::Event::ServerError(error) = event {
            seen.lock().unwrap().push(error.to_string());
        }
        std::future::ready(())
    });
    let operator = options.connect(server.client_url()).await.unwrap();
    let admin = async_nats::ConnectOptions::with_user_and_password("admin".into(), "a".into());
    let jetstream = async_nats::jetstream::new(admin.connect(server.client_url()).await.unwrap());
    let streams = StreamSettings { jobs_max_bytes: Some(1 << 30), ..StreamSettings::default() };
    assert!(broker::setup::setup(&jetstream, &streams).await.unwrap().is_ready());
    let bench = Bench { server, jetstream, streams: streams.clone() };
    let pool = Pool::new(&operator, &NatsSettings::default(), streams);
    let store = SyntheticStore::start(10, Duration::ZERO).await;
    let fed = feed("fed", vec![source(&store.endpoint, "s3://archive/").await], 1);
    publish_annotation(&bench, &job("fed", "a"), "w").await;
    for (sequence, key) in [(1, "b"), (2, "c")] {
        publish_failure(&bench, &failure(&job("fed", key), sequence, FailureReason::Internal)).await;
    }
    publish(&bench, "groundling.retries.fed.9-1", "r", v1::Retry::default().encode_to_vec()).await;

    let target = archive::feed::Target { jetstream: async_nats::jetstream::new(operator), ..bench.target() };
    let repair = fed.begin_repair(&target).await.unwrap();
    let mut found = reconcile(&pool, &fed, &ReconcileProgress::default()).await.unwrap();
    assert_eq!((found.missing, found.elsewhere), (10, 3));
    fed.repair(repair, found.missing_objects.objects().unwrap(), &Progress::default()).await.unwrap();
    let failures = all(&pool, Selection::default()).await;
    assert!(Failures::find(&pool, failures[0].sequence).await.unwrap().is_some());
    assert_eq!(Replay::open(&pool).await.unwrap().replay(&failures[0]).await.unwrap(), Replayed::Done);
    assert_eq!(drop_failures(&pool, &failures[1..]).await.unwrap(), 1);
    let status = look(&mut Watch::new(pool, Vec::new(), None), "fed").await;
    assert_eq!((status.queued, status.done, status.failed), (11, 1, 0));
    assert_eq!(*errors.lock().unwrap(), Vec::<String>::new());
}
