//! Datasets that are paused, cancelled, repaired or urgent.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a panic in a test is the report")]

use crate::common;

use std::sync::Arc;
use std::time::{Duration, Instant};

use archive::feed::{DatasetState, Datasets, Feed, FeedError, Progress, Summary, Target, pool_rate};
use broker::settings::StreamSettings;
use broker::setup;
use common::fixtures::{failure, job, publish_annotation, publish_failure};
use common::{RestrictedServer, SyntheticStore, TestEnv, feed, source, target};
use tokio::task::JoinHandle;
use wire::Message;
use wire::v1::{FailureReason, ImageAnnotation, JobFailure};

/// Longer than any step on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

struct Running {
    task: JoinHandle<Result<Summary, FeedError>>,
    progress: Arc<Progress>,
}

impl Running {
    fn start(feed: Feed, target: Target) -> Self {
        let progress = Arc::new(Progress::default());
        let of_task = Arc::clone(&progress);
        Self { task: tokio::spawn(async move { feed.run(&target, &of_task).await }), progress }
    }

    async fn until(&self, what: &str, holds: impl Fn(archive::feed::Snapshot) -> bool) {
        let started = Instant::now();
        while !holds(self.progress.snapshot()) {
            assert!(started.elapsed() < PATIENCE, "{what}: {:?}", self.progress.snapshot());
            assert!(!self.task.is_finished(), "{what}: the feeder has ended");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

async fn datasets(env: &TestEnv) -> Datasets {
    Datasets::open(env.jetstream.clone(), env.streams.clone(), Duration::from_secs(15)).await.unwrap()
}

async fn annotate(env: &TestEnv, dataset: &str, keys: &[String]) {
    for key in keys {
        publish_annotation(env, &job(dataset, key), "w").await;
    }
}

async fn fail(env: &TestEnv, dataset: &str, reason: FailureReason, count: u64) {
    for sequence in 1..=count {
        let job = job(dataset, &format!("{}-{sequence}", reason.as_str_name()));
        publish_failure(env, &failure(&job, sequence, reason)).await;
    }
}

#[tokio::test]
async fn a_paused_dataset_gets_no_more_jobs_until_it_is_resumed() {
    let (env, store) = (TestEnv::start().await, SyntheticStore::start(12_000, Duration::from_millis(200)).await);
    let (datasets, name) = (datasets(&env).await, "holiday".parse().unwrap());
    assert!(matches!(datasets.pause(&name).await, Err(FeedError::NoDataset(_))));
    let feed = feed("holiday", vec![source(&store.endpoint, "s3://archive/").await], 4);
    let running = Running::start(feed, env.target());
    running.until("jobs are stored", |now| now.counts.jobs > 1000).await;
    assert_eq!(datasets.pause(&name).await.unwrap(), DatasetState::Active);
    running.until("the feeder has paused", |now| now.is_paused).await;
    // A batch that was being stored may still end.
    tokio::time::sleep(Duration::from_millis(500)).await;
    let stored = env.count("groundling.jobs.holiday").await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(env.count("groundling.jobs.holiday").await, stored);
    assert!(stored < 12_000);
    let listed = datasets.list().await.unwrap();
    assert_eq!((listed.len(), listed[0].dataset.as_str()), (1, "holiday"));
    assert_eq!((listed[0].state, listed[0].waiting, listed[0].counts.jobs), (DatasetState::Paused, stored, stored));
    assert!(!listed[0].is_complete());
    assert_eq!(datasets.resume(&name).await.unwrap(), DatasetState::Paused);
    assert_eq!(running.task.await.unwrap().unwrap().total.jobs, 12_000);
    assert!(datasets.summary(&name).await.unwrap().is_complete());
    let found = env.drain().await;
    assert_eq!((found.len(), found.values().max()), (12_000, Some(&1)));
}

#[tokio::test]
async fn a_cancelled_dataset_loses_its_waiting_jobs_and_its_feeder_and_can_be_fed_again_with_missing() {
    let (env, store) = (TestEnv::start().await, SyntheticStore::start(10_000, Duration::from_millis(200)).await);
    let (datasets, name) = (datasets(&env).await, "cats".parse().unwrap());
    let mut other = feed("dogs", vec![source(&store.endpoint, "s3://archive/days/2024-01-01/").await], 1);
    other.run(&env.target(), &Progress::default()).await.unwrap();
    let dogs = env.count("groundling.jobs.dogs").await;
    let feed = feed("cats", vec![source(&store.endpoint, "s3://archive/").await], 4);
    let running = Running::start(feed.clone(), env.target());
    running.until("jobs are stored", |now| now.counts.jobs > 1000).await;
    let retry = "groundling.retries.cats.1-1".to_owned();
    env.jetstream.publish(retry, "x".into()).await.unwrap().await.unwrap();
    let removed = datasets.cancel(&name, "test").await.unwrap();
    assert!(removed.jobs > 1000 && removed.has_plan, "{removed:?}");
    assert_eq!(removed.retries, 1);
    let error = running.task.await.unwrap().unwrap_err();
    assert!(matches!(error, FeedError::Cancelled(_)), "{error}");
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(env.count("groundling.jobs.cats").await, 0);
    let retries = env.jetstream.get_stream(&env.streams.retries).await.unwrap();
    assert_eq!(retries.cached_info().state.messages, 0);
    assert_eq!(env.count("groundling.jobs.dogs").await, dogs, "jobs of other datasets stay");
    let summary = datasets.summary(&name).await.unwrap();
    assert_eq!((summary.state, summary.waiting), (DatasetState::Cancelled, 0));
    for error in [
        feed.run(&env.target(), &Progress::default()).await.unwrap_err(),
        datasets.resume(&name).await.unwrap_err(),
        datasets.pause(&name).await.unwrap_err(),
    ] {
        assert!(matches!(error, FeedError::Cancelled(_)), "{error}");
    }

    // Another pass, without the pictures that were annotated before the cancellation.
    let keys = store.keys();
    annotate(&env, "cats", &keys[..300]).await;
    let missing = Feed { missing: true, ..feed };
    let summary = missing.run(&env.target(), &Progress::default()).await.unwrap();
    assert_eq!((summary.total.seen, summary.total.jobs), (10_000, 9_700));
    assert_eq!(env.count("groundling.jobs.cats").await, 9_700);
    other.missing = true;
    let error = other.run(&env.target(), &Progress::default()).await.unwrap_err();
    assert!(matches!(error, FeedError::JobsWaiting { waiting, .. } if waiting == dogs), "{error}");
}

#[tokio::test]
async fn missing_enqueues_exactly_the_objects_without_annotation() {
    let (env, store) = (TestEnv::start().await, SyntheticStore::start(3000, Duration::ZERO).await);
    let mut feed = feed("repair", vec![source(&store.endpoint, "s3://archive/").await], 4);
    let first = feed.run(&env.target(), &Progress::default()).await.unwrap();
    assert_eq!(env.drain().await.len(), 3000);
    let keys = store.keys();
    let (done, left) = keys.split_at(2900);
    annotate(&env, "repair", done).await;
    feed.missing = true;
    feed.arguments.insert("--missing".into(), true.into());
    let annotated =
        archive::feed::Annotated::read(&env.jetstream, &env.streams.annotations, &feed.recipe.dataset).await;
    let survey = feed.survey(Some(&annotated.unwrap()), &Progress::default()).await.unwrap();
    assert_eq!((survey.seen, survey.jobs), (3000, 100));
    let second = feed.run(&env.target(), &Progress::default()).await.unwrap();
    assert_eq!((second.total.seen, second.total.jobs, second.stored), (3000, 100, second.total));
    let found = env.drain().await;
    assert_eq!(found.len(), 100);
    assert!(left.iter().all(|key| found.get(key) == Some(&1)));
    // Without --missing, a complete dataset stays complete.
    feed.missing = false;
    let again = feed.run(&env.target(), &Progress::default()).await.unwrap();
    assert_eq!((again.stored.jobs, again.total.jobs), (0, 100));
    assert_eq!(first.total.jobs, 3000);
}

#[tokio::test]
async fn a_dataset_whose_jobs_fail_too_often_is_paused_with_the_most_frequent_reason() {
    let (env, store) = (TestEnv::start().await, SyntheticStore::start(5000, Duration::ZERO).await);
    // Failures of earlier feeders do not count.
    fail(&env, "bad", FailureReason::InvalidJob, 150).await;
    let feed = feed("bad", vec![source(&store.endpoint, "s3://archive/").await], 4);
    let mut target = env.target();
    (target.max_failure_rate, target.max_waiting) = (Some(0.05), 2000);
    let running = Running::start(feed, target);
    running.until("the maximum of jobs is waiting", |now| now.lanes_waiting > 0).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert!(!running.progress.snapshot().is_paused);
    let keys = store.keys();
    annotate(&env, "bad", &keys[..200]).await;
    fail(&env, "bad", FailureReason::UndecodablePicture, 4).await;
    fail(&env, "bad", FailureReason::ObjectNotFound, 12).await;
    running.until("the dataset is paused", |now| now.is_paused).await;
    let summary = datasets(&env).await.summary(&"bad".parse().unwrap()).await.unwrap();
    assert_eq!(summary.state, DatasetState::Paused);
    let reason = summary.reason.unwrap();
    assert_eq!(
        reason,
        "16 of 216 jobs failed (7.4 %, more than --max-failure-rate 5%), most often FAILURE_REASON_OBJECT_NOT_FOUND (75 %)"
    );
    // Resumed, the rate starts again.
    datasets(&env).await.resume(&"bad".parse().unwrap()).await.unwrap();
    running.until("the dataset is resumed", |now| !now.is_paused).await;
    tokio::time::sleep(Duration::from_secs(6)).await;
    assert!(!running.progress.snapshot().is_paused);
    running.task.abort();
}

#[tokio::test]
async fn urgent_jobs_have_their_own_subject_and_consumer() {
    let (env, store) = (TestEnv::start().await, SyntheticStore::start(3000, Duration::ZERO).await);
    let mut feed = feed("hurry", vec![source(&store.endpoint, "s3://archive/").await], 4);
    feed.urgent = true;
    let mut target = env.target();
    target.max_waiting = 1000;
    let running = Running::start(feed, target);
    running.until("the maximum of jobs is waiting", |now| now.lanes_waiting > 0).await;
    assert!(env.count("groundling.urgent.hurry").await <= 1000);
    assert_eq!(env.count("groundling.jobs.hurry").await, 0);
    let mut found = 0;
    while found < 3000 {
        found += env.drain_urgent().await.len();
    }
    assert_eq!(running.task.await.unwrap().unwrap().total.jobs, 3000);
    assert_eq!(env.drain().await.len(), 0);
}

#[tokio::test]
async fn the_pools_rate_comes_from_the_last_annotations() {
    let env = TestEnv::start().await;
    assert_eq!(pool_rate(&env.jetstream, &env.streams.annotations).await.unwrap(), None);
    let keys: Vec<String> = (0..20).map(|i| i.to_string()).collect();
    for key in &keys {
        annotate(&env, "rate", std::slice::from_ref(key)).await;
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let rate = pool_rate(&env.jetstream, &env.streams.annotations).await.unwrap().unwrap();
    assert!((1.0..20.0).contains(&rate), "{rate}");
}

#[tokio::test]
async fn the_permissions_of_a_feeder_suffice_for_all_of_this() {
    let server = RestrictedServer::start().await;
    let streams = StreamSettings::default();
    let admin = server.connect("admin", "a").await;
    assert!(setup::setup(&admin, &streams).await.unwrap().is_ready());
    for (subject, payload) in [
        ("groundling.annotations.allowed", ImageAnnotation::default().encode_to_vec()),
        ("groundling.annotations.allowed", ImageAnnotation::default().encode_to_vec()),
        ("groundling.failed.allowed", JobFailure::default().encode_to_vec()),
    ] {
        admin.publish(subject, payload.into()).await.unwrap().await.unwrap();
    }
    let store = SyntheticStore::start(3000, Duration::ZERO).await;
    let mut feed = feed("allowed", vec![source(&store.endpoint, "s3://archive/").await], 4);
    (feed.missing, feed.urgent) = (true, true);
    let jetstream = server.connect("feeder", "f").await;
    let mut target = target(&jetstream, &streams, "feeder");
    target.max_failure_rate = Some(0.0);
    assert_eq!(feed.run(&target, &Progress::default()).await.unwrap().total.jobs, 3000);
    pool_rate(&jetstream, &streams.annotations).await.unwrap();
    let datasets = Datasets::open(jetstream, streams, Duration::from_secs(15)).await.unwrap();
    let name = "allowed".parse().unwrap();
    datasets.pause(&name).await.unwrap();
    datasets.resume(&name).await.unwrap();
    assert_eq!(datasets.list().await.unwrap().len(), 1);
    assert_eq!(datasets.cancel(&name, "test").await.unwrap().jobs, 3000);
    assert_eq!(*server.errors.lock().unwrap(), Vec::<String>::new());
}
