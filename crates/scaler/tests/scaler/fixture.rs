//! A pool, a scaler and its client.

use std::collections::HashMap;
use std::time::Duration;

use async_nats::jetstream::{self, Context};
use broker::settings::{NatsSettings, Secret, StreamSettings};
use broker::setup;
use futures::StreamExt;
use sandbox::{NatsOptions, NatsServer};
use scaler::external_scaler::external_scaler_client::ExternalScalerClient;
use scaler::external_scaler::{GetMetricsRequest, ScaledObjectRef};
use scaler::{JOBS_PER_SECOND, METRIC, Observer, TARGET_DRAIN_SECONDS, Timing};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tonic::Status;
use tonic::transport::{Channel, Endpoint};

/// Much longer than any step takes, also on a busy machine.
pub(crate) const DEADLINE: Duration = Duration::from_secs(120);
pub(crate) const JOB: &str = "groundling.jobs.scenes";
pub(crate) const URGENT: &str = "groundling.urgent.scenes";

/// A running scaler.
pub(crate) struct Scaler {
    pub(crate) client: ExternalScalerClient<Channel>,
    pub(crate) channel: Channel,
    pub(crate) shutdown: CancellationToken,
    pub(crate) serving: JoinHandle<()>,
    observing: JoinHandle<()>,
}

/// A pool on a server whose scaler has these permissions of its own, and no others.
pub(crate) async fn restricted(permissions: &str) -> (NatsServer, Context, Scaler) {
    let users = "authorization { users = [ { user: a, password: p }, { user: s, password: p, permissions: $GROUNDLING_SCALER } ] }";
    let options = NatsOptions { extra_config: format!("{permissions}{users}"), ..NatsOptions::default() };
    let nats = NatsServer::start(&options).await.unwrap();
    let administrator = async_nats::ConnectOptions::with_user_and_password("a".into(), "p".into());
    let jetstream = set_up_streams_as(administrator.connect(nats.client_url()).await.unwrap()).await;
    let scaler = Scaler::start_with(NatsSettings {
        url: nats.client_url().to_owned(),
        user: Some("s".to_owned()),
        password: Some(Secret::new("p")),
        ..NatsSettings::default()
    })
    .await;
    (nats, jetstream, scaler)
}

impl Drop for Scaler {
    fn drop(&mut self) {
        self.serving.abort();
        self.observing.abort();
    }
}

impl Scaler {
    pub(crate) async fn start(url: &str) -> Self {
        Self::start_with(NatsSettings { url: url.to_owned(), ..NatsSettings::default() }).await
    }

    pub(crate) async fn start_with(nats: NatsSettings) -> Self {
        let short = Duration::from_millis;
        let timing = Timing { poll: short(50), measure: short(100), min_span: short(300), max_span: short(2000) };
        let nats = NatsSettings { request_timeout: Duration::from_secs(2), ..nats };
        let observer = Observer::new(timing);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let shutdown = CancellationToken::new();
        let serving = tokio::spawn(scaler::serve(listener, observer.clone(), shutdown.clone()));
        let observing = tokio::spawn(async move {
            observer.run(&nats, &StreamSettings::default()).await.unwrap();
        });
        let channel = Endpoint::from_shared(address).unwrap().connect().await.unwrap();
        Self { client: ExternalScalerClient::new(channel.clone()), channel, shutdown, serving, observing }
    }

    /// The seconds that one worker takes, for a trigger with this seed.
    pub(crate) async fn drain_seconds(&self, seed: &str) -> Result<f64, Status> {
        let request =
            GetMetricsRequest { scaled_object_ref: Some(object("900", seed)), metric_name: METRIC.to_owned() };
        let values = self.client.clone().get_metrics(request).await?.into_inner().metric_values;
        assert!(values.len() == 1 && values[0].metric_name == METRIC, "{values:?}");
        Ok(values[0].metric_value_float)
    }

    /// Waits until the metric is this, and returns the errors before. No other value may come.
    pub(crate) async fn wait_for_metric(&self, seconds: f64) -> Vec<Status> {
        let mut errors = Vec::new();
        let found = async {
            loop {
                match self.drain_seconds("1").await {
                    Ok(found) => return found,
                    Err(error) => errors.push(error),
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        assert_eq!(tokio::time::timeout(DEADLINE, found).await.expect("no value"), seconds);
        errors
    }
}

/// A ScaledObject with this metadata.
pub(crate) fn object(target: &str, seed: &str) -> ScaledObjectRef {
    let metadata = [(TARGET_DRAIN_SECONDS, target), (JOBS_PER_SECOND, seed), ("scalerAddress", "scaler:50051")];
    ScaledObjectRef {
        name: "pool".to_owned(),
        namespace: "annotate".to_owned(),
        scaler_metadata: metadata.map(|(key, value)| (key.to_owned(), value.to_owned())).into(),
    }
}

pub(crate) fn without(key: &str) -> ScaledObjectRef {
    let mut object = object("900", "20");
    let metadata: &mut HashMap<_, _> = &mut object.scaler_metadata;
    metadata.remove(key);
    object
}

/// A context of JetStream with all streams and consumers.
pub(crate) async fn set_up_streams(url: &str) -> Context {
    set_up_streams_as(async_nats::connect(url).await.unwrap()).await
}

pub(crate) async fn set_up_streams_as(administrator: async_nats::Client) -> Context {
    let jetstream = jetstream::new(administrator);
    setup::setup(&jetstream, &StreamSettings::default()).await.unwrap();
    jetstream
}

pub(crate) async fn publish(jetstream: &Context, subject: &str, count: usize) {
    for number in 0..count {
        jetstream.publish(subject.to_owned(), format!("job {number}").into()).await.unwrap().await.unwrap();
    }
}

/// Takes jobs as a worker does, without acknowledging them.
pub(crate) async fn take(jetstream: &Context, count: usize) -> Vec<jetstream::Message> {
    let consumer = setup::find_consumer(jetstream, &StreamSettings::default()).await.unwrap().unwrap();
    let messages = consumer.fetch().max_messages(count).messages().await.unwrap();
    messages.map(Result::unwrap).collect().await
}
