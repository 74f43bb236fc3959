//! Validates settings and reports all problems at once.

use std::time::Duration;

use crate::byte_budget::BYTES_PER_PIXEL;
use crate::settings::{S3Settings, Settings, WorkerSettings};
use broker::settings_check::Problems;

/// All problems found in settings: one sentence for each, which begins with the name of the setting.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", .0.join("\n"))]
pub struct InvalidSettings(pub Vec<String>);

impl Settings {
    /// Checks all sections.
    ///
    /// # Errors
    /// [`InvalidSettings`] with all problems found.
    pub fn validate(&self) -> Result<(), InvalidSettings> {
        let sections = [self.nats.problems(), self.streams.problems(), self.s3.problems(), self.worker.problems()];
        let problems = [sections.concat(), self.problems_between_sections()].concat();
        if problems.is_empty() { Ok(()) } else { Err(InvalidSettings(problems)) }
    }
}

impl Settings {
    /// The maximum time from the publication of an annotation until another delivery of the same job could publish it
    /// again, while workers and server run: the job is redelivered after `ack_wait` or the longest delay at the latest,
    /// and is then active for as long as its lease.
    pub fn longest_redelivery(&self) -> Duration {
        let away = self.streams.ack_wait.max(self.worker.max_retry_delay);
        away.saturating_add(self.worker.lease())
    }

    fn problems_between_sections(&self) -> Vec<String> {
        let mut found = Problems::default();
        let (window, longest) = (self.streams.duplicate_window, self.longest_redelivery());
        found.require(
            window >= longest,
            format!(
                "streams.duplicate_window is {window:?}, but a redelivered job can publish its annotation again up to {longest:?} later (ack_wait or max_retry_delay, plus job_timeout, plus twice publish_timeout): raise streams.duplicate_window, or lower one of the others"
            ),
        );
        let (outcomes, worker) = (self.streams.outcomes_max_age, &self.worker);
        let attempts = longest.saturating_mul(u32::try_from(worker.max_deliveries).unwrap_or(u32::MAX));
        found.require(
            outcomes.is_zero() || outcomes >= attempts,
            format!(
                "streams.outcomes_max_age is {outcomes:?}, but the {} attempts at a job (worker.max_deliveries) can take {attempts:?}: the records of the first ones would expire and the job be attempted for ever; raise streams.outcomes_max_age, or lower worker.max_deliveries or worker.job_timeout",
                worker.max_deliveries
            ),
        );
        let refused = worker.release_own_limits_for.saturating_add(worker.max_retry_delay);
        found.require(
            outcomes.is_zero() || worker.release_own_limits_for.is_zero() || outcomes > refused,
            format!(
                "streams.outcomes_max_age is {outcomes:?}, not above worker.release_own_limits_for plus worker.max_retry_delay ({refused:?}): the record of a job's first refusal would expire and the job never fail; raise streams.outcomes_max_age"
            ),
        );
        let active = self.worker.slots.unwrap_or(1).saturating_add(self.worker.max_slow_reads.unwrap_or(0));
        found.require(
            usize::try_from(self.streams.max_ack_pending).is_ok_and(|most| most >= active),
            format!(
                "streams.max_ack_pending is {}, less than the {active} active jobs that one worker may have (worker.slots and worker.max_slow_reads): raise it to the sum of both over all workers, plus some for jobs that were released with a delay",
                self.streams.max_ack_pending
            ),
        );
        found.require(
            self.streams.max_deliver < 0
                || u64::try_from(self.streams.max_deliver).is_ok_and(|most| most > self.worker.max_deliveries),
            "streams.max_deliver is not above worker.max_deliveries: the server would stop delivering jobs before the workers can record why they failed: set it to -1 (no maximum), or raise it",
        );
        found.require(
            self.worker.max_bytes_in_flight >= self.s3.max_object_bytes,
            "worker.max_bytes_in_flight is below s3.max_object_bytes: the largest object would never fit; raise it, or lower s3.max_object_bytes",
        );
        found.0
    }
}

impl S3Settings {
    /// The problems in this section.
    pub fn problems(&self) -> Vec<String> {
        let mut found = Problems::default();
        if let Some(endpoint) = &self.endpoint {
            match url::Url::parse(endpoint) {
                // The address may contain a secret, so it is not repeated.
                _ if endpoint.contains('@') => found.add(
                    "s3.endpoint contains a user or password, and addresses are logged: use s3.access_key and s3.secret_key",
                ),
                Ok(url) if matches!(url.scheme(), "http" | "https") && url.has_host() => {}
                _ => found.add(format!("s3.endpoint {endpoint:?} is not an address like https://host")),
            }
        }
        found.require(
            self.ca_file.is_none() || self.endpoint.as_ref().is_some_and(|endpoint| endpoint.starts_with("https:")),
            "s3.ca_file is set, but s3.endpoint is not an https:// address: connections would not be encrypted",
        );
        found.require(
            !self.region.is_empty(),
            "s3.region is empty: set the store's region, or us-east-1 if it has none",
        );
        found.require(
            self.access_key.is_some() == self.secret_key.is_some(),
            "s3.access_key and s3.secret_key belong together: set both or neither",
        );
        found.require(
            self.session_token.is_none() || self.access_key.is_some(),
            "s3.session_token is set without s3.access_key: set both or neither",
        );
        found.require(
            !(self.anonymous && self.access_key.is_some()),
            "s3.anonymous and s3.access_key exclude each other: remove one",
        );
        found.require(
            !(self.anonymous && self.requester_pays),
            "s3.requester_pays needs an access key, whose owner pays, but s3.anonymous sends none: remove one",
        );
        found.require(
            !self.allow.is_empty(),
            "s3.allow is empty, so jobs could not read any object: list buckets (\"bucket\"), prefixes (\"bucket/prefix\"), or \"*\" for everything",
        );
        for entry in &self.allow {
            let bucket = entry.split('/').next().unwrap_or_default();
            found.require(
                entry == "*" || (!bucket.is_empty() && !entry.contains('*') && !bucket.contains(':')),
                format!("s3.allow: {entry:?} is none of \"bucket\", \"bucket/prefix\" (without s3://) and \"*\""),
            );
        }
        found.require(self.max_object_bytes > 0, "s3.max_object_bytes is 0: no picture could be read");
        found.require_nonzero("s3.connect_timeout", self.connect_timeout);
        found.require_nonzero("s3.read_timeout", self.read_timeout);
        found.require_nonzero("s3.operation_timeout", self.operation_timeout);
        found.require((1..=20).contains(&self.attempts), format!("s3.attempts is {}, not in 1 to 20", self.attempts));
        found.0
    }
}

impl WorkerSettings {
    /// The lease of a job: `job_timeout`, and `publish_timeout` twice, for claiming and for publishing its outcome.
    pub fn lease(&self) -> Duration {
        self.job_timeout.saturating_add(self.publish_timeout).saturating_add(self.publish_timeout)
    }

    /// How long jobs wait for an unavailable store.
    pub fn store_outage_wait(&self) -> Duration {
        self.store_outage_wait.unwrap_or_else(|| self.max_retry_delay.saturating_mul(12))
    }

    /// The problems in this section.
    pub fn problems(&self) -> Vec<String> {
        let mut found = Problems::default();
        found.require(self.id.as_ref().is_none_or(|id| !id.is_empty()), "worker.id is empty: set a name or remove it");
        // Each slot may hold a decoded picture.
        if let Some(slots) = self.slots {
            found.require((1..=4096).contains(&slots), format!("worker.slots is {slots}, not in 1 to 4096"));
        }
        if let Some(reads) = self.max_slow_reads {
            found.require((1..=4096).contains(&reads), format!("worker.max_slow_reads is {reads}, not in 1 to 4096"));
        }
        found.require(self.max_deliveries > 0, "worker.max_deliveries is 0: set at least 1");
        found.require_nonzero("worker.job_timeout", self.job_timeout);
        found.require_nonzero("worker.publish_timeout", self.publish_timeout);
        found.require_nonzero("worker.decode_timeout", self.decode_timeout);
        found.require(
            (1..=1024).contains(&self.decode_threads),
            format!("worker.decode_threads is {}, not in 1 to 1024", self.decode_threads),
        );
        found.require(self.max_picture_side > 0, "worker.max_picture_side is 0: no picture could be decoded");
        found.require(self.max_picture_pixels > 0, "worker.max_picture_pixels is 0: no picture could be decoded");
        found.require(
            self.max_decode_bytes >= self.max_picture_pixels.saturating_mul(BYTES_PER_PIXEL),
            "worker.max_decode_bytes is below 10 bytes for each of worker.max_picture_pixels, which a common picture needs: raise it, or lower worker.max_picture_pixels",
        );
        found.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::{NatsSettings, Secret};

    fn fine() -> Settings {
        Settings { s3: S3Settings { allow: vec!["imgs".into()], ..Default::default() }, ..Default::default() }
    }

    #[test]
    fn the_defaults_lack_nothing_but_the_buckets_to_read() {
        assert_eq!(fine().validate(), Ok(()));
        let InvalidSettings(problems) = Settings::default().validate().unwrap_err();
        assert_eq!(problems.len(), 1);
        assert!(problems[0].starts_with("s3.allow is empty"));
    }

    #[test]
    fn every_problem_is_reported_at_once() {
        let mut settings = fine();
        settings.nats.url = "nats://bob:hush@host".into();
        settings.nats.user = Some("bob".into());
        settings.streams.replicas = 2;
        settings.s3.endpoint = Some("somewhere".into());
        settings.s3.secret_key = Some(Secret::new("hush"));
        settings.worker.slots = Some(0);
        let text = settings.validate().unwrap_err().to_string();
        for name in ["nats.url", "nats.user", "streams.replicas", "s3.endpoint", "s3.access_key", "worker.slots"] {
            assert!(text.lines().any(|line| line.starts_with(name)), "{name} in {text}");
        }
        assert!(!text.contains("hush"));
    }

    #[test]
    fn records_must_outlive_the_attempts_that_they_count() {
        const HOUR: Duration = Duration::from_secs(3600);
        let with = |change: fn(&mut Settings)| {
            let mut settings = fine();
            settings.worker.max_retry_delay = Duration::from_secs(300);
            change(&mut settings);
            settings.validate().err().map(|error| error.to_string()).unwrap_or_default()
        };
        let many = with(|settings| settings.worker.max_deliveries = 100);
        assert!(many.starts_with("streams.outcomes_max_age is 21600s, but the 100 attempts"), "{many}");
        let for_ever = with(|settings| {
            settings.worker.max_deliveries = 100;
            settings.streams.outcomes_max_age = Duration::ZERO;
        });
        assert_eq!(for_ever, "");
        let refused = with(|settings| settings.worker.release_own_limits_for = 6 * HOUR);
        assert!(refused.contains("not above worker.release_own_limits_for"), "{refused}");
    }

    #[test]
    fn a_jetstream_domain_is_one_token_and_excludes_a_prefix() {
        let problems = |domain: Option<&str>, prefix: Option<&str>| {
            let (jetstream_domain, api_prefix) = (domain.map(str::to_owned), prefix.map(str::to_owned));
            NatsSettings { jetstream_domain, api_prefix, ..Default::default() }.problems()
        };
        for (domain, prefix) in
            [(Some("hub"), None), (Some("a-B_9"), None), (None, Some("JS.HUB.API")), (None, Some("x"))]
        {
            assert_eq!(problems(domain, prefix), Vec::<String>::new());
        }
        for bad in ["", "a.b", "a b", "a*", ">", "a\n"] {
            assert!(problems(Some(bad), None).concat().starts_with("nats.jetstream_domain is"), "{bad:?}");
        }
        for bad in ["", ".a", "a.", "a..b", "a b", "a.*", "a.>"] {
            assert!(problems(None, Some(bad)).concat().starts_with("nats.api_prefix is"), "{bad:?}");
        }
        assert!(problems(Some("hub"), Some("x")).concat().contains("exclude each other"));
    }

    #[test]
    fn addresses_for_websockets_are_refused() {
        for url in ["ws://host:80", "wss://host", "nats://host:4222, wss://host:443"] {
            let mut settings = fine();
            settings.nats.url = url.into();
            let problems = settings.validate().unwrap_err().to_string();
            assert!(problems.starts_with("nats.url: \"ws") && problems.contains("WebSocket"), "{problems}");
        }
    }

    #[test]
    fn a_secret_prints_nowhere() {
        let mut settings = fine();
        settings.nats.password = Some(Secret::new("hush"));
        assert!(!format!("{settings:?}").contains("hush"));
        assert!(!serde_json::to_string(&settings).unwrap().contains("hush"));
        assert_eq!(settings.nats.password.unwrap().expose(), "hush");
        let error = serde_json::from_str::<Settings>(r#"{"nats": {"password": 815}}"#).unwrap_err().to_string();
        assert!(error.contains("put it in quotes") && !error.contains("815"), "{error}");
    }

    #[test]
    fn durations_are_written_with_their_unit_and_unknown_keys_are_errors() {
        let settings: Settings = serde_json::from_str(r#"{"worker": {"job_timeout": "1m 30s"}}"#).unwrap();
        assert_eq!(settings.worker.job_timeout, Duration::from_secs(90));
        let error = serde_json::from_str::<Settings>(r#"{"worker": {"slot": 3}}"#).unwrap_err().to_string();
        assert!(error.contains("unknown field `slot`"), "{error}");
    }

    #[test]
    fn what_may_be_read_is_a_list_or_a_text_with_commas() {
        for written in [r#"["a", "b/c"]"#, r#""a, b/c""#] {
            let settings: S3Settings = serde_json::from_str(&format!(r#"{{"allow": {written}}}"#)).unwrap();
            assert_eq!(settings.allow, ["a", "b/c"]);
        }
    }

    #[test]
    fn the_duplicate_window_covers_a_redelivery() {
        let mut settings = fine();
        settings.streams.duplicate_window = settings.longest_redelivery();
        assert_eq!(settings.validate(), Ok(()));
        settings.streams.duplicate_window -= Duration::from_secs(1);
        assert!(settings.validate().unwrap_err().to_string().starts_with("streams.duplicate_window"));
    }

    #[test]
    fn the_server_counts_further_than_the_workers() {
        let mut settings = fine();
        assert_eq!(settings.streams.max_deliver, -1);
        settings.streams.outcomes_max_age = Duration::ZERO;
        settings.worker.max_deliveries = 1_000_000;
        assert_eq!(settings.validate(), Ok(()));
        settings.worker.max_deliveries = 100;
        settings.streams.max_deliver = 100;
        assert!(settings.validate().unwrap_err().to_string().starts_with("streams.max_deliver"));
    }
}
