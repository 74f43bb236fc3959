//! The outcomes of settled jobs are replaced by short records. Measures what outcomes cost the server.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a panic in a test is the report")]
#![allow(clippy::print_stdout, reason = "the figures are what the measurement is for")]

use crate::common;

use std::sync::Arc;
use std::time::Duration;

use async_nats::jetstream::message::PublishMessage;
use async_nats::jetstream::stream::Config;
use broker::setup::setup;
use common::{Running, TestEnv, Yes, bitmap, eventually, job, settings, submit, watch_log};
use futures::{StreamExt, TryStreamExt};
use sandbox::{NatsOptions, NatsServer, disk_bytes, resident_bytes};
use wire::Message;
use wire::subjects::outcome_subject;
use wire::v1::{self, Outcome, Settled, outcome};
use worker::settings::NatsSettings;
use worker::{JobEvent, Settings};

/// Short time limits: an outcome is replaced 3 s after its job is settled, and the short record expires 6 s later.
fn hasty(env: &TestEnv) -> Settings {
    let mut settings = settings(env);
    settings.streams.ack_wait = Duration::from_secs(3);
    settings.worker.max_retry_delay = Duration::from_secs(1);
    settings.worker.job_timeout = Duration::from_secs(1);
    settings.worker.publish_timeout = Duration::from_secs(1);
    settings.streams.duplicate_window = settings.longest_redelivery();
    settings
}

/// The outcomes in their stream.
async fn outcomes(env: &TestEnv) -> Vec<Outcome> {
    let stream = env.jetstream.get_stream(&env.streams.outcomes).await.unwrap();
    let state = &stream.cached_info().state;
    let mut found = Vec::new();
    for sequence in state.first_sequence.max(1)..=state.last_sequence {
        if let Ok(message) = stream.get_raw_message(sequence).await {
            found.push(Outcome::decode(message.payload).unwrap());
        }
    }
    found
}

fn are_settled(outcomes: &[Outcome]) -> Option<(usize, usize)> {
    let settled = |outcome: &Outcome| match outcome.record {
        Some(outcome::Record::Settled(Settled { failed, .. })) => Some(failed),
        _ => None,
    };
    let failed = outcomes.iter().map(settled).collect::<Option<Vec<bool>>>()?;
    Some((failed.iter().filter(|failed| !**failed).count(), failed.iter().filter(|failed| **failed).count()))
}

#[tokio::test]
async fn outcomes_of_finished_jobs_shrink_and_go_long_before_their_max_age() {
    let env = TestEnv::ready().await;
    for (id, picture) in [("a", bitmap()), ("b", bitmap()), ("bad", b"no picture".to_vec())] {
        submit(&env, &job(id, picture)).await;
    }
    let mut running = Running::start_with(hasty(&env), Arc::new(Yes));
    for _ in 0..3 {
        running.event().await;
    }
    eventually("outcomes are settled", || async { are_settled(&outcomes(&env).await) == Some((2, 1)) }).await;
    eventually("nothing is left of them", || async { env.messages_in(&env.streams.outcomes).await == 0 }).await;
    running.end().await;
}

#[tokio::test]
async fn a_job_that_others_have_settled_leaves_the_queue_and_nothing_is_published() {
    let env = TestEnv::ready().await;
    for i in 0..2 {
        submit(&env, &job(&format!("job-{i}"), bitmap())).await;
    }
    let mut intake = env.intake(env.consumer().await, 2);
    for failed in [false, true] {
        let delivery = intake.next().await;
        let subject = outcome_subject(delivery.info().sequence, delivery.info().published_nanos);
        let record = Some(outcome::Record::Settled(Settled { sequence: 1, failed }));
        let settled = Outcome { record, ..Default::default() }.encode_to_vec();
        env.jetstream.publish(subject, settled.into()).await.unwrap().await.unwrap();
        // As if its worker were late.
        drop(delivery);
    }
    intake.stop.cancel();
    intake.task.await.unwrap();
    let running = Running::start(&env);
    eventually("the jobs leave the queue", || async { env.messages_in(&env.streams.jobs).await == 0 }).await;
    let report = running.end().await;
    assert_eq!((report.finished, report.duplicates, report.failed, report.retried), (1, 1, 1, 0));
    for stream in [&env.streams.annotations, &env.streams.failed] {
        assert_eq!(env.messages_in(stream).await, 0);
    }
}

#[tokio::test]
async fn outcomes_stay_whole_in_a_stream_that_keeps_no_message_for_a_time_of_its_own() {
    let (log, _guard) = watch_log();
    let env = TestEnv::ready().await;
    let stream = env.jetstream.get_stream(&env.streams.outcomes).await.unwrap();
    let config = Config { allow_message_ttl: false, ..stream.cached_info().config.clone() };
    env.jetstream.delete_stream(&env.streams.outcomes).await.unwrap();
    env.jetstream.create_stream(config).await.unwrap();
    let report = setup(&env.jetstream, &env.streams).await.unwrap();
    assert!(report.differences.concat().contains("GROUNDLING_OUTCOMES has no allow_msg_ttl"), "{report:?}");
    submit(&env, &job("a", bitmap())).await;
    let mut running = Running::start_with(hasty(&env), Arc::new(Yes));
    let event = running.event().await;
    assert!(matches!(event, JobEvent::Finished { .. }), "{event:?}");
    eventually("it says so", || async { log.contains("outcomes keep their full size until streams.outcomes_max_age") })
        .await;
    let found = outcomes(&env).await;
    assert!(matches!(found[..], [Outcome { record: Some(outcome::Record::Annotation(_)), .. }]), "{found:?}");
    running.end().await;
}

/// The outcome of a job with a caption of three phrases.
fn whole(i: usize) -> Outcome {
    let text = "An image of a fox, a tower, a hammer and a snail.";
    let entity = v1::Entity {
        phrase: "a fox".into(),
        span: Some(v1::CodePointSpan { start: 12, end: 17 }),
        byte_span: Some(v1::ByteSpan { start: 12, end: 17 }),
        score: Some(0.9),
        boxes: vec![v1::GroundedBox {
            fractions: Some(v1::FractionBox { x0: 0.1, y0: 0.2, x1: 0.3, y1: 0.4 }),
            pixels: Some(v1::PixelBox { x0: 44.0, y0: 76.0, x1: 116.0, y1: 148.0 }),
            ..Default::default()
        }],
    };
    let result = v1::TaskResult {
        task_id: "caption".into(),
        prompt: "<grounding> An image of".into(),
        text: text.into(),
        raw_text: format!("<grounding> {text}"),
        entities: vec![entity; 3],
        ..Default::default()
    };
    let picture = v1::PictureFacts {
        format: "webp".into(),
        width: 1024,
        height: 768,
        size_bytes: 111_172,
        sha256: "0".repeat(64),
        orientation: 1,
        object: Some(v1::ObjectIdentity {
            bucket: "pictures".into(),
            key: format!("2024/beach-{i}.webp"),
            etag: Some("0".repeat(32)),
            ..Default::default()
        }),
        ..Default::default()
    };
    let model = v1::ModelIdentity { name: "kosmos-2".into(), revision: None, digest: "0".repeat(64) };
    let worker = v1::WorkerIdentity { worker_id: format!("worker-{}", "0".repeat(32)), version: "0.1.0".into() };
    let annotation = v1::ImageAnnotation {
        annotation_id: format!("{i:064}"),
        job_id: format!("job-{i}"),
        dataset: "holiday".into(),
        picture: Some(picture),
        model: Some(model),
        worker: Some(worker),
        finished_at: Some(std::time::SystemTime::UNIX_EPOCH.into()),
        results: vec![result],
        ..Default::default()
    };
    let record = Some(outcome::Record::Annotation(annotation));
    Outcome { subject: "groundling.annotations.holiday".into(), message_id: format!("{i:064}"), record }
}

/// Prints the bytes of a waiting job that names an object, of its annotation and of its failure.
async fn one_of_each(env: &TestEnv) {
    let object = v1::S3Object { bucket: "pictures".into(), key: "2024/beach-12345.webp".into(), ..Default::default() };
    let image = v1::ImageJob { source: Some(v1::image_job::Source::S3(object)), ..job("job-12345", Vec::new()) };
    let image = image.encode_to_vec();
    let Some(outcome::Record::Annotation(annotation)) = whole(12345).record else { unreachable!("it is one") };
    let failure = v1::JobFailure {
        job: image.clone().into(),
        subject: "groundling.jobs.holiday".into(),
        job_id: Some("job-12345".into()),
        reason: v1::FailureReason::ObjectNotFound.into(),
        message: "s3://pictures/2024/beach-12345.webp could not be read: the store has no such object".into(),
        job_sha256: "0".repeat(64),
        bucket: Some("pictures".into()),
        key: Some("2024/beach-12345.webp".into()),
        worker: Some(v1::WorkerIdentity { worker_id: "worker-1".into(), version: "0.1.0".into() }),
        ..Default::default()
    };
    for (stream, subject, id, payload) in [
        (&env.streams.jobs, "groundling.jobs.holiday", "job-12345".to_owned(), image),
        (&env.streams.annotations, "groundling.annotations.holiday", "0".repeat(64), annotation.encode_to_vec()),
        (&env.streams.failed, "groundling.failed.holiday", "0".repeat(64), failure.encode_to_vec()),
    ] {
        let message = PublishMessage::build().payload(payload.into()).message_id(id).expected_stream(stream);
        env.jetstream.send_publish(subject, message).await.unwrap().await.unwrap();
        let bytes = env.jetstream.get_stream(stream).await.unwrap().cached_info().state.bytes;
        println!("{stream}: one message has {bytes} bytes");
    }
}

/// Not a test: prints what outcomes cost a server. `cargo test --workspace --test jobs compaction -- --ignored --nocapture`
#[tokio::test]
#[ignore = "a measurement"]
async fn bytes_of_an_outcome() {
    const OUTCOMES: usize = 100_000;
    const KEEP: Duration = Duration::from_secs(30 * 60 + 1);
    let dir = tempfile::tempdir().unwrap();
    let options = NatsOptions { data_dir: Some(dir.path().to_owned()), ..Default::default() };
    let server = NatsServer::start(&options).await.unwrap();
    let nats = NatsSettings { url: server.client_url().to_owned(), ..Default::default() };
    let mut env = TestEnv::at(server, nats).await;
    setup(&env.jetstream, &env.streams).await.unwrap();
    // Returns the sequences. `replaced` are the sequences of the messages to replace; their replacements get a TTL.
    let publish = async |env: &TestEnv, payload: &dyn Fn(usize) -> Vec<u8>, replaced: &[u64]| -> Vec<u64> {
        futures::stream::iter(0..OUTCOMES)
            .map(|i| {
                let message = PublishMessage::build().payload(payload(i).into());
                let message = match replaced.get(i) {
                    Some(sequence) => message.ttl(KEEP).expected_last_subject_sequence(*sequence),
                    None => message.expected_stream(&env.streams.outcomes).expected_last_subject_sequence(0),
                };
                let subject = outcome_subject(1_000_000 + i as u64, 1_700_000_000_000_000_000 + i as u64);
                let sent = env.jetstream.send_publish(subject, message);
                async move { Ok::<_, async_nats::Error>(sent.await?.await?.sequence) }
            })
            .buffered(256)
            .try_collect()
            .await
            .unwrap()
    };
    one_of_each(&env).await;
    let told = async |env: &mut TestEnv, what: &str, empty: (u64, u64)| {
        let disk = disk_bytes(dir.path()).unwrap();
        // After a restart, so that memory which the server has freed but kept does not count.
        env.server.restart().await.unwrap();
        env.jetstream =
            broker::connection::jetstream(&broker::connection::connect(&env.nats, "test").await.unwrap(), &env.nats);
        let stream = env.jetstream.get_stream(&env.streams.outcomes).await.unwrap();
        let state = &stream.cached_info().state;
        let memory = resident_bytes(env.server.process_id().unwrap()).unwrap();
        println!(
            "{what}: {} outcomes; each {} bytes in the stream, {} on disk, {} in memory",
            state.messages,
            state.bytes / state.messages.max(1),
            disk.saturating_sub(empty.1) / OUTCOMES as u64,
            memory.saturating_sub(empty.0) / OUTCOMES as u64,
        );
        (memory, disk)
    };
    let empty = told(&mut env, "empty", (0, 0)).await;
    let sequences = publish(&env, &|i| whole(i).encode_to_vec(), &[]).await;
    told(&mut env, "whole", empty).await;
    let record = |i: usize| Some(outcome::Record::Settled(Settled { sequence: i as u64, failed: false }));
    publish(&env, &|i| Outcome { record: record(i), ..Default::default() }.encode_to_vec(), &sequences).await;
    told(&mut env, "settled", empty).await;
}
