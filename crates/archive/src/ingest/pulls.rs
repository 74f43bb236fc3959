//! Takes events from the events stream.

use std::sync::Arc;
use std::time::{Duration, Instant};

use async_nats::jetstream::consumer::PullConsumer;
use async_nats::jetstream::{self, AckKind};
use broker::backoff::{Backoff, Delays};
use broker::causes::causes;
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use telemetry::ingest_attributes::{IngestOutcome, IngestReason};
use tokio_util::sync::CancellationToken;

use super::handler::{Handled, Handler};
use super::headers::EventHeaders;
use super::health::IngestHealth;
use super::rule::{Rule, Source};
use super::subjects::covers;

/// Number of pull requests at a time: while the events of one are handled, others are on their way.
pub(super) const PULLERS: usize = 4;
/// Maximum number of events of a pull request.
const PULL_EVENTS: usize = 256;
/// Maximum bytes of the events of a pull request, if the server's largest message is smaller.
const PULL_BYTES: usize = 16 << 20;
/// Bytes of a message beside its payload and headers: its subjects.
const SUBJECT_BYTES: usize = 16 << 10;
/// How the server describes the end of a pull request whose next event would exceed its bytes.
const PULL_IS_FULL: &str = "Message Size Exceeds MaxBytes";
/// How long a pull request waits for events. A shutdown waits for its end, so that no event is delivered in vain.
const PULL: Duration = Duration::from_secs(2);
/// How long an event's jobs are tried to be stored before it is nacked.
const PATIENCE: Duration = Duration::from_secs(5);
/// Delays of nacked events, by their deliveries.
const NACK_DELAYS: Backoff = Backoff::seconds(1, 60);
/// Delays before the next pull request, after one that failed or whose events could not be handled.
const PULL_DELAYS: Backoff = Backoff::new(Duration::from_millis(250), Duration::from_secs(10));

/// Takes events for the rules with subjects.
pub(super) struct Puller {
    pub(super) consumer: PullConsumer,
    pub(super) handler: Handler,
    pub(super) rules: Vec<Arc<Rule>>,
    pub(super) health: IngestHealth,
    pub(super) shutdown: CancellationToken,
}

impl Puller {
    /// Takes and handles events until the shutdown. Events that were requested before are handled.
    pub(super) async fn run(&self) {
        let connection = &self.handler.publisher.connection;
        let mut delays = Delays::of(PULL_DELAYS);
        while !self.shutdown.is_cancelled() {
            tokio::select! {
                _ = connection.wait_until_up() => {}
                () = self.shutdown.cancelled() => return,
            }
            let guard = connection.pull_guard().await;
            let pulled = self.pull().await;
            drop(guard);
            let failed = match pulled {
                Ok(sent_back) => {
                    self.health.pull_ended(None);
                    sent_back
                }
                Err(error) => {
                    if self.health.pull_ended(Some(error.clone())) {
                        tracing::warn!("no events can be taken: {error}");
                    }
                    true
                }
            };
            if !failed {
                delays.reset();
                continue;
            }
            tokio::select! {
                () = tokio::time::sleep(delays.after_failure()) => {}
                () = self.shutdown.cancelled() => {}
            }
        }
    }

    /// Makes one pull request and handles its events. Returns whether any was sent back.
    async fn pull(&self) -> Result<bool, String> {
        let largest = self.handler.publisher.connection.client.max_payload().saturating_add(SUBJECT_BYTES);
        let batch = self.consumer.batch().max_messages(PULL_EVENTS).max_bytes(PULL_BYTES.max(largest)).expires(PULL);
        let mut batch = batch.messages().await.map_err(|error| causes(&error))?;
        let (mut handling, mut has_ended) = (FuturesUnordered::new(), false);
        let (mut sent_back, mut failure) = (false, None);
        loop {
            tokio::select! {
                message = batch.next(), if !has_ended => match message {
                    Some(Ok(message)) => handling.push(self.take(message)),
                    Some(Err(error)) => {
                        let said = error.to_string();
                        failure = (!said.contains(PULL_IS_FULL)).then_some(said);
                    }
                    None => has_ended = true,
                },
                Some(is_sent_back) = handling.next() => sent_back |= is_sent_back,
                else => break,
            }
        }
        failure.map_or(Ok(sent_back), Err)
    }

    /// Handles an event, and acknowledges it in one of four ways. Returns whether it was sent back.
    async fn take(&self, message: jetstream::Message) -> bool {
        let subject = message.subject.as_str();
        let is_its = |rule: &&Arc<Rule>| matches!(rule.source(), Source::Subject(own) if covers(own, subject));
        let rules: Vec<_> = self.rules.iter().filter(is_its).cloned().collect();
        let handled = if rules.is_empty() {
            // Another process may have a newer configuration.
            let instruments = &self.handler.instruments;
            instruments.record_ingested(None, IngestOutcome::SentBack, Some(IngestReason::NoRule));
            tracing::warn!(subject, "no rule has the subject of an event: it is left to a process that has one");
            Handled::SentBack(IngestReason::NoRule)
        } else {
            // It ends before the event is delivered again.
            let ack_wait = self.consumer.cached_info().config.ack_wait;
            let deadline = Instant::now() + PATIENCE.min(ack_wait / 2);
            let headers = EventHeaders::of_message(message.headers.as_ref());
            self.handler.handle(&rules, &headers, &message.payload, deadline).await
        };
        let kind = match &handled {
            Handled::Done(counts) if counts.failed == 0 => AckKind::Ack,
            // It will never become a job. The server announces it in an advisory.
            Handled::Done(_) | Handled::Unreadable(_) => AckKind::Term,
            Handled::SentBack(IngestReason::ShuttingDown) => AckKind::Nak(None),
            Handled::SentBack(_) => {
                let deliveries = message.info().map_or(1, |info| info.delivered.unsigned_abs());
                AckKind::Nak(Some(NACK_DELAYS.delay(deliveries)))
            }
        };
        // Without it the event is delivered again, and its jobs are duplicates.
        if let Err(error) = message.ack_with(kind).await {
            tracing::debug!(error = %causes(error.as_ref()), "an event was not acknowledged");
        }
        matches!(handled, Handled::SentBack(_))
    }
}
