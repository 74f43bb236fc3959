//! Outcomes of jobs that have left the queue, replaced by a few bytes with an age of their own.
//!
//! Once the server has confirmed the end of a job, its outcome is needed only by whoever still has the same job in hand:
//! its lease was over, or a redelivery was on its way. Such a worker must learn that there is nothing left to publish, so
//! the record stays for `streams.duplicate_window`, which is longer than any lease ([`crate::Settings::longest_redelivery`]);
//! but it need not repeat the annotation.
//!
//! It is replaced when `ack_wait` has passed since the confirmation and the job is no longer in its stream. A server that
//! was killed in the middle of an acknowledgement can come back with a job that it takes for done: the outcome of such a
//! job stays whole for `outcomes_max_age`. So do those of jobs that were delivered more than once, those that a worker
//! did not come to before it ended, and all of them where the server knows no age of single messages (before 2.11, or a
//! stream without `allow_msg_ttl`).
//!
//! What one job costs the server, measured with nats-server 2.15.1, 100,000 outcomes and a caption with three phrases
//! (`cargo test -p worker --test roll_up -- --ignored --nocapture`):
//!
//! | outcome | in the stream | on disk | in memory | kept, by default |
//! | --- | --- | --- | --- | --- |
//! | whole | 1111 bytes | 1112 | 343 | 6 h before; now 1 minute |
//! | settled | 158 bytes | 210 | 319 | 30 minutes |
//!
//! At 581 jobs a second that was 14 GB on disk and 4.3 GB in memory, and is 0.26 GB and 0.35 GB.

use std::collections::VecDeque;
use std::time::Duration;

use async_nats::jetstream::Context;
use async_nats::jetstream::stream::{LastRawMessageErrorKind, Stream};
use futures::StreamExt;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use wire::v1::Settled;

use crate::delivery::DeliveryFacts;
use crate::outcomes::{Outcomes, SettleError};

/// Ends of jobs that can wait to be taken up. Beyond it, outcomes stay whole.
const CHANNEL: usize = 4096;
/// The same of those that wait for their time: ten minutes' worth of the fastest device.
const WAITING: usize = 1 << 18;
/// How often those are done whose time has come.
const EVERY: Duration = Duration::from_secs(1);
/// Requests to the server at once.
const AT_ONCE: usize = 32;
/// Tries for each outcome.
const TRIES: u32 = 3;

/// Takes the ends of jobs. Clones share the way to the server.
#[derive(Debug, Clone)]
pub(crate) struct RollUp(mpsc::Sender<Ended>);

/// A job whose end the server has confirmed.
#[derive(Debug, Clone)]
struct Ended {
    job: DeliveryFacts,
    /// Sequence of its outcome.
    outcome: u64,
    settled: Settled,
    /// When its outcome may be replaced.
    due: Instant,
    tries: u32,
}

/// Replaces outcomes.
#[derive(Debug)]
pub(crate) struct RollUps {
    ended: mpsc::Receiver<Ended>,
    waiting: VecDeque<Ended>,
    jetstream: Context,
    jobs_stream: String,
    outcomes: Outcomes,
    after: Duration,
    keep: Duration,
}

impl RollUp {
    /// For jobs of the stream of this name. Outcomes are replaced `after` the end of their job was confirmed, and then
    /// kept for as long as `keep`.
    pub(crate) fn new(
        jetstream: Context,
        jobs_stream: &str,
        outcomes: Outcomes,
        after: Duration,
        keep: Duration,
    ) -> (Self, RollUps) {
        let (sender, ended) = mpsc::channel(CHANNEL);
        let jobs_stream = jobs_stream.to_owned();
        (Self(sender), RollUps { ended, waiting: VecDeque::new(), jetstream, jobs_stream, outcomes, after, keep })
    }

    /// The server has confirmed the end of a job whose record has this `sequence` in its stream.
    pub(crate) fn ended(&self, job: &DeliveryFacts, outcome: u64, sequence: u64, failed: bool) {
        // An earlier delivery may have left a copy of the job that nobody has in hand and that comes later than this
        // record would stay.
        if job.attempt > 1 {
            return;
        }
        let settled = Settled { sequence, failed };
        let ended = Ended { job: job.clone(), outcome, settled, due: Instant::now(), tries: 0 };
        if self.0.try_send(ended).is_err() {
            tracing::trace!("an outcome stays whole");
        }
    }
}

impl RollUps {
    /// Works until `stop`. What is not done then stays whole.
    pub(crate) async fn run(mut self, stop: CancellationToken) {
        let mut every = tokio::time::interval(EVERY);
        every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                ended = self.ended.recv() => match ended {
                    Some(ended) => self.wait(ended),
                    None => return,
                },
                _ = every.tick() => match self.replace_due().await {
                    Ok(()) => {}
                    Err(Disabled) => return,
                },
            }
        }
    }

    fn wait(&mut self, ended: Ended) {
        if self.waiting.len() < WAITING {
            self.waiting.push_back(Ended { due: Instant::now() + self.after, ..ended });
        }
    }

    async fn replace_due(&mut self) -> Result<(), Disabled> {
        let now = Instant::now();
        let due: Vec<Ended> = std::iter::from_fn(|| self.waiting.pop_front_if(|ended| ended.due <= now)).collect();
        if due.is_empty() {
            return Ok(());
        }
        // All before it have left the stream.
        let first = match self.jetstream.get_stream(&self.jobs_stream).await {
            Ok(stream) => stream.cached_info().state.first_sequence,
            Err(_) => 0,
        };
        let this = &*self;
        let replaced: Vec<(Ended, Result<(), SettleError>)> = futures::stream::iter(due)
            .map(|ended| async move {
                let replaced = this.replace(&ended, first).await;
                (ended, replaced)
            })
            .buffer_unordered(AT_ONCE)
            .collect()
            .await;
        for (ended, replaced) in replaced {
            match replaced {
                Ok(()) => {}
                Err(SettleError::Disabled) => {
                    tracing::warn!(
                        "the stream of outcomes has no allow_msg_ttl: outcomes stay whole until their max_age"
                    );
                    return Err(Disabled);
                }
                Err(SettleError::NotNow(error)) => {
                    tracing::debug!(%error, "an outcome could not be replaced");
                    let tries = ended.tries + 1;
                    if tries < TRIES {
                        self.wait(Ended { tries, ..ended });
                    }
                }
            }
        }
        Ok(())
    }

    async fn replace(&self, ended: &Ended, first: u64) -> Result<(), SettleError> {
        if ended.job.stream != self.jobs_stream {
            return Ok(());
        }
        if ended.job.sequence >= first && self.is_in_its_stream(&ended.job).await.map_err(SettleError::NotNow)? {
            return Err(SettleError::NotNow("the job is still in its stream".into()));
        }
        self.outcomes.settle(&ended.job, ended.outcome, ended.settled, self.keep).await
    }

    async fn is_in_its_stream(&self, job: &DeliveryFacts) -> Result<bool, async_nats::Error> {
        let stream: Stream<()> = self.jetstream.get_stream_no_info(&self.jobs_stream).await?;
        match stream.get_raw_message(job.sequence).await {
            // Another message, of a stream that was made anew, may have the sequence.
            Ok(message) => Ok(u64::try_from(message.time.unix_timestamp_nanos()) == Ok(job.published_nanos)),
            Err(error) if error.kind() == LastRawMessageErrorKind::NoMessageFound => Ok(false),
            Err(error) => Err(error.into()),
        }
    }
}

/// The stream of outcomes keeps no message for a time of its own.
struct Disabled;

#[cfg(test)]
mod tests {
    use wire::v1::{Outcome, outcome};

    use super::*;
    use crate::settings::{NatsSettings, StreamSettings};
    use broker::{connection, setup};

    #[tokio::test]
    async fn the_outcome_of_a_job_that_is_still_in_its_stream_stays_whole() {
        let server = sandbox::NatsServer::start(&sandbox::NatsOptions::default()).await.unwrap();
        let nats = NatsSettings { url: server.client_url().to_owned(), ..Default::default() };
        let jetstream = connection::jetstream(&connection::connect(&nats, "test").await.unwrap(), &nats);
        let streams = StreamSettings::default();
        setup::setup(&jetstream, &streams).await.unwrap();
        let outcomes = Outcomes::new(jetstream.clone(), &streams.outcomes, Duration::from_secs(10));
        let keep = Duration::from_secs(100);
        let (roll_up, roll_ups) = RollUp::new(jetstream.clone(), &streams.jobs, outcomes.clone(), Duration::ZERO, keep);
        let stop = CancellationToken::new();
        let task = tokio::spawn(roll_ups.run(stop.clone()));
        let failure = Outcome { record: Some(outcome::Record::Failure(Default::default())), ..Default::default() };
        let mut ended = Vec::new();
        let stream = jetstream.get_stream(&streams.jobs).await.unwrap();
        for attempt in [1, 1, 2] {
            let sequence = jetstream.publish("groundling.jobs.x", "".into()).await.unwrap().await.unwrap().sequence;
            let time = stream.get_raw_message(sequence).await.unwrap().time;
            let published_nanos = u64::try_from(time.unix_timestamp_nanos()).unwrap();
            let job = DeliveryFacts { stream: streams.jobs.clone(), sequence, attempt, published_nanos };
            let claim = outcomes.claim(&job, failure.clone()).await.unwrap();
            ended.push((job, claim));
        }
        // Not the first one, so that its sequence says nothing of the others.
        for (job, _) in &ended[1..] {
            stream.delete_message(job.sequence).await.unwrap();
        }
        for (job, claim) in &ended {
            roll_up.ended(job, claim.sequence(), 7, true);
        }
        let settled = Outcome {
            record: Some(outcome::Record::Settled(Settled { sequence: 7, failed: true })),
            ..Default::default()
        };
        let started = std::time::Instant::now();
        while outcomes.find(&ended[1].0).await.unwrap().unwrap().outcome != settled {
            assert!(started.elapsed() < Duration::from_secs(30), "the outcome is replaced");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        // All tries of the others are over by then.
        tokio::time::sleep(EVERY * 5).await;
        for i in [0, 2] {
            assert_eq!(outcomes.find(&ended[i].0).await.unwrap().unwrap().outcome, failure, "number {i}");
        }
        let late = outcomes.claim(&ended[1].0, failure.clone()).await.unwrap();
        assert_eq!(late.outcome, settled, "whoever comes later learns that nothing is left to do");
        stop.cancel();
        task.await.unwrap();
    }
}
