//! Jobs that this worker's own settings forbid. Other workers may have other settings, for example while a change is
//! rolled out. Such a job is left to other workers for a while before it becomes a failure.
//!
//! The first refusal is recorded in the outcomes stream, beside the job's outcome, so the time counts from then on, by
//! the server's clock, for all workers together.

use std::time::Duration;

use async_nats::jetstream::context::PublishErrorKind;
use async_nats::jetstream::stream::{LastRawMessageErrorKind, Stream};
use async_nats::jetstream::{Context, message::PublishMessage};
use wire::subjects::refusal_subject;

use crate::delivery_info::DeliveryInfo;
use broker::publish::{PublishError, RetryDeadline};
use broker::server_time;
use broker::stream_states::StreamStates;

/// The shortest and longest delay before the job is delivered again. In between, the delay is a quarter of the time
/// since the first refusal. This makes about twenty deliveries in two minutes, enough to reach a worker that may do the
/// job if half of them may.
const DELAY: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(10));

/// The records of first refusals.
#[derive(Debug, Clone)]
pub(crate) struct LeftToOthers {
    jetstream: Context,
    stream: String,
    longest: Duration,
    patience: Duration,
    states: StreamStates,
}

impl LeftToOthers {
    /// Refusals in the outcomes stream with this name. A job is left to other workers for as long as `longest`. Each
    /// call retries for as long as `patience`.
    pub(crate) fn new(jetstream: Context, stream: &str, longest: Duration, patience: Duration) -> Self {
        Self { jetstream, stream: stream.to_owned(), longest, patience, states: StreamStates::default() }
    }

    /// The same, which records in `states` whether the stream accepts messages.
    pub(crate) fn with_stream_states(self, states: StreamStates) -> Self {
        Self { states, ..self }
    }

    /// The delay before a job that this worker refuses is delivered again; `None` if its time is over.
    ///
    /// # Errors
    /// [`PublishError::Unavailable`] if the stream can be neither written nor read.
    pub(crate) async fn delay(&self, job: &DeliveryInfo) -> Result<Option<Duration>, PublishError> {
        if self.longest.is_zero() {
            return Ok(None);
        }
        let subject = refusal_subject(job.sequence, job.published_nanos);
        let mut patience = RetryDeadline::after(self.patience);
        loop {
            let error = match self.since_first(&subject).await {
                Ok(age) => return Ok(delay(age, self.longest, rand::random())),
                Err(error) => error,
            };
            self.states.record_error(&self.jetstream, &self.stream, error.as_ref()).await;
            if !patience.pause().await {
                return Err(PublishError::Unavailable { subject, stream: self.stream.clone(), cause: error });
            }
        }
    }

    /// How long ago the job was first refused. Records the first refusal if there is none.
    async fn since_first(&self, subject: &str) -> Result<Duration, async_nats::Error> {
        let message = PublishMessage::build().expected_stream(&self.stream).expected_last_subject_sequence(0);
        match self.jetstream.send_publish(subject.to_owned(), message).await?.await {
            Ok(_) => return Ok(Duration::ZERO),
            Err(error) if error.kind() == PublishErrorKind::WrongLastSequence => {}
            Err(error) => return Err(error.into()),
        }
        let stream: Stream<()> = self.jetstream.get_stream_no_info(&self.stream).await?;
        match stream.get_last_raw_message_by_subject(subject).await {
            Ok(first) => server_time::age(&self.jetstream, &self.stream, first.time).await,
            // The record expired between the two requests.
            Err(error) if error.kind() == LastRawMessageErrorKind::NoMessageFound => Ok(self.longest),
            Err(error) => Err(error.into()),
        }
    }
}

/// The next delay of a job that was first refused `age` ago, longer or shorter by up to a quarter, depending on
/// `chance` in 0..1: without jitter, the same worker's request could be the first each time. The last delay ends when
/// `longest` is over.
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
