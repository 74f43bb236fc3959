//! A delivery as a guard: it is acknowledged, nacked or terminated, and a dropped one is nacked.
//!
//! While it lives, but for no longer than the job's lease, it sends progress acks, three within every `ack_wait`. It
//! also holds the job's slot.

use std::fmt;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use async_nats::jetstream::{self, AckKind};
use async_nats::{Client, HeaderMap, Request, Subject};
use bytes::Bytes;
use futures::FutureExt;
use telemetry::JobSpans;
use telemetry::attributes::Acknowledgement;
use tokio::sync::{OwnedSemaphorePermit, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant as TokioInstant;
use wire::Message as _;
use wire::v1::Retry;

use crate::active_jobs::{ActiveJob, ActiveJobs};
use crate::attempts::Started;
use crate::delivery_info::DeliveryInfo;
use crate::job_telemetry::JobTelemetry;
use crate::queue::Queue;
use crate::slow_reads::SlowReadPermit;
use crate::telemetry_words::acknowledge_error;
use broker::connection;
use broker::publish::PublishAck;

/// Delay of the nack of a dropped delivery, so that a fault that drops every delivery does not loop without a pause.
const DROPPED_DELAY: Duration = Duration::from_secs(1);
/// Attempts to get an acknowledgement confirmed. If all of them fail, the job is redelivered after `ack_wait`.
const SETTLE_TRIES: u32 = 3;
/// How long an attempt waits for the confirmation on another connection than the one that the job arrived on, in place of
/// `nats.request_timeout`. A server that was killed may have forgotten that it delivered the job. It then ignores the
/// acknowledgement and delivers the job again, for which it needs a free slot.
const CONFIRMED_ON_ANOTHER_CONNECTION: Duration = Duration::from_secs(2);

/// An active job.
pub struct Delivery {
    client: Client,
    /// The number of the connection that the job arrived on.
    connection: u64,
    reply: Subject,
    subject: Subject,
    payload: Bytes,
    info: DeliveryInfo,
    /// The job's earlier attempts; filled in when this one starts.
    pub(crate) started: Started,
    received: Instant,
    progress: JoinHandle<()>,
    settled: bool,
    /// Dropped before the server is told, because the server may then deliver the job again at once.
    active: Option<ActiveJob>,
    queue: Queue,
    permit: Mutex<Permit>,
    pub(crate) telemetry: JobTelemetry,
}

/// What the job occupies in the worker; released when dropped.
#[derive(Debug)]
enum Permit {
    Slot { _permit: OwnedSemaphorePermit },
    SlowRead { _permit: SlowReadPermit },
}

/// How long a worker may keep a job unacknowledged.
#[derive(Debug, Clone)]
pub struct Lease {
    /// The consumer's current `ack_wait`: the server redelivers the job after this long without a progress ack.
    pub ack_wait: watch::Receiver<Duration>,
    /// The total time after which progress acks stop, so that a job that hangs is redelivered.
    pub longest: Duration,
}

/// Why a message was not accepted as a job.
#[derive(Debug)]
pub(crate) enum ReceiveError {
    /// The message does not come from a consumer.
    NotFromConsumer { subject: Subject },
    /// This worker is already processing the job.
    AlreadyActive { subject: Subject, sequence: u64, deliveries: u64 },
    /// A copy in the retries stream whose delay starts now.
    DelayStarts { reply: Subject, delay: Duration },
    /// A message in the retries stream that is not a copy of a job.
    NotARetry { subject: Subject, reply: Subject },
}

/// The parts of a message that describe a job.
struct Received {
    client: Client,
    reply: Subject,
    subject: Subject,
    payload: Bytes,
    info: DeliveryInfo,
    headers: Option<HeaderMap>,
}

/// The server did not confirm an acknowledgement. The job is redelivered after `ack_wait`; published work is not lost.
#[derive(Debug, thiserror::Error)]
#[error(
    "the NATS server did not confirm the acknowledgement of a job, which will be delivered again; its result is not lost: {0}"
)]
pub struct DeliveryError(async_nats::client::RequestError);

impl Delivery {
    /// Accepts a message of `queue`, unless its job is already active.
    pub(crate) fn receive(
        queue: Queue,
        message: jetstream::Message,
        lease: &Lease,
        active_jobs: &ActiveJobs,
        spans: &JobSpans,
        slot: OwnedSemaphorePermit,
    ) -> Result<Self, ReceiveError> {
        let Received { client, reply, subject, payload, info, headers } = Received::read(queue, message)?;
        let Some(active) = active_jobs.insert(&info) else {
            let DeliveryInfo { sequence, deliveries, .. } = info;
            return Err(ReceiveError::AlreadyActive { subject, sequence, deliveries });
        };
        let received = Instant::now();
        let telemetry = JobTelemetry::start(spans, queue, headers.as_ref(), &subject, &info, received, payload.len());
        let progress = tokio::spawn(send_progress(client.clone(), reply.clone(), lease.clone()));
        Ok(Self {
            connection: connection::number(&client),
            client,
            reply,
            subject,
            payload,
            info,
            started: Started::default(),
            received,
            progress,
            settled: false,
            active: Some(active),
            queue,
            permit: Mutex::new(Permit::Slot { _permit: slot }),
            telemetry,
        })
    }

    /// The stream that the job was delivered from.
    pub fn queue(&self) -> Queue {
        self.queue
    }

    /// Releases the job's slot. The job continues with a permit for a slow read.
    pub(crate) fn exchange_slot(&self, permit: SlowReadPermit) {
        *self.permit.lock().unwrap_or_else(PoisonError::into_inner) = Permit::SlowRead { _permit: permit };
    }

    /// The subject that the job was published to.
    pub fn subject(&self) -> &str {
        &self.subject
    }

    /// The job's bytes.
    pub fn payload(&self) -> &Bytes {
        &self.payload
    }

    /// What the server reports about this delivery.
    pub fn info(&self) -> &DeliveryInfo {
        &self.info
    }

    /// When the job arrived at this worker.
    pub fn received(&self) -> Instant {
        self.received
    }

    /// Acknowledges the job as done and waits for the server's confirmation. The receipt proves that the annotation is
    /// in its stream.
    ///
    /// # Errors
    /// [`DeliveryError`] if the server does not confirm.
    pub async fn ack(self, annotation: &PublishAck) -> Result<(), DeliveryError> {
        tracing::trace!(sequence = annotation.sequence(), "annotation is in the stream");
        self.settle(Acknowledgement::Ack, AckKind::Ack.into()).await
    }

    /// Nacks the job: it is delivered again after `delay`.
    ///
    /// # Errors
    /// [`DeliveryError`] if the server does not confirm.
    pub async fn nack(self, delay: Duration) -> Result<(), DeliveryError> {
        self.settle(Acknowledgement::Nack, AckKind::Nak(Some(delay)).into()).await
    }

    /// Acknowledges a job that continues as a copy in the retries stream.
    ///
    /// # Errors
    /// [`DeliveryError`] if the server does not confirm.
    pub(crate) async fn ack_moved(self) -> Result<(), DeliveryError> {
        self.settle(Acknowledgement::Ack, AckKind::Ack.into()).await
    }

    /// Terminates the job: it is never delivered again. The receipt proves that the failure is in its stream.
    ///
    /// # Errors
    /// [`DeliveryError`] if the server does not confirm.
    pub async fn term(self, failure: &PublishAck, reason: &str) -> Result<(), DeliveryError> {
        tracing::trace!(sequence = failure.sequence(), "failure is in the stream");
        // The server repeats the reason in its advisory; `AckKind::Term` has no place for one.
        let term = Bytes::from(AckKind::Term);
        self.settle(Acknowledgement::Term, [&term[..], b" ", reason.as_bytes()].concat().into()).await
    }

    async fn settle(mut self, kind: Acknowledgement, acknowledgement: Bytes) -> Result<(), DeliveryError> {
        // A progress ack sent after a nack would replace the nack's delay by `ack_wait`.
        self.progress.abort();
        drop((&mut self.progress).await);
        self.active = None;
        let span = self.telemetry.acknowledge(kind);
        let mut tries = 0;
        let ended = loop {
            tries += 1;
            // A request and not a publish: the response confirms it, and "no responders" is an error.
            let mut request = Request::new().payload(acknowledgement.clone());
            if connection::number(&self.client) != self.connection {
                request = request.timeout(Some(CONFIRMED_ON_ANOTHER_CONNECTION));
            }
            match self.client.send_request(self.reply.clone(), request).await {
                Ok(_) => break Ok(()),
                Err(error) if tries == SETTLE_TRIES => break Err(DeliveryError(error)),
                Err(error) => {
                    tracing::debug!(%error, tries, "an acknowledgement was not confirmed, trying again");
                    tokio::time::sleep(Duration::from_millis(250) * tries).await;
                }
            }
        };
        self.settled = true;
        span.end(ended.as_ref().copied().map_err(|DeliveryError(error)| acknowledge_error(error)));
        self.telemetry.settled();
        ended
    }
}

impl Drop for Delivery {
    fn drop(&mut self) {
        self.progress.abort();
        self.active = None;
        if self.settled {
            return;
        }
        // The client's command queue usually has space, so the first poll completes. If it does not and there is no
        // runtime to wait in, the job is redelivered after `ack_wait`.
        let (client, reply) = (self.client.clone(), self.reply.clone());
        let mut nack = Box::pin(async move { client.publish(reply, AckKind::Nak(Some(DROPPED_DELAY)).into()).await });
        if nack.as_mut().now_or_never().is_none()
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            runtime.spawn(nack);
        }
    }
}

impl fmt::Debug for Delivery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { subject, info, .. } = self;
        f.debug_struct("Delivery").field("subject", subject).field("info", info).finish_non_exhaustive()
    }
}

async fn send_progress(client: Client, reply: Subject, mut lease: Lease) {
    let start = TokioInstant::now();
    let mut last = start;
    while start.elapsed() < lease.longest {
        let interval = *lease.ack_wait.borrow_and_update() / 3;
        tokio::select! {
            () = tokio::time::sleep_until(last + interval) => {}
            // The new `ack_wait` may be shorter and nearly over for this job.
            Ok(()) = lease.ack_wait.changed() => {}
        }
        last = TokioInstant::now();
        if let Err(error) = client.publish(reply.clone(), AckKind::Progress.into()).await {
            tracing::debug!(%error, "a progress ack was not sent");
        }
    }
    tracing::warn!(
        lease = ?lease.longest,
        "a job has been active for longer than its lease: no more progress acks are sent, and the server may deliver it again"
    );
}

impl Received {
    fn read(queue: Queue, message: jetstream::Message) -> Result<Self, ReceiveError> {
        let info = DeliveryInfo::of_message(&message);
        let client = message.context.client();
        let async_nats::Message { reply, subject, payload, headers, .. } = message.message;
        let (Some(reply), Some(info)) = (reply, info) else {
            return Err(ReceiveError::NotFromConsumer { subject });
        };
        if queue == Queue::Jobs {
            return Ok(Self { client, reply, subject, payload, info, headers });
        }
        match Retry::decode(payload).ok().filter(|retry| !retry.subject.is_empty()) {
            Some(Retry { delay_nanos, .. }) if info.deliveries == 1 && delay_nanos > 0 => {
                Err(ReceiveError::DelayStarts { reply, delay: Duration::from_nanos(delay_nanos) })
            }
            Some(retry) => {
                let info = DeliveryInfo::of_retry(&retry, info.deliveries);
                Ok(Self { client, reply, subject: retry.subject.into(), payload: retry.job, info, headers })
            }
            None => Err(ReceiveError::NotARetry { subject, reply }),
        }
    }
}
