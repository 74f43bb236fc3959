//! Jobs through a whole pool: a real NATS server, a real S3 store, the real program.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use crate::support;

use std::collections::BTreeSet;
use std::process::Stdio;
use std::time::Duration;

use support::{TestServers, Worker, caption, demo, entities, goldens, raw};
use wire::subjects::{ANNOTATIONS_STREAM, FAILED_STREAM, JOBS_STREAM};
use wire::v1::FailureReason;

#[tokio::test(flavor = "multi_thread")]
async fn every_scene_becomes_exactly_one_annotation_with_the_references_texts_and_boxes() {
    let servers = TestServers::start().await;
    let (demo, goldens) = (demo(), goldens());
    for scene in &demo.scenes {
        servers.upload(&scene.file_name, std::fs::read(&scene.path).unwrap()).await;
        let prompts = goldens.iter().filter(|g| g.file == scene.file_name).enumerate();
        let tasks = prompts.map(|(i, golden)| raw(&i.to_string(), &golden.prompt)).collect();
        servers.enqueue(&servers.job(&scene.file_name, &scene.file_name, tasks)).await;
    }
    let worker = servers.worker();
    let (annotations, failures) = servers.wait_for_outcomes(48).await;
    servers.wait_until_queue_is_empty().await;
    assert_eq!(failures, []);
    let jobs: BTreeSet<_> = annotations.iter().map(|annotation| annotation.job_id.as_str()).collect();
    assert_eq!((annotations.len(), jobs.len()), (48, 48));

    let mut compared = 0;
    for annotation in &annotations {
        let picture = annotation.picture.as_ref().unwrap();
        let bytes = std::fs::read(demo.scenes_dir.join(&annotation.job_id)).unwrap();
        assert_eq!(picture.size_bytes, bytes.len() as u64);
        assert_eq!(picture.sha256, wire::identity::sha256_hex(&bytes));
        assert!(annotation.model.as_ref().unwrap().name == "kosmos-2-emoji");
        let expected = goldens.iter().filter(|g| g.file == annotation.job_id);
        for (result, golden) in annotation.results.iter().zip(expected) {
            assert_eq!(result.prompt, golden.prompt);
            assert_eq!(result.text, golden.text);
            assert_eq!(result.raw_text, golden.markup);
            assert_eq!(entities(result), golden.entities);
            assert_eq!(result.generated_tokens as usize, golden.new_ids.len());
            for entity in &result.entities {
                let bytes = entity.byte_span.as_ref().unwrap();
                assert_eq!(result.text[bytes.start as usize..bytes.end as usize], entity.phrase);
                for place in &entity.boxes {
                    let (fractions, pixels) = (place.fractions.as_ref().unwrap(), place.pixels.as_ref().unwrap());
                    assert_eq!(pixels.x1, fractions.x1 * f64::from(picture.width));
                    assert_eq!(pixels.y0, fractions.y0 * f64::from(picture.height));
                }
            }
            compared += 1;
        }
    }
    assert_eq!(compared, 384);
    assert!(worker.terminate().await.success());
    assert_eq!(servers.messages(ANNOTATIONS_STREAM).await, 48);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_done_ends_as_one_failure_each_and_the_worker_goes_on() {
    let servers = TestServers::start().await;
    let scene = &demo().scenes[0];
    let picture = std::fs::read(&scene.path).unwrap();
    servers.upload("good.jpg", picture.clone()).await;
    servers.upload("cut.jpg", picture[..picture.len() / 2].to_vec()).await;
    servers.upload("text.jpg", b"this is no picture".to_vec()).await;
    let garbage = b"\xff\xfe garbage, no protobuf".to_vec();

    servers.enqueue(&servers.job("cut", "cut.jpg", vec![caption()])).await;
    servers.enqueue(&servers.job("text", "text.jpg", vec![caption()])).await;
    servers.enqueue(&servers.job("missing", "no/such.jpg", vec![caption()])).await;
    servers.enqueue_bytes(garbage.clone()).await;
    servers.enqueue(&servers.job("no tasks", "good.jpg", vec![])).await;
    servers.enqueue(&servers.job("bad prompt", "good.jpg", vec![raw("t", "")])).await;
    let mut elsewhere = servers.job("elsewhere", "good.jpg", vec![caption()]);
    if let Some(wire::v1::image_job::Source::S3(object)) = &mut elsewhere.source {
        object.bucket = "another-bucket".into();
    }
    servers.enqueue(&elsewhere).await;
    let mut changed = servers.job("changed", "good.jpg", vec![caption()]);
    if let Some(wire::v1::image_job::Source::S3(object)) = &mut changed.source {
        object.etag = Some("0123456789abcdef0123456789abcdef".into());
    }
    servers.enqueue(&changed).await;
    servers.enqueue(&servers.job("good", "good.jpg", vec![caption()])).await;

    let worker = servers.worker();
    let (annotations, failures) = servers.wait_for_outcomes(9).await;
    servers.wait_until_queue_is_empty().await;
    assert_eq!(annotations.iter().map(|a| a.job_id.as_str()).collect::<Vec<_>>(), ["good"]);
    let found: BTreeSet<_> =
        failures.iter().map(|f| (f.job_id.clone().unwrap_or_default(), f.reason().as_str_name())).collect();
    use FailureReason::*;
    let expected = [
        ("", InvalidJob),
        ("bad prompt", InvalidJob),
        ("changed", ObjectChanged),
        ("cut", UndecodablePicture),
        ("elsewhere", ObjectForbidden),
        ("missing", ObjectNotFound),
        ("no tasks", InvalidJob),
        ("text", UnsupportedPicture),
    ];
    assert_eq!(found, expected.map(|(job, reason)| (job.to_owned(), reason.as_str_name())).into());
    assert_eq!(failures.len(), expected.len());
    assert!(failures.iter().any(|failure| failure.job == garbage), "the bytes of a job are kept as they were");
    for failure in &failures {
        assert!(!failure.message.is_empty() && failure.deliveries == 1 && failure.worker.is_some(), "{failure:?}");
    }
    assert!(worker.terminate().await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_finishes_what_is_in_hand_and_leaves_the_rest_to_the_next_worker() {
    let servers = TestServers::start().await;
    let scene = &demo().scenes[1];
    servers.upload("scene", std::fs::read(&scene.path).unwrap()).await;
    let jobs = 60;
    for n in 0..jobs {
        servers.enqueue(&servers.job(&format!("job-{n}"), "scene", vec![caption()])).await;
    }
    let mut command = servers.groundling();
    // Few, so that jobs are left when the worker is terminated.
    command.env("GROUNDLING__WORKER__SLOTS", "4");
    let first = Worker::start(command);
    servers.wait_for_outcomes(1).await;
    assert!(first.terminate().await.success());
    let (done, left) = (servers.messages(ANNOTATIONS_STREAM).await, servers.messages(JOBS_STREAM).await);
    assert_eq!(done + left, jobs, "each job is either annotated or in the queue");
    assert!(left > 0, "the worker had finished before SIGTERM, so the test shows nothing");

    let second = servers.worker();
    let (annotations, failures) = servers.wait_for_outcomes(jobs).await;
    servers.wait_until_queue_is_empty().await;
    let ids: BTreeSet<_> = annotations.iter().map(|annotation| &annotation.annotation_id).collect();
    assert_eq!((annotations.len() as u64, ids.len() as u64, failures.len()), (jobs, jobs, 0));
    assert!(second.terminate().await.success());
    assert_eq!(servers.messages(FAILED_STREAM).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_without_streams_says_what_to_run() {
    let nats = sandbox::NatsServer::start(&sandbox::NatsOptions::default()).await.unwrap();
    let mut command = support::groundling();
    command.env("GROUNDLING_MODEL", demo().model_dir).env("GROUNDLING__S3__ALLOW", "*");
    let output = command.args(["worker", "--nats-url", nats.client_url()]).output().await.unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("groundling setup"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_sigterm_leaves_at_once_and_the_job_in_hand_goes_to_the_next_worker() {
    let servers = TestServers::start().await;
    let scene = &demo().scenes[0];
    servers.upload("scene", std::fs::read(&scene.path).unwrap()).await;
    for n in 0..2 {
        servers.enqueue(&servers.job(&format!("job-{n}"), "scene", vec![caption()])).await;
    }
    // Full after the first annotation, so that the second job stays active until the worker is stopped.
    let stream = servers.jetstream.get_stream(ANNOTATIONS_STREAM).await.unwrap();
    let mut config = stream.cached_info().config.clone();
    (config.max_messages, config.discard) = (1, async_nats::jetstream::stream::DiscardPolicy::New);
    servers.jetstream.update_stream(&config).await.unwrap();
    let worker = servers.worker();
    servers.wait_for_outcomes(1).await;
    assert_eq!(worker.terminate_until_it_ends().await.code(), Some(128 + 15));
    assert_eq!(servers.messages(JOBS_STREAM).await, 1);
    config.max_messages = -1;
    servers.jetstream.update_stream(&config).await.unwrap();
    let next = servers.worker();
    let (annotations, failures) = servers.wait_for_outcomes(2).await;
    assert_eq!((annotations.len(), failures.len()), (2, 0));
    servers.wait_until_queue_is_empty().await;
    assert!(next.terminate().await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_log_has_a_summary_from_time_to_time_instead_of_a_line_for_each_job() {
    const GOOD: usize = 30;
    const MISSING: usize = 25;
    let servers = TestServers::start().await;
    let scene = &demo().scenes[0];
    servers.upload("a.jpg", std::fs::read(&scene.path).unwrap()).await;
    let mut command = servers.groundling();
    command.env("GROUNDLING__WORKER__SUMMARY_INTERVAL", "1s").args(["--log-format", "json"]).stderr(Stdio::piped());
    let worker = Worker::start_with_stderr(command);
    for number in 0..GOOD.max(MISSING) {
        for (key, count) in [("a.jpg", GOOD), ("missing.jpg", MISSING)] {
            if number < count {
                servers.enqueue(&servers.job(&format!("{key} {number}"), key, vec![caption()])).await;
            }
        }
    }
    servers.wait_for_outcomes((GOOD + MISSING) as u64).await;
    servers.wait_until_queue_is_empty().await;
    // The last summary covers the last jobs.
    tokio::time::sleep(Duration::from_millis(2500)).await;
    let (status, log) = worker.terminate_and_read().await;
    assert!(status.success(), "{log}");
    let lines: Vec<serde_json::Value> = log.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let with = |words: &'static str| {
        lines.iter().filter(move |line| line["fields"]["message"].as_str().unwrap_or_default().starts_with(words))
    };
    assert_eq!(with("job is done").count(), 0, "single jobs are logged at debug level");
    let warned = with("job failed permanently").count();
    assert!((1..=MISSING).contains(&warned), "{warned}");
    let total = |field: &str| -> u64 {
        with("jobs in the last ").map(|line| line["fields"][field].as_u64().unwrap_or_default()).sum()
    };
    assert_eq!((total("annotated"), total("failed")), (GOOD as u64, MISSING as u64), "{log}");
    assert_eq!(total("warnings_left_out"), (MISSING - warned) as u64, "{log}");
    let reasons: u64 = with("jobs in the last ")
        .filter_map(|line| line["fields"]["failures"].as_str()?.strip_prefix("OBJECT_NOT_FOUND=")?.parse::<u64>().ok())
        .sum();
    assert_eq!(reasons, MISSING as u64, "{log}");
    for line in with("jobs in the last ") {
        let known = |field: &str| line["fields"][field].is_number();
        assert!(["jobs_per_s", "active_jobs", "waiting_jobs", "retrying"].into_iter().all(known), "{line}");
        assert_eq!(line["level"], "INFO");
    }
}
