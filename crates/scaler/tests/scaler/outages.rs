//! An outage is an error, and never a backlog of 0.

use std::time::Duration;

use async_nats::jetstream::Context;
use broker::settings::{NatsSettings, StreamSettings};
use broker::{connection, setup};
use sandbox::{NatsCluster, NatsOptions, NatsServer};
use tonic::{Code, Status};

use crate::fixture::{DEADLINE, JOB, Scaler, URGENT, object, publish, restricted, set_up_streams};

fn assert_unavailable(errors: &[Status]) {
    for error in errors {
        assert!(error.code() == Code::Unavailable && !error.message().is_empty(), "{error}");
    }
}

#[tokio::test]
async fn a_missing_consumer_is_named_with_the_fix() {
    let nats = NatsServer::start(&NatsOptions::default()).await.unwrap();
    let jetstream = set_up_streams(nats.client_url()).await;
    let mut scaler = Scaler::start(nats.client_url()).await;
    publish(&jetstream, JOB, 2).await;
    scaler.wait_for_metric(2.0).await;
    let stream = jetstream.get_stream("GROUNDLING_JOBS").await.unwrap();
    stream.delete_consumer("groundling-workers").await.unwrap();
    let error = scaler.drain_seconds("1").await.unwrap_err();
    assert_unavailable(std::slice::from_ref(&error));
    assert!(error.message().contains("groundling-workers") && error.message().contains("groundling setup"), "{error}");
    assert_unavailable(&[scaler.client.is_active(object("900", "1")).await.unwrap_err()]);
    assert_unavailable(&[scaler.client.stream_is_active(object("900", "1")).await.unwrap_err()]);
    setup::setup(&jetstream, &StreamSettings::default()).await.unwrap();
    scaler.wait_for_metric(2.0).await;
    // Urgent jobs without a consumer are not a backlog of 0.
    stream.delete_consumer("groundling-workers-urgent").await.unwrap();
    stream.purge().await.unwrap();
    publish(&jetstream, URGENT, 1).await;
    let error = scaler.drain_seconds("1").await.unwrap_err();
    assert_unavailable(std::slice::from_ref(&error));
    assert!(error.message().contains("groundling-workers-urgent"), "{error}");
    setup::setup(&jetstream, &StreamSettings::default()).await.unwrap();
    scaler.wait_for_metric(1.0).await;
}

#[tokio::test]
async fn a_missing_permission_is_named_at_once() {
    let permissions = include_str!("../../../../deploy/nats/scaler-permissions.conf");
    let denied = "$JS.API.CONSUMER.INFO.GROUNDLING_RETRIES.groundling-workers";
    let permissions = permissions.replace(&format!("\"{denied}\""), "");
    let (_nats, _, scaler) = restricted(&permissions).await;
    let found = async {
        loop {
            let error = scaler.drain_seconds("1").await.unwrap_err();
            assert_unavailable(std::slice::from_ref(&error));
            if !error.message().contains("connection") {
                return error;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let error = tokio::time::timeout(DEADLINE, found).await.expect("no connection");
    assert!(error.message().contains(&format!("no permission to publish to {denied}")), "{error}");
}

#[tokio::test]
async fn a_broker_that_restarts_is_an_outage_and_streams_stay() {
    let mut nats = NatsServer::start(&NatsOptions::default()).await.unwrap();
    let jetstream = set_up_streams(nats.client_url()).await;
    let mut scaler = Scaler::start(nats.client_url()).await;
    publish(&jetstream, JOB, 3).await;
    scaler.wait_for_metric(3.0).await;
    let mut stream = scaler.client.stream_is_active(object("900", "1")).await.unwrap().into_inner();
    assert!(stream.message().await.unwrap().unwrap().result);
    nats.stop().await.unwrap();
    assert_unavailable(&[scaler.drain_seconds("1").await.unwrap_err()]);
    nats.restart().await.unwrap();
    assert_unavailable(&scaler.wait_for_metric(3.0).await);
    // Nothing was told meanwhile.
    let jobs = jetstream.get_stream("GROUNDLING_JOBS").await.unwrap();
    jobs.purge().await.unwrap();
    let next = tokio::time::timeout(DEADLINE, stream.message()).await.expect("the stream said nothing");
    assert!(!next.unwrap().unwrap().result);
}

/// The server that leads the consumer of jobs.
async fn leader(jetstream: &Context) -> Option<String> {
    let consumer = setup::find_consumer(jetstream, &StreamSettings::default()).await.ok()??;
    consumer.cached_info().cluster.as_ref()?.leader.clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_moves_or_dies_is_followed() {
    let mut cluster = NatsCluster::start(3, &NatsOptions::default()).await.unwrap();
    let urls: Vec<_> = cluster.nodes.iter().map(|node| node.client_url().to_owned()).collect();
    let nats = NatsSettings { url: urls.join(","), ..NatsSettings::default() };
    let client = connection::connect(&nats, "test").await.unwrap();
    let jetstream = connection::jetstream(&client, &nats);
    let replicated = StreamSettings { replicas: 3, ..StreamSettings::default() };
    let ready = async {
        while !setup::setup(&jetstream, &replicated).await.is_ok_and(|report| report.is_ready()) {
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    };
    tokio::time::timeout(DEADLINE, ready).await.expect("the cluster has no leader");
    publish(&jetstream, JOB, 4).await;
    let scaler = Scaler::start_with(nats).await;
    assert_unavailable(&scaler.wait_for_metric(4.0).await);

    let first = leader(&jetstream).await.expect("no leader");
    let stepdown = "$JS.API.CONSUMER.LEADER.STEPDOWN.GROUNDLING_JOBS.groundling-workers";
    client.request(stepdown, "".into()).await.unwrap();
    let moved = async {
        loop {
            match leader(&jetstream).await {
                Some(now) if now != first => return now,
                _ => assert_unavailable(&scaler.wait_for_metric(4.0).await),
            }
        }
    };
    let second = tokio::time::timeout(DEADLINE, moved).await.expect("the leader did not move");
    assert_unavailable(&scaler.wait_for_metric(4.0).await);

    // Servers are named n0, n1 and n2.
    let index: usize = second.trim_start_matches('n').parse().unwrap();
    cluster.nodes[index].kill();
    assert_unavailable(&scaler.wait_for_metric(4.0).await);
}
