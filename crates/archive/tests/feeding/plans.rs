//! Plans of datasets without a job, manifests that change, feeders that are replaced while they wait, and retries.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a panic in a test is the report")]

use crate::common;

use std::path::Path;
use std::time::{Duration, Instant};

use archive::feed::{Datasets, Feed, FeedError, MANIFESTS_ARGUMENT, Progress, Summary, Target};
use archive::filter::Filter;
use common::{SyntheticStore, TestEnv, feed, open, source};
use wire::Message;
use wire::v1::{ImageAnnotation, ObjectIdentity, PictureFacts};

/// Longer than any step on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

async fn run(env: &TestEnv, feed: &Feed) -> Result<Summary, FeedError> {
    feed.run(&env.target(), &Progress::default()).await
}

async fn datasets(env: &TestEnv) -> Datasets {
    Datasets::open(env.jetstream.clone(), env.streams.clone(), Duration::from_secs(15)).await.unwrap()
}

/// A feed of a local manifest, with its contents among the arguments.
async fn manifest(dataset: &str, path: &Path, text: &str) -> Feed {
    std::fs::write(path, text).unwrap();
    let source = open("http://127.0.0.1:9", path.to_str().unwrap(), Some("b")).await.unwrap();
    let mut feed = feed(dataset, vec![source.clone()], 1);
    feed.arguments.insert(MANIFESTS_ARGUMENT.into(), source.identity().into());
    feed
}

/// Retries that wait for their delay.
async fn retry(env: &TestEnv, dataset: &str, count: u32) {
    for i in 0..count {
        let subject = format!("groundling.retries.{dataset}.{i}-1");
        env.jetstream.publish(subject, "x".into()).await.unwrap().await.unwrap();
    }
}

#[tokio::test]
async fn a_source_without_objects_does_not_use_up_the_name() {
    let (env, store) = (TestEnv::start().await, SyntheticStore::start(100, Duration::ZERO).await);
    let mut mistyped = feed("name", vec![source(&store.endpoint, "s3://archive/nothing/").await], 4);
    mistyped.arguments.insert("source".into(), "nothing".into());
    let error = run(&env, &mistyped).await.unwrap_err();
    assert!(matches!(error, FeedError::NoObjects(_)), "{error}");
    assert_eq!(env.count("groundling.cursor.name.*").await, 0, "no plan");
    let dir = tempfile::tempdir().unwrap();
    let empty = manifest("name", &dir.path().join("k.csv"), "key\n").await;
    assert!(matches!(run(&env, &empty).await, Err(FeedError::NoObjects(_))));

    // Objects, but none of them is selected.
    let mut right = feed("name", vec![source(&store.endpoint, "s3://archive/").await], 4);
    right.filter = Filter { suffixes: vec![".jpeg".into()], ..Filter::default() };
    right.arguments.insert("--suffix".into(), ".jpeg".into());
    let error = run(&env, &right).await.unwrap_err();
    assert!(matches!(error, FeedError::NoneSelected { read: 100, .. }), "{error}");
    right.filter = Filter { suffixes: vec![".jpg".into()], ..Filter::default() };
    right.arguments.insert("--suffix".into(), ".jpg".into());
    assert_eq!(run(&env, &right).await.unwrap().total.jobs, 100);
    // Now there are jobs.
    right.arguments.insert("--suffix".into(), ".jpeg".into());
    let error = run(&env, &right).await.unwrap_err();
    assert!(matches!(error, FeedError::OtherArguments { .. }), "{error}");
    assert_eq!(env.count("groundling.jobs.name").await, 100);
}

#[tokio::test]
async fn a_dataset_that_was_cancelled_before_its_first_job_takes_other_arguments() {
    let (env, store) = (TestEnv::start().await, SyntheticStore::start(100, Duration::ZERO).await);
    let mut fed = feed("early", vec![source(&store.endpoint, "s3://archive/").await], 4);
    fed.filter = Filter { suffixes: vec![".jpeg".into()], ..Filter::default() };
    run(&env, &fed).await.unwrap_err();
    datasets(&env).await.cancel(&"early".parse().unwrap(), "test").await.unwrap();
    assert!(matches!(run(&env, &fed).await, Err(FeedError::Cancelled(_))), "with the same arguments");
    fed.filter = Filter::default();
    fed.arguments.insert("--suffix".into(), "none".into());
    assert_eq!(run(&env, &fed).await.unwrap().total.jobs, 100);
    datasets(&env).await.cancel(&"early".parse().unwrap(), "test").await.unwrap();
    fed.arguments.insert("--suffix".into(), ".png".into());
    assert!(matches!(run(&env, &fed).await, Err(FeedError::OtherArguments { .. })), "it had jobs");
}

#[tokio::test]
async fn a_manifest_can_be_mended_while_there_is_no_job_and_can_grow_for_missing() {
    let (env, dir) = (TestEnv::start().await, tempfile::tempdir().unwrap());
    let path = dir.path().join("k.csv");
    // The first page can be read, so there is a plan; the damage is found in the first batch.
    let rows: String = (0..1500).map(|i| format!("{i:04}.jpg,{}\n", if i == 1200 { "x" } else { "1" })).collect();
    let mut broken = manifest("m", &path, &format!("key,size\n{rows}")).await;
    broken.filter = Filter { min_size: Some(5), ..Filter::default() };
    let error = run(&env, &broken).await.unwrap_err();
    assert!(matches!(error, FeedError::Source(_)), "{error}");
    assert_eq!(env.count("groundling.jobs.m").await, 0);
    let mended = manifest("m", &path, "key\na.jpg\nb.jpg\n").await;
    assert_eq!(run(&env, &mended).await.unwrap().total.jobs, 2);

    let mut grown = manifest("m", &path, "key\na.jpg\nb.jpg\nc.jpg\n").await;
    assert!(matches!(run(&env, &grown).await, Err(FeedError::OtherArguments { .. })));
    env.drain().await;
    for key in ["a.jpg", "b.jpg"] {
        let object = ObjectIdentity { bucket: "b".into(), key: key.into(), ..Default::default() };
        let picture = Some(PictureFacts { object: Some(object), ..Default::default() });
        let annotation = ImageAnnotation { picture, ..Default::default() };
        let payload = annotation.encode_to_vec().into();
        env.jetstream.publish("groundling.annotations.m", payload).await.unwrap().await.unwrap();
    }
    grown.missing = true;
    grown.arguments.insert("--missing".into(), true.into());
    assert_eq!(run(&env, &grown).await.unwrap().total.jobs, 1);
    let found = env.drain().await;
    assert_eq!((found.len(), found.get("c.jpg")), (1, Some(&1)));
}

#[tokio::test]
async fn retries_count_as_waiting_jobs() {
    let (env, store) = (TestEnv::start().await, SyntheticStore::start(6000, Duration::ZERO).await);
    retry(&env, "slow", 1000).await;
    let fed = feed("slow", vec![source(&store.endpoint, "s3://archive/").await], 4);
    let target = Target { max_waiting: 2000, ..env.target() };
    let feeding = tokio::spawn(async move { fed.run(&target, &Progress::default()).await });
    let stored = env.wait_until_stable("groundling.jobs.slow").await;
    assert!(stored > 0 && stored <= 1000, "{stored}");
    let summary = datasets(&env).await.summary(&"slow".parse().unwrap()).await.unwrap();
    assert_eq!((summary.waiting, summary.retrying), (stored, 1000));
    env.jetstream.get_stream(&env.streams.retries).await.unwrap().purge().await.unwrap();
    let started = Instant::now();
    while env.count("groundling.jobs.slow").await <= 1000 {
        assert!(started.elapsed() < PATIENCE);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    feeding.abort();
}

#[tokio::test]
async fn a_feeder_that_waits_for_workers_notices_that_it_was_replaced() {
    let (env, store) = (TestEnv::start().await, SyntheticStore::start(6000, Duration::ZERO).await);
    let fed = feed("two", vec![source(&store.endpoint, "s3://archive/").await], 4);
    let start = |name: &str| {
        let (fed, target) = (fed.clone(), Target { max_waiting: 2000, feeder: name.into(), ..env.target() });
        tokio::spawn(async move { fed.run(&target, &Progress::default()).await })
    };
    let first = start("first");
    let started = Instant::now();
    while env.count("groundling.jobs.two").await < 1000 {
        assert!(started.elapsed() < PATIENCE);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let second = start("second");
    // No worker takes a job meanwhile.
    let error = tokio::time::timeout(PATIENCE, first).await.expect("it ends").unwrap().unwrap_err();
    assert!(matches!(&error, FeedError::FencedOut { by, .. } if by == "second"), "{error}");
    assert!(!second.is_finished());
    second.abort();
}

#[tokio::test]
async fn a_feeder_without_a_job_is_replaced_by_one_with_other_arguments() {
    let (env, store) = (TestEnv::start().await, SyntheticStore::start(6000, Duration::ZERO).await);
    // So that the first one stores nothing.
    retry(&env, "changed", 1000).await;
    let old = feed("changed", vec![source(&store.endpoint, "s3://archive/").await], 4);
    let mut new = old.clone();
    new.filter = Filter { suffixes: vec!["1.jpg".into()], ..Filter::default() };
    new.arguments.insert("--suffix".into(), "1.jpg".into());
    let target = Target { max_waiting: 1000, feeder: "old".into(), ..env.target() };
    let running = {
        let old = old.clone();
        tokio::spawn(async move { old.run(&target, &Progress::default()).await })
    };
    let started = Instant::now();
    while env.count("groundling.cursor.changed.feeder").await == 0 {
        assert!(started.elapsed() < PATIENCE);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let jobs = run(&env, &new).await.unwrap().total.jobs;
    let error = tokio::time::timeout(PATIENCE, running).await.expect("it ends").unwrap().unwrap_err();
    assert!(matches!(error, FeedError::FencedOut { .. } | FeedError::PlanReplaced(_)), "{error}");
    assert!(matches!(run(&env, &old).await, Err(FeedError::OtherArguments { .. })));
    let found = env.drain().await;
    assert!(found.len() as u64 == jobs && found.iter().all(|(key, times)| key.ends_with("1.jpg") && *times == 1));
}

#[tokio::test]
async fn jobs_without_a_plan_can_be_cancelled() {
    let env = TestEnv::start().await;
    let (datasets, name) = (datasets(&env).await, "sent".parse().unwrap());
    assert!(matches!(datasets.cancel(&name, "test").await, Err(FeedError::NoDataset(_))));
    for _ in 0..3 {
        env.jetstream.publish("groundling.jobs.sent", "x".into()).await.unwrap().await.unwrap();
    }
    retry(&env, "sent", 2).await;
    let cancelled = datasets.cancel(&name, "test").await.unwrap();
    assert_eq!((cancelled.jobs, cancelled.retries, cancelled.has_plan), (3, 2, false));
    assert_eq!(env.count("groundling.jobs.sent").await, 0);
    assert_eq!(env.count("groundling.cursor.sent.state").await, 0, "it can get jobs again");
}
