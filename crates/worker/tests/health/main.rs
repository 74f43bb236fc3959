//! `/livez` and `/readyz` while the broker starts, fails and returns, and during shutdown.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a panic in a test is the report")]

#[path = "../common/mod.rs"]
mod common;
mod stalls;

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use async_nats::jetstream::consumer::pull;
use common::{Held, PATIENCE, TestEnv, Yes, bitmap, eventually, job, parts, submit};
use engine::Annotator;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use worker::settings::S3Settings;
use worker::{Events, JobEvent, Settings, WorkerError, WorkerParts, WorkerReport};

struct Running {
    address: SocketAddr,
    stop: CancellationToken,
    events: mpsc::Receiver<JobEvent>,
    task: JoinHandle<Result<WorkerReport, WorkerError>>,
}

impl Running {
    fn start(env: &TestEnv, engine: Arc<dyn Annotator>) -> Self {
        let address = sandbox::free_address().unwrap();
        let s3 = S3Settings { allow: vec!["*".into()], anonymous: true, ..Default::default() };
        let mut settings = Settings { nats: env.nats.clone(), streams: env.streams.clone(), s3, ..Default::default() };
        settings.worker.health_address = Some(address);
        let (sender, events) = mpsc::channel(100);
        let parts = WorkerParts { engine, events: Events::to(sender), ..parts(settings) };
        let stop = CancellationToken::new();
        Self { address, stop: stop.clone(), events, task: tokio::spawn(worker::run(parts, stop)) }
    }

    async fn finished(&mut self) {
        let event = tokio::time::timeout(PATIENCE * 2, self.events.recv()).await.expect("a job should end").unwrap();
        assert!(matches!(event, JobEvent::Finished { .. }), "{event:?}");
    }

    async fn end(self) -> WorkerReport {
        self.stop.cancel();
        tokio::time::timeout(PATIENCE * 2, self.task).await.expect("the worker should end").unwrap().unwrap()
    }

    async fn get(&self, path: &str) -> Option<(u16, String)> {
        get(self.address, path).await
    }

    async fn becomes(&self, path: &str, status: u16, says: &str) {
        eventually(&format!("{path} answers {status} {says:?}"), || async {
            self.get(path).await.is_some_and(|(found, body)| found == status && body.contains(says))
        })
        .await;
    }

    async fn is_alive(&self) {
        assert_eq!(self.get("/livez").await, Some((200, "alive\n".to_owned())));
    }
}

/// Status and body; `None` if the server cannot be reached.
async fn get(address: SocketAddr, path: &str) -> Option<(u16, String)> {
    let mut stream = TcpStream::connect(address).await.ok()?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: worker\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    Some((head.split(' ').nth(1)?.parse().ok()?, body.to_owned()))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_without_a_broker_lives_is_not_ready_and_goes_on_when_it_comes() {
    let mut env = TestEnv::ready().await;
    submit(&env, &job("early", bitmap())).await;
    env.server.kill();
    let mut running = Running::start(&env, Arc::new(Yes));
    running.becomes("/readyz", 503, "no connection to NATS").await;
    running.is_alive().await;
    let (_, body) = running.get("/readyz").await.unwrap();
    assert_eq!(body.lines().count(), 1, "{body}");
    env.server.restart().await.unwrap();
    running.becomes("/readyz", 200, "ready").await;
    running.finished().await;
    assert_eq!(running.end().await.finished, 1);
    assert_eq!(env.messages_in(&env.streams.annotations).await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_goes_and_comes_back_takes_readiness_with_it_and_brings_it_back_with_the_first_job() {
    let mut env = TestEnv::ready().await;
    let mut running = Running::start(&env, Arc::new(Yes));
    running.becomes("/readyz", 200, "ready").await;
    for id in ["first", "second"] {
        let killed = Instant::now();
        env.server.kill();
        running.becomes("/readyz", 503, "the connection to NATS is lost").await;
        assert!(killed.elapsed() < Duration::from_secs(1), "{:?}", killed.elapsed());
        running.is_alive().await;
        env.server.restart().await.unwrap();
        running.becomes("/readyz", 200, "ready").await;
        // A ready worker has requested jobs from this server and does not wait for requests to the previous one.
        let ready = Instant::now();
        // The test's own connection may be re-established later.
        let fresh = broker::connection::connect(&env.nats, "test").await.unwrap();
        env.jetstream = broker::connection::jetstream(&fresh, &env.nats);
        submit(&env, &job(id, bitmap())).await;
        running.finished().await;
        assert!(ready.elapsed() < Duration::from_secs(3), "{:?}", ready.elapsed());
    }
    let report = running.end().await;
    assert_eq!((report.finished, report.retried), (2, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_told_to_end_is_not_ready_while_it_finishes_what_it_has() {
    let env = TestEnv::ready().await;
    submit(&env, &job("long", bitmap())).await;
    let engine = Held::new();
    let running = Running::start(&env, engine.clone());
    engine.asked.acquire().await.unwrap().forget();
    running.becomes("/readyz", 200, "ready").await;
    running.stop.cancel();
    running.becomes("/readyz", 503, "shutting down").await;
    running.is_alive().await;
    engine.answers.add_permits(1);
    let address = running.address;
    assert_eq!(running.end().await.finished, 1);
    assert!(TcpStream::connect(address).await.is_err(), "nothing answers once it has ended");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_told_to_end_while_it_waits_for_the_broker_ends() {
    let mut env = TestEnv::ready().await;
    env.server.kill();
    let running = Running::start(&env, Arc::new(Yes));
    running.becomes("/readyz", 503, "no connection to NATS").await;
    assert_eq!(running.end().await, WorkerReport::default());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_whose_consumer_is_gone_is_not_ready_until_it_is_back() {
    let env = TestEnv::ready().await;
    let running = Running::start(&env, Arc::new(Yes));
    running.becomes("/readyz", 200, "ready").await;
    let stream = env.jetstream.get_stream(&env.streams.jobs).await.unwrap();
    stream.delete_consumer(&env.streams.consumer).await.unwrap();
    running.becomes("/readyz", 503, "groundling setup").await;
    broker::setup::setup(&env.jetstream, &env.streams).await.unwrap();
    running.becomes("/readyz", 200, "ready").await;
    running.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_whose_engine_has_died_does_not_live() {
    let env = TestEnv::ready().await;
    let engine = Held::new();
    let running = Running::start(&env, engine.clone());
    running.becomes("/readyz", 200, "ready").await;
    engine.dead.store(true, Ordering::SeqCst);
    running.becomes("/livez", 503, "engine").await;
    running.becomes("/readyz", 503, "engine").await;
    running.end().await;
}

#[tokio::test]
async fn an_address_that_is_taken_ends_the_worker_with_a_sentence() {
    let env = TestEnv::ready().await;
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let s3 = S3Settings { allow: vec!["*".into()], anonymous: true, ..Default::default() };
    let mut settings = Settings { nats: env.nats.clone(), s3, ..Default::default() };
    settings.worker.health_address = Some(taken.local_addr().unwrap());
    let error = worker::run(parts(settings), CancellationToken::new()).await.unwrap_err();
    assert!(error.to_string().starts_with("cannot listen on worker.health_address 127.0.0.1:"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn hundreds_of_requests_that_are_never_finished_take_neither_descriptors_nor_answers() {
    const HALF_SENT: usize = 400;
    let env = TestEnv::ready().await;
    let mut running = Running::start(&env, Arc::new(Yes));
    running.becomes("/readyz", 200, "ready").await;
    let mut streams = Vec::new();
    for i in 0..HALF_SENT {
        let mut stream = TcpStream::connect(running.address).await.unwrap();
        stream.write_all(b"GET /livez HTTP/1.1\r\nHost: ").await.unwrap();
        streams.push(stream);
        if i % 40 == 0 {
            submit(&env, &job(&format!("job-{i}"), bitmap())).await;
            running.finished().await;
            let answered = tokio::time::timeout(PATIENCE, running.is_alive()).await;
            assert!(answered.is_ok(), "an answer comes while {i} requests are under way");
        }
    }
    // The server closes all of them.
    for mut stream in streams {
        let mut rest = Vec::new();
        let closed = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut rest)).await;
        assert!(closed.is_ok(), "the server closes unfinished requests");
    }
    running.becomes("/readyz", 200, "ready").await;
    let report = running.end().await;
    assert_eq!((report.finished, report.retried), ((HALF_SENT / 40) as u64, 0));
}

#[test]
fn a_runtime_whose_threads_are_all_blocked_does_not_silence_health() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let (env, running) = runtime.block_on(async {
        let env = TestEnv::ready().await;
        let running = Running::start(&env, Arc::new(Yes));
        running.becomes("/readyz", 200, "ready").await;
        (env, running)
    });
    let (blocked, unblock) = std::sync::mpsc::channel::<()>();
    let (began, begins) = std::sync::mpsc::channel::<()>();
    runtime.spawn(async move {
        began.send(()).unwrap();
        let _ = unblock.recv();
    });
    begins.recv().unwrap();
    let mut stream = std::net::TcpStream::connect(running.address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    std::io::Write::write_all(&mut stream, b"GET /livez HTTP/1.1\r\nHost: worker\r\n\r\n").unwrap();
    let mut answer = String::new();
    std::io::Read::read_to_string(&mut stream, &mut answer).expect("an answer comes");
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    drop(blocked);
    runtime.block_on(running.end());
    drop(env);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_whose_ack_wait_is_too_short_takes_no_jobs_until_it_is_longer() {
    let env = TestEnv::ready().await;
    let mut running = Running::start(&env, Arc::new(Yes));
    running.becomes("/readyz", 200, "ready").await;
    let set = async |ack_wait| {
        let stream = env.jetstream.get_stream(&env.streams.jobs).await.unwrap();
        let durable_name = Some(env.streams.consumer.clone());
        let config = pull::Config {
            durable_name,
            filter_subject: wire::subjects::JOBS_FILTER.to_owned(),
            ack_wait,
            max_deliver: 100,
            max_ack_pending: 100,
            ..Default::default()
        };
        stream.update_consumer(config).await.unwrap();
    };
    set(Duration::from_secs(1)).await;
    running.becomes("/readyz", 503, "has an ack_wait of 1s").await;
    running.is_alive().await;
    submit(&env, &job("waits", bitmap())).await;
    set(Duration::from_secs(10)).await;
    running.becomes("/readyz", 200, "ready").await;
    running.finished().await;
    running.end().await;
}
