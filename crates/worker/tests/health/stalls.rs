//! An engine that stops for ever ends its worker, whose jobs go back without a counted attempt. One that is slow does not.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::common::{PATIENCE, Paced, Running, TestEnv, bitmap, eventually, job, parts, settings, submit};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use wire::v1::{self, image_job};
use worker::engine_watch::EngineStall;
use worker::health::Health;
use worker::health_server::HealthServer;
use worker::{Events, JobEvent, WorkerError, WorkerParts};

const STALL: Duration = Duration::from_millis(600);

async fn get(server: &HealthServer, path: &str) -> (u16, String) {
    crate::get(server.address(), path).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stalled_engine_ends_its_worker_and_its_jobs_end_once_elsewhere_without_a_counted_attempt() {
    let env = TestEnv::ready().await;
    for id in ["a", "b", "c"] {
        submit(&env, &job(id, bitmap())).await;
    }
    // The second time, the jobs are redelivered, so that their attempts have records.
    for _ in 0..2 {
        let engine = Arc::new(Paced::new(1, Duration::ZERO, STALL));
        engine.is_stuck.store(true, Ordering::SeqCst);
        let health = Health::new();
        let server = HealthServer::start("127.0.0.1:0".parse().unwrap(), health.clone(), None).unwrap();
        let parts = WorkerParts { engine: engine.clone(), ..parts(settings(&env)) };
        let running = tokio::spawn(worker::run_with_health(parts, health, CancellationToken::new()));
        eventually("all jobs are at the engine", || async { engine.submitted.load(Ordering::SeqCst) == 3 }).await;
        assert_eq!(get(&server, "/livez").await.0, 200);
        let ended = tokio::time::timeout(PATIENCE, running).await.expect("the worker should end").unwrap();
        let Err(WorkerError::EngineStalled { stall: EngineStall::NoProgress(after), report }) = ended else {
            panic!("{ended:?}")
        };
        assert!(after >= STALL && report.finished == 0 && report.retried == 3, "{after:?} {report:?}");
        let (status, reason) = get(&server, "/livez").await;
        assert!(status == 503 && reason.contains("no progress") && reason.contains("engine.stall_timeout"), "{reason}");
        assert_eq!(get(&server, "/readyz").await.0, 503);
        // Acknowledgements have been sent: no job waits for `ack_wait`.
        eventually("the jobs are released", || async { env.messages_in(&env.streams.attempts).await == 0 }).await;
        assert_eq!(env.messages_in(&env.streams.jobs).await, 3);
        assert_eq!(env.messages_in(&env.streams.outcomes).await, 0);
    }
    let mut other = Running::start(&env);
    for _ in 0..3 {
        let event = other.event().await;
        assert!(matches!(event, JobEvent::Finished { duplicate: false, .. }), "{event:?}");
    }
    let report = other.end().await;
    assert_eq!((report.finished, report.failed, report.retried), (3, 0, 0));
    assert_eq!(env.messages_in(&env.streams.annotations).await, 3);
    assert_eq!(env.messages_in(&env.streams.attempts).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_engine_that_makes_progress_is_not_stalled() {
    let env = TestEnv::ready().await;
    // Four times the timeout for each request.
    let engine = Arc::new(Paced::new(12, STALL / 3, STALL));
    let mut running = Running::start_with(settings(&env), engine);
    submit(&env, &job("slow", bitmap())).await;
    let event = running.event().await;
    assert!(matches!(event, JobEvent::Finished { .. }), "{event:?}");
    // Without work, nothing is expected of it.
    tokio::time::sleep(STALL * 2).await;
    submit(&env, &job("later", bitmap())).await;
    assert!(matches!(running.event().await, JobEvent::Finished { .. }));
    assert_eq!(running.end().await.finished, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_device_is_checked_and_one_that_is_stuck_is_found_without_a_job() {
    let env = TestEnv::ready().await;
    let mut engine = Paced::new(1, Duration::ZERO, STALL);
    engine.canary_interval = Some(Duration::from_millis(200));
    let engine = Arc::new(engine);
    let running = Running::start_with(settings(&env), engine.clone());
    eventually("several canaries are answered", || async { engine.canaries.load(Ordering::SeqCst) > 3 }).await;
    assert!(!running.task.is_finished());
    engine.is_stuck.store(true, Ordering::SeqCst);
    let ended = tokio::time::timeout(PATIENCE, running.task).await.expect("the worker should end").unwrap();
    assert!(matches!(ended, Err(WorkerError::EngineStalled { .. })), "{ended:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_loads_its_model_is_live_and_tells_its_progress() {
    let env = TestEnv::ready().await;
    let health = Health::new();
    let server = HealthServer::start("127.0.0.1:0".parse().unwrap(), health.clone(), None).unwrap();
    health.set_loading(|| "loading model: 40 %".to_owned());
    for (path, expected) in [
        ("/startupz", (503, "loading model: 40 %\n")),
        ("/readyz", (503, "loading model: 40 %\n")),
        ("/livez", (200, "alive\n")),
    ] {
        assert_eq!(get(&server, path).await, (expected.0, expected.1.to_owned()), "{path}");
    }
    let stop = CancellationToken::new();
    let running = tokio::spawn(worker::run_with_health(parts(settings(&env)), health, stop.clone()));
    eventually("the worker is ready", || async { get(&server, "/readyz").await.0 == 200 }).await;
    assert_eq!(get(&server, "/startupz").await, (200, "started\n".to_owned()));
    stop.cancel();
    running.await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn outages_of_store_and_broker_leave_a_worker_alive() {
    let mut env = TestEnv::ready().await;
    let mut settings = settings(&env);
    // No one listens there.
    settings.s3.endpoint = Some("http://127.0.0.1:9".into());
    settings.s3.attempts = 1;
    let (sender, mut events) = mpsc::channel(100);
    let engine = Arc::new(Paced::new(1, Duration::ZERO, STALL));
    let parts = WorkerParts { engine, events: Events::to(sender), ..parts(settings) };
    let (health, stop) = (Health::new(), CancellationToken::new());
    let server = HealthServer::start("127.0.0.1:0".parse().unwrap(), health.clone(), None).unwrap();
    let running = tokio::spawn(worker::run_with_health(parts, health, stop.clone()));
    let object = v1::S3Object { bucket: "away".into(), key: "k".into(), ..Default::default() };
    let mut away = job("away", Vec::new());
    away.source = Some(image_job::Source::S3(object));
    submit(&env, &away).await;
    let event = tokio::time::timeout(PATIENCE, events.recv()).await.expect("the job should be retried").unwrap();
    assert!(matches!(event, JobEvent::Retried { .. }), "{event:?}");
    env.server.kill();
    eventually("the worker is not ready", || async { get(&server, "/readyz").await.0 == 503 }).await;
    tokio::time::sleep(STALL * 2).await;
    assert_eq!(get(&server, "/livez").await, (200, "alive\n".to_owned()));
    stop.cancel();
    tokio::time::timeout(PATIENCE, running).await.expect("the worker should end").unwrap().unwrap();
}
