//! The metric and its target.

use std::time::Duration;

use async_nats::jetstream::Context;
use sandbox::{NatsOptions, NatsServer};
use scaler::external_scaler::{GetMetricsRequest, MetricSpec};
use scaler::{JOBS_PER_SECOND, METRIC, TARGET_DRAIN_SECONDS};
use tonic::Code;
use wire::Message;
use wire::v1::{ImageAnnotation, WorkerIdentity};

use crate::fixture::{DEADLINE, JOB, Scaler, URGENT, object, publish, restricted, set_up_streams, take, without};

#[tokio::test]
async fn the_metric_is_the_backlog_divided_by_the_rate_of_a_worker() {
    let nats = NatsServer::start(&NatsOptions::default()).await.unwrap();
    let jetstream = set_up_streams(nats.client_url()).await;
    let mut scaler = Scaler::start(nats.client_url()).await;
    scaler.wait_for_metric(0.0).await;
    publish(&jetstream, JOB, 5).await;
    publish(&jetstream, URGENT, 2).await;
    publish(&jetstream, "groundling.retries.scenes.a", 3).await;
    // Several ScaledObjects, each with a rate of its own.
    assert_eq!(scaler.drain_seconds("20").await.unwrap(), 0.5);
    assert_eq!(scaler.drain_seconds("0.1").await.unwrap(), 100.0);
    let spec = scaler.client.get_metric_spec(object("900.5", "20")).await.unwrap().into_inner();
    let expected = MetricSpec { metric_name: METRIC.to_owned(), target_size: 0, target_size_float: 900.5 };
    assert_eq!(spec.metric_specs, [expected]);
    // Jobs that a worker has are part of the backlog until they end.
    let taken = take(&jetstream, 2).await;
    assert_eq!(scaler.drain_seconds("1").await.unwrap(), 10.0);
    for job in taken {
        job.double_ack().await.unwrap();
    }
    assert_eq!(scaler.drain_seconds("1").await.unwrap(), 8.0);
    assert!(scaler.client.is_active(object("900", "1")).await.unwrap().into_inner().result);
}

/// Publishes an annotation of each of two workers.
async fn annotate(jetstream: &Context) {
    for worker_id in ["a", "b"] {
        let worker = Some(WorkerIdentity { worker_id: worker_id.to_owned(), ..WorkerIdentity::default() });
        let annotation = ImageAnnotation { worker, ..ImageAnnotation::default() };
        let payload = annotation.encode_to_vec().into();
        jetstream.publish("groundling.annotations.scenes", payload).await.unwrap().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_measured_rate_takes_the_place_of_the_one_in_the_metadata() {
    // The scaler's user has the permissions of deploy and no others.
    let permissions = include_str!("../../../../deploy/nats/scaler-permissions.conf");
    let (_nats, jetstream, scaler) = restricted(permissions).await;
    publish(&jetstream, JOB, 10).await;
    // A job in 11 days: any measured rate is higher.
    let seed = "0.000001";
    scaler.wait_for_metric(10.0).await;
    let seeded = scaler.drain_seconds(seed).await.unwrap();
    assert!((seeded - 1e7).abs() < 1.0, "{seeded}");
    let measured = async {
        loop {
            annotate(&jetstream).await;
            let seconds = scaler.drain_seconds(seed).await.unwrap();
            if seconds < seeded / 2.0 {
                return seconds;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let seconds = tokio::time::timeout(DEADLINE, measured).await.expect("the rate was not measured");
    assert!(seconds > 0.0 && seconds < 1e5, "{seconds}");
    // It is that of the pool, whatever a ScaledObject expects.
    let [one, other] = [scaler.drain_seconds("1").await.unwrap(), scaler.drain_seconds("1000").await.unwrap()];
    assert!(one / other < 10.0 && other / one < 10.0, "{one} {other}");
}

#[tokio::test]
async fn errors_of_the_metadata_name_the_key() {
    let nats = NatsServer::start(&NatsOptions::default()).await.unwrap();
    set_up_streams(nats.client_url()).await;
    let mut scaler = Scaler::start(nats.client_url()).await;
    for (object, key) in [
        (without(TARGET_DRAIN_SECONDS), TARGET_DRAIN_SECONDS),
        (without(JOBS_PER_SECOND), JOBS_PER_SECOND),
        (object("900", "fast"), JOBS_PER_SECOND),
        (object("-900", "20"), TARGET_DRAIN_SECONDS),
    ] {
        let request = GetMetricsRequest { scaled_object_ref: Some(object.clone()), metric_name: METRIC.to_owned() };
        let errors = [
            scaler.client.is_active(object.clone()).await.unwrap_err(),
            scaler.client.stream_is_active(object.clone()).await.unwrap_err(),
            scaler.client.get_metric_spec(object).await.unwrap_err(),
            scaler.client.get_metrics(request).await.unwrap_err(),
        ];
        for error in errors {
            assert!(error.code() == Code::InvalidArgument && error.message().contains(key), "{error}");
        }
    }
    let request = GetMetricsRequest { scaled_object_ref: Some(object("900", "20")), metric_name: "other".to_owned() };
    assert_eq!(scaler.client.get_metrics(request).await.unwrap_err().code(), Code::InvalidArgument);
}
