//! Jobs that are made to do harm: each is rejected with its reason, by the check alone if possible, and becomes exactly
//! one failure of a real worker, which continues.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a panic in a test is the report")]

use crate::common;
use crate::hostile;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use broker::{connection, setup};
use bytes::Bytes;
use common::{PATIENCE, TestEnv, eventually};
use engine::{Engine, EngineOptions};
use hostile::{Row, Seen, job, rows, task_of};
use kosmos2::Kosmos2;
use kosmos2::compute::{Compute, DeviceChoice};
use sandbox::{DemoData, NatsOptions, NatsServer};
use tokio_util::sync::CancellationToken;
use wire::Message;
use wire::v1::{self, FailureReason, task};
use worker::model_job::ModelJob;
use worker::settings::{NatsSettings, S3Settings, Secret, StreamSettings, WorkerSettings};
use worker::{Settings, WorkerParts, WorkerReport};

#[test]
fn the_check_refuses_what_it_can_tell_with_a_reason_for_each() {
    for Row { name, bytes, seen, says, .. } in rows() {
        let checked = ModelJob::from_bytes(bytes.into());
        match seen {
            Seen::ByTheCheck => {
                let error = checked.expect_err(&name).to_string();
                assert!(error.contains(says), "{name}: {says:?} in {:.300}", error);
            }
            Seen::Later => assert!(checked.is_ok(), "{name}: {checked:?}"),
        }
    }
}

#[test]
fn names_of_tests_are_their_own() {
    let names: std::collections::BTreeSet<String> = rows().into_iter().map(|row| row.name).collect();
    assert_eq!(names.len(), rows().len());
}

/// A server that accepts large messages.
async fn roomy_env() -> TestEnv {
    let extra_config = "max_payload: 16777216\nmax_pending: 67108864".to_owned();
    let server = NatsServer::start(&NatsOptions { extra_config, ..Default::default() }).await.unwrap();
    let nats = NatsSettings { url: server.client_url().to_owned(), ..Default::default() };
    let client = connection::connect(&nats, "test").await.unwrap();
    let jetstream = connection::jetstream(&client, &nats);
    let env = TestEnv { server, nats, streams: StreamSettings::default(), client, jetstream };
    setup::setup(&env.jetstream, &env.streams).await.unwrap();
    env
}

async fn submit(env: &TestEnv, bytes: Vec<u8>) {
    env.jetstream.publish("groundling.jobs.cats", bytes.into()).await.unwrap().await.unwrap();
}

fn settings(env: &TestEnv) -> Settings {
    let s3 = S3Settings {
        endpoint: Some("http://127.0.0.1:9".into()),
        path_style: true,
        access_key: Some("AK".into()),
        secret_key: Some(Secret::new("SK")),
        allow: vec!["allowed".into()],
        attempts: 1,
        ..Default::default()
    };
    // There is no other worker.
    let worker = WorkerSettings { release_own_limits_for: Duration::ZERO, ..Default::default() };
    Settings { nats: env.nats.clone(), streams: env.streams.clone(), s3, worker }
}

/// Runs a worker until this many jobs have ended.
async fn work(env: &TestEnv, parts: WorkerParts, jobs: u64) -> WorkerReport {
    let stop = CancellationToken::new();
    let running = tokio::spawn(worker::run(parts, stop.clone()));
    eventually("all jobs have ended", || async {
        env.messages_in(&env.streams.failed).await + env.messages_in(&env.streams.annotations).await >= jobs
            && env.messages_in(&env.streams.jobs).await == 0
    })
    .await;
    stop.cancel();
    tokio::time::timeout(PATIENCE, running).await.expect("the worker should end").unwrap().unwrap()
}

async fn failures(env: &TestEnv) -> Vec<v1::JobFailure> {
    let stream = env.jetstream.get_stream(&env.streams.failed).await.unwrap();
    let mut all = Vec::new();
    for sequence in 1..=stream.cached_info().state.last_sequence {
        all.push(v1::JobFailure::decode(stream.get_raw_message(sequence).await.unwrap().payload).unwrap());
    }
    all
}

#[tokio::test(flavor = "multi_thread")]
async fn every_hostile_job_ends_as_one_failure_with_its_reason_and_the_worker_goes_on() {
    let env = roomy_env().await;
    let rows = rows();
    for row in &rows {
        submit(&env, row.bytes.clone()).await;
    }
    submit(&env, job("good", vec![task_of(task::Kind::BriefCaption(v1::BriefCaption {}))]).encode_to_vec()).await;
    let compute = Compute::open(DeviceChoice::Cpu, None).unwrap();
    let model = Kosmos2::open(&DemoData::locate().unwrap().model_dir, &compute).unwrap();
    let engine = Engine::start(model, EngineOptions::default()).unwrap().0;
    let parts = WorkerParts { engine: Arc::new(engine), ..common::parts(settings(&env)) };
    let report = work(&env, parts, rows.len() as u64 + 1).await;
    assert_eq!((report.finished, report.failed, report.retried), (1, rows.len() as u64, 0));

    let mut found: BTreeMap<String, Vec<v1::JobFailure>> = BTreeMap::new();
    for failure in failures(&env).await {
        found.entry(failure.job_sha256.clone()).or_default().push(failure);
    }
    for row in &rows {
        let failures = found.remove(&wire::identity::sha256_hex(&row.bytes)).unwrap_or_default();
        assert_eq!(failures.len(), 1, "{}", row.name);
        let failure = &failures[0];
        assert_eq!(failure.reason(), row.reason, "{}: {}", row.name, failure.message);
        assert!(failure.message.contains(row.says), "{}: {:?} in {}", row.name, row.says, failure.message);
        assert!(failure.message.len() <= 4096 && failure.job_id().len() <= 256, "{}", row.name);
        assert_eq!((&failure.job[..], failure.deliveries), (&row.bytes[..], 1), "{}", row.name);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn markup_of_a_jobs_own_is_refused_where_the_settings_do_not_take_it() {
    let env = roomy_env().await;
    let raw = v1::RawPrompt { text: "<grounding> An image of".into(), phrase_boxes: Vec::new() };
    let scoring = v1::TextScoring { prompt: "An".into(), text: Some(raw.clone()), with_end: false };
    for (id, kind) in [
        ("raw", task::Kind::Raw(raw)),
        ("scoring", task::Kind::TextScoring(scoring)),
        ("words", task::Kind::Question(v1::Question { question: "Why?".into() })),
    ] {
        submit(&env, job(id, vec![task_of(kind)]).encode_to_vec()).await;
    }
    let mut settings = settings(&env);
    settings.worker.allow_raw_prompts = false;
    let report = work(&env, common::parts(settings), 3).await;
    assert_eq!((report.finished, report.failed), (1, 2));
    for failure in failures(&env).await {
        assert_eq!(failure.reason(), FailureReason::InvalidPrompt);
        assert!(failure.message.contains("worker.allow_raw_prompts"), "{}", failure.message);
    }
}

#[test]
fn bytes_at_random_never_do_more_than_be_refused() {
    // xorshift: the same bytes in every run.
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    let mut next = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    let good = job("good", vec![task_of(task::Kind::BriefCaption(v1::BriefCaption {}))]).encode_to_vec();
    let (mut refused, mut taken) = (0, 0);
    for _ in 0..20_000 {
        let mut bytes = good.clone();
        for _ in 0..1 + next() % 8 {
            let at = next() as usize % bytes.len();
            match next() % 3 {
                0 => bytes[at] = next() as u8,
                1 => drop(bytes.drain(..at)),
                _ => bytes.truncate(at + 1),
            }
            if bytes.is_empty() {
                bytes.push(0xff);
            }
        }
        match ModelJob::from_bytes(Bytes::from(bytes)) {
            Ok(_) => taken += 1,
            Err(_) => refused += 1,
        }
    }
    assert!(refused > 10_000 && taken > 0, "{refused} refused, {taken} taken");
}
