//! The permissions of operators and readers on the NATS server.

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use archive::export::{Destination, Export, Format, Start};
use archive::failures::{Failures, Replay, Replayed, Selection, drop_failures};
use archive::feed::{Progress, Target};
use archive::index::Index;
use archive::pool::Pool;
use archive::reconcile::{ReconcileProgress, reconcile};
use archive::status::StatusReader;
use broker::settings::{NatsSettings, StreamSettings};
use sandbox::{NatsOptions, NatsServer};
use wire::Message;
use wire::v1::{self, FailureReason};

use crate::common::fixtures::{all, dataset, failure, job, publish, publish_annotation, publish_failure, status_of};
use crate::common::{SyntheticStore, TestEnv, feed, source};

/// A server with a user who has the permissions of a file of `deploy/nats`.
struct Restricted {
    env: TestEnv,
    /// The user's client.
    client: async_nats::Client,
    /// What the server denied.
    errors: Arc<Mutex<Vec<String>>>,
}

impl Restricted {
    async fn start(file: &str, permissions: &str) -> Self {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/nats").join(file);
        let text = std::fs::read_to_string(file).unwrap();
        let users =
            format!("{{ user: admin, password: a }}, {{ user: other, password: o, permissions: ${permissions} }}");
        let extra_config = format!("{text}\nauthorization {{ users = [ {users} ] }}");
        let server = NatsServer::start(&NatsOptions { extra_config, ..NatsOptions::default() }).await.unwrap();
        let errors: Arc<Mutex<Vec<String>>> = Arc::default();
        let seen = Arc::clone(&errors);
        let options = async_nats::ConnectOptions::with_user_and_password("other".into(), "o".into());
        let options = options.event_callback(move |event| {
            if let async_nats::Event::ServerError(error) = event {
                seen.lock().unwrap().push(error.to_string());
            }
            std::future::ready(())
        });
        let client = options.connect(server.client_url()).await.unwrap();
        let admin = async_nats::ConnectOptions::with_user_and_password("admin".into(), "a".into());
        let jetstream = async_nats::jetstream::new(admin.connect(server.client_url()).await.unwrap());
        let streams = StreamSettings { jobs_max_bytes: Some(1 << 30), ..StreamSettings::default() };
        assert!(broker::setup::setup(&jetstream, &streams).await.unwrap().is_ready());
        Self { env: TestEnv { server, jetstream, streams }, client, errors }
    }

    fn pool(&self) -> Pool {
        Pool::new(&self.client, &NatsSettings::default(), self.env.streams.clone())
    }

    fn denied(&self) -> Vec<String> {
        self.errors.lock().unwrap().clone()
    }
}

#[tokio::test]
async fn a_reader_needs_no_more_than_its_permissions() {
    let restricted = Restricted::start("reader-permissions.conf", "GROUNDLING_READER").await;
    for key in ["a", "b", "c", "d"] {
        publish_annotation(&restricted.env, &job("read", key), "w").await;
    }
    let (dir, progress) = (tempfile::tempdir().unwrap(), Arc::default());
    let export = |out: &str, start, trim| Export {
        jetstream: async_nats::jetstream::new(restricted.client.clone()),
        stream: restricted.env.streams.annotations.clone(),
        dataset: dataset("read"),
        format: Format::Jsonl,
        destination: Destination::Local(dir.path().join(out)),
        shard_size: 2,
        start,
        end: None,
        tasks: Vec::new(),
        pictures: None,
        categories: None,
        follow: false,
        trim,
    };
    let since = Start::Time(time::OffsetDateTime::UNIX_EPOCH);
    let exported = export("since", since, false).run(&progress, std::future::pending()).await.unwrap();
    assert_eq!(exported.counts.annotations, 4);
    let target = archive::index::Target::parse(&format!("sqlite:{}", dir.path().join("index.db").display())).unwrap();
    let index = Index { pool: restricted.pool(), datasets: vec![dataset("read")], target, follow: false };
    let indexed = archive::index::Progress::default();
    index.run(&indexed, std::future::pending()).await.unwrap();
    assert_eq!(indexed.snapshot().annotations, 4);
    assert_eq!(restricted.pool().count_annotations(&dataset("read")).await.unwrap(), 4);
    // Sequences 2 and 3 one by one, and then all of the first shards at once.
    let some = export("some", Start::Sequence(2), true).run(&progress, std::future::pending()).await.unwrap();
    let all = export("all", Start::Beginning, true).run(&progress, std::future::pending()).await.unwrap();
    assert_eq!((some.trimmed, all.trimmed), (2, 1));
    assert_eq!(restricted.denied(), Vec::<String>::new());
}

#[tokio::test]
async fn an_operator_needs_no_more_than_its_permissions() {
    let restricted = Restricted::start("operator-permissions.conf", "GROUNDLING_OPERATOR").await;
    let (env, pool) = (&restricted.env, restricted.pool());
    let store = SyntheticStore::start(10, Duration::ZERO).await;
    let fed = feed("fed", vec![source(&store.endpoint, "s3://archive/").await], 1);
    publish_annotation(env, &job("fed", "a"), "w").await;
    for (sequence, key) in [(1, "b"), (2, "c")] {
        publish_failure(env, &failure(&job("fed", key), sequence, FailureReason::Internal)).await;
    }
    publish(env, "groundling.retries.fed.9-1", "r", v1::Retry::default().encode_to_vec()).await;

    let target = Target { jetstream: async_nats::jetstream::new(restricted.client.clone()), ..env.target() };
    let repair = fed.begin_repair(&target).await.unwrap();
    let mut found = reconcile(&pool, &fed, &ReconcileProgress::default()).await.unwrap();
    assert_eq!((found.missing, found.elsewhere), (10, 3));
    fed.repair(repair, found.missing_objects.objects().unwrap(), &Progress::default()).await.unwrap();
    let failures = all(&pool, Selection::default()).await;
    assert!(Failures::find(&pool, failures[0].sequence).await.unwrap().is_some());
    assert_eq!(Replay::open(&pool).await.unwrap().replay(&failures[0]).await.unwrap(), Replayed::Done);
    assert_eq!(drop_failures(&pool, &failures[1..]).await.unwrap(), 1);
    let status = status_of(&mut StatusReader::new(pool, Vec::new(), None), "fed").await;
    assert_eq!((status.queued, status.done, status.failed), (11, 1, 0));
    assert_eq!(restricted.denied(), Vec::<String>::new());
}
