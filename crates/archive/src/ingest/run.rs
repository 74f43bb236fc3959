//! The process `groundling ingest`.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use async_nats::jetstream::consumer::PullConsumer;
use broker::connection::{self, Connection, ConnectionError};
use broker::events_setup::{check_events, events_stream_subjects, find_events_consumer};
use broker::settings::{NatsSettings, StreamSettings};
use broker::setup::find_jobs_stream;
use broker::stream_rules::jobs_stream_errors;
use broker::stream_states::StreamStates;
use telemetry::health_server::HealthServer;
use telemetry::{Instruments, Scraper};
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::error::IngestError;
use super::handler::Handler;
use super::health::IngestHealth;
use super::publisher::JobPublisher;
use super::pulls::{PULLERS, Puller};
use super::rule::{Rule, Source};
use super::settings::EventsSettings;
use super::subjects::covers;
use super::webhook::{Access, Refusals, Webhook};

/// How the server's monitoring names the connection.
const CLIENT_NAME: &str = "groundling ingest";
/// Delay before streams are checked again after a temporary error.
const CHECK_DELAY: Duration = Duration::from_secs(2);
/// How often the subjects of the events stream are looked at until it has those of all rules.
const SUBJECTS_DELAY: Duration = Duration::from_secs(5);
/// How long the last acknowledgements may take to be sent.
const FLUSH: Duration = Duration::from_secs(5);

/// What the process needs.
pub struct IngestParts {
    /// The connection.
    pub nats: NatsSettings,
    /// The streams.
    pub streams: StreamSettings,
    /// The subjects of the events stream, for the check at the start.
    pub subjects: Vec<String>,
    /// The webhook server and limits.
    pub events: EventsSettings,
    /// The rules.
    pub rules: Vec<Rule>,
    /// Measures.
    pub instruments: Instruments,
    /// Renders `/metrics`; `None`: not served.
    pub scraper: Option<Scraper>,
    /// Told the addresses of the webhook server and of the health server once they listen.
    pub listening: Option<watch::Sender<Addresses>>,
}

/// Where the process listens.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Addresses {
    /// The webhook server.
    pub webhook: Option<SocketAddr>,
    /// The health server.
    pub health: Option<SocketAddr>,
}

/// Turns events into jobs until the shutdown. Events that have begun are finished then.
///
/// # Errors
/// [`IngestError`]. A NATS server that does not answer is no error: the process waits for it.
pub async fn run(parts: IngestParts, shutdown: CancellationToken) -> Result<(), IngestError> {
    // Ends the tasks also if this future is dropped or fails.
    let stop = shutdown.child_token();
    let _stop = stop.clone().drop_guard();
    let rules: Vec<Arc<Rule>> = parts.rules.iter().cloned().map(Arc::new).collect();
    rules.iter().for_each(|rule| parts.instruments.ingest_rule_started(rule.name()));
    let paths = paths(&rules);
    let states = StreamStates::default();
    let health = IngestHealth::new(!paths.is_empty(), states.clone());
    parts.instruments.observe_ingest(health.reading());
    let server = parts
        .events
        .health_address
        .map(|address| HealthServer::start("events.health_address", address, health.clone(), parts.scraper.clone()));
    let server = server.transpose()?;
    let (connected, handler) = watch::channel(None);
    let mut tasks = JoinSet::new();
    let mut addresses = Addresses { health: server.as_ref().map(HealthServer::address), webhook: None };
    if let Some(address) = parts.events.webhook_address.filter(|_| !paths.is_empty()) {
        let (listener, address) = listen(address).await?;
        addresses.webhook = Some(address);
        let access = Access::new(&parts.events);
        if access.is_open() {
            tracing::warn!(
                "everyone who reaches the webhook server can submit jobs: set events.token, or limit access to {address}"
            );
        }
        tracing::info!(%address, "receiving events");
        let slots = Arc::new(Semaphore::new(parts.events.slots));
        let (max_bytes, hold) = (parts.events.max_event_bytes, parts.events.hold);
        parts.instruments.ingest_webhook_started();
        let webhook = Webhook {
            rules: paths,
            access,
            handler,
            slots,
            max_bytes,
            hold,
            refusals: Refusals::default(),
            instruments: parts.instruments.clone(),
            shutdown: stop.clone(),
        };
        tasks.spawn(webhook.serve(listener));
    }
    if let Some(listening) = &parts.listening {
        listening.send_replace(addresses);
    }
    let started = tokio::select! {
        started = start(&parts, &health) => Some(started?),
        () = stop.cancelled() => None,
    };
    let mut ended = Ok(());
    if let Some((connection, consumer)) = started {
        let jetstream = connection::jetstream(&connection.client, &parts.nats);
        let publisher = JobPublisher {
            connection: connection.clone(),
            jetstream,
            stream: parts.streams.jobs.clone(),
            states,
            instruments: parts.instruments.clone(),
            shutdown: stop.clone(),
        };
        let handler = Handler { publisher, instruments: parts.instruments.clone() };
        connected.send_replace(Some(handler.clone()));
        if let Some(consumer) = consumer {
            tracing::info!(stream = parts.streams.events, "taking events");
            let subjects = Subjects {
                nats: parts.nats.clone(),
                streams: parts.streams.clone(),
                subjects: parts.subjects.clone(),
                connection: connection.clone(),
                health: health.clone(),
            };
            // Before the process is ready.
            subjects.check().await;
            let stopped = stop.clone();
            tasks.spawn(async move {
                stopped.run_until_cancelled(subjects.wait()).await;
            });
            for _ in 0..PULLERS {
                let puller = Puller {
                    consumer: consumer.clone(),
                    handler: handler.clone(),
                    rules: rules.clone(),
                    health: health.clone(),
                    shutdown: stop.clone(),
                };
                tasks.spawn(async move { puller.run().await });
            }
        }
        health.set_working(connection.clone());
        ended = watch_over(&connection, &parts.nats, &stop).await;
        health.set_stopping();
        stop.cancel();
        while tasks.join_next().await.is_some() {}
        // Acknowledgements are sent without waiting for an answer.
        drop(tokio::time::timeout(FLUSH, connection.client.flush()).await);
    }
    stop.cancel();
    while tasks.join_next().await.is_some() {}
    ended
}

/// The rules of each path.
fn paths(rules: &[Arc<Rule>]) -> HashMap<String, Vec<Arc<Rule>>> {
    let mut paths: HashMap<String, Vec<Arc<Rule>>> = HashMap::new();
    for rule in rules {
        if let Source::Path(path) = rule.source() {
            paths.entry(path.clone()).or_default().push(Arc::clone(rule));
        }
    }
    paths
}

async fn listen(address: SocketAddr) -> Result<(TcpListener, SocketAddr), IngestError> {
    let unusable = |cause| IngestError::WebhookAddress { address, cause };
    let listener = TcpListener::bind(address).await.map_err(unusable)?;
    let address = listener.local_addr().map_err(unusable)?;
    Ok((listener, address))
}

/// Connects, and checks the streams. Returns the consumer of events if there are rules with subjects.
async fn start(parts: &IngestParts, health: &IngestHealth) -> Result<(Connection, Option<PullConsumer>), IngestError> {
    health.set_waiting("there is no connection to NATS yet");
    let log = |error: &ConnectionError| tracing::warn!("waiting for NATS: {error}");
    let connection = connection::connect_with_retries(&parts.nats, CLIENT_NAME, log).await?;
    let mut reported = false;
    loop {
        match check(parts, &connection).await {
            Err(IngestError::Setup(error)) if error.is_temporary() => {
                health.set_waiting(format!("the streams cannot be checked: {error}"));
                if !std::mem::replace(&mut reported, true) {
                    tracing::warn!("waiting for the streams: {error}");
                }
                tokio::time::sleep(CHECK_DELAY).await;
            }
            checked => return Ok((connection, checked?)),
        }
    }
}

async fn check(parts: &IngestParts, connection: &Connection) -> Result<Option<PullConsumer>, IngestError> {
    let (broker, streams) = (connection.broker(&parts.nats), &parts.streams);
    let jobs = find_jobs_stream(broker.clone(), streams).await?;
    let Some(jobs) = jobs else { return Err(IngestError::Missing(format!("stream {}", streams.jobs))) };
    refuse(jobs_stream_errors(&jobs.cached_info().config))?;
    if parts.subjects.is_empty() {
        return Ok(None);
    }
    let report = check_events(broker.clone(), streams, &parts.subjects).await?;
    if let Some(missing) = report.missing.into_iter().next() {
        return Err(IngestError::Missing(missing));
    }
    refuse(report.errors)?;
    for difference in report.differences {
        tracing::warn!("{difference}");
    }
    Ok(find_events_consumer(broker, streams).await?)
}

/// Watches whether the events stream has the subjects of all rules.
struct Subjects {
    nats: NatsSettings,
    streams: StreamSettings,
    subjects: Vec<String>,
    connection: Connection,
    health: IngestHealth,
}

impl Subjects {
    /// Tells the health whether a subject is missing. `true` if none is.
    async fn check(&self) -> bool {
        let broker = self.connection.broker(&self.nats);
        let found = match events_stream_subjects(broker, &self.streams).await {
            Ok(found) => found,
            Err(error) => {
                tracing::debug!(%error, "the subjects of the events stream cannot be read");
                return false;
            }
        };
        let uncaptured = uncaptured(&self.subjects, &found);
        self.health.set_uncaptured(uncaptured.map(|subject| {
            format!(
                "the stream {} does not capture the subject {subject} of a rule: run `groundling setup --migrate`",
                self.streams.events
            )
        }));
        uncaptured.is_none()
    }

    /// Waits until no subject is missing.
    async fn wait(self) {
        while !self.check().await {
            tokio::time::sleep(SUBJECTS_DELAY).await;
        }
    }
}

/// The first of these subjects that a stream with the subjects `found` does not capture.
fn uncaptured<'a>(subjects: &'a [String], found: &[String]) -> Option<&'a str> {
    let is_captured = |subject: &&String| found.iter().any(|found| covers(found, subject));
    subjects.iter().find(|subject| !is_captured(subject)).map(String::as_str)
}

fn refuse(errors: Vec<String>) -> Result<(), IngestError> {
    errors.into_iter().next().map_or(Ok(()), |error| Err(IngestError::Unsafe(error)))
}

/// Waits for the shutdown, and follows the connection meanwhile.
async fn watch_over(connection: &Connection, nats: &NatsSettings, stop: &CancellationToken) -> Result<(), IngestError> {
    let refused = connection.credentials_refused_for(nats.refused_timeout);
    let lame_duck = async {
        loop {
            connection.lame_duck_announced().await;
            connection.leave_lame_duck_server().await;
        }
    };
    tokio::select! {
        () = stop.cancelled() => Ok(()),
        () = refused => Err(IngestError::CredentialsRefused(nats.refused_timeout)),
        () = lame_duck => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_subject_is_captured_by_itself_or_by_a_wildcard() {
        let of = |subjects: &[&str]| subjects.iter().map(|subject| (*subject).to_owned()).collect::<Vec<_>>();
        let rules = of(&["minio.events", "store.*"]);
        assert_eq!(uncaptured(&rules, &of(&["store.*", "minio.>"])), None);
        assert_eq!(uncaptured(&rules, &of(&["minio.events", "store.a"])), Some("store.*"));
        assert_eq!(uncaptured(&rules, &[]), Some("minio.events"));
    }
}
