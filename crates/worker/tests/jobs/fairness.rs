//! Objects that stall, arrive a byte at a time or are refused delay neither jobs of other datasets nor other jobs of
//! their own dataset.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a panic in a test is the report")]

use crate::common;
use crate::fake_store;

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use common::{Running, TestEnv, Yes, bitmap, eventually, job, settings};
use engine::{Annotator, Request, Response};
use fake_store::{Answer, FakeStore};
use kosmos2::processor::image::{Picture, PixelValues};
use tokio::sync::Mutex;
use wire::Message;
use wire::v1::{self, FailureReason, image_job};
use worker::settings::StreamSettings;
use worker::{JobEvent, Settings};

/// The faults of the store. The first part of a key selects one; with any other first part the read succeeds.
const WAYS: [&str; 3] = ["stall", "drip", "refuse"];

fn answer(key: &str) -> Answer {
    match key.split(['-', '/']).next().unwrap_or_default() {
        "stall" => Answer::stalled(),
        "drip" => Answer::ok(vec![0; 1 << 20]).dripping(),
        "refuse" => Answer::error(503, "ServiceUnavailable", "Please try again."),
        _ => Answer::ok(bitmap()),
    }
}

async fn store() -> FakeStore {
    FakeStore::start(|request| answer(request.key())).await
}

fn with_store(env: &TestEnv, store: &FakeStore) -> Settings {
    let mut settings = settings(env);
    settings.s3.endpoint = Some(store.endpoint().to_owned());
    settings.s3.path_style = true;
    settings.worker.slots = Some(4);
    settings
}

async fn submit(env: &TestEnv, dataset: &str, key: &str) {
    let object = v1::S3Object { bucket: "b".into(), key: key.into(), ..Default::default() };
    let source = Some(image_job::Source::S3(object));
    let job = v1::ImageJob { source, dataset: dataset.into(), ..job(key, Vec::new()) };
    let subject = format!("groundling.jobs.{dataset}");
    env.jetstream.publish(subject, job.encode_to_vec().into()).await.unwrap().await.unwrap();
}

/// Waits until this many jobs are done. Panics if one fails.
async fn done(running: &mut Running, count: usize) -> HashSet<String> {
    let mut done = HashSet::new();
    while done.len() < count {
        match running.event().await {
            JobEvent::Finished { annotation, .. } => drop(done.insert(annotation.job_id.clone())),
            JobEvent::Failed { message, .. } => panic!("{message}"),
            JobEvent::Retried { .. } => {}
        }
    }
    done
}

/// With the default time limits, which are longer than this test.
#[tokio::test(flavor = "multi_thread")]
async fn good_jobs_are_done_while_others_stall_drip_or_are_refused() {
    let store = store().await;
    for way in WAYS {
        for dataset in ["others", "cats"] {
            let env = TestEnv::ready().await;
            for i in 0..100 {
                submit(&env, dataset, &format!("{way}-{i}")).await;
            }
            for i in 0..100 {
                submit(&env, dataset, &format!("{way}-more-{i}")).await;
                submit(&env, "cats", &format!("good-{i}")).await;
            }
            let mut running = Running::start_with(with_store(&env, &store), Arc::new(Yes));
            let done = done(&mut running, 100).await;
            assert!(done.iter().all(|id| id.starts_with("good-")), "{done:?}");
            running.task.abort();
        }
    }
}

/// With a small `max_ack_pending`. No retry is due while the test runs.
#[tokio::test(flavor = "multi_thread")]
async fn jobs_between_two_attempts_are_not_pending_in_the_stream_of_jobs() {
    let streams = StreamSettings { max_ack_pending: 10, ..Default::default() };
    let (env, store) = (TestEnv::ready_with(streams).await, store().await);
    for i in 0..50 {
        submit(&env, "cats", &format!("refuse-{i}")).await;
    }
    for i in 0..10 {
        submit(&env, "cats", &format!("good-{i}")).await;
    }
    let mut settings = with_store(&env, &store);
    settings.worker.max_slow_reads = Some(6);
    settings.s3.attempts = 1;
    let mut running = Running::start_with(settings, Arc::new(Yes));
    done(&mut running, 10).await;
    eventually("all others wait in the retries stream", || async { env.messages_in(&env.streams.retries).await == 50 })
        .await;
    eventually("no job is left", || async { env.messages_in(&env.streams.jobs).await == 0 }).await;
    running.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_is_done_from_the_stream_of_retries_by_whichever_worker_and_ends_once() {
    let env = TestEnv::ready().await;
    let heals = Arc::new(AtomicBool::new(false));
    let healed = Arc::clone(&heals);
    let store = FakeStore::start(move |request| match healed.load(Ordering::SeqCst) {
        true => Answer::ok(bitmap()),
        false => answer(request.key()),
    })
    .await;
    let mut settings = with_store(&env, &store);
    settings.worker.max_retry_delay = Duration::from_millis(200);
    settings.worker.max_deliveries = 3;
    settings.s3.attempts = 1;
    for key in ["refuse-1", "refuse-2"] {
        submit(&env, "cats", key).await;
    }
    let mut first = Running::start_with(settings.clone(), Arc::new(Yes));
    for _ in 0..2 {
        assert!(matches!(first.event().await, JobEvent::Retried { .. }));
    }
    first.task.abort();
    heals.store(true, Ordering::SeqCst);
    let mut second = Running::start_with(settings.clone(), Arc::new(Yes));
    done(&mut second, 2).await;
    second.end().await;
    heals.store(false, Ordering::SeqCst);
    submit(&env, "cats", "refuse-3").await;
    let mut third = Running::start_with(settings, Arc::new(Yes));
    let failed = loop {
        match third.event().await {
            JobEvent::Retried { .. } => {}
            JobEvent::Failed { subject, reason, .. } => break (subject, reason),
            JobEvent::Finished { annotation, .. } => panic!("{annotation:?}"),
        }
    };
    assert_eq!(failed, ("groundling.jobs.cats".to_owned(), FailureReason::RetriesExhausted));
    third.end().await;
    for (stream, messages) in [
        (&env.streams.jobs, 0),
        (&env.streams.retries, 0),
        (&env.streams.attempts, 0),
        (&env.streams.annotations, 2),
        (&env.streams.failed, 1),
    ] {
        assert_eq!(env.messages_in(stream).await, messages, "{stream}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn jobs_wait_for_a_part_of_a_store_that_does_not_answer_and_none_fails() {
    let env = TestEnv::ready().await;
    let heals = Arc::new(AtomicBool::new(false));
    let healed = Arc::clone(&heals);
    let store = FakeStore::start(move |request| match healed.load(Ordering::SeqCst) {
        true => Answer::ok(bitmap()),
        false => answer(request.key()),
    })
    .await;
    let mut settings = with_store(&env, &store);
    settings.worker.max_retry_delay = Duration::from_secs(1);
    settings.worker.store_outage_wait = Some(Duration::from_secs(3600));
    settings.s3.attempts = 1;
    // Without the circuit breaker each job would be attempted this often within seconds.
    settings.worker.max_deliveries = 20;
    settings.worker.job_timeout = Duration::from_secs(60);
    for i in 0..30 {
        submit(&env, "others", &format!("refuse/{i}")).await;
    }
    let mut running = Running::start_with(settings, Arc::new(Yes));
    let mut waits = 0;
    while waits < 60 {
        match running.event().await {
            JobEvent::Retried { message, .. } => {
                waits += usize::from(message == "s3://b/refuse is unavailable: its jobs wait until a read succeeds");
            }
            other => panic!("{other:?}"),
        }
    }
    submit(&env, "others", "good/1").await;
    done(&mut running, 1).await;
    heals.store(true, Ordering::SeqCst);
    done(&mut running, 30).await;
    running.end().await;
}

/// Answers one request at a time, so that the engine limits the rate.
struct OneByOne(Mutex<()>);

impl Annotator for OneByOne {
    fn preprocess(&self, picture: &Picture) -> PixelValues {
        Yes.preprocess(picture)
    }

    fn submit(&self, request: Request) -> engine::ResponseFuture<'_> {
        Box::pin(async move {
            let _one = self.0.lock().await;
            tokio::time::sleep(Duration::from_millis(25)).await;
            let answered: Result<Response, _> = Yes.submit(request).await;
            answered
        })
    }
}

/// Not a test: prints the rate of good jobs beside as many that the store spoils, relative to the rate without these.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "a measurement: run it with --nocapture"]
async fn rate_of_good_jobs_beside_spoilt_ones() {
    const GOOD: usize = 600;
    let store = store().await;
    let rate = async |spoil: Option<(&str, &str)>| {
        let env = TestEnv::ready().await;
        for i in 0..GOOD {
            if let Some((way, dataset)) = spoil {
                submit(&env, dataset, &format!("{way}-{i}")).await;
            }
            submit(&env, "cats", &format!("good-{i}")).await;
        }
        let mut settings = with_store(&env, &store);
        settings.worker.slots = Some(8);
        let started = Instant::now();
        let mut running = Running::start_with(settings, Arc::new(OneByOne(Mutex::new(()))));
        done(&mut running, GOOD).await;
        running.task.abort();
        GOOD as f64 / started.elapsed().as_secs_f64()
    };
    let undisturbed = rate(None).await;
    println!("undisturbed: {undisturbed:.1} jobs/s");
    for way in WAYS {
        for dataset in ["others", "cats"] {
            let part = rate(Some((way, dataset))).await / undisturbed;
            println!(
                "{way}, in {}: {:.0} %",
                if dataset == "cats" { "the same dataset" } else { "another" },
                part * 100.0
            );
        }
    }
}

/// Publishes this many jobs of the dataset `cats` with the same bytes.
async fn fill(env: &TestEnv, count: u64) {
    let payload = bytes::Bytes::from(job("waiting", bitmap()).encode_to_vec());
    for number in 1..=count {
        env.client.publish("groundling.jobs.cats", payload.clone()).await.unwrap();
        if number % 100_000 == 0 || number == count {
            eventually("the jobs are stored", || async { env.messages_in(&env.streams.jobs).await == number }).await;
        }
    }
}

/// Starts a worker beside this many waiting jobs, submits urgent ones, and counts the other jobs that are done before
/// them.
async fn urgent_jobs_pass(waiting: u64) {
    const URGENT: usize = 100;
    let env = TestEnv::ready().await;
    fill(&env, waiting).await;
    let mut settings = settings(&env);
    settings.worker.slots = Some(4);
    let mut running = Running::start_with(settings, Arc::new(Yes));
    for _ in 0..20 {
        assert!(matches!(running.event().await, JobEvent::Finished { .. }));
    }
    let publish = async |id: String| {
        let job = v1::ImageJob { dataset: "hurry".into(), ..job(&id, bitmap()) };
        env.client.publish("groundling.urgent.hurry", job.encode_to_vec().into()).await.unwrap();
    };
    publish("urgent".into()).await;
    let (started, mut others) = (Instant::now(), 0);
    let annotation = loop {
        match running.event().await {
            JobEvent::Finished { annotation, .. } if annotation.job_id == "urgent" => break annotation,
            JobEvent::Finished { .. } => others += 1,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(annotation.dataset, "hurry");
    let left = env.messages_in(&env.streams.jobs).await;
    eprintln!("with {waiting} jobs waiting, {others} were done before the urgent one, after {:?}", started.elapsed());
    assert!(others < 1000 && left > waiting / 2, "{others} jobs were done before the urgent one, {left} are left");

    // While urgent jobs are waiting, no others are taken.
    for i in 0..URGENT {
        publish(format!("urgent {i}")).await;
    }
    let (mut urgent, mut others) = (0, 0);
    while urgent < URGENT {
        match running.event().await {
            JobEvent::Finished { annotation, .. } if annotation.dataset == "hurry" => urgent += 1,
            JobEvent::Finished { .. } if urgent > 0 => others += 1,
            JobEvent::Finished { .. } => {}
            other => panic!("{other:?}"),
        }
    }
    eprintln!("{others} other jobs were done among {URGENT} urgent ones");
    assert!(others < URGENT / 2, "{others} other jobs were done among {URGENT} urgent ones");
    // Afterwards, the others are taken again.
    assert!(matches!(running.event().await, JobEvent::Finished { annotation, .. } if annotation.dataset == "cats"));
    running.task.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn urgent_jobs_pass_a_hundred_thousand_waiting_ones() {
    urgent_jobs_pass(100_000).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "a measurement: cargo test --workspace --test jobs fairness -- --ignored --nocapture"]
async fn urgent_jobs_pass_a_million_waiting_ones() {
    urgent_jobs_pass(1_000_000).await;
}
