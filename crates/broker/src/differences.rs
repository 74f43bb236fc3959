//! Differences between existing streams and consumers and the settings.

use async_nats::jetstream::consumer::pull;
use async_nats::jetstream::stream::{self, Compression, RetentionPolicy};
use wire::subjects::{JOBS_FILTER, JOBS_WILDCARD, RETRIES_WILDCARD, URGENT_FILTER, URGENT_WILDCARD};

/// One sentence for each difference between an existing stream and the wanted one. `migrated`: the settings that
/// `groundling setup --migrate` would change.
pub(crate) fn stream_differences(
    wanted: &stream::Config,
    found: &stream::Config,
    migrated: &'static [&'static str],
) -> Vec<String> {
    let mut differences = Differences { name: format!("stream {}", wanted.name), migrated, found: Vec::new() };
    // A migration adds subjects at the end, and their order means nothing.
    differences.unless_equal("subjects", &sorted(&wanted.subjects), &sorted(&found.subjects));
    differences.unless_equal("retention", &wanted.retention, &found.retention);
    // The discard policy matters only with a bound in the settings. A bound that `setup` derives from the account is not
    // in the settings.
    if wanted.retention == RetentionPolicy::WorkQueue || wanted.max_bytes > 0 {
        differences.unless_equal("discard policy", &wanted.discard, &found.discard);
    }
    if wanted.max_bytes > 0 {
        differences.unless_equal("max_bytes", &wanted.max_bytes, &found.max_bytes);
    }
    if wanted.allow_message_ttl && !found.allow_message_ttl {
        differences.found.push(format!(
            "{} has no allow_msg_ttl, so outcomes of finished jobs keep their full size until their max_age: set it to true",
            differences.name
        ));
    }
    if wanted.allow_atomic_publish && !found.allow_atomic_publish {
        differences.found.push(format!(
            "{} has no allow_atomic, so `groundling enqueue` cannot feed it: run `groundling setup --migrate`",
            differences.name
        ));
    }
    differences.unless_equal("storage", &wanted.storage, &found.storage);
    differences.unless_equal("number of replicas", &wanted.num_replicas, &found.num_replicas);
    differences.unless_equal("duplicate window", &wanted.duplicate_window, &found.duplicate_window);
    differences.unless_equal("maximum age", &wanted.max_age, &found.max_age);
    if let Some(wanted) = &wanted.compression {
        differences.unless_equal("compression", wanted, found.compression.as_ref().unwrap_or(&Compression::None));
    }
    if wanted.max_messages_per_subject > 0 {
        differences.unless_equal(
            "maximum number of messages per subject",
            &wanted.max_messages_per_subject,
            &found.max_messages_per_subject,
        );
    }
    if wanted.max_message_size > 0 && !(1..=wanted.max_message_size).contains(&found.max_message_size) {
        differences.unless_equal("maximum message size", &wanted.max_message_size, &found.max_message_size);
    }
    differences.found
}

/// One sentence for each difference between an existing consumer, named by `what`, and the wanted one.
pub(crate) fn consumer_differences(
    what: &str,
    wanted: &pull::Config,
    found: &async_nats::jetstream::consumer::Config,
) -> Vec<String> {
    let mut differences = Differences { name: what.to_owned(), migrated: &[], found: Vec::new() };
    if found.deliver_subject.is_some() {
        differences.found.push(format!(
            "{} is a push consumer, and workers need a pull consumer: delete it and run `groundling setup` again",
            differences.name
        ));
    }
    differences.unless_equal("ack policy", &wanted.ack_policy, &found.ack_policy);
    differences.unless_equal("ack wait", &wanted.ack_wait, &found.ack_wait);
    differences.unless_equal(
        "maximum number of unacknowledged messages",
        &wanted.max_ack_pending,
        &found.max_ack_pending,
    );
    differences.unless_equal("maximum number of deliveries", &wanted.max_deliver, &found.max_deliver);
    let (wanted_filter, found_filter) = (wanted.filter_subject.as_str(), found.filter_subject.as_str());
    // Two filters with the same effect.
    let equivalent = [(JOBS_FILTER, JOBS_WILDCARD), (URGENT_FILTER, URGENT_WILDCARD), ("", RETRIES_WILDCARD)];
    let is_equivalent = equivalent.contains(&(wanted_filter, found_filter));
    if !found.filter_subjects.is_empty() {
        differences.unless_equal("subject filters", &vec![wanted_filter.to_owned()], &found.filter_subjects);
    } else if !is_equivalent {
        differences.unless_equal("subject filter", &wanted_filter, &found_filter);
    }
    differences.found
}

fn sorted(subjects: &[String]) -> Vec<&str> {
    let mut subjects: Vec<&str> = subjects.iter().map(String::as_str).collect();
    subjects.sort_unstable();
    subjects
}

struct Differences {
    name: String,
    migrated: &'static [&'static str],
    found: Vec<String>,
}

impl Differences {
    fn unless_equal<T: PartialEq + std::fmt::Debug>(&mut self, setting: &str, wanted: &T, found: &T) {
        if wanted != found {
            let fix = if self.migrated.contains(&setting) { ": run `groundling setup --migrate`" } else { "" };
            self.found.push(format!("{} has the {setting} {found:?}, and the settings say {wanted:?}{fix}", self.name));
        }
    }
}
