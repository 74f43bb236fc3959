//! Jobs that the settings of one worker forbid it: others may have other settings, for example while a change of them
//! goes from worker to worker. Such a job is released to the others for a while before it becomes a failure.
//!
//! The first refusal is written down where all workers see it, in the stream of outcomes beside the job's outcome, so the
//! time counts from then on, by the server's clock, whichever worker comes next.

use std::time::Duration;

use async_nats::jetstream::stream::{LastRawMessageErrorKind, Stream};
use async_nats::jetstream::{Context, message::PublishMessage};
use bytes::Bytes;
use protocol::subjects::refusal_subject;
use serde::{Deserialize, Serialize};

use crate::delivery::DeliveryFacts;
use crate::publish::{Patience, PublishError};
use crate::server_time;

/// Shortest and longest delay before a released job is handed out again; in between, a quarter of the time for which it
/// has been released already. Some twenty tries in two minutes: where half of the workers may do a job, one finds it.
const DELAY: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(10));

/// What is written down about a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Refusals {
    /// When the first one was written down, in nanoseconds since 1970. Nothing is in the first one itself: its time is
    /// the server's to give.
    first_nanos: i128,
    times: u64,
}

/// What was refused, and since when.
#[derive(Debug, Clone)]
pub(crate) struct Releases {
    jetstream: Context,
    stream: String,
    longest: Duration,
    patience: Duration,
}

impl Releases {
    /// Refusals in the stream of outcomes of this name. A job is released for as long as `longest`, and each call tries
    /// for as long as `patience`.
    pub(crate) fn new(jetstream: Context, stream: &str, longest: Duration, patience: Duration) -> Self {
        Self { jetstream, stream: stream.to_owned(), longest, patience }
    }

    /// How long a job that this worker refuses is left to others; `None` if it has been for long enough.
    ///
    /// # Errors
    /// [`PublishError::Unavailable`] if the stream can be neither written nor read.
    pub(crate) async fn delay(&self, job: &DeliveryFacts) -> Result<Option<Duration>, PublishError> {
        if self.longest.is_zero() {
            return Ok(None);
        }
        let subject = refusal_subject(job.sequence, job.published_nanos);
        let mut patience = Patience::new(self.patience);
        loop {
            let error = match self.since_first(&subject).await {
                Ok(age) => return Ok(delay(age, self.longest, rand::random())),
                Err(error) => error,
            };
            if !patience.pause().await {
                return Err(PublishError::Unavailable { subject, stream: self.stream.clone(), source: error });
            }
        }
    }

    /// How often the job was refused: so many of its deliveries were no tries.
    ///
    /// # Errors
    /// [`PublishError::Unavailable`] if the stream cannot be read.
    pub(crate) async fn times(&self, job: &DeliveryFacts) -> Result<u64, PublishError> {
        let subject = refusal_subject(job.sequence, job.published_nanos);
        let mut patience = Patience::new(self.patience);
        loop {
            let error = match self.read(&subject).await {
                Ok(found) => return Ok(found.map_or(0, |(refusals, _)| refusals.times)),
                Err(error) => error,
            };
            if !patience.pause().await {
                return Err(PublishError::Unavailable { subject, stream: self.stream.clone(), source: error });
            }
        }
    }

    /// Writes a refusal down. How long ago was the first one? If this is the first, that is now.
    async fn since_first(&self, subject: &str) -> Result<Duration, async_nats::Error> {
        let Some((refusals, sequence)) = self.read(subject).await? else {
            return self.write(subject, Bytes::new(), 0).await.map(|()| Duration::ZERO);
        };
        let next = Refusals { times: refusals.times.saturating_add(1), ..refusals };
        self.write(subject, serde_json::to_vec(&next)?.into(), sequence).await?;
        let first = async_nats::datetime::from_nanos(refusals.first_nanos)?;
        server_time::age(&self.jetstream, &self.stream, first).await
    }

    /// Fails if another worker has written since.
    async fn write(&self, subject: &str, refusals: Bytes, after: u64) -> Result<(), async_nats::Error> {
        let message = PublishMessage::build().payload(refusals).expected_stream(&self.stream);
        let message = message.expected_last_subject_sequence(after);
        self.jetstream.send_publish(subject.to_owned(), message).await?.await?;
        Ok(())
    }

    /// What is written down, and its sequence in the stream.
    async fn read(&self, subject: &str) -> Result<Option<(Refusals, u64)>, async_nats::Error> {
        let stream: Stream<()> = self.jetstream.get_stream_no_info(&self.stream).await?;
        let message = match stream.get_last_raw_message_by_subject(subject).await {
            Ok(message) => message,
            Err(error) if error.kind() == LastRawMessageErrorKind::NoMessageFound => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let first = Refusals { first_nanos: message.time.unix_timestamp_nanos(), times: 1 };
        let refusals = if message.payload.is_empty() { first } else { serde_json::from_slice(&message.payload)? };
        Ok(Some((refusals, message.sequence)))
    }
}

/// The next delay of a job that was first refused so long ago, longer or shorter by up to a quarter, by `chance` in 0..1:
/// otherwise the requests of the same worker may be the first in the queue each time. The last delay ends with the time
/// that there is.
fn delay(age: Duration, longest: Duration, chance: f64) -> Option<Duration> {
    let left = longest.checked_sub(age).filter(|left| !left.is_zero())?;
    let step = (age / 4).clamp(DELAY.0, DELAY.1).mul_f64(0.75 + chance.clamp(0.0, 1.0) / 2.0);
    Some(step.min(left))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_is_released_in_ever_longer_steps_until_the_time_is_over() {
        let (mut age, longest, mut steps) = (Duration::ZERO, Duration::from_secs(120), Vec::new());
        while let Some(step) = delay(age, longest, 0.5) {
            steps.push(step);
            age += step;
        }
        assert_eq!((steps.len(), age), (20, longest));
        assert_eq!((steps[0], steps[18]), DELAY);
        assert_eq!(delay(Duration::ZERO, Duration::from_secs(1), 1.0), Some(Duration::from_secs(1)));
        assert_eq!(delay(Duration::ZERO, longest, 1.0), Some(Duration::from_millis(2500)));
        assert_eq!(delay(Duration::from_secs(3600), longest, 0.5), None);
    }
}
