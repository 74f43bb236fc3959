//! A NATS server with the streams of `groundling setup`, a synthetic S3 store, and feeds from one to the other.
#![allow(dead_code, unused_imports, reason = "each test file uses its own part")]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a panic in a test is the report")]

pub(crate) mod child;
pub(crate) mod fixtures;
mod store;

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use archive::feed::{Feed, Target};
use archive::filter::Filter;
use archive::object::{Position, SourceObject};
use archive::recipe::{Pin, Recipe};
use archive::source::Source;
use archive::source::address::Address;
use archive::source::store::Store;
use async_nats::jetstream::Context;
use async_nats::jetstream::consumer::PullConsumer;
use broker::settings::{NatsSettings, StreamSettings};
use broker::{connection, setup};
use futures::StreamExt;
use sandbox::{NatsOptions, NatsServer};
use wire::Message;
use wire::v1::{self, ImageJob};

pub(crate) use store::{SyntheticStore, client, synthetic_key};

/// How long [`TestEnv::wait_until_stable`] waits.
const STABLE_WITHIN: Duration = Duration::from_secs(60);

/// What tests run in: a NATS server with all streams and consumers.
pub(crate) struct TestEnv {
    pub(crate) server: NatsServer,
    pub(crate) jetstream: Context,
    pub(crate) streams: StreamSettings,
}

impl TestEnv {
    pub(crate) async fn start() -> Self {
        let server = NatsServer::start(&NatsOptions::default()).await.unwrap();
        let jetstream = jetstream(server.client_url()).await;
        let streams = StreamSettings { jobs_max_bytes: Some(8 << 30), ..StreamSettings::default() };
        assert!(setup::setup(&jetstream, &streams).await.unwrap().is_ready());
        Self { server, jetstream, streams }
    }

    pub(crate) fn target(&self) -> Target {
        target(&self.jetstream, &self.streams, "test")
    }

    /// Takes all jobs from the queue as workers do. Returns the number of jobs of each object.
    pub(crate) async fn drain(&self) -> HashMap<String, u32> {
        self.drain_from(setup::find_consumer(&self.jetstream, &self.streams).await.unwrap().unwrap()).await
    }

    /// Takes all urgent jobs.
    pub(crate) async fn drain_urgent(&self) -> HashMap<String, u32> {
        self.drain_from(setup::find_urgent_consumer(&self.jetstream, &self.streams).await.unwrap().unwrap()).await
    }

    async fn drain_from(&self, consumer: PullConsumer) -> HashMap<String, u32> {
        let mut found = HashMap::new();
        loop {
            let mut messages = consumer.fetch().max_messages(5000).messages().await.unwrap();
            let mut taken = 0;
            while let Some(message) = messages.next().await {
                let message = message.unwrap();
                let job = ImageJob::decode(message.payload.clone()).unwrap();
                let Some(v1::image_job::Source::S3(object)) = job.source else { panic!("no object") };
                *found.entry(object.key).or_insert(0) += 1;
                message.ack().await.unwrap();
                taken += 1;
            }
            if taken == 0 {
                return found;
            }
        }
    }

    /// The number of messages on a subject, once there are some and the number has not changed for a while: the feeder
    /// waits for workers.
    pub(crate) async fn wait_until_stable(&self, subject: &str) -> u64 {
        let (started, mut last, mut since) = (Instant::now(), 0, Instant::now());
        while last == 0 || since.elapsed() < Duration::from_secs(3) {
            assert!(
                started.elapsed() < STABLE_WITHIN,
                "the number of messages on {subject} did not become stable: {last}"
            );
            tokio::time::sleep(Duration::from_millis(200)).await;
            let count = self.count(subject).await;
            if count != last {
                (last, since) = (count, Instant::now());
            }
        }
        last
    }

    /// The number of messages on a subject.
    pub(crate) async fn count(&self, subject: &str) -> u64 {
        let stream = self.jetstream.get_stream(&self.streams.jobs).await.unwrap();
        let mut subjects = stream.info_with_subjects(subject).await.unwrap();
        let mut count = 0;
        while let Some(subject) = subjects.next().await {
            count += subject.unwrap().1 as u64;
        }
        count
    }
}

pub(crate) async fn jetstream(url: &str) -> Context {
    let nats = NatsSettings { url: url.to_owned(), ..NatsSettings::default() };
    let client = connection::connect(&nats, "test").await.unwrap();
    connection::jetstream(&client, &nats)
}

pub(crate) fn target(jetstream: &Context, streams: &StreamSettings, feeder: &str) -> Target {
    Target {
        jetstream: jetstream.clone(),
        streams: streams.clone(),
        max_waiting: u64::MAX,
        max_failure_rate: None,
        timeout: Duration::from_secs(15),
        feeder: feeder.to_owned(),
    }
}

/// A feed of these sources, with one brief caption for each object.
pub(crate) fn feed(dataset: &str, sources: Vec<Source>, parallel_lanes: usize) -> Feed {
    let kind = v1::task::Kind::BriefCaption(v1::BriefCaption {});
    Feed {
        sources,
        filter: Filter::default(),
        sample: None,
        unique_etag: false,
        missing: false,
        urgent: false,
        recipe: Recipe {
            dataset: dataset.parse().unwrap(),
            tasks: vec![v1::Task { task_id: "brief".into(), kind: Some(kind) }],
            options: None,
            pin: Pin::Version,
        },
        arguments: BTreeMap::new(),
        parallel_lanes,
    }
}

pub(crate) async fn source(endpoint: &str, address: &str) -> Source {
    open(endpoint, address, None).await.unwrap()
}

pub(crate) async fn open(
    endpoint: &str,
    address: &str,
    bucket: Option<&str>,
) -> Result<Source, archive::source::error::SourceError> {
    let store = Store::new(client(endpoint), false);
    Source::open(store, Address::parse(address).unwrap(), bucket.map(str::to_owned)).await
}

/// All objects of a source, lane by lane.
pub(crate) async fn objects(source: &Source, parallel_lanes: usize) -> Vec<SourceObject> {
    let mut objects = Vec::new();
    for lane in source.lanes(parallel_lanes).await.unwrap() {
        let mut pages = source.pages(&lane, Position::Start, Default::default());
        let mut is_ended = false;
        while let Some(page) = pages.recv().await {
            let page = page.unwrap();
            is_ended = page.after == Position::End;
            objects.extend(page.objects);
        }
        assert!(is_ended);
    }
    objects
}

pub(crate) fn keys(objects: &[SourceObject]) -> Vec<String> {
    objects.iter().map(|object| object.key.clone()).collect()
}

/// The resident memory of this process in MB: now, and its peak.
pub(crate) fn memory() -> (f64, f64) {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let of = |name: &str| {
        let line = status.lines().find(|line| line.starts_with(name)).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<f64>().unwrap() / 1000.0
    };
    (of("VmRSS:"), of("VmHWM:"))
}

/// Random numbers below a bound (SplitMix64). The seed is printed.
pub(crate) fn random() -> impl FnMut(u64) -> u64 {
    let mut seed = u64::from(std::process::id());
    eprintln!("seed {seed}");
    move |below| {
        seed = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut x = seed;
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (x ^ (x >> 31)) % below
    }
}

/// A server with the users `admin`, who may do everything, and `feeder` with the permissions of `deploy`.
pub(crate) struct RestrictedServer {
    server: NatsServer,
    /// What the server denied.
    pub(crate) errors: Arc<Mutex<Vec<String>>>,
}

impl RestrictedServer {
    pub(crate) async fn start() -> Self {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/nats/feeder-permissions.conf");
        let permissions = std::fs::read_to_string(file).unwrap();
        let users = "{ user: admin, password: a }, { user: feeder, password: f, permissions: $GROUNDLING_FEEDER }";
        let extra_config = format!("{permissions}\nauthorization {{ users = [ {users} ] }}");
        let server = NatsServer::start(&NatsOptions { extra_config, ..NatsOptions::default() }).await.unwrap();
        Self { server, errors: Arc::default() }
    }

    pub(crate) async fn connect(&self, user: &str, password: &str) -> Context {
        let errors = Arc::clone(&self.errors);
        let options = async_nats::ConnectOptions::with_user_and_password(user.into(), password.into());
        let options = options.event_callback(move |event| {
            if let async_nats::Event::ServerError(error) = event {
                errors.lock().unwrap().push(error.to_string());
            }
            std::future::ready(())
        });
        async_nats::jetstream::new(options.connect(self.server.client_url()).await.unwrap())
    }
}
