//! Prefixes: keys in ranges, in parallel, from any position on.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a panic in a test is the report")]

use crate::common;

use std::time::{Duration, Instant};

use archive::object::Position;
use archive::source::{Lane, Source};
use common::{SyntheticStore, keys, objects, open, source};
use futures::{StreamExt, stream};
use sandbox::SeaweedFs;

#[tokio::test]
async fn lanes_hold_every_key_once_and_are_of_similar_size() {
    let store = SyntheticStore::start(40_000, Duration::ZERO).await;
    let source = source(&store.endpoint, "s3://archive/").await;
    let lanes = source.lanes(8).await.unwrap();
    assert!((8..=64).contains(&lanes.len()), "{}", lanes.len());
    let found = keys(&objects(&source, 8).await);
    assert_eq!(found, store.keys(), "in order, because lanes are");
    for (lane, keys) in sizes(&source, &lanes).await {
        assert!(keys <= 40_000 / 8, "{lane:?} has {keys} keys");
    }
}

async fn sizes<'a>(source: &Source, lanes: &'a [Lane]) -> Vec<(&'a Lane, usize)> {
    let mut sizes = Vec::new();
    for lane in lanes {
        let (mut pages, mut size) = (source.pages(lane, Position::Start, Default::default()), 0);
        while let Some(page) = pages.recv().await {
            size += page.unwrap().objects.len();
        }
        sizes.push((lane, size));
    }
    sizes
}

#[tokio::test]
async fn a_prefix_is_listed_alone_and_small_ones_are_not_divided() {
    let store = SyntheticStore::start(2000, Duration::ZERO).await;
    let day = source(&store.endpoint, "s3://archive/days/2024-01-03/").await;
    assert_eq!(day.lanes(16).await.unwrap(), [Lane::Keys { after: None, until: None }]);
    let wanted: Vec<_> = store.keys().into_iter().filter(|key| key.starts_with("days/2024-01-03/")).collect();
    assert_eq!((keys(&objects(&day, 16).await), wanted.len()), (wanted, 25));
    let none = source(&store.endpoint, "s3://archive/nothing").await;
    assert_eq!(objects(&none, 16).await, []);
}

#[tokio::test]
async fn a_lane_goes_on_after_any_position() {
    let store = SyntheticStore::start(5000, Duration::ZERO).await;
    let (source, all) = (source(&store.endpoint, "s3://archive/").await, store.keys());
    let lane = Lane::Keys { after: Some(all[99].clone()), until: Some(all[3999].clone()) };
    for (from, first) in [(Position::Start, 100), (Position::Key(all[2500].clone()), 2501)] {
        let (mut pages, mut found, mut ends) = (source.pages(&lane, from, Default::default()), Vec::new(), Vec::new());
        while let Some(page) = pages.recv().await {
            let page = page.unwrap();
            assert!(page.objects.len() <= 999);
            found.extend(keys(&page.objects));
            ends.push(page.after);
        }
        assert_eq!(found, all[first..=3999]);
        assert_eq!(ends.pop(), Some(Position::End));
        assert!(ends.iter().all(|end| matches!(end, Position::Key(_))));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn parallel_lanes_list_the_keys_of_one_lane() {
    let store = SyntheticStore::start(40_000, Duration::ZERO).await;
    let (one, all) = (Listing::of(&store, "", 1).await, store.keys());
    let sixteen = Listing::of(&store, "", 16).await;
    assert_eq!((&one.keys, &sixteen.keys), (&all, &all));
    // Pages have 999 keys, as many as a batch has jobs.
    assert_eq!((one.lanes, one.requests), (1, 41));
    assert!(sixteen.lanes >= 16, "{sixteen:?}");
    // Sampling takes a bounded number of requests, however many keys there are.
    assert!(sixteen.requests <= 4000, "{} requests", sixteen.requests);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "a measurement that needs an idle machine: cargo test --workspace --test feeding listing -- --ignored --nocapture"]
async fn sixteen_lanes_list_eight_times_as_fast_as_one_from_a_store_that_takes_300_ms_for_a_page() {
    // Small pages, so that the time is the store's and not that of a test's unoptimized code.
    let store = SyntheticStore::start_with(64_000, Duration::from_millis(300), 100).await;
    // One lane is as fast in a part of the archive as in all of it.
    let (one, sixteen) = (Listing::of(&store, "days/2024-01-0", 1).await, Listing::of(&store, "", 16).await);
    let times = sixteen.keys_per_second() / one.keys_per_second();
    eprintln!(
        "16 lanes are {times:.1} times as fast as one: {} ranges, {:.1} s, {:.1} s of it sampling, {} requests",
        sixteen.lanes,
        sixteen.duration.as_secs_f64(),
        sixteen.sampling.as_secs_f64(),
        sixteen.requests
    );
    assert!(times >= 8.0, "{times}");
}

/// The keys with a prefix, and what listing them took.
#[derive(Debug)]
struct Listing {
    keys: Vec<String>,
    lanes: usize,
    requests: u64,
    sampling: Duration,
    duration: Duration,
}

impl Listing {
    /// Lists the keys with this prefix in `at_once` parallel lanes.
    async fn of(store: &SyntheticStore, prefix: &str, at_once: usize) -> Self {
        let (before, started) = (store.listings(), Instant::now());
        let source = source(&store.endpoint, &format!("s3://archive/{prefix}")).await;
        let lanes = source.lanes(at_once).await.unwrap();
        let sampling = started.elapsed();
        let reads = lanes.iter().map(|lane| {
            let source = source.clone();
            async move {
                let (mut pages, mut found) = (source.pages(lane, Position::Start, Default::default()), Vec::new());
                while let Some(page) = pages.recv().await {
                    found.extend(keys(&page.unwrap().objects));
                }
                found
            }
        });
        let found: Vec<Vec<String>> = stream::iter(reads).buffered(at_once).collect().await;
        let duration = started.elapsed();
        Self { keys: found.concat(), lanes: lanes.len(), requests: store.listings() - before, sampling, duration }
    }

    fn keys_per_second(&self) -> f64 {
        self.keys.len() as f64 / self.duration.as_secs_f64()
    }
}

#[tokio::test]
async fn a_real_store_is_listed_with_all_kinds_of_keys() {
    let store = SeaweedFs::start().await.unwrap();
    let access = store.admin();
    let config = common::client(&access.endpoint).config().to_builder();
    let keys_of = aws_sdk_s3::config::Credentials::new(&access.access_key, &access.secret_key, None, None, "test");
    let client = aws_sdk_s3::Client::from_conf(config.credentials_provider(keys_of).build());
    let names = ["k/a b.jpg", "k/a%20b.jpg", "k/ä日.jpg", "k/100%.jpg", "k/x&y<z>.jpg", "k/q=1?.jpg"];
    for name in names {
        let put = client.put_object().bucket(&access.bucket).key(name);
        put.body(aws_sdk_s3::primitives::ByteStream::from_static(b"picture")).send().await.unwrap();
    }
    let store = archive::source::store::Store::new(client, false);
    let address = archive::source::address::Address::parse(&format!("s3://{}/k/", access.bucket)).unwrap();
    let source = Source::open(store, address, None).await.unwrap();
    let found = objects(&source, 4).await;
    let mut wanted = names.to_vec();
    wanted.sort_unstable();
    let mut listed = keys(&found);
    listed.sort_unstable();
    assert_eq!(listed, wanted);
    assert!(found.iter().all(|object| object.size == Some(7) && object.etag.as_ref().is_some_and(|e| e.len() == 32)));
    assert!(found.iter().all(|object| object.last_modified.is_some_and(|time| time > 1_700_000_000)));
}

#[tokio::test]
async fn a_store_that_is_not_there_is_named() {
    let source = open("http://127.0.0.1:9", "s3://archive/x", None).await.unwrap();
    let error = source.lanes(4).await.unwrap_err().to_string();
    assert!(error.starts_with("s3://archive/x cannot be listed: "), "{error}");
}
