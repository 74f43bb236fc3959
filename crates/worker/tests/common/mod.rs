//! A NATS server with the streams and consumers of `groundling setup`, and access to them.
#![allow(dead_code, unused_imports, reason = "each test file uses its own part")]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a panic in a test is the report")]

mod given_up;
mod log;
mod paced;
mod yes;

use std::time::{Duration, Instant};

use async_nats::Client;
use async_nats::jetstream::consumer::{Info, PullConsumer};
use async_nats::jetstream::{Context, consumer::pull};
use broker::publish::Publisher;
use broker::{connection, setup};
use sandbox::{NatsOptions, NatsServer};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use wire::v1;
use worker::delivery::Delivery;
use worker::intake::Intake;
use worker::settings::{NatsSettings, StreamSettings};

pub(crate) use given_up::{ends_as_a_failure, given_up};
pub(crate) use log::{Log, watch_log};
pub(crate) use paced::Paced;
pub(crate) use yes::{Held, Running, Yes, annotated, bitmap, job, parts, settings, submit};

/// Longer than any step on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);
/// Long enough to notice what should not happen.
pub(crate) const A_WHILE: Duration = Duration::from_millis(700);

pub(crate) struct TestEnv {
    pub(crate) server: NatsServer,
    pub(crate) nats: NatsSettings,
    pub(crate) streams: StreamSettings,
    pub(crate) client: Client,
    pub(crate) jetstream: Context,
}

impl TestEnv {
    /// A server with all streams and consumers.
    pub(crate) async fn ready() -> Self {
        Self::ready_with(StreamSettings::default()).await
    }

    /// A server with all streams and consumers of these settings.
    pub(crate) async fn ready_with(streams: StreamSettings) -> Self {
        let env = Self { streams, ..Self::bare().await };
        let report = setup::setup(&env.jetstream, &env.streams).await.unwrap();
        assert!(report.is_ready(), "{report:?}");
        env
    }

    /// A server without streams.
    pub(crate) async fn bare() -> Self {
        let server = NatsServer::start(&NatsOptions::default()).await.unwrap();
        let nats = NatsSettings { url: server.client_url().to_owned(), ..Default::default() };
        Self::at(server, nats).await
    }

    /// An environment with this server and these settings.
    pub(crate) async fn at(server: NatsServer, nats: NatsSettings) -> Self {
        let client = connection::connect(&nats, "test").await.unwrap();
        let jetstream = connection::jetstream(&client, &nats);
        Self { server, nats, streams: StreamSettings::default(), client, jetstream }
    }

    pub(crate) async fn consumer(&self) -> PullConsumer {
        setup::find_consumer(&self.jetstream, &self.streams).await.unwrap().unwrap()
    }

    pub(crate) async fn retries_consumer(&self) -> PullConsumer {
        setup::find_retries_consumer(&self.jetstream, &self.streams).await.unwrap().unwrap()
    }

    /// A consumer with a shorter `ack_wait` than settings allow, to keep tests short.
    pub(crate) async fn hasty_consumer(&self, ack_wait: Duration) -> PullConsumer {
        let stream = self.jetstream.get_stream(&self.streams.jobs).await.unwrap();
        stream.delete_consumer(&self.streams.consumer).await.unwrap();
        let durable_name = Some(self.streams.consumer.clone());
        let config = pull::Config {
            durable_name,
            filter_subject: wire::subjects::JOBS_FILTER.to_owned(),
            ack_wait,
            max_ack_pending: 1000,
            ..Default::default()
        };
        stream.create_consumer(config).await.unwrap()
    }

    pub(crate) async fn consumer_info(&self) -> Info {
        self.jetstream
            .get_stream(&self.streams.jobs)
            .await
            .unwrap()
            .consumer_info(&self.streams.consumer)
            .await
            .unwrap()
    }

    pub(crate) async fn messages_in(&self, stream: &str) -> u64 {
        self.jetstream.get_stream(stream).await.unwrap().cached_info().state.messages
    }

    pub(crate) async fn publish_jobs(&self, count: usize) {
        for i in 0..count {
            let job = format!("job {i}");
            self.jetstream.publish("groundling.jobs.cats", job.into()).await.unwrap().await.unwrap();
        }
    }

    pub(crate) fn publisher(&self) -> Publisher {
        Publisher::new(self.jetstream.clone(), &self.streams.annotations, &self.streams.failed)
    }

    pub(crate) fn intake(&self, consumer: PullConsumer, slots: usize) -> RunningIntake {
        let stop = CancellationToken::new();
        let (sender, deliveries) = mpsc::channel(slots);
        let running = Intake::new(self.jetstream.clone(), consumer, slots, PATIENCE * 10).run(stop.clone(), sender);
        RunningIntake { stop, deliveries, task: tokio::spawn(running) }
    }
}

pub(crate) struct RunningIntake {
    pub(crate) stop: CancellationToken,
    pub(crate) deliveries: mpsc::Receiver<Delivery>,
    pub(crate) task: JoinHandle<u64>,
}

impl RunningIntake {
    pub(crate) async fn next(&mut self) -> Delivery {
        tokio::time::timeout(PATIENCE, self.deliveries.recv()).await.expect("a job should come").unwrap()
    }

    pub(crate) async fn nothing_comes(&mut self) {
        let came = tokio::time::timeout(A_WHILE, self.deliveries.recv()).await;
        assert!(came.is_err(), "no job should come, but {came:?} did");
    }
}

/// Waits until `holds`, checking every 50 ms.
pub(crate) async fn eventually<F: Future<Output = bool>>(what: &str, mut holds: impl FnMut() -> F) {
    let start = Instant::now();
    while !holds().await {
        assert!(start.elapsed() < PATIENCE, "did not come true: {what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

pub(crate) fn annotation(id: &str) -> v1::ImageAnnotation {
    v1::ImageAnnotation { annotation_id: id.to_owned(), job_id: "job".to_owned(), ..Default::default() }
}
