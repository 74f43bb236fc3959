//! The permissions of an operator on the NATS server.

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use archive::failures::{Failures, Replay, Replayed, Selection, drop_failures};
use archive::feed::{Progress, Target};
use archive::pool::Pool;
use archive::reconcile::{ReconcileProgress, reconcile};
use archive::status::Watch;
use broker::settings::{NatsSettings, StreamSettings};
use sandbox::{NatsOptions, NatsServer};
use wire::Message;
use wire::v1::{self, FailureReason};

use crate::common::{Bench, SyntheticStore, feed, source};
use crate::fixtures::{all, failure, job, look, publish, publish_annotation, publish_failure};

#[tokio::test]
async fn an_operator_needs_no_more_than_its_permissions() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/nats/operator-permissions.conf");
    let permissions = std::fs::read_to_string(file).unwrap();
    let users = "{ user: admin, password: a }, { user: operator, password: o, permissions: $GROUNDLING_OPERATOR }";
    let extra_config = format!("{permissions}\nauthorization {{ users = [ {users} ] }}");
    let server = NatsServer::start(&NatsOptions { extra_config, ..NatsOptions::default() }).await.unwrap();
    let errors: Arc<Mutex<Vec<String>>> = Arc::default();
    let seen = Arc::clone(&errors);
    let options = async_nats::ConnectOptions::with_user_and_password("operator".into(), "o".into());
    let options = options.event_callback(move |event| {
        if let async_nats::Event::ServerError(error) = event {
            seen.lock().unwrap().push(error.to_string());
        }
        std::future::ready(())
    });
    let operator = options.connect(server.client_url()).await.unwrap();
    let admin = async_nats::ConnectOptions::with_user_and_password("admin".into(), "a".into());
    let jetstream = async_nats::jetstream::new(admin.connect(server.client_url()).await.unwrap());
    let streams = StreamSettings { jobs_max_bytes: Some(1 << 30), ..StreamSettings::default() };
    assert!(broker::setup::setup(&jetstream, &streams).await.unwrap().is_ready());
    let bench = Bench { server, jetstream, streams: streams.clone() };
    let pool = Pool::new(&operator, &NatsSettings::default(), streams);
    let store = SyntheticStore::start(10, Duration::ZERO).await;
    let fed = feed("fed", vec![source(&store.endpoint, "s3://archive/").await], 1);
    publish_annotation(&bench, &job("fed", "a"), "w").await;
    for (sequence, key) in [(1, "b"), (2, "c")] {
        publish_failure(&bench, &failure(&job("fed", key), sequence, FailureReason::Internal)).await;
    }
    publish(&bench, "groundling.retries.fed.9-1", "r", v1::Retry::default().encode_to_vec()).await;

    let target = Target { jetstream: async_nats::jetstream::new(operator), ..bench.target() };
    let repair = fed.begin_repair(&target).await.unwrap();
    let mut found = reconcile(&pool, &fed, &ReconcileProgress::default()).await.unwrap();
    assert_eq!((found.missing, found.elsewhere), (10, 3));
    fed.repair(repair, found.missing_objects.objects().unwrap(), &Progress::default()).await.unwrap();
    let failures = all(&pool, Selection::default()).await;
    assert!(Failures::find(&pool, failures[0].sequence).await.unwrap().is_some());
    assert_eq!(Replay::open(&pool).await.unwrap().replay(&failures[0]).await.unwrap(), Replayed::Done);
    assert_eq!(drop_failures(&pool, &failures[1..]).await.unwrap(), 1);
    let status = look(&mut Watch::new(pool, Vec::new(), None), "fed").await;
    assert_eq!((status.queued, status.done, status.failed), (11, 1, 0));
    assert_eq!(*errors.lock().unwrap(), Vec::<String>::new());
}
