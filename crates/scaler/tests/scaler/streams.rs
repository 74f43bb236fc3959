//! The streams: waking from zero, the shutdown, and the probes.

use sandbox::{NatsOptions, NatsServer};
use scaler::external_scaler::IsActiveResponse;
use scaler::grpc_health::HealthCheckRequest;
use scaler::grpc_health::health_check_response::ServingStatus;
use scaler::grpc_health::health_client::HealthClient;
use tonic::{Code, Streaming};

use crate::fixture::{DEADLINE, JOB, Scaler, object, publish, set_up_streams, take};

/// The next answer; `None` at the end of the stream.
async fn next(stream: &mut Streaming<IsActiveResponse>) -> Option<bool> {
    let message = tokio::time::timeout(DEADLINE, stream.message()).await.expect("the stream said nothing");
    message.unwrap().map(|answer| answer.result)
}

#[tokio::test]
async fn streams_wake_the_pool_and_end_with_the_scaler() {
    let nats = NatsServer::start(&NatsOptions::default()).await.unwrap();
    let jetstream = set_up_streams(nats.client_url()).await;
    let mut scaler = Scaler::start(nats.client_url()).await;
    scaler.wait_for_metric(0.0).await;
    let mut streams = Vec::new();
    for seed in ["1", "20"] {
        streams.push(scaler.client.stream_is_active(object("900", seed)).await.unwrap().into_inner());
    }
    for stream in &mut streams {
        assert_eq!(next(stream).await, Some(false));
    }
    publish(&jetstream, JOB, 1).await;
    for stream in &mut streams {
        assert_eq!(next(stream).await, Some(true));
    }
    for job in take(&jetstream, 1).await {
        job.double_ack().await.unwrap();
    }
    for stream in &mut streams {
        assert_eq!(next(stream).await, Some(false));
    }

    let mut health = HealthClient::new(scaler.channel.clone());
    let mut watching = health.watch(HealthCheckRequest::default()).await.unwrap().into_inner();
    assert_eq!(watching.message().await.unwrap().unwrap().status(), ServingStatus::Serving);
    scaler.shutdown.cancel();
    for stream in &mut streams {
        assert_eq!(next(stream).await, None);
    }
    assert_eq!(watching.message().await.unwrap(), None);
    tokio::time::timeout(DEADLINE, &mut scaler.serving).await.expect("the scaler serves on").unwrap();
}

#[tokio::test]
async fn probes_find_the_scaler_alive_without_a_broker() {
    let scaler = Scaler::start("nats://127.0.0.1:9").await;
    let mut health = HealthClient::new(scaler.channel.clone());
    let request = |service: &str| HealthCheckRequest { service: service.to_owned() };
    let answer = health.check(request("")).await.unwrap().into_inner();
    assert_eq!(answer.status(), ServingStatus::Serving);
    assert_eq!(health.check(request("other")).await.unwrap_err().code(), Code::NotFound);
    let error = scaler.drain_seconds("1").await.unwrap_err();
    assert!(error.code() == Code::Unavailable && error.message().contains("NATS"), "{error}");
}
