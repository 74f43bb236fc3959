//! A job in hand, as a guard: it ends as delivered, retried or rejected, and a dropped one means retried.
//!
//! From receipt to that end, but no longer than the job's lease, the guard tells the server three times within every
//! `ack_wait` that the job is being worked on. It holds the slot that the job takes up.

use std::fmt;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use async_nats::{Client, Message, Subject};
use bytes::Bytes;
use futures::FutureExt;
use tokio::sync::{OwnedSemaphorePermit, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant as TokioInstant;
use wire::Message as _;
use wire::v1::Retry;

use crate::attempts::Started;
use crate::in_hand::{Held, InHand};
use crate::queue::Queue;
use crate::slow_reads::Place;
use broker::publish::PublishAck;

/// Delay before a dropped job is handed out again: what was dropped for a fault would at once be dropped again.
const DROPPED_DELAY: Duration = Duration::from_secs(1);
/// Tries to have the end of a job confirmed. If all fail the job comes back by itself after `ack_wait`.
const SETTLE_TRIES: u32 = 3;

/// A job in hand.
pub struct Delivery {
    client: Client,
    reply: Subject,
    subject: Subject,
    payload: Bytes,
    facts: DeliveryFacts,
    /// What is known of the job's attempts, once this one is started.
    pub(crate) started: Started,
    received: Instant,
    heartbeat: JoinHandle<()>,
    settled: bool,
    /// Let go before the server is told: from then on it may hand the job out again.
    held: Option<Held>,
    queue: Queue,
    capacity: Mutex<Capacity>,
}

/// What a job takes up of the worker; given back when dropped.
#[derive(Debug)]
enum Capacity {
    Slot { _permit: OwnedSemaphorePermit },
    Slow { _place: Place },
}

/// For how long a job is one worker's.
#[derive(Debug, Clone)]
pub struct Lease {
    /// The consumer's at present: silence of this length ends it.
    pub ack_wait: watch::Receiver<Duration>,
    /// Its end, whatever the job is doing then: a job that hangs must not be held for ever.
    pub longest: Duration,
}

/// What the server says about a delivery.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeliveryFacts {
    /// The jobs stream, also of a job that was delivered from the stream of retries.
    pub stream: String,
    /// The job's sequence in the jobs stream.
    pub sequence: u64,
    /// How often the job has been handed out, this time included; counts from 1.
    pub attempt: u64,
    /// When the job was published, nanoseconds since 1970.
    pub published_nanos: u64,
}

/// Why a message was not taken in hand.
#[derive(Debug)]
pub(crate) enum NotTaken {
    /// It is not from a consumer.
    NoDelivery { subject: Subject },
    /// Its job is in hand.
    InHand { subject: Subject, sequence: u64, attempt: u64 },
    /// It is a copy in the stream of retries whose delay begins now.
    TooEarly { reply: Subject, delay: Duration },
    /// It is in the stream of retries and no copy of a job.
    NoRetry { subject: Subject, reply: Subject },
}

/// A message, as what it says about a job.
struct Received {
    reply: Subject,
    subject: Subject,
    payload: Bytes,
    facts: DeliveryFacts,
}

/// Why the end of a job was not confirmed. The job comes back by itself after `ack_wait`; published work is not lost.
#[derive(Debug, thiserror::Error)]
#[error("the server did not confirm the end of a job ({0}): it will hand the job out again")]
pub struct DeliveryError(async_nats::client::RequestError);

impl Delivery {
    /// Takes a message of `queue` in hand, unless its job already is.
    pub(crate) fn receive(
        client: &Client,
        queue: Queue,
        message: Message,
        lease: &Lease,
        in_hand: &InHand,
        slot: OwnedSemaphorePermit,
    ) -> Result<Self, NotTaken> {
        let Received { reply, subject, payload, facts } = Received::read(queue, message)?;
        let Some(held) = in_hand.take(&facts) else {
            let DeliveryFacts { sequence, attempt, .. } = facts;
            return Err(NotTaken::InHand { subject, sequence, attempt });
        };
        let heartbeat = tokio::spawn(beat(client.clone(), reply.clone(), lease.clone()));
        Ok(Self {
            client: client.clone(),
            reply,
            subject,
            payload,
            facts,
            started: Started::default(),
            received: Instant::now(),
            heartbeat,
            settled: false,
            held: Some(held),
            queue,
            capacity: Mutex::new(Capacity::Slot { _permit: slot }),
        })
    }

    /// The stream that the job was delivered from.
    pub fn queue(&self) -> Queue {
        self.queue
    }

    /// Gives the job's slot back; the job goes on with a place among the slow reads.
    pub(crate) fn exchange_slot(&self, place: Place) {
        *self.capacity.lock().unwrap_or_else(PoisonError::into_inner) = Capacity::Slow { _place: place };
    }

    /// The subject the job was published to.
    pub fn subject(&self) -> &str {
        &self.subject
    }

    /// The job's bytes.
    pub fn payload(&self) -> &Bytes {
        &self.payload
    }

    /// What the server says about this delivery.
    pub fn facts(&self) -> &DeliveryFacts {
        &self.facts
    }

    /// When the job arrived here.
    pub fn received(&self) -> Instant {
        self.received
    }

    /// The job is done: its annotation is in the stream, as the receipt shows. Waits until the server has taken note.
    ///
    /// # Errors
    /// [`DeliveryError`] if it never says so.
    pub async fn delivered(self, annotation: &PublishAck) -> Result<(), DeliveryError> {
        tracing::trace!(sequence = annotation.sequence(), "annotation is in the stream");
        self.settle(Bytes::from_static(b"+ACK")).await
    }

    /// The job is to be handed out again, not before `delay` has passed.
    ///
    /// # Errors
    /// [`DeliveryError`] if the server never confirms.
    pub async fn retry(self, delay: Duration) -> Result<(), DeliveryError> {
        self.settle(nak(delay)).await
    }

    /// The job has a copy in the stream of retries, which takes its place.
    ///
    /// # Errors
    /// [`DeliveryError`] if the server never confirms.
    pub(crate) async fn moved(self) -> Result<(), DeliveryError> {
        self.settle(Bytes::from_static(b"+ACK")).await
    }

    /// The job is never to be handed out again: its failure is in the stream, as the receipt shows.
    ///
    /// # Errors
    /// [`DeliveryError`] if the server never confirms.
    pub async fn reject(self, failure: &PublishAck, reason: &str) -> Result<(), DeliveryError> {
        tracing::trace!(sequence = failure.sequence(), "failure is in the stream");
        self.settle(format!("+TERM {reason}").into()).await
    }

    async fn settle(mut self, acknowledgement: Bytes) -> Result<(), DeliveryError> {
        // A sign of life that left after a "not before" would put ack_wait in the delay's place.
        self.heartbeat.abort();
        drop((&mut self.heartbeat).await);
        self.held = None;
        let mut tries = 0;
        let ended = loop {
            tries += 1;
            // A request, not a bare publish: its answer is the server's word, and "no responders" is an error.
            match self.client.request(self.reply.clone(), acknowledgement.clone()).await {
                Ok(_) => break Ok(()),
                Err(error) if tries == SETTLE_TRIES => break Err(DeliveryError(error)),
                Err(error) => {
                    tracing::debug!(%error, tries, "the end of a job was not confirmed");
                    tokio::time::sleep(Duration::from_millis(250) * tries).await;
                }
            }
        };
        self.settled = true;
        ended
    }
}

impl Drop for Delivery {
    fn drop(&mut self) {
        self.heartbeat.abort();
        self.held = None;
        if self.settled {
            return;
        }
        // Room in the client's queue is the rule, and then this is done at once. If not, and without a runtime to wait
        // in, the server's ack_wait does the same later.
        let (client, reply) = (self.client.clone(), self.reply.clone());
        let mut word = Box::pin(async move { client.publish(reply, nak(DROPPED_DELAY)).await });
        if word.as_mut().now_or_never().is_none()
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            runtime.spawn(word);
        }
    }
}

impl fmt::Debug for Delivery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { subject, facts, .. } = self;
        f.debug_struct("Delivery").field("subject", subject).field("facts", facts).finish_non_exhaustive()
    }
}

/// "Hand it out again, but not before `delay` has passed."
pub(crate) fn nak(delay: Duration) -> Bytes {
    format!("-NAK {{\"delay\": {}}}", delay.as_nanos()).into()
}

async fn beat(client: Client, reply: Subject, mut lease: Lease) {
    let start = TokioInstant::now();
    let mut last = start;
    while start.elapsed() < lease.longest {
        let every = *lease.ack_wait.borrow_and_update() / 3;
        tokio::select! {
            () = tokio::time::sleep_until(last + every) => {}
            // A shorter one may be nearly over for this job.
            Ok(()) = lease.ack_wait.changed() => {}
        }
        last = TokioInstant::now();
        if let Err(error) = client.publish(reply.clone(), Bytes::from_static(b"+WPI")).await {
            tracing::debug!(%error, "a sign of life was not sent");
        }
    }
    tracing::warn!("a job is held for longer than its lease of {:?}: the server may hand it out again", lease.longest);
}

impl Received {
    fn read(queue: Queue, message: Message) -> Result<Self, NotTaken> {
        let Message { reply, subject, payload, .. } = message;
        let Some((reply, delivery)) =
            reply.and_then(|reply| DeliveryFacts::parse(&reply).map(|delivery| (reply, delivery)))
        else {
            return Err(NotTaken::NoDelivery { subject });
        };
        if queue == Queue::Jobs {
            return Ok(Self { reply, subject, payload, facts: delivery });
        }
        match Retry::decode(payload).ok().filter(|retry| !retry.subject.is_empty()) {
            Some(Retry { delay_nanos, .. }) if delivery.attempt == 1 && delay_nanos > 0 => {
                Err(NotTaken::TooEarly { reply, delay: Duration::from_nanos(delay_nanos) })
            }
            Some(retry) => {
                let facts = DeliveryFacts::of_retry(&retry, delivery.attempt);
                Ok(Self { reply, subject: retry.subject.into(), payload: retry.job, facts })
            }
            None => Err(NotTaken::NoRetry { subject, reply }),
        }
    }
}

impl DeliveryFacts {
    /// Those of a job whose copy in the stream of retries was delivered this many times. The first delivery, at which the
    /// delay began, is none of the job's.
    pub(crate) fn of_retry(retry: &Retry, deliveries: u64) -> Self {
        let delayed = u64::from(retry.delay_nanos > 0);
        Self {
            stream: retry.stream.clone(),
            sequence: retry.stream_sequence,
            attempt: retry.deliveries.saturating_add(deliveries.saturating_sub(delayed)),
            published_nanos: retry.published_nanos,
        }
    }

    /// Reads the subject that a consumer's message is to be answered on: `$JS.ACK`, in newer servers a domain and an
    /// account, then stream, consumer, deliveries, stream sequence, consumer sequence, nanoseconds, messages pending.
    fn parse(reply: &str) -> Option<Self> {
        let tokens: Vec<&str> = reply.strip_prefix("$JS.ACK.")?.split('.').collect();
        let tokens = match tokens.len() {
            7 => &tokens[..],
            9.. => &tokens[2..],
            _ => return None,
        };
        let number = |i: usize| tokens.get(i)?.parse::<u64>().ok();
        let stream = (*tokens.first()?).to_owned();
        Some(Self { stream, attempt: number(2)?, sequence: number(3)?, published_nanos: number(5)? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts() -> DeliveryFacts {
        DeliveryFacts { stream: "JOBS".into(), sequence: 17, attempt: 2, published_nanos: 1_700_000_000_000_000_001 }
    }

    #[test]
    fn both_shapes_of_the_reply_subject_are_read() {
        let old = "$JS.ACK.JOBS.workers.2.17.30.1700000000000000001.5";
        let new = "$JS.ACK._.ACCHASH.JOBS.workers.2.17.30.1700000000000000001.5.token";
        assert_eq!(DeliveryFacts::parse(old), Some(facts()));
        assert_eq!(DeliveryFacts::parse(new), Some(facts()));
        let of_a_domain = "$JS.ACK.hub.ACCHASH.JOBS.workers.2.17.30.1700000000000000001.5";
        assert_eq!(DeliveryFacts::parse(of_a_domain), Some(facts()));
    }

    #[test]
    fn another_reply_subject_is_no_delivery() {
        for reply in ["_INBOX.x", "$JS.ACK.a.b", "$JS.ACK.JOBS.workers.two.17.30.1.5", "$JS.ACK.1.2.3.4.5.6.7.8"] {
            assert_eq!(DeliveryFacts::parse(reply), None, "{reply}");
        }
    }

    #[test]
    fn a_delay_is_written_in_nanoseconds() {
        assert_eq!(nak(Duration::from_millis(1500)), "-NAK {\"delay\": 1500000000}");
    }
}
