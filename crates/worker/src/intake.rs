//! Taking jobs from the durable pull consumer: never more than there are free slots.
//!
//! A pull request for N jobs is only sent while N slots are held for them, so no job waits here while another worker is
//! idle. The server's consumer is addressed by its name alone: it may be deleted and made anew while the worker runs.

use std::sync::Arc;
use std::time::Duration;

use async_nats::jetstream::consumer::PullConsumer;
use async_nats::jetstream::consumer::pull::BatchConfig;
use async_nats::{Client, Message, StatusCode, Subscriber};
use futures::StreamExt;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_util::sync::CancellationToken;

use crate::delivery::{Delivery, nak};

/// How long the server keeps one pull request open.
const PULL_EXPIRES: Duration = Duration::from_secs(30);
/// How often the server shows that it still knows of the request. Two missed signs mean that it was lost with a
/// connection.
const PULL_HEARTBEAT: Duration = Duration::from_secs(3);
/// Wait after a pull request that was refused or lost: doubled each time, up to the second.
const PAUSE: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(5));

/// Takes jobs.
pub struct Intake {
    client: Client,
    consumer: PullConsumer,
    slots: Arc<Semaphore>,
    ack_wait: Duration,
}

/// How a pull request ended.
#[derive(Debug, PartialEq, Eq)]
enum PullEnd {
    /// By its plan: filled or expired.
    Done,
    /// The worker is to stop.
    Stopped,
    /// Refused or lost, and why.
    Failed(String),
}

impl Intake {
    /// Takes from `consumer`, at most `slots` jobs at a time. Signs of life go by the consumer's own `ack_wait`.
    pub fn new(client: Client, consumer: PullConsumer, slots: usize) -> Self {
        let ack_wait = consumer.cached_info().config.ack_wait;
        Self { client, consumer, slots: Arc::new(Semaphore::new(slots)), ack_wait }
    }

    /// Takes jobs until `shutdown`. Each comes out with its slot; what is on its way at the end goes back to the
    /// server. Lost connections and a missing consumer are waited out.
    pub async fn run(self, shutdown: CancellationToken, deliveries: mpsc::Sender<Delivery>) {
        let mut pause = PAUSE.0;
        while let Some(slots) = self.free_slots(&shutdown).await {
            match self.pull(slots, &shutdown, &deliveries).await {
                PullEnd::Done => pause = PAUSE.0,
                PullEnd::Stopped => break,
                PullEnd::Failed(why) => {
                    tracing::warn!("no jobs can be taken, trying again in {pause:?}: {why}");
                    tokio::select! {
                        () = tokio::time::sleep(pause) => {}
                        () = shutdown.cancelled() => break,
                    }
                    pause = (pause * 2).min(PAUSE.1);
                }
            }
        }
    }

    /// All slots that are free, as soon as there is one; `None` at shutdown.
    async fn free_slots(&self, shutdown: &CancellationToken) -> Option<Vec<OwnedSemaphorePermit>> {
        let first = tokio::select! {
            biased;
            () = shutdown.cancelled() => return None,
            // Fails only if the semaphore is closed, which nobody does.
            first = Arc::clone(&self.slots).acquire_owned() => first.ok()?,
        };
        let others = std::iter::from_fn(|| Arc::clone(&self.slots).try_acquire_owned().ok());
        Some(std::iter::once(first).chain(others).collect())
    }

    async fn pull(
        &self,
        mut slots: Vec<OwnedSemaphorePermit>,
        shutdown: &CancellationToken,
        deliveries: &mpsc::Sender<Delivery>,
    ) -> PullEnd {
        let mut answers = match self.request(slots.len()).await {
            Ok(answers) => answers,
            Err(why) => return PullEnd::Failed(why),
        };
        let end = loop {
            let answer = tokio::select! {
                biased;
                () = shutdown.cancelled() => break PullEnd::Stopped,
                answer = tokio::time::timeout(PULL_HEARTBEAT * 2, answers.next()) => answer,
            };
            match answer {
                Err(_) => break PullEnd::Failed("the server has gone silent".to_owned()),
                Ok(None) => break PullEnd::Failed("the connection is closed".to_owned()),
                Ok(Some(message)) => match verdict(&message) {
                    Verdict::Job => {
                        if let Some(slot) = slots.pop() {
                            self.hand_on(message, slot, deliveries).await;
                        }
                        if slots.is_empty() {
                            // Nothing more can come on this request.
                            return PullEnd::Done;
                        }
                    }
                    Verdict::SignOfLife => {}
                    Verdict::Over => return PullEnd::Done,
                    Verdict::Refused(why) => break PullEnd::Failed(why),
                },
            }
        };
        self.hand_back(answers).await;
        end
    }

    async fn request(&self, batch: usize) -> Result<Subscriber, String> {
        let inbox = self.client.new_inbox();
        let answers = self.client.subscribe(inbox.clone()).await.map_err(|error| error.to_string())?;
        let request = BatchConfig {
            batch,
            expires: Some(PULL_EXPIRES),
            idle_heartbeat: PULL_HEARTBEAT,
            ..BatchConfig::default()
        };
        self.consumer.request_batch(request, inbox.into()).await.map_err(|error| error.to_string())?;
        Ok(answers)
    }

    async fn hand_on(&self, message: Message, slot: OwnedSemaphorePermit, deliveries: &mpsc::Sender<Delivery>) {
        match Delivery::receive(&self.client, message, self.ack_wait, slot) {
            // A closed channel drops the delivery, and that means retry.
            Ok(delivery) => drop(deliveries.send(delivery).await),
            Err(subject) => tracing::warn!(%subject, "a message that is no consumer's was passed over"),
        }
    }

    /// Ends a request before its time. Jobs that were already on their way go straight back, so that no one waits for
    /// `ack_wait`.
    async fn hand_back(&self, mut answers: Subscriber) {
        if answers.drain().await.is_err() {
            return;
        }
        while let Ok(Some(message)) = tokio::time::timeout(Duration::from_secs(1), answers.next()).await {
            if let (Verdict::Job, Some(reply)) = (verdict(&message), message.reply) {
                drop(self.client.publish(reply, nak(Duration::ZERO)).await);
            }
        }
    }
}

/// What an answer to a pull request is.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    Job,
    SignOfLife,
    Over,
    Refused(String),
}

fn verdict(message: &Message) -> Verdict {
    match message.status {
        None | Some(StatusCode::OK) => Verdict::Job,
        Some(StatusCode::IDLE_HEARTBEAT) => Verdict::SignOfLife,
        Some(StatusCode::NOT_FOUND | StatusCode::TIMEOUT) => Verdict::Over,
        Some(StatusCode::NO_RESPONDERS) => {
            Verdict::Refused("there is no such consumer: `groundling setup` creates it".to_owned())
        }
        Some(other) => Verdict::Refused(format!(
            "the server ended the request with status {}, {}",
            other.as_u16(),
            message.description.as_deref().unwrap_or("without saying why")
        )),
    }
}
