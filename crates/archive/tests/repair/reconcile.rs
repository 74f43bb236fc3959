//! An archive compared with its outcomes.

use std::time::{Duration, Instant};

use archive::feed::{Datasets, Feed, FeedError, Progress, Target};
use archive::pool::Pool;
use archive::reconcile::{ReconcileProgress, Reconciled, reconcile};
use broker::settings::NatsSettings;
use futures::StreamExt;
use wire::Message;
use wire::v1::{self, FailureReason, ImageJob};

use crate::common::fixtures::{
    annotation, dataset, failure, job, pool, publish, publish_annotation, publish_failure, publish_many, s3,
};
use crate::common::{SyntheticStore, TestEnv, child, feed, jetstream, source};

async fn compare(env: &TestEnv, feed: &Feed) -> (Reconciled, Vec<String>) {
    let mut found = reconcile(&pool(env), feed, &ReconcileProgress::default()).await.unwrap();
    let mut missing: Vec<_> = found.missing_objects.objects().unwrap().map(|object| object.unwrap().key).collect();
    missing.sort();
    (found, missing)
}

fn numbers(found: &Reconciled) -> [u64; 5] {
    [found.objects, found.done, found.failed, found.waiting, found.missing]
}

#[tokio::test]
async fn what_is_missing_from_a_dataset_is_found_and_submitted_once() {
    let env = TestEnv::start().await;
    let store = SyntheticStore::start(1500, Duration::ZERO).await;
    let sources = || async { vec![source(&store.endpoint, "s3://archive/").await] };
    let fed = feed("fed", sources().await, 4);
    assert_eq!(numbers(&compare(&env, &fed).await.0), [1500, 0, 0, 0, 1500]);
    fed.run(&env.target(), &Progress::default()).await.unwrap();
    assert_eq!(numbers(&compare(&env, &fed).await.0), [1500, 0, 0, 1500, 0]);

    let consumer = broker::setup::find_consumer(&env.jetstream, &env.streams).await.unwrap().unwrap();
    let mut lost = Vec::new();
    let mut messages = consumer.fetch().max_messages(500).messages().await.unwrap();
    let mut i = 0;
    while let Some(message) = messages.next().await {
        let message = message.unwrap();
        let job = ImageJob::decode(message.payload.clone()).unwrap();
        match i % 5 {
            0 | 1 => publish_annotation(&env, &job, "w").await,
            2 => publish_failure(&env, &failure(&job, i + 1, FailureReason::Internal)).await,
            // It waits for its next attempt.
            3 => {
                let retry = v1::Retry { job: message.payload.clone(), ..Default::default() };
                publish(&env, &format!("groundling.retries.fed.{i}-1"), &format!("r{i}"), retry.encode_to_vec()).await;
            }
            // A disaster.
            _ => lost.push(s3(&job).key.clone()),
        }
        message.double_ack().await.unwrap();
        i += 1;
    }
    lost.sort();
    // Annotations of another dataset, and of an object that the source does not have.
    publish_annotation(&env, &job("other", &lost[0]), "w").await;
    publish_annotation(&env, &job("fed", "gone.jpg"), "w").await;
    let (found, missing) = compare(&env, &fed).await;
    assert_eq!(numbers(&found), [1500, 200, 100, 100 + 1000, 100]);
    assert_eq!((missing, found.elsewhere), (lost.clone(), 1));
    assert!(!found.annotations_removed);

    let mut other = feed("fed", sources().await, 4);
    other.arguments.insert("--task".into(), "detailed".into());
    let error = other.begin_repair(&env.target()).await.unwrap_err();
    assert!(matches!(error, FeedError::OtherArguments { .. }), "{error}");

    // Two at once: the first one can no longer store anything.
    let first = fed.begin_repair(&env.target()).await.unwrap();
    let second = fed.begin_repair(&env.target()).await.unwrap();
    let (mut found, _) = compare(&env, &fed).await;
    let objects = found.missing_objects.objects().unwrap();
    let error = fed.repair(first, objects, &Progress::default()).await.unwrap_err();
    assert!(matches!(error, FeedError::FencedOut { .. }), "{error}");
    let objects = found.missing_objects.objects().unwrap();
    let stored = fed.repair(second, objects, &Progress::default()).await.unwrap();
    assert_eq!(stored.jobs, 100);
    assert_eq!(numbers(&compare(&env, &fed).await.0), [1500, 200, 100, 1200, 0]);
    let queue = env.drain().await;
    assert!(queue.values().all(|times| *times == 1) && queue.len() == 1100);
    assert!(lost.iter().all(|key| queue.contains_key(key)));
}

#[tokio::test]
async fn nothing_is_submitted_while_the_source_is_being_read() {
    let env = TestEnv::start().await;
    let store = SyntheticStore::start(3000, Duration::ZERO).await;
    let fed = feed("fed", vec![source(&store.endpoint, "s3://archive/").await], 1);
    let target = Target { max_waiting: 1000, ..env.target() };
    let progress = Progress::default();
    let feeding = fed.run(&target, &progress);
    tokio::time::timeout(Duration::from_secs(3), feeding).await.expect_err("it waits for workers");
    let error = fed.begin_repair(&env.target()).await.unwrap_err();
    assert!(matches!(error, FeedError::Unfinished(_)), "{error}");
}

#[tokio::test]
async fn an_object_of_several_sources_counts_once_and_skipped_ones_are_missing() {
    let env = TestEnv::start().await;
    let store = SyntheticStore::start(100, Duration::ZERO).await;
    let whole = source(&store.endpoint, "s3://archive/").await;
    let half = source(&store.endpoint, "s3://archive/all/").await;
    let (found, missing) = compare(&env, &feed("fed", vec![whole.clone(), half], 2)).await;
    assert_eq!((found.read, found.repeated, numbers(&found)), (150, 50, [100, 0, 0, 0, 100]));
    assert_eq!((missing.len(), found.is_unique), (100, false));

    let mut unique = feed("unique", vec![whole], 2);
    unique.unique_etag = true;
    unique.arguments.insert("--unique".into(), "etag".into());
    unique.run(&env.target(), &Progress::default()).await.unwrap();
    let (found, _) = compare(&env, &unique).await;
    assert_eq!((numbers(&found), found.is_unique), ([100, 0, 0, 50, 50], true));
}

#[tokio::test]
async fn nothing_is_submitted_for_a_dataset_that_is_not_known_or_was_cancelled() {
    let env = TestEnv::start().await;
    let store = SyntheticStore::start(3000, Duration::ZERO).await;
    let fed = feed("mistyped", vec![source(&store.endpoint, "s3://archive/").await], 1);
    let name = dataset("mistyped");
    assert!(!pool(&env).knows(&name).await.unwrap());
    let error = fed.begin_repair(&env.target()).await.unwrap_err();
    assert!(matches!(error, FeedError::UnknownDataset(_)), "{error}");
    assert_eq!(env.count("groundling.cursor.mistyped.*").await, 0);
    publish_annotation(&env, &job("mistyped", "a"), "w").await;
    assert!(pool(&env).knows(&name).await.unwrap());
    fed.begin_repair(&env.target()).await.unwrap();

    // Cancelled before its source was read to its end.
    let fed = feed("stopped", vec![source(&store.endpoint, "s3://archive/").await], 1);
    let target = Target { max_waiting: 1000, ..env.target() };
    let progress = Progress::default();
    tokio::time::timeout(Duration::from_secs(3), fed.run(&target, &progress)).await.expect_err("it waits for workers");
    let datasets = Datasets::open(env.jetstream.clone(), env.streams.clone(), Duration::from_secs(15)).await;
    datasets.unwrap().cancel(&dataset("stopped"), "test").await.unwrap();
    let error = fed.begin_repair(&env.target()).await.unwrap_err();
    assert!(matches!(error, FeedError::Cancelled(_)), "{error}");
}

#[tokio::test]
#[ignore = "the_memory_of_a_comparison_does_not_grow_with_the_archive starts it"]
async fn a_comparison() {
    let Some(inputs) = child::inputs() else { return };
    let nats = NatsSettings { url: inputs.nats.clone(), ..NatsSettings::default() };
    let pool = Pool::new(&jetstream(&inputs.nats).await.client(), &nats, Default::default());
    let feed = feed(&inputs.dataset, vec![source(&inputs.store, "s3://archive/").await], 16);
    let found = reconcile(&pool, &feed, &ReconcileProgress::default()).await.unwrap();
    child::report(&format!("objects={} done={}", found.objects, found.done));
}

#[tokio::test]
#[ignore = "takes minutes: KEYS=10000000 cargo test -p archive --test repair -- --ignored --nocapture memory_of_a_comparison"]
async fn the_memory_of_a_comparison_does_not_grow_with_the_archive() {
    let env = TestEnv::start().await;
    let most = std::env::var("KEYS").map_or(1_000_000, |keys| keys.parse().unwrap());
    let mut peaks = Vec::new();
    for count in [100_000, most] {
        let store = SyntheticStore::start(count, Duration::ZERO).await;
        let name = format!("keys-{count}");
        // Three of four objects are annotated.
        let (keys, done) = (store.keys(), count / 4 * 3);
        publish_many(&env, done, &dataset(&name).annotations_subject(), |i| {
            let mut annotation = annotation(&job(&name, &keys[i as usize]), "w");
            // The store makes up its ETags.
            annotation.picture.as_mut().unwrap().object.as_mut().unwrap().etag = None;
            annotation.encode_to_vec()
        })
        .await;
        let started = Instant::now();
        // A process of its own, because what was published used the memory of this one.
        let comparison = child::spawn("reconcile::a_comparison", &env, &store.endpoint, &name);
        let (line, peak) = child::result(comparison).await;
        eprintln!("{count} keys: {line}, {:.1?}", started.elapsed());
        assert!(line.contains(&format!("objects={count} done={done} ")), "{line}");
        peaks.push(peak);
    }
    assert!(peaks[1] < peaks[0] + 60.0, "{peaks:?} MB");
}
