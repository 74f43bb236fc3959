//! Settings of `groundling ingest`. The comment on each field is its documentation for users.

use std::net::SocketAddr;
use std::time::Duration;

use broker::settings::{DurationText, Secret};
use broker::settings_check::Problems;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::overlaps::overlapping;
use super::rule::EventPattern;
use super::subjects;
use crate::recipe::Pin;

/// The minimum of `events.max_event_bytes`: less than this can be one record with a long key.
const MIN_EVENT_BYTES: usize = 16 << 10;

/// The process `groundling ingest`: its webhook server and limits. What it does with events is in `[[ingest]]`.
#[derive(Debug, Clone, PartialEq, JsonSchema, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct EventsSettings {
    /// Address on which the webhook server receives the events of rules with a `path`, for example `"0.0.0.0:8090"`.
    /// Default: none, without a webhook server. It speaks plain HTTP: for TLS, put a proxy in front of it.
    pub webhook_address: Option<SocketAddr>,
    /// Address of `/startupz`, `/livez`, `/readyz` and `/metrics`, for example `"0.0.0.0:8081"`. Default: none.
    pub health_address: Option<SocketAddr>,
    /// Token that requests to the webhook server must have: `Authorization: Bearer TOKEN`. Default: none. Without a token
    /// and a user, everyone who reaches the address can submit jobs.
    pub token: Option<Secret>,
    /// User name that requests to the webhook server must have, for senders that know basic authentication only. Needs
    /// `password`. If there is also a token, either of them is accepted. Default: none.
    pub user: Option<String>,
    /// Password of `user`. Default: none.
    pub password: Option<Secret>,
    /// Maximum bytes of a request to the webhook server. Default: 1 MiB. Senders put few records into a request.
    pub max_event_bytes: usize,
    /// Maximum number of requests that the webhook server handles at once. Further ones wait. Default: 128. With
    /// `max_event_bytes` it bounds the memory.
    pub slots: usize,
    /// How long a request to the webhook server waits while the NATS server is down or the jobs stream is full. Then the
    /// answer is 503 with `Retry-After`. Default: 30 s. Set it a little below the timeout of senders that do not try
    /// again, and raise both as far as the store allows.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "DurationText")]
    pub hold: Duration,
}

impl Default for EventsSettings {
    fn default() -> Self {
        Self {
            webhook_address: None,
            health_address: None,
            token: None,
            user: None,
            password: None,
            max_event_bytes: 1 << 20,
            slots: 128,
            hold: Duration::from_secs(30),
        }
    }
}

/// A rule of `groundling ingest`: which events of an object store become jobs, and which jobs. Write `[[ingest]]` once for
/// each rule. An event that matches several rules becomes a job for each, so such rules must have different datasets: two
/// rules with the same dataset must differ in `bucket`, `prefix`, `suffixes` or `events`, or get the events of different
/// stores. To have an object annotated in several ways, list all `tasks` in one rule.
#[derive(Debug, Clone, Default, PartialEq, JsonSchema, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct IngestRule {
    /// Name of the rule: lower-case letters, digits, `-` and `_`. It is part of the ids of its jobs, so with another name
    /// a repeated event becomes another job. Required.
    pub name: String,
    /// NATS subject on which the store publishes its events, for example `minio.events`. It may have wildcards. The events
    /// stream captures it. Each rule has either a subject or a path. Default: none.
    pub subject: Option<String>,
    /// Path on the webhook server to which the store posts its events, for example `/events/uploads`. Default: none.
    pub path: Option<String>,
    /// Format of the events. Default: `auto`, which recognizes each message by its fields and headers. `s3`: S3 event
    /// notifications, of AWS (directly, or in messages of SNS or SQS), MinIO, RustFS, Ceph and versitygw. `cloudevents`:
    /// CloudEvents with an event of another format as data. `eventbridge`: events of Amazon EventBridge, also in messages
    /// of SNS or SQS. `seaweedfs`: the webhook of SeaweedFS.
    pub format: Format,
    /// How keys are written in events. Default: as the sender is known to do it: URL-encoded like a form in S3 records,
    /// and plain in those of Ceph, EventBridge and SeaweedFS. `form`: URL-encoded like a form, so `a+b%2Bc.jpg` is
    /// `a b+c.jpg`. `raw`: plain, as they are; versitygw needs it.
    pub key_encoding: Option<KeyEncoding>,
    /// Bucket whose objects become jobs. Default: every bucket.
    pub bucket: Option<String>,
    /// Beginning of the keys that become jobs, for example `scans/`. Default: any. Few keys begin with `/`, so a prefix
    /// hardly ever does.
    pub prefix: String,
    /// Endings of the keys that become jobs, for example `.jpg`, in upper or lower case. Default: any.
    pub suffixes: Vec<String>,
    /// Names of the events that become jobs, as S3 calls them, with or without `s3:`. `*` at the end stands for anything.
    /// Default: `ObjectCreated:*`. A name that no store sends is an error. Deletions never become jobs.
    pub events: Vec<String>,
    /// Dataset of the jobs. Required.
    pub dataset: String,
    /// Tasks of the jobs, as `--task` of `groundling enqueue` takes them: `brief`, `detailed`, `question=TEXT`,
    /// `ground=PHRASE`, `find=EXPRESSION` or `describe=BOX`. Default: `brief`.
    pub tasks: Vec<String>,
    /// What of an object must not have changed when a worker reads it. The job of a changed object fails, and its new state
    /// has an event of its own. `version`: the ETag, and the version if the event has one; the worker reads that version.
    /// `etag`: the ETag alone; the worker reads the newest version. `none`: nothing; the worker reads what is there.
    /// Default: `version`.
    pub pin: Pin,
    /// Maximum size of objects in bytes; larger ones are skipped. Default: none, so that workers decide
    /// (`s3.max_object_bytes`).
    pub max_size: Option<u64>,
}

/// The format of events.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, JsonSchema, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// Each message is recognized by its fields and headers.
    #[default]
    Auto,
    /// S3 event notifications: AWS directly or through SNS, MinIO, RustFS, Ceph, versitygw.
    S3,
    /// CloudEvents, structured or with `ce-` headers, with one of the other formats as data.
    CloudEvents,
    /// Events of Amazon EventBridge.
    EventBridge,
    /// The webhook of SeaweedFS.
    SeaweedFs,
}

/// How keys are written in events.
#[derive(Debug, Clone, Copy, PartialEq, Eq, JsonSchema, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum KeyEncoding {
    /// URL-encoded as in forms: `+` is a space.
    Form,
    /// As they are.
    Raw,
}

impl EventsSettings {
    /// All problems of this section, each one sentence that begins with the name of the setting.
    pub fn problems(&self) -> Vec<String> {
        let mut found = Problems::default();
        found.require(
            self.user.is_some() == self.password.is_some(),
            "events.user and events.password belong together: set both or neither",
        );
        for (setting, secret) in [("events.token", &self.token), ("events.password", &self.password)] {
            found.require(
                secret.as_ref().is_none_or(|secret| !secret.expose().is_empty()),
                format!("{setting} is empty: give a secret, or remove it"),
            );
        }
        found.require(
            self.user.as_ref().is_none_or(|user| !user.contains(':')),
            "events.user contains a colon, which basic authentication cannot transmit: choose another name",
        );
        found.require(
            self.max_event_bytes >= MIN_EVENT_BYTES,
            format!("events.max_event_bytes is {}: set at least {MIN_EVENT_BYTES}", self.max_event_bytes),
        );
        found.require(self.slots > 0, "events.slots is 0: no event would be handled; set at least 1");
        found.require_nonzero("events.hold", self.hold);
        found.require(
            self.webhook_address.is_none()
                || self.webhook_address != self.health_address
                || self.webhook_address.is_some_and(|address| address.port() == 0),
            "events.health_address is events.webhook_address: give each an address of its own",
        );
        found.0
    }
}

/// All problems of the rules, each one sentence that begins with the place of the setting, such as `ingest.0.subject`.
/// Tasks are checked by the caller, who knows how they are written.
pub fn rule_problems(rules: &[IngestRule], events: &EventsSettings) -> Vec<String> {
    let mut found = Problems::default();
    for (number, rule) in rules.iter().enumerate() {
        let place = |key: &str| format!("ingest.{number}.{key}");
        let legal = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '_');
        found.require(
            !rule.name.is_empty() && rule.name.chars().all(legal),
            format!("{} is {:?}: give a name of lower-case letters, digits, '-' and '_'", place("name"), rule.name),
        );
        found.require(
            !rules[..number].iter().any(|other| other.name == rule.name),
            format!("{} is {:?}, which is the name of another rule: give each its own", place("name"), rule.name),
        );
        if let Err(error) = rule.dataset.parse::<wire::subjects::Dataset>() {
            found.add(format!("{}: {error}", place("dataset")));
        }
        match (&rule.subject, &rule.path) {
            (Some(subject), None) => {
                if let Some(problem) = subjects::problem(subject) {
                    found.add(format!("{} is {subject:?}: {problem}", place("subject")));
                }
            }
            (None, Some(path)) => {
                found.require(
                    path.len() > 1 && path.starts_with('/') && path.chars().all(is_path),
                    format!("{} is {path:?}: give a path like \"/events/uploads\"", place("path")),
                );
                found.require(
                    events.webhook_address.is_some(),
                    format!("{} needs a webhook server: set events.webhook_address", place("path")),
                );
            }
            (Some(_), Some(_)) => {
                found.add(format!("{} and {} exclude each other: remove one", place("subject"), place("path")))
            }
            (None, None) => found.add(format!(
                "{} is not set, and neither is {}: set one, where the store sends its events",
                place("subject"),
                place("path")
            )),
        }
        if let Some(bucket) = &rule.bucket {
            found.require(
                !bucket.is_empty() && !bucket.contains('/'),
                format!("{} is {bucket:?}: give the name of a bucket, or remove it", place("bucket")),
            );
        }
        for pattern in &rule.events {
            if let Err(error) = EventPattern::new(pattern) {
                found.add(format!("{} contains {pattern:?}, and {error}", place("events")));
            }
        }
        if let Some(other) = overlapping(rule, &rules[..number]) {
            found.add(format!(
                "{} is {:?}, as in the rule {:?}, which matches the same objects, so each would be annotated twice: make one rule with all tasks, or give each rule its own dataset",
                place("dataset"),
                rule.dataset,
                other.name
            ));
        }
        found.require(
            rule.max_size != Some(0),
            format!("{} is 0: every object would be skipped; raise or remove it", place("max_size")),
        );
    }
    found.0.extend(subjects::overlap_problem(rules));
    found.0
}

/// Whether a character can be part of a path without being encoded.
fn is_path(c: char) -> bool {
    c.is_ascii_alphanumeric() || "/-._~!$&'()*+,;=:@".contains(c)
}
