//! A whole worker with the demo model, on a real NATS server and a real S3 store.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a panic in a test is the report")]

use crate::common;

use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use aws_sdk_s3::primitives::ByteStream;
use bytes::Bytes;
use common::{PATIENCE, TestEnv, eventually};
use engine::{Engine, EngineOptions};
use kosmos2::Kosmos2;
use kosmos2::checkpoint::ModelIdentity;
use kosmos2::compute::{Compute, DeviceChoice};
use sandbox::{DemoData, SeaweedFs};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use wire::Message;
use wire::subjects::failed_subject_for;
use wire::v1::{self, FailureReason, image_job, task};
use worker::fetch::s3::ObjectStore;
use worker::settings::{S3Settings, Secret, StreamSettings};
use worker::{Events, JobEvent, Settings, WorkerError, WorkerParts, WorkerReport, WorkerTelemetry};

static DEMO: LazyLock<DemoData> = LazyLock::new(|| DemoData::locate().unwrap());

/// One engine for all tests of this file: the model is loaded once.
static ENGINE: LazyLock<Engine> = LazyLock::new(|| {
    let compute = Compute::open(DeviceChoice::Cpu, None).unwrap();
    let model = Kosmos2::open(&DEMO.model_dir, &compute).unwrap();
    Engine::start(model, EngineOptions::default()).unwrap().0
});

fn scene(name: &str) -> Bytes {
    std::fs::read(DEMO.scenes_dir.join(name)).unwrap().into()
}

struct Running {
    stop: CancellationToken,
    events: mpsc::Receiver<JobEvent>,
    task: JoinHandle<Result<WorkerReport, WorkerError>>,
}

impl Running {
    fn start(env: &TestEnv, s3: S3Settings, change: impl FnOnce(&mut Settings)) -> Self {
        let mut settings = Settings { nats: env.nats.clone(), streams: env.streams.clone(), s3, ..Default::default() };
        settings.worker.id = Some("worker-1".into());
        // There is no other worker.
        settings.worker.release_own_limits_for = Duration::ZERO;
        change(&mut settings);
        let (sender, events) = mpsc::channel(100);
        let model = ModelIdentity { name: "kosmos-2-emoji".into(), revision: None, digest: "d1".into() };
        let (engine, telemetry) = (Arc::new(ENGINE.clone()), WorkerTelemetry::off());
        let parts = WorkerParts { settings, engine, model, events: Events::to(sender), telemetry };
        let stop = CancellationToken::new();
        Self { stop: stop.clone(), events, task: tokio::spawn(worker::run(parts, stop)) }
    }

    async fn event(&mut self) -> JobEvent {
        tokio::time::timeout(PATIENCE * 4, self.events.recv()).await.expect("something should happen").unwrap()
    }

    async fn failure(&mut self) -> (FailureReason, String) {
        match self.event().await {
            JobEvent::Failed { reason, message, .. } => (reason, message),
            other => panic!("{other:?}"),
        }
    }

    async fn end(self) -> WorkerReport {
        self.stop.cancel();
        tokio::time::timeout(PATIENCE * 4, self.task).await.expect("the worker should end").unwrap().unwrap()
    }
}

fn brief_caption(id: &str) -> v1::Task {
    v1::Task { task_id: id.into(), kind: Some(task::Kind::BriefCaption(v1::BriefCaption {})) }
}

fn job(id: &str, source: image_job::Source) -> v1::ImageJob {
    v1::ImageJob {
        job_id: id.into(),
        dataset: "cats".into(),
        source: Some(source),
        tasks: vec![brief_caption("brief")],
        ..Default::default()
    }
}

fn inline(bytes: impl Into<Bytes>) -> image_job::Source {
    image_job::Source::Inline(bytes.into())
}

fn object(bucket: &str, key: &str) -> image_job::Source {
    image_job::Source::S3(v1::S3Object { bucket: bucket.into(), key: key.into(), ..Default::default() })
}

/// A short bitmap whose header claims 30,000 × 30,000 pixels.
fn bomb() -> Vec<u8> {
    let mut header = b"BM".to_vec();
    let side = 30_000u32.to_le_bytes();
    for field in [&[0; 8][..], &[54, 0, 0, 0], &[40, 0, 0, 0], &side, &side, &[1, 0, 24, 0], &[0; 24]] {
        header.extend(field);
    }
    header
}

async fn submit(env: &TestEnv, payload: impl Into<Bytes>) {
    env.jetstream.publish("groundling.jobs.cats", payload.into()).await.unwrap().await.unwrap();
}

async fn stored<M: Message + Default>(env: &TestEnv, stream: &str) -> Vec<(String, M)> {
    let stream = env.jetstream.get_stream(stream).await.unwrap();
    let mut all = Vec::new();
    for sequence in 1..=stream.cached_info().state.last_sequence {
        let message = stream.get_raw_message(sequence).await.unwrap();
        all.push((message.subject.to_string(), M::decode(message.payload).unwrap()));
    }
    all
}

/// No S3 store: only inline pictures can be read.
fn no_store() -> S3Settings {
    let endpoint = Some("http://127.0.0.1:9".to_owned());
    S3Settings {
        endpoint,
        allow: vec!["*".into()],
        anonymous: true,
        attempts: 1,
        path_style: true,
        ..Default::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn good_jobs_become_annotations_and_each_bad_one_becomes_one_failure() {
    let env = TestEnv::ready().await;
    let store = SeaweedFs::start().await.unwrap();
    let access = store.admin().clone();
    let s3 = S3Settings {
        endpoint: Some(access.endpoint.clone()),
        path_style: true,
        access_key: Some(access.access_key.clone()),
        secret_key: Some(Secret::new(access.secret_key.clone())),
        allow: vec![format!("{}/scenes/", access.bucket)],
        ..Default::default()
    };
    let client = ObjectStore::open(&s3).await.unwrap();
    for (key, body) in
        [("scenes/0000.jpg", scene("0000.jpg")), ("scenes/broken.jpg", Bytes::from_static(b"\xff\xd8\xff no picture"))]
    {
        client.client().put_object().bucket(&access.bucket).key(key).body(ByteStream::from(body)).send().await.unwrap();
    }
    let (cut, bucket) = (scene("0003.png"), access.bucket.as_str());
    let good = v1::ImageJob {
        labels: [("k".to_owned(), "v".to_owned())].into(),
        ..job("good", object(bucket, "scenes/0000.jpg"))
    };
    let jobs = [
        good,
        job("inline", inline(scene("0000.jpg"))),
        job("missing", object(bucket, "scenes/missing.jpg")),
        job("broken", object(bucket, "scenes/broken.jpg")),
        job("cut", inline(cut.slice(..cut.len() / 2))),
        job("text", inline(&b"just text"[..])),
        job("bomb", inline(bomb())),
        job("forbidden", object(bucket, "other/x.jpg")),
        v1::ImageJob { tasks: vec![], ..job("no-tasks", inline(scene("0000.jpg"))) },
        v1::ImageJob { dataset: "dogs".into(), ..job("wrong-subject", inline(scene("0000.jpg"))) },
    ];
    for job in &jobs {
        submit(&env, job.encode_to_vec()).await;
    }
    submit(&env, &b"\xff\xff garbage"[..]).await;

    let mut running = Running::start(&env, s3, |_| ());
    for _ in 0..=jobs.len() {
        running.event().await;
    }
    let report = running.end().await;
    assert_eq!(report, WorkerReport { finished: 2, failed: 9, ..Default::default() });
    assert_eq!(env.messages_in(&env.streams.jobs).await, 0);

    let annotations = stored::<v1::ImageAnnotation>(&env, &env.streams.annotations).await;
    assert_eq!(annotations.len(), 2);
    for (subject, annotation) in &annotations {
        assert_eq!(subject, "groundling.annotations.cats");
        let result = &annotation.results[0];
        assert_eq!((result.task_id.as_str(), result.text.as_str()), ("brief", "An image of a snowman next to a fire."));
        assert_eq!((result.prompt_tokens > 64, result.generated_tokens), (true, 20));
        let snowman = &result.entities[0];
        assert_eq!((snowman.phrase.as_str(), snowman.boxes.len()), ("a snowman", 1));
        let fractions = snowman.boxes[0].fractions.unwrap();
        assert_eq!([fractions.x0, fractions.y0, fractions.x1, fractions.y1], [0.140625, 0.234375, 0.484375, 0.671875]);
        let picture = annotation.picture.as_ref().unwrap();
        assert_eq!((picture.format.as_str(), picture.size_bytes), ("jpeg", scene("0000.jpg").len() as u64));
        assert_eq!(snowman.boxes[0].pixels.unwrap().x0, fractions.x0 * f64::from(picture.width));
        assert_eq!(annotation.worker.as_ref().unwrap().worker_id, "worker-1");
    }
    let good = annotations.iter().find(|(_, annotation)| annotation.job_id == "good").unwrap();
    assert_eq!(good.1.labels["k"], "v");
    assert!(good.1.picture.as_ref().unwrap().object.as_ref().unwrap().etag.is_some());

    let failures = stored::<v1::JobFailure>(&env, &env.streams.failed).await;
    assert!(
        failures
            .iter()
            .all(|(subject, failure)| *subject == failed_subject_for("groundling.jobs.cats", failure.reason()))
    );
    let reasons: BTreeMap<&str, FailureReason> =
        failures.iter().map(|(_, failure)| (failure.job_id(), failure.reason())).collect();
    let wanted = BTreeMap::from([
        ("missing", FailureReason::ObjectNotFound),
        ("broken", FailureReason::UndecodablePicture),
        ("cut", FailureReason::UndecodablePicture),
        ("text", FailureReason::UnsupportedPicture),
        ("bomb", FailureReason::PictureTooLarge),
        ("forbidden", FailureReason::ObjectForbidden),
        ("no-tasks", FailureReason::InvalidJob),
        ("wrong-subject", FailureReason::InvalidJob),
        ("", FailureReason::InvalidJob),
    ]);
    assert_eq!(reasons, wanted);
    let (_, missing) = failures.iter().find(|(_, failure)| failure.job_id() == "missing").unwrap();
    assert_eq!(&missing.job[..], jobs[2].encode_to_vec());
    assert_eq!((missing.deliveries, missing.subject.as_str()), (1, "groundling.jobs.cats"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_done_twice_is_in_the_stream_once() {
    let env = TestEnv::ready().await;
    let payload = job("twice", inline(scene("0001.jpg"))).encode_to_vec();
    submit(&env, payload.clone()).await;
    submit(&env, payload).await;
    let mut running = Running::start(&env, no_store(), |_| ());
    running.event().await;
    running.event().await;
    assert_eq!(running.end().await, WorkerReport { finished: 2, duplicates: 1, ..Default::default() });
    assert_eq!(env.messages_in(&env.streams.annotations).await, 1);
    assert_eq!(env.messages_in(&env.streams.jobs).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_worker_makes_nothing_and_says_what_does() {
    let env = TestEnv::bare().await;
    let error = Running::start(&env, no_store(), |_| ()).task.await.unwrap().unwrap_err();
    let text = error.to_string();
    assert!(text.contains("stream GROUNDLING_JOBS") && text.contains("`groundling setup`"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn shutdown_finishes_what_is_in_hand_and_leaves_the_rest_in_the_queue() {
    let env = TestEnv::ready().await;
    for i in 0..12 {
        submit(&env, job(&format!("job-{i}"), inline(scene("0001.jpg"))).encode_to_vec()).await;
    }
    let mut running = Running::start(&env, no_store(), |settings| settings.worker.slots = Some(2));
    running.event().await;
    let report = running.end().await;
    assert!((1..12).contains(&report.finished), "{report:?}");
    assert_eq!((report.failed, report.retried), (0, 0));
    assert_eq!(env.messages_in(&env.streams.annotations).await, report.finished);
    assert_eq!(env.messages_in(&env.streams.jobs).await, 12 - report.finished);
    // Long before ack_wait, which is one minute.
    let mut others = env.intake(env.consumer().await, 12);
    for _ in report.finished..12 {
        drop(others.next().await);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_is_away_sends_jobs_back_and_in_the_end_away() {
    let env = TestEnv::ready().await;
    submit(&env, job("away", object("b", "k")).encode_to_vec()).await;
    let mut running = Running::start(&env, no_store(), |settings| settings.worker.max_deliveries = 2);
    match running.event().await {
        JobEvent::Retried { delay, message, .. } => {
            let spread = Duration::from_millis(1500)..=Duration::from_millis(2500);
            assert!(spread.contains(&delay), "{delay:?}");
            assert!(message.starts_with("s3://b/k could not be read"), "{message}");
        }
        other => panic!("{other:?}"),
    }
    let (reason, message) = running.failure().await;
    assert_eq!(reason, FailureReason::RetriesExhausted);
    assert!(message.starts_with("s3://b/k could not be read"), "{message}");
    assert_eq!(running.end().await, WorkerReport { failed: 1, retried: 1, ..Default::default() });
    let failures = stored::<v1::JobFailure>(&env, &env.streams.failed).await;
    assert_eq!(failures[0].1.deliveries, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_prompt_that_the_model_cannot_be_fed_is_an_invalid_prompt_or_job() {
    let env = TestEnv::ready().await;
    let raw = v1::RawPrompt {
        text: "<grounding><phrase> a</phrase><phrase> b</phrase>".into(),
        phrase_boxes: vec![v1::PhraseBoxes::default()],
    };
    let task = v1::Task { task_id: "raw".into(), kind: Some(task::Kind::Raw(raw)) };
    let wrong = v1::ImageJob { tasks: vec![task], ..job("wrong", inline(scene("0001.jpg"))) };
    submit(&env, wrong.encode_to_vec()).await;
    let mut running = Running::start(&env, no_store(), |_| ());
    let (reason, _) = running.failure().await;
    assert!(matches!(reason, FailureReason::InvalidPrompt | FailureReason::InvalidJob), "{reason:?}");
    running.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn work_goes_on_after_the_nats_server_was_killed_in_the_middle() {
    // A job that the server was sending when it was killed comes again only after `ack_wait`.
    let streams = StreamSettings { ack_wait: Duration::from_secs(5), ..Default::default() };
    let mut env = TestEnv::ready_with(streams).await;
    for i in 0..6 {
        submit(&env, job(&format!("job-{i}"), inline(scene("0001.jpg"))).encode_to_vec()).await;
    }
    let mut running = Running::start(&env, no_store(), |settings| settings.worker.slots = Some(2));
    running.event().await;
    env.server.kill();
    tokio::time::sleep(Duration::from_millis(500)).await;
    env.server.restart().await.unwrap();
    eventually("all jobs are annotated", || async {
        matches!(env.jetstream.get_stream(&env.streams.annotations).await,
            Ok(stream) if stream.cached_info().state.messages == 6)
    })
    .await;
    running.end().await;
    assert_eq!(env.messages_in(&env.streams.annotations).await, 6);
}
