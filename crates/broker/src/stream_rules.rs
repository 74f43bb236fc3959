//! Settings of streams and of the consumer with which the promise of [`crate`] does not hold: errors, where other
//! differences from the settings are only told.

use std::time::Duration;

use async_nats::jetstream::consumer::{self, AckPolicy};
use async_nats::jetstream::stream::{self, DiscardPolicy, RetentionPolicy};

/// The shortest `ack_wait` within which a busy worker gives its signs of life in time.
pub const SHORTEST_ACK_WAIT: Duration = Duration::from_secs(3);

/// Why the stream of jobs may lose jobs, hand out jobs that are done, or never let one go: one sentence for each reason.
pub fn jobs_stream_errors(config: &stream::Config) -> Vec<String> {
    let mut errors = Errors::of(format!("stream {}", config.name));
    errors.when(
        config.retention != RetentionPolicy::WorkQueue,
        format!("has the retention {:?} and not WorkQueue: done jobs would stay in it, or jobs without a consumer would be lost; make it anew with `groundling setup`", config.retention),
    );
    errors.when(
        config.discard == DiscardPolicy::Old && (config.max_messages > 0 || config.max_bytes > 0),
        "is bounded and discards old messages: jobs would be lost when it is full; set its discard policy to New",
    );
    errors.when(
        config.max_messages_per_subject > 0
            && !(config.discard == DiscardPolicy::New && config.discard_new_per_subject),
        "keeps only so many messages for each subject: older jobs of a dataset would be lost; remove max_msgs_per_subject",
    );
    errors.when(
        !config.max_age.is_zero(),
        format!("has a max_age of {:?}: jobs that wait for longer would be lost; remove it", config.max_age),
    );
    errors.when(
        config.mirror.is_some(),
        "is a mirror: jobs that are done stay in its origin and come again when it is made anew; name the origin, or take a stream of its own",
    );
    errors.when(config.sealed, "is sealed: no job could leave it; make it anew with `groundling setup`");
    errors.when(
        config.deny_delete,
        "denies the deletion of messages: jobs that the server gives up could not leave it; make it anew with `groundling setup`",
    );
    errors.found
}

/// Why the stream of outcomes may forget outcomes, or take none.
pub(crate) fn outcomes_stream_errors(config: &stream::Config) -> Vec<String> {
    let mut errors = Errors::of(format!("stream {}", config.name));
    errors.when(
        config.retention != RetentionPolicy::Limits,
        format!(
            "has the retention {:?} and not Limits: outcomes would be lost; make it anew with `groundling setup`",
            config.retention
        ),
    );
    errors.when(
        config.discard == DiscardPolicy::Old && (config.max_messages > 0 || config.max_bytes > 0),
        "is bounded and discards old messages: outcomes would be lost when it is full; set its discard policy to New",
    );
    errors.when(config.mirror.is_some(), "is a mirror: outcomes could not be written to it; take a stream of its own");
    errors.when(config.sealed, "is sealed: outcomes could not be written to it; make it anew with `groundling setup`");
    errors.found
}

/// Why jobs cannot be taken from the consumer as the promise wants it.
pub fn consumer_errors(config: &consumer::Config) -> Vec<String> {
    let mut errors = Errors::of(format!("consumer {}", name_of(config)));
    errors.when(
        config.deliver_subject.is_some(),
        "is a push consumer: workers pull; delete it and run `groundling setup`",
    );
    errors.when(
        config.ack_policy != AckPolicy::Explicit,
        format!("has the ack policy {:?}: jobs would be taken for done before they are; delete it and run `groundling setup`", config.ack_policy),
    );
    errors.when(
        config.headers_only,
        "hands out headers only: every job would come without its content; set headers_only to false",
    );
    let ack_wait = ack_wait(config);
    errors.when(
        ack_wait < SHORTEST_ACK_WAIT,
        format!("has an ack_wait of {ack_wait:?} (or a backoff of that length): a busy worker could not give its signs of life in time; give it {SHORTEST_ACK_WAIT:?} or more"),
    );
    errors.found
}

/// The silence after which the server hands a job out again. With a backoff, its shortest part: which part counts
/// depends on how often the job was handed out.
pub fn ack_wait(config: &consumer::Config) -> Duration {
    config.backoff.iter().copied().min().unwrap_or(config.ack_wait)
}

fn name_of(config: &consumer::Config) -> &str {
    config.durable_name.as_deref().or(config.name.as_deref()).unwrap_or_default()
}

struct Errors {
    of: String,
    found: Vec<String>,
}

impl Errors {
    fn of(of: String) -> Self {
        Self { of, found: Vec::new() }
    }

    fn when(&mut self, is_wrong: bool, error: impl AsRef<str>) {
        if is_wrong {
            self.found.push(format!("{} {}", self.of, error.as_ref()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn work_queue() -> stream::Config {
        let (retention, discard) = (RetentionPolicy::WorkQueue, DiscardPolicy::New);
        stream::Config { name: "JOBS".into(), retention, discard, ..Default::default() }
    }

    #[test]
    fn a_work_queue_may_be_bounded_as_long_as_it_refuses_what_is_too_much() {
        for fine in [
            work_queue(),
            stream::Config { max_messages: 5, max_bytes: 5, ..work_queue() },
            stream::Config { max_messages_per_subject: 5, discard_new_per_subject: true, ..work_queue() },
            stream::Config { discard: DiscardPolicy::Old, ..work_queue() },
        ] {
            assert!(jobs_stream_errors(&fine).is_empty(), "{fine:?}");
        }
    }

    #[test]
    fn each_setting_that_loses_jobs_is_one_sentence_with_the_streams_name() {
        for wrong in [
            stream::Config { retention: RetentionPolicy::Limits, ..work_queue() },
            stream::Config { retention: RetentionPolicy::Interest, ..work_queue() },
            stream::Config { discard: DiscardPolicy::Old, max_messages: 5, ..work_queue() },
            stream::Config { discard: DiscardPolicy::Old, max_bytes: 5, ..work_queue() },
            stream::Config { max_messages_per_subject: 5, ..work_queue() },
            stream::Config { max_age: Duration::from_secs(60), ..work_queue() },
            stream::Config { mirror: Some(stream::Source::default()), ..work_queue() },
            stream::Config { sealed: true, ..work_queue() },
            stream::Config { deny_delete: true, ..work_queue() },
        ] {
            let errors = jobs_stream_errors(&wrong);
            assert_eq!(errors.len(), 1, "{wrong:?}: {errors:?}");
            assert!(errors[0].starts_with("stream JOBS ") && !errors[0].contains('\n'), "{errors:?}");
        }
    }

    #[test]
    fn the_shortest_part_of_a_backoff_is_the_ack_wait() {
        let seconds = |seconds: &[u64]| seconds.iter().copied().map(Duration::from_secs).collect();
        let fine = consumer::Config {
            ack_policy: AckPolicy::Explicit,
            ack_wait: Duration::from_secs(30),
            ..Default::default()
        };
        assert!(consumer_errors(&fine).is_empty());
        let backoff = consumer::Config { backoff: seconds(&[5, 4, 60]), ..fine.clone() };
        assert_eq!((ack_wait(&fine).as_secs(), ack_wait(&backoff).as_secs()), (30, 4));
        for wrong in [
            consumer::Config { backoff: seconds(&[1, 60]), ..fine.clone() },
            consumer::Config { ack_wait: Duration::from_secs(2), ..fine.clone() },
            consumer::Config { headers_only: true, ..fine.clone() },
            consumer::Config { ack_policy: AckPolicy::None, ..fine.clone() },
            consumer::Config { deliver_subject: Some("x".into()), ..fine.clone() },
        ] {
            assert_eq!(consumer_errors(&wrong).len(), 1, "{wrong:?}");
        }
    }
}
