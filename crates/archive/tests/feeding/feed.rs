//! The feeder on a real NATS server: every object once.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a panic in a test is the report")]

use crate::common;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use archive::feed::{Counts, Cursor, FeedError, Progress};
use archive::filter::Filter;
use async_nats::jetstream::stream::Config;
use broker::migration::Migration;
use broker::settings::StreamSettings;
use broker::setup;
use common::{RestrictedServer, SyntheticStore, TestEnv, feed, open, source, target};
use futures::StreamExt;
use wire::subjects::JOBS_FILTER;

fn once(keys: impl IntoIterator<Item = String>) -> HashMap<String, u32> {
    keys.into_iter().map(|key| (key, 1)).collect()
}

#[tokio::test]
async fn each_object_becomes_a_job_and_a_second_run_adds_none() {
    let (env, store) = (TestEnv::start().await, SyntheticStore::start(12_000, Duration::ZERO).await);
    let feed = feed("all", vec![source(&store.endpoint, "s3://archive/").await], 4);
    let summary = feed.run(&env.target(), &Progress::default()).await.unwrap();
    assert_eq!((summary.total.seen, summary.total.jobs, summary.stored), (12_000, 12_000, summary.total));
    let progress = Progress::default();
    let again = feed.run(&env.target(), &progress).await.unwrap();
    assert_eq!((again.total, again.stored), (summary.total, Counts::default()));
    assert_eq!(progress.snapshot().lanes_done, summary.lanes);
    assert_eq!(env.drain().await, once(store.keys()));
    let cursors = env.count("groundling.cursor.all.*").await;
    assert_eq!(cursors, summary.lanes as u64 + 2, "one for each lane, the plan and the feeder");
}

#[tokio::test]
async fn filters_samples_and_repeated_etags_leave_objects_out() {
    let (env, store) = (TestEnv::start().await, SyntheticStore::start(10_000, Duration::ZERO).await);
    let prefix = source(&store.endpoint, "s3://archive/").await;
    let mut filtered = feed("filtered", vec![prefix.clone()], 4);
    filtered.filter = Filter { max_size: Some(1002), glob: Some("all/*".into()), ..Filter::default() };
    let summary = filtered.run(&env.target(), &Progress::default()).await.unwrap();
    let wanted: Vec<_> = store.keys().into_iter().take(5000).enumerate().filter(|(i, _)| i % 7 < 3).collect();
    assert_eq!((summary.total.seen, summary.total.jobs), (10_000, wanted.len() as u64));
    assert_eq!(env.drain().await, once(wanted.into_iter().map(|(_, key)| key)));

    let mut sampled = feed("sampled", vec![prefix.clone()], 4);
    sampled.sample = Some((300, 7));
    assert_eq!(sampled.survey(None, &Progress::default()).await.unwrap().jobs, 300);
    let summary = sampled.run(&env.target(), &Progress::default()).await.unwrap();
    assert_eq!((summary.total.jobs, env.drain().await.len()), (300, 300));

    // Two objects in a row have the same ETag.
    let mut unique = feed("unique", vec![prefix], 4);
    unique.unique_etag = true;
    let summary = unique.run(&env.target(), &Progress::default()).await.unwrap();
    assert_eq!((summary.total.jobs, env.drain().await.len()), (5000, 5000));
    assert_eq!(unique.survey(None, &Progress::default()).await.unwrap().jobs, 5000);
}

#[tokio::test]
async fn several_sources_make_one_dataset() {
    let (env, store) = (TestEnv::start().await, SyntheticStore::start(3000, Duration::ZERO).await);
    store.put("lists/k.csv", "other,x.jpg\nother,y.jpg\n");
    let sources = vec![
        source(&store.endpoint, "s3://archive/all/").await,
        open(&store.endpoint, "s3://lists/k.csv", None).await.unwrap(),
    ];
    let summary = feed("several", sources, 4).run(&env.target(), &Progress::default()).await.unwrap();
    assert_eq!(summary.total.jobs, 1502);
    assert_eq!(env.drain().await.len(), 1502);
}

#[tokio::test]
async fn no_more_jobs_wait_than_allowed_and_the_source_is_read_to_its_end() {
    let (env, store) = (TestEnv::start().await, SyntheticStore::start(12_000, Duration::ZERO).await);
    let feed = Arc::new(feed("bounded", vec![source(&store.endpoint, "s3://archive/").await], 8));
    let mut target = env.target();
    target.max_waiting = 3000;
    let progress = Arc::new(Progress::default());
    let feeding = tokio::spawn({
        let (feed, progress) = (Arc::clone(&feed), Arc::clone(&progress));
        async move { feed.run(&target, &progress).await }
    });
    while progress.snapshot().lanes_waiting == 0 {
        assert!(!feeding.is_finished());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let mut found = HashMap::new();
    while !feeding.is_finished() || found.len() < 12_000 {
        tokio::time::sleep(Duration::from_millis(700)).await;
        let waiting = env.count("groundling.jobs.bounded").await;
        assert!(waiting <= 3000, "{waiting} jobs wait");
        if found.is_empty() {
            assert!(waiting > 1000, "{waiting} {:?}", progress.snapshot());
        }
        for (key, times) in env.drain().await {
            *found.entry(key).or_insert(0) += times;
        }
    }
    assert_eq!(feeding.await.unwrap().unwrap().total.jobs, 12_000);
    assert_eq!(found, once(store.keys()));
}

#[tokio::test]
async fn a_second_feeder_takes_over_and_the_first_is_told() {
    let (env, store) = (TestEnv::start().await, SyntheticStore::start(30_000, Duration::from_millis(100)).await);
    let feed = Arc::new(feed("two", vec![source(&store.endpoint, "s3://archive/").await], 4));
    let start = |name: &str| {
        let (feed, mut target) = (Arc::clone(&feed), env.target());
        target.feeder = name.to_owned();
        tokio::spawn(async move { feed.run(&target, &Progress::default()).await })
    };
    let first = start("host one process 1");
    while env.count("groundling.jobs.two").await < 5000 {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let second = start("host two process 2").await.unwrap().unwrap();
    let error = first.await.unwrap().unwrap_err();
    assert!(matches!(error, FeedError::FencedOut { .. }), "{error}");
    assert!(
        error.to_string().starts_with("another feeder (host two process 2) has taken over the dataset two"),
        "{error}"
    );
    assert_eq!(second.total.jobs, 30_000);
    assert!(second.stored.jobs < 30_000);
    assert_eq!(env.drain().await, once(store.keys()));
}

#[tokio::test]
async fn feeders_that_start_together_leave_one() {
    let (env, store) = (TestEnv::start().await, SyntheticStore::start(16_000, Duration::from_millis(50)).await);
    let feed = Arc::new(feed("race", vec![source(&store.endpoint, "s3://archive/").await], 4));
    let feeders = (0..4).map(|i| {
        let (feed, mut target) = (Arc::clone(&feed), env.target());
        target.feeder = format!("feeder {i}");
        tokio::spawn(async move { feed.run(&target, &Progress::default()).await })
    });
    let ends: Vec<_> =
        futures::stream::iter(feeders.collect::<Vec<_>>()).then(|end| async { end.await.unwrap() }).collect().await;
    let (done, fenced): (Vec<_>, Vec<_>) = ends.into_iter().partition(Result::is_ok);
    assert_eq!(done.len(), 1, "{fenced:?}");
    assert!(fenced.iter().all(|end| matches!(end, Err(FeedError::FencedOut { .. }))), "{fenced:?}");
    assert_eq!(env.drain().await, once(store.keys()));
}

#[tokio::test]
async fn other_arguments_for_the_same_dataset_are_refused_by_name() {
    let (env, store) = (TestEnv::start().await, SyntheticStore::start(10, Duration::ZERO).await);
    let mut feed = feed("plan", vec![source(&store.endpoint, "s3://archive/").await], 1);
    feed.arguments.insert("--pin".into(), "etag".into());
    feed.run(&env.target(), &Progress::default()).await.unwrap();
    feed.arguments.insert("--pin".into(), "none".into());
    let error = feed.run(&env.target(), &Progress::default()).await.unwrap_err().to_string();
    assert!(error.contains("--pin was \"etag\" and is \"none\""), "{error}");
    assert_eq!(env.count("groundling.jobs.plan").await, 10);
}

#[tokio::test]
async fn an_old_stream_is_reported_and_migrated_with_its_jobs() {
    let (env, store) = (TestEnv::start().await, SyntheticStore::start(10, Duration::ZERO).await);
    let stream = env.jetstream.get_stream(&env.streams.jobs).await.unwrap();
    let mut consumer = stream.consumer_info(&env.streams.consumer).await.unwrap().config;
    assert_eq!(consumer.filter_subject, JOBS_FILTER);
    // As an earlier version made them.
    env.jetstream.delete_stream(&env.streams.jobs).await.unwrap();
    let subjects = vec!["groundling.jobs.*".to_owned()];
    let old = Config { subjects, allow_atomic_publish: false, ..stream.cached_info().config.clone() };
    let stream = env.jetstream.create_stream(old).await.unwrap();
    consumer.filter_subject = String::new();
    let pull = <async_nats::jetstream::consumer::pull::Config as async_nats::jetstream::consumer::FromConsumer>::try_from_consumer_config(consumer).unwrap();
    stream.create_consumer(pull).await.unwrap();
    let feed = feed("old", vec![source(&store.endpoint, "s3://archive/").await], 1);
    let job = feed.recipe.job(&archive::object::SourceObject {
        bucket: "b".into(),
        key: "earlier".into(),
        ..Default::default()
    });
    let bytes = wire::Message::encode_to_vec(&job).into();
    env.jetstream.publish("groundling.jobs.old", bytes).await.unwrap().await.unwrap();

    let error = feed.run(&env.target(), &Progress::default()).await.unwrap_err().to_string();
    assert_eq!(error, "the stream GROUNDLING_JOBS does not accept atomic batches: run `groundling setup --migrate`");
    let differences = setup::setup(&env.jetstream, &env.streams).await.unwrap().differences;
    assert_eq!(differences.len(), 3, "{differences:#?}");
    assert!(
        differences.iter().any(|difference| difference.contains("`groundling setup --migrate`")),
        "{differences:#?}"
    );

    let plan = Migration::plan(&env.jetstream, &env.streams).await.unwrap();
    assert_eq!(
        plan.steps(),
        [
            "consumer groundling-workers: limit to the subjects groundling.jobs.>",
            "stream GROUNDLING_JOBS: add the subject groundling.cursor.*.*",
            "stream GROUNDLING_JOBS: add the subject groundling.urgent.*",
            "stream GROUNDLING_JOBS: allow atomic batches (allow_atomic)",
        ]
    );
    plan.apply(&env.jetstream, &env.streams).await.unwrap();
    assert!(setup::setup(&env.jetstream, &env.streams).await.unwrap().is_ready());
    assert_eq!(consumers(&env).await, ["groundling-workers", "groundling-workers-urgent"]);
    assert!(Migration::plan(&env.jetstream, &env.streams).await.unwrap().steps().is_empty());
    feed.run(&env.target(), &Progress::default()).await.unwrap();
    let mut wanted = once(store.keys());
    wanted.insert("earlier".into(), 1);
    assert_eq!(env.drain().await, wanted);
}

#[tokio::test]
async fn a_feeder_waits_while_the_stream_is_full_and_then_goes_on() {
    let (env, store) = (TestEnv::start().await, SyntheticStore::start(6000, Duration::ZERO).await);
    let stream = env.jetstream.get_stream(&env.streams.jobs).await.unwrap();
    let config = Config { max_messages: 2500, ..stream.cached_info().config.clone() };
    env.jetstream.update_stream(&config).await.unwrap();
    let feed = feed("full", vec![source(&store.endpoint, "s3://archive/").await], 2);
    let target = env.target();
    let feeding = tokio::spawn(async move { feed.run(&target, &Progress::default()).await });
    let mut found = HashMap::new();
    while !feeding.is_finished() || found.len() < 6000 {
        tokio::time::sleep(Duration::from_millis(300)).await;
        for (key, times) in env.drain().await {
            *found.entry(key).or_insert(0) += times;
        }
    }
    assert_eq!(feeding.await.unwrap().unwrap().total.jobs, 6000);
    assert_eq!(found, once(store.keys()));
}

#[tokio::test]
async fn a_feeder_goes_on_when_the_server_is_killed_and_comes_back() {
    let (mut env, store) = (TestEnv::start().await, SyntheticStore::start(20_000, Duration::from_millis(100)).await);
    let feed = feed("restart", vec![source(&store.endpoint, "s3://archive/").await], 4);
    let mut target = env.target();
    target.timeout = Duration::from_secs(3);
    let feeding = tokio::spawn(async move { feed.run(&target, &Progress::default()).await });
    while env.count("groundling.jobs.restart").await < 5000 {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    env.server.kill();
    env.server.restart().await.unwrap();
    assert_eq!(feeding.await.unwrap().unwrap().total.jobs, 20_000);
    assert_eq!(env.drain().await, once(store.keys()));
}

#[tokio::test]
async fn a_feeder_needs_no_more_than_its_permissions() {
    let server = RestrictedServer::start().await;
    let streams = StreamSettings::default();
    assert!(setup::setup(&server.connect("admin", "a").await, &streams).await.unwrap().is_ready());
    let store = SyntheticStore::start(3000, Duration::ZERO).await;
    let feed = feed("permitted", vec![source(&store.endpoint, "s3://archive/").await], 4);
    let target = target(&server.connect("feeder", "f").await, &streams, "feeder");
    assert_eq!(feed.run(&target, &Progress::default()).await.unwrap().total.jobs, 3000);
    assert_eq!(*server.errors.lock().unwrap(), Vec::<String>::new());
}

/// The names of the jobs stream's consumers.
async fn consumers(env: &TestEnv) -> Vec<String> {
    let stream = env.jetstream.get_stream(&env.streams.jobs).await.unwrap();
    let mut names: Vec<String> = stream.consumer_names().map(Result::unwrap).collect().await;
    names.sort();
    names
}

#[tokio::test]
async fn cursors_are_json_under_the_datasets_subjects() {
    let (env, store) = (TestEnv::start().await, SyntheticStore::start(500, Duration::ZERO).await);
    let feed = feed("seen", vec![source(&store.endpoint, "s3://archive/").await], 1);
    feed.run(&env.target(), &Progress::default()).await.unwrap();
    let stream = env.jetstream.get_stream(&env.streams.jobs).await.unwrap();
    let cursor = stream.get_last_raw_message_by_subject("groundling.cursor.seen.0").await.unwrap();
    let cursor: Cursor = serde_json::from_slice(&cursor.payload).unwrap();
    assert_eq!((cursor.feeder.generation, cursor.feeder.name.as_str(), cursor.counts.jobs), (1, "test", 500));
    let subjects: HashSet<String> = stream
        .info_with_subjects("groundling.cursor.>")
        .await
        .unwrap()
        .map(|subject| subject.unwrap().0)
        .collect()
        .await;
    assert_eq!(subjects.len(), 3, "{subjects:?}");
}
