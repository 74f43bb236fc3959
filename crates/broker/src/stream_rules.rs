//! Settings of streams and consumers with which jobs could be lost or done twice. They are errors; other differences from
//! the settings are only reported.

use std::time::Duration;

use async_nats::jetstream::consumer::{self, AckPolicy};
use async_nats::jetstream::stream::{self, DiscardPolicy, RetentionPolicy};
use wire::subjects::failed_subject_for;
use wire::v1::FailureReason;

/// The shortest `ack_wait` within which a busy worker can send its progress acks in time.
pub const SHORTEST_ACK_WAIT: Duration = Duration::from_secs(3);

/// Settings with which the jobs stream loses jobs, delivers finished ones, or keeps them forever: one sentence for each.
pub fn jobs_stream_errors(config: &stream::Config) -> Vec<String> {
    let mut errors = Errors::new(format!("stream {}", config.name));
    errors.add_if(
        config.retention != RetentionPolicy::WorkQueue,
        format!("has the retention {:?} instead of WorkQueue: finished jobs would stay in it, or jobs without a consumer would be lost; delete it and run `groundling setup`", config.retention),
    );
    errors.add_job_stream_errors(config);
    errors.found
}

/// Settings with which the retries stream loses jobs or keeps them forever: one sentence for each. Earlier versions created
/// it as a work queue, which workers can use too.
pub fn retries_stream_errors(config: &stream::Config) -> Vec<String> {
    let mut errors = Errors::new(format!("stream {}", config.name));
    errors.add_if(
        config.retention == RetentionPolicy::Interest,
        "has the retention Interest instead of Limits: jobs without a consumer would be lost; delete it and run `groundling setup`",
    );
    errors.add_job_stream_errors(config);
    errors.found
}

/// Settings with which the outcomes stream loses outcomes or refuses them: one sentence for each.
pub(crate) fn outcomes_stream_errors(config: &stream::Config) -> Vec<String> {
    let mut errors = Errors::new(format!("stream {}", config.name));
    errors.add_if(
        config.retention != RetentionPolicy::Limits,
        format!(
            "has the retention {:?} instead of Limits: outcomes would be lost; delete it and run `groundling setup`",
            config.retention
        ),
    );
    errors.add_if(
        config.discard == DiscardPolicy::Old && (config.max_messages > 0 || config.max_bytes > 0),
        "has a bound and discards old messages: outcomes would be lost when it is full; set its discard policy to New",
    );
    errors.add_if(config.mirror.is_some(), "is a mirror: outcomes could not be written to it; use another stream");
    errors
        .add_if(config.sealed, "is sealed: outcomes could not be written to it; delete it and run `groundling setup`");
    errors.found
}

/// Settings with which the events stream loses events: one sentence for each.
pub(crate) fn events_stream_errors(config: &stream::Config) -> Vec<String> {
    let mut errors = Errors::new(format!("stream {}", config.name));
    errors.add_if(
        config.discard == DiscardPolicy::Old && (config.max_messages > 0 || config.max_bytes > 0),
        "has a bound and discards old messages: events would be lost when it is full; set its discard policy to New",
    );
    errors.add_if(
        !config.max_age.is_zero(),
        format!("has a max_age of {:?}: events that wait longer would be lost; remove it", config.max_age),
    );
    errors.found
}

/// Settings with which the failed stream refuses failures: one sentence for each.
pub(crate) fn failed_stream_errors(config: &stream::Config) -> Vec<String> {
    let mut errors = Errors::new(format!("stream {}", config.name));
    errors.add_if(
        !holds_reasons(config),
        "does not have the subjects of failures with their reason (groundling.failed.<dataset>.<reason>): run `groundling setup --migrate`",
    );
    errors.found
}

/// Whether the stream has the subjects of failures with their reason, which those of earlier versions do not have.
pub(crate) fn holds_reasons(config: &stream::Config) -> bool {
    let example = failed_subject_for("groundling.jobs.dataset", FailureReason::Internal);
    config.subjects.iter().any(|pattern| matches(pattern, &example))
}

/// Whether a subject without wildcards matches a subject with wildcards.
fn matches(pattern: &str, subject: &str) -> bool {
    let (mut patterns, mut tokens) = (pattern.split('.'), subject.split('.'));
    loop {
        match (patterns.next(), tokens.next()) {
            (Some(">"), Some(_)) | (None, None) => return true,
            (Some(pattern), Some(token)) if pattern == "*" || pattern == token => {}
            _ => return false,
        }
    }
}

/// Settings with which a consumer loses jobs, or cannot be used by workers: one sentence for each.
pub fn consumer_errors(config: &consumer::Config) -> Vec<String> {
    let mut errors = Errors::new(format!("consumer {}", name_of(config)));
    errors.add_if(
        config.deliver_subject.is_some(),
        "is a push consumer, and workers need a pull consumer: delete it and run `groundling setup`",
    );
    errors.add_if(
        config.ack_policy != AckPolicy::Explicit,
        format!("has the ack policy {:?} instead of Explicit: jobs would count as done before they are; delete it and run `groundling setup`", config.ack_policy),
    );
    errors.add_if(
        config.headers_only,
        "delivers headers only: every job would arrive without its payload; set headers_only to false",
    );
    let ack_wait = ack_wait(config);
    errors.add_if(
        ack_wait < SHORTEST_ACK_WAIT,
        format!("has an ack_wait of {ack_wait:?} (or a backoff of that duration): a busy worker could not send its progress acks in time; set it to {SHORTEST_ACK_WAIT:?} or more"),
    );
    errors.found
}

/// The time without an acknowledgement after which the server delivers a job again. With a backoff it depends on the
/// number of deliveries, so this is the shortest.
pub fn ack_wait(config: &consumer::Config) -> Duration {
    config.backoff.iter().copied().min().unwrap_or(config.ack_wait)
}

fn name_of(config: &consumer::Config) -> &str {
    config.durable_name.as_deref().or(config.name.as_deref()).unwrap_or_default()
}

struct Errors {
    name: String,
    found: Vec<String>,
}

impl Errors {
    fn new(name: String) -> Self {
        Self { name, found: Vec::new() }
    }

    /// Settings with which a stream of jobs loses them, or keeps them forever.
    fn add_job_stream_errors(&mut self, config: &stream::Config) {
        self.add_if(
            config.discard == DiscardPolicy::Old && (config.max_messages > 0 || config.max_bytes > 0),
            "has a bound and discards old messages: jobs would be lost when it is full; set its discard policy to New",
        );
        self.add_if(
            config.max_messages_per_subject > 0
                && !(config.discard == DiscardPolicy::New && config.discard_new_per_subject),
            "limits the messages per subject: older jobs of a dataset would be lost; remove max_msgs_per_subject",
        );
        self.add_if(
            !config.max_age.is_zero(),
            format!("has a max_age of {:?}: jobs that wait longer would be lost; remove it", config.max_age),
        );
        self.add_if(
            config.mirror.is_some(),
            "is a mirror: finished jobs stay in its origin and return if the mirror is created again; use the origin, or another stream",
        );
        self.add_if(config.sealed, "is sealed: no job could be removed from it; delete it and run `groundling setup`");
        self.add_if(
            config.deny_delete,
            "denies the deletion of messages: workers could not remove jobs from it; delete it and run `groundling setup`",
        );
    }

    fn add_if(&mut self, is_wrong: bool, error: impl AsRef<str>) {
        if is_wrong {
            self.found.push(format!("{} {}", self.name, error.as_ref()));
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
    fn retries_may_be_a_work_queue_and_have_the_rules_of_jobs_otherwise() {
        for fine in [work_queue(), stream::Config { retention: RetentionPolicy::Limits, ..work_queue() }] {
            assert!(retries_stream_errors(&fine).is_empty(), "{fine:?}");
        }
        for wrong in [
            stream::Config { retention: RetentionPolicy::Interest, ..work_queue() },
            stream::Config { discard: DiscardPolicy::Old, max_bytes: 5, ..work_queue() },
            stream::Config { deny_delete: true, ..work_queue() },
        ] {
            assert_eq!(retries_stream_errors(&wrong).len(), 1, "{wrong:?}");
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
    fn a_failed_stream_must_take_failures_with_their_reason() {
        let config = |subject: &str| stream::Config {
            name: "FAILED".into(),
            subjects: vec![subject.to_owned()],
            ..Default::default()
        };
        for fine in ["groundling.failed.>", "groundling.failed.*.*", "groundling.>", ">"] {
            assert!(failed_stream_errors(&config(fine)).is_empty(), "{fine}");
        }
        for old in ["groundling.failed.*", "groundling.failed.*.*.*", "groundling.jobs.>", "groundling.failed"] {
            let errors = failed_stream_errors(&config(old));
            assert!(matches!(&errors[..], [error] if error.contains("setup --migrate")), "{old}: {errors:?}");
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
