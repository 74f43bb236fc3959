//! Taking jobs from the durable pull consumer: never more than there are free slots.
//!
//! A pull request for N jobs is only sent while N slots are held for them, so no job waits here while another worker is
//! idle. The server's consumer is addressed by its name alone: it may be deleted, changed and made anew while the worker
//! runs, and what it is like at present is read again from time to time (the module `present`).
//!
//! A request also says how many bytes may come on it: the server closes a connection on which more waits than it holds
//! for a client (`max_pending`, 64 MiB unless set), and then all of that is lost and comes again after `ack_wait`.

use std::time::Duration;

use async_nats::jetstream::Context;
use async_nats::jetstream::consumer::PullConsumer;
use async_nats::jetstream::consumer::pull::BatchConfig;
use async_nats::{Client, Message, StatusCode, Subscriber};
use futures::StreamExt;
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::delivery::{Delivery, Lease, NotTaken, nak};
use crate::health::Health;
use crate::in_hand::InHand;
use crate::present::{LOOK_EVERY, Limits, NO_CONSUMER, Present};
use crate::queue::Queue;
use crate::slots::Slots;
use broker::backoff::{Backoff, Delays};
use broker::connection::Connection;
use broker::permissions::PermissionViolation;

/// How long the server keeps one pull request open. Shutdown waits for its end: a request cannot be called off without
/// the risk that a job is on its way to nobody, and such a job would rest until `ack_wait` is over.
const PULL_EXPIRES: Duration = Duration::from_secs(3);
/// Silence after which a request is taken for lost with a connection: the server has forgotten it by then, and a
/// cluster without a leader answers late.
const PULL_LOST: Duration = PULL_EXPIRES.saturating_add(Duration::from_secs(5));
/// How long jobs can come on a request that was overtaken by a new connection: it is no younger than that.
const PULL_OVER: Duration = PULL_EXPIRES.saturating_add(Duration::from_secs(1));
/// Wait after a pull request that was refused or lost.
const PULL_AGAIN: Backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(5));
/// Most bytes of jobs on one request, unless a single one can be larger: an eighth of what servers hold for a client.
const PULL_BYTES: usize = 8 << 20;
/// Subject, reply subject and headers of a job, which count as bytes of it.
const AROUND_A_JOB: usize = 64 << 10;

/// Takes jobs.
pub struct Intake {
    client: Client,
    queue: Queue,
    consumer: PullConsumer,
    present: Present,
    slots: Slots,
    lease: Lease,
    in_hand: InHand,
    watched: Option<(Connection, Health)>,
}

/// How a pull request ended.
#[derive(Debug)]
enum PullEnd {
    /// By its plan: filled or expired.
    Done,
    /// The next job has more bytes than the request could take.
    TooLarge,
    /// The worker is to stop.
    Stopped,
    /// Refused or lost, and why.
    Failed(String),
    /// Overtaken by a new connection. The server has forgotten it, as a rule; where it has not, up to so many jobs can
    /// still come.
    Overtaken(Subscriber, usize),
}

impl Intake {
    /// Takes from `consumer`, at most `slots` jobs at a time, and keeps each for `longest` at most. Signs of life go by
    /// the consumer's own `ack_wait`.
    pub fn new(client: Client, consumer: PullConsumer, slots: usize, longest: Duration) -> Self {
        let present = Present::new(consumer.clone());
        let lease = Lease { ack_wait: present.ack_wait(), longest };
        let (slots, in_hand) = (Slots::new(slots), InHand::default());
        Self { client, queue: Queue::Jobs, consumer, present, slots, lease, in_hand, watched: None }
    }

    /// The intake of retries beside this one of new jobs: from the `consumer` of the stream of retries, with slots of
    /// its own, a quarter of which are used while there are new jobs.
    #[must_use]
    pub fn of_retries(&self, consumer: PullConsumer) -> Self {
        let present = self.present.of(consumer.clone());
        Self {
            client: self.client.clone(),
            queue: Queue::Retries,
            consumer,
            lease: Lease { ack_wait: present.ack_wait(), longest: self.lease.longest },
            present,
            slots: self.slots.for_retries(),
            in_hand: self.in_hand.clone(),
            watched: self.watched.clone(),
        }
    }

    /// The same, also looking at the stream: no jobs are taken from one with which the promise does not hold.
    #[must_use]
    pub fn with_stream(self, jetstream: Context) -> Self {
        Self { present: self.present.with_stream(jetstream), ..self }
    }

    /// The same, telling how it goes, and leaving servers that are about to end: between two pull requests, when no job
    /// can be on its way.
    #[must_use]
    pub fn watched(self, connection: Connection, health: Health) -> Self {
        Self { watched: Some((connection, health)), ..self }
    }

    /// Takes jobs until `shutdown`. Each comes out with its slot; what is on its way at the end goes back to the
    /// server. Lost connections and a missing consumer are waited out.
    ///
    /// Gives the number of pull requests that were refused or lost.
    pub async fn run(self, shutdown: CancellationToken, deliveries: mpsc::Sender<Delivery>) -> u64 {
        let (mut delays, mut lost) = (Delays::of(PULL_AGAIN), 0);
        let mut overtaken = JoinSet::new();
        let mut next_is_large = false;
        while let Some(mut slots) = self.free_slots(&shutdown).await {
            if next_is_large {
                // One at a time needs no limit of bytes.
                slots.truncate(1);
            }
            match self.pull(slots, &shutdown, &deliveries).await {
                end @ (PullEnd::Done | PullEnd::TooLarge) => {
                    next_is_large = matches!(end, PullEnd::TooLarge);
                    delays.reset();
                    self.tell(None);
                }
                PullEnd::Stopped => break,
                PullEnd::Overtaken(answers, open) => {
                    lost += 1;
                    tracing::info!(lost, "jobs are asked for again: the connection was made anew");
                    overtaken.spawn(nack_all(self.client.clone(), answers, open, Instant::now() + PULL_OVER));
                }
                PullEnd::Failed(why) => {
                    lost += 1;
                    self.present.forget().await;
                    self.tell(Some(&why));
                    let delay = delays.after_failure();
                    tracing::warn!(lost, "no jobs can be taken, trying again in {delay:?}: {why}");
                    tokio::select! {
                        () = tokio::time::sleep(delay) => {}
                        () = shutdown.cancelled() => break,
                    }
                }
            }
            while overtaken.try_join_next().is_some() {}
        }
        while overtaken.join_next().await.is_some() {}
        lost
    }

    fn tell_new_jobs(&self, are_there: bool) {
        if self.queue == Queue::Jobs {
            self.slots.tell_new_jobs(are_there);
        }
    }

    fn tell(&self, fault: Option<&str>) {
        if let Some((_, health)) = &self.watched {
            health.pulled(self.queue, fault);
        }
    }

    /// Waits for the connection, and tells which one it is.
    async fn connected(&self) -> u64 {
        match &self.watched {
            Some((connection, _)) => connection.wait_until_up().await,
            None => 0,
        }
    }

    /// Waits until the connection is another one than that of this number.
    async fn made_anew(&self, number: u64) {
        match &self.watched {
            Some((connection, _)) => connection.reconnected(number).await,
            None => std::future::pending().await,
        }
    }

    /// Waits, from this call on, until the server says that no jobs may be asked for.
    fn refused(&self) -> impl Future<Output = PermissionViolation> + use<> {
        let stream = self.consumer.cached_info().stream_name.clone();
        let refused = self
            .watched
            .as_ref()
            .map(|(connection, _)| connection.permission_violations().next(move |denied| denied.is_pull_from(&stream)));
        async move {
            match refused {
                Some(refused) => refused.await,
                None => std::future::pending().await,
            }
        }
    }

    /// Waits until the server has said that it will end.
    async fn told_to_leave(&self) -> &Connection {
        match &self.watched {
            Some((connection, _)) => {
                connection.lame_duck_announced().await;
                connection
            }
            None => std::future::pending().await,
        }
    }

    /// All slots that are free, as soon as there is one; `None` at shutdown.
    async fn free_slots(&self, shutdown: &CancellationToken) -> Option<Vec<OwnedSemaphorePermit>> {
        loop {
            tokio::select! {
                biased;
                () = shutdown.cancelled() => return None,
                connection = self.told_to_leave() => connection.leave_lame_duck_server().await,
                // No request goes out, but the signs of life of the jobs in hand must follow the consumer.
                () = self.look_again() => {}
                slots = self.slots.take() => return Some(slots),
            }
        }
    }

    /// Looks at the consumer once in a while.
    async fn look_again(&self) {
        tokio::time::sleep(LOOK_EVERY).await;
        if self.is_up()
            && let Err(why) = self.present.limits(self.number()).await
        {
            tracing::debug!("the consumer is not known at present: {why}");
        }
    }

    fn is_up(&self) -> bool {
        self.watched.as_ref().is_none_or(|(connection, _)| connection.is_connected())
    }

    fn number(&self) -> u64 {
        self.watched.as_ref().map_or(0, |(connection, _)| connection.number())
    }

    async fn pull(
        &self,
        mut slots: Vec<OwnedSemaphorePermit>,
        shutdown: &CancellationToken,
        deliveries: &mpsc::Sender<Delivery>,
    ) -> PullEnd {
        let connection = tokio::select! {
            biased;
            () = shutdown.cancelled() => return PullEnd::Stopped,
            connection = self.connected() => connection,
        };
        let limits = tokio::select! {
            biased;
            () = shutdown.cancelled() => return PullEnd::Stopped,
            limits = self.present.limits(connection) => limits,
        };
        let request = match limits {
            Ok(limits) => self.batch(slots.len(), limits),
            Err(why) => return PullEnd::Failed(why),
        };
        let (batch, most) = (request.batch, request.max_bytes);
        slots.truncate(batch);
        // The server counts alike, and a request that has used up its bytes to the last one is over.
        let mut bytes = (most > 0).then_some(most);
        let (mut came, mut end) = (0, PullEnd::Done);
        // No connection is left for another one while jobs may be on their way.
        let _pulling = match &self.watched {
            Some((connection, _)) => Some(connection.pull_guard().await),
            None => None,
        };
        let refused = self.refused();
        tokio::pin!(refused);
        let mut answers = match self.request(request).await {
            Ok(answers) => answers,
            Err(why) => return PullEnd::Failed(why),
        };
        if let Some((_, health)) = &self.watched {
            health.pulls(self.queue, connection);
        }
        loop {
            let answer = tokio::select! {
                biased;
                () = shutdown.cancelled() => {
                    nack_all(self.client.clone(), answers, slots.len(), Instant::now() + PULL_LOST).await;
                    return PullEnd::Stopped;
                }
                // What has come goes on.
                answer = tokio::time::timeout(PULL_LOST, answers.next()) => answer,
                refused = &mut refused => return PullEnd::Failed(refused.to_string()),
                () = self.made_anew(connection) => return PullEnd::Overtaken(answers, slots.len()),
            };
            match answer {
                Err(_) => return PullEnd::Failed("the server has gone silent".to_owned()),
                Ok(None) => return PullEnd::Failed("the connection is closed".to_owned()),
                Ok(Some(message)) => match verdict(&message) {
                    Verdict::Job => {
                        came += 1;
                        self.tell_new_jobs(true);
                        bytes = bytes.map(|bytes| bytes.saturating_sub(message.length));
                        if let Some(slot) = slots.pop() {
                            self.hand_on(message, slot, deliveries).await;
                        }
                        if slots.is_empty() || bytes == Some(0) {
                            // Nothing more can come on this request.
                            return end;
                        }
                    }
                    Verdict::Over { open, is_too_large } => {
                        // Jobs of a consumer with several copies wait until most servers know of them, and this word
                        // does not: they come after it.
                        let due = batch.saturating_sub(open.unwrap_or(batch)).saturating_sub(came);
                        if is_too_large && came + due == 0 {
                            end = PullEnd::TooLarge;
                        } else if came + due == 0 {
                            self.tell_new_jobs(false);
                        }
                        slots.truncate(due);
                        if slots.is_empty() {
                            return end;
                        }
                    }
                    Verdict::Refused(why) => return PullEnd::Failed(why),
                },
            }
        }
    }

    /// A request for as many jobs as there are `slots`, within the limits of the consumer. One for a single job has no
    /// limit of bytes: none can be too large for it.
    fn batch(&self, slots: usize, limits: Limits) -> BatchConfig {
        let at_most = |wanted: usize, limit: usize| if limit == 0 { wanted } else { wanted.min(limit) };
        let expires = if limits.expires.is_zero() { PULL_EXPIRES } else { PULL_EXPIRES.min(limits.expires) };
        let batch = at_most(slots, limits.batch);
        let one = self.client.max_payload().saturating_add(AROUND_A_JOB);
        let max_bytes = if batch == 1 { 0 } else { at_most(PULL_BYTES.max(one), limits.bytes) };
        BatchConfig { batch, max_bytes, expires: Some(expires), ..BatchConfig::default() }
    }

    async fn request(&self, request: BatchConfig) -> Result<Subscriber, String> {
        let inbox = self.client.new_inbox();
        let answers = self.client.subscribe(inbox.clone()).await.map_err(|error| error.to_string())?;
        self.consumer.request_batch(request, inbox.into()).await.map_err(|error| error.to_string())?;
        Ok(answers)
    }

    async fn hand_on(&self, message: Message, slot: OwnedSemaphorePermit, deliveries: &mpsc::Sender<Delivery>) {
        match Delivery::receive(&self.client, self.queue, message, &self.lease, &self.in_hand, slot) {
            // A closed channel drops the delivery, and that means retry.
            Ok(delivery) => drop(deliveries.send(delivery).await),
            Err(NotTaken::NoDelivery { subject }) => {
                tracing::warn!(%subject, "a message that is no consumer's was passed over");
            }
            Err(NotTaken::TooEarly { reply, delay }) => drop(self.client.publish(reply, nak(delay)).await),
            Err(NotTaken::NoRetry { subject, reply }) => {
                tracing::warn!(%subject, "a message in the stream of retries is no job's copy: it is removed");
                drop(self.client.publish(reply, "+TERM".into()).await);
            }
            Err(NotTaken::InHand { subject, sequence, attempt }) => {
                tracing::warn!(%subject, sequence, attempt, "a job that this worker is still doing was handed out to it again: passed over");
            }
        }
    }
}

/// Waits for the end of a request at which up to `open` jobs can still come, but no longer than `until`, and gives those
/// straight back. Not one by one: the server could hand them out on this very request again.
async fn nack_all(client: Client, mut answers: Subscriber, open: usize, until: Instant) {
    let (mut came, mut due) = (Vec::new(), open);
    while came.len() < due {
        match tokio::time::timeout_at(until, answers.next()).await {
            Ok(Some(message)) => match verdict(&message) {
                Verdict::Job => came.push(message),
                Verdict::Over { open: left, .. } => due = open.saturating_sub(left.unwrap_or(open)),
                Verdict::Refused(_) => break,
            },
            _ => break,
        }
    }
    for reply in came.into_iter().filter_map(|message| message.reply) {
        drop(client.publish(reply, nak(Duration::ZERO)).await);
    }
}

/// What an answer to a pull request is.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    Job,
    /// No more jobs are sent on the request. `open` are those that it asked for and that are not sent, if the server
    /// says so; the next one was too large for it, or not.
    Over {
        open: Option<usize>,
        is_too_large: bool,
    },
    Refused(String),
}

/// What a server says about a request that got all the jobs that it asked for, and has bytes left.
const BATCH_COMPLETED: &str = "Batch Completed";
/// What it says about one whose next job has more bytes than are left to it.
const EXCEEDS_BYTES: &str = "Message Size Exceeds MaxBytes";
/// The header that says how many jobs a request asked for and did not get.
const OPEN: &str = "Nats-Pending-Messages";

fn verdict(message: &Message) -> Verdict {
    let said = message.description.as_deref().unwrap_or_default();
    let open = || message.headers.as_ref()?.get(OPEN)?.as_str().parse().ok();
    match message.status {
        None | Some(StatusCode::OK) => Verdict::Job,
        Some(StatusCode::NOT_FOUND | StatusCode::TIMEOUT) => Verdict::Over { open: open(), is_too_large: false },
        Some(StatusCode::NO_RESPONDERS) => Verdict::Refused(NO_CONSUMER.to_owned()),
        Some(_) if said.contains(BATCH_COMPLETED) => Verdict::Over { open: Some(0), is_too_large: false },
        Some(_) if said.contains(EXCEEDS_BYTES) => Verdict::Over { open: open(), is_too_large: true },
        Some(other) => Verdict::Refused(format!(
            "the server ended the request with status {}, {}",
            other.as_u16(),
            message.description.as_deref().unwrap_or("without saying why")
        )),
    }
}
