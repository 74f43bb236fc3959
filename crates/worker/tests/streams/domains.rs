//! Streams outside the JetStream of the connected server: in a hub's domain, seen from a leaf node, and in another
//! account, imported under a prefix.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a panic in a test is the report")]

use crate::common;

use broker::connection::{self, connect};
use broker::setup::{SetupError, setup};
use common::{Running, TestEnv, bitmap, ends_as_a_failure, given_up, job, submit};
use sandbox::{NatsLeaf, NatsOptions, NatsServer};
use worker::settings::{NatsSettings, Secret, StreamSettings};

/// Processes a job that succeeds and one that fails, up to their acknowledgements.
async fn works(env: &TestEnv) {
    submit(env, &job("good", bitmap())).await;
    submit(env, &job("bad", b"no picture".to_vec())).await;
    let mut running = Running::start(env);
    running.event().await;
    running.event().await;
    let report = running.end().await;
    assert_eq!((report.finished, report.failed, report.retried), (1, 1, 0));
    let streams = &env.streams;
    let left = [&streams.jobs, &streams.annotations, &streams.failed].map(|stream| env.messages_in(stream));
    assert_eq!(futures::future::join_all(left).await, [0, 1, 1]);
    assert_eq!(env.consumer_info().await.num_ack_pending, 0);
}

/// An environment at the leaf node that uses the hub's domain.
async fn at_the_leaf(leaf: NatsOptions) -> (NatsServer, TestEnv) {
    let NatsLeaf { hub, leaf } = NatsLeaf::start(&leaf).await.unwrap();
    let nats = NatsSettings {
        url: leaf.client_url().to_owned(),
        jetstream_domain: Some(NatsLeaf::HUB_DOMAIN.to_owned()),
        ..Default::default()
    };
    let env = TestEnv::at(leaf, nats.clone()).await;
    let connection = connection::open(&nats, "setup").await.unwrap();
    assert!(setup(connection.broker(&nats), &env.streams).await.unwrap().is_ready());
    (hub, env)
}

/// The messages in a stream, as the hub's own clients see it.
async fn messages_at(server: &NatsServer, stream: &str) -> u64 {
    let nats = NatsSettings { url: server.client_url().to_owned(), ..Default::default() };
    let client = connect(&nats, "look").await.unwrap();
    connection::jetstream(&client, &nats).get_stream(stream).await.unwrap().cached_info().state.messages
}

#[tokio::test]
async fn a_worker_at_a_leaf_node_with_a_domain_of_its_own_works_on_the_hubs_queue() {
    let (hub, env) = at_the_leaf(NatsOptions { domain: Some("leaf".into()), ..Default::default() }).await;
    works(&env).await;
    assert_eq!(messages_at(&hub, &env.streams.annotations).await, 1);
    let local = NatsSettings { jetstream_domain: None, ..env.nats.clone() };
    let client = connect(&local, "local").await.unwrap();
    let leaf = connection::jetstream(&client, &local);
    assert!(leaf.get_stream(&env.streams.jobs).await.is_err(), "the leaf's own JetStream does not have the streams");
}

#[tokio::test]
async fn a_worker_at_a_leaf_node_without_jetstream_works_on_the_hubs_queue() {
    let (hub, env) = at_the_leaf(NatsOptions { without_jetstream: true, ..Default::default() }).await;
    works(&env).await;
    assert_eq!(messages_at(&hub, &env.streams.annotations).await, 1);
}

#[tokio::test]
async fn a_worker_at_a_leaf_node_with_jetstream_but_no_domain_works_on_the_hubs_queue() {
    let (hub, env) = at_the_leaf(NatsOptions::default()).await;
    works(&env).await;
    assert_eq!(messages_at(&hub, &env.streams.annotations).await, 1);
}

#[tokio::test]
async fn a_job_that_the_hub_gives_up_is_recorded_by_a_worker_at_the_leaf() {
    let (_hub, env) = at_the_leaf(NatsOptions { domain: Some("leaf".into()), ..Default::default() }).await;
    given_up(&env).await;
    ends_as_a_failure(&env).await;
}

#[tokio::test]
async fn a_domain_that_nobody_has_is_named() {
    let server = NatsServer::start(&NatsOptions { domain: Some("hub".into()), ..Default::default() }).await.unwrap();
    let url = server.client_url().to_owned();
    let right = NatsSettings { url, jetstream_domain: Some("hub".into()), ..Default::default() };
    let connection = connection::open(&right, "right").await.unwrap();
    assert!(setup(connection.broker(&right), &StreamSettings::default()).await.unwrap().is_ready());
    let wrong = NatsSettings { jetstream_domain: Some("hob".into()), ..right };
    let error = setup(connection.broker(&wrong), &StreamSettings::default()).await.unwrap_err();
    assert!(matches!(&error, SetupError::Absent { api } if api == "$JS.hob.API"), "{error}");
}

/// Account `OWNER` has the streams. `GUEST` imports them, with the API under another prefix.
const ACCOUNTS: &str = r#"
accounts {
  OWNER {
    jetstream: enabled
    users: [ { user: owner, password: p } ]
    exports: [
      { service: "$JS.API.>", response_type: stream }
      { service: "$JS.ACK.>" }
      { service: "groundling.>" }
    ]
  }
  GUEST {
    users: [ { user: guest, password: p } ]
    imports: [
      { service: { account: OWNER, subject: "$JS.API.>" }, to: "JS.OWNER.API.>" }
      { service: { account: OWNER, subject: "$JS.ACK.>" } }
      { service: { account: OWNER, subject: "groundling.>" } }
    ]
  }
}
"#;

#[tokio::test]
async fn a_worker_of_another_account_works_under_the_prefix_of_its_import() {
    let options = NatsOptions { extra_config: ACCOUNTS.into(), ..Default::default() };
    let server = NatsServer::start(&options).await.unwrap();
    let nats = NatsSettings {
        url: server.client_url().to_owned(),
        user: Some("guest".into()),
        password: Some(Secret::new("p")),
        api_prefix: Some("JS.OWNER.API".into()),
        ..Default::default()
    };
    let env = TestEnv::at(server, nats.clone()).await;
    let connection = connection::open(&nats, "setup").await.unwrap();
    assert!(setup(connection.broker(&nats), &env.streams).await.unwrap().is_ready());
    works(&env).await;
    given_up(&env).await;
    let mut running = Running::start(&env);
    assert!(matches!(running.event().await, worker::JobEvent::Failed { .. }));
    running.end().await;
}
