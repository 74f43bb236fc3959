//! Settings of the connection to NATS, and of streams and consumers. The comment on each field is its documentation for
//! users.

use std::path::PathBuf;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use crate::duration_text::DurationText;
pub use crate::secret::Secret;

/// How to reach the NATS server.
#[derive(Debug, Clone, PartialEq, JsonSchema, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct NatsSettings {
    /// Address of the server, `nats://host:4222` or `tls://host:4222`; several of one cluster, separated by commas.
    pub url: String,
    /// User name. Needs `password`.
    pub user: Option<String>,
    /// Password of `user`.
    pub password: Option<Secret>,
    /// Token, where the server asks for one in place of user and password.
    pub token: Option<Secret>,
    /// Seed of an nkey, beginning with `SU`.
    pub nkey: Option<Secret>,
    /// File with a user's JWT and seed, as `nsc` writes it.
    pub credentials_file: Option<PathBuf>,
    /// First token of the subjects on which answers come to this client; the server's permissions may want one of its
    /// own.
    pub inbox_prefix: String,
    /// JetStream domain of the streams, where they are not in that of the server connected to: a leaf node's clients name
    /// the domain of the hub. Excludes `api_prefix`.
    pub jetstream_domain: Option<String>,
    /// Prefix of JetStream's requests in place of `$JS.API`, where another account's JetStream is imported under one.
    /// Excludes `jetstream_domain`.
    pub api_prefix: Option<String>,
    /// Transport encryption.
    pub tls: NatsTls,
    /// How long connecting to one server may take.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "DurationText")]
    pub connect_timeout: Duration,
    /// How long the server may refuse the credentials of a worker that it had let in, before the worker ends: its next
    /// start reads them anew. `"0s"`: for ever.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "DurationText")]
    pub refused_timeout: Duration,
    /// How long to wait for the server's answer to one request: an acknowledgement, a stream's facts.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "DurationText")]
    pub request_timeout: Duration,
    /// How often to ask a silent server for a sign of life. After two unanswered ones the connection is made anew.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "DurationText")]
    pub ping_interval: Duration,
}

/// Transport encryption of the connection to NATS.
#[derive(Debug, Clone, Default, PartialEq, JsonSchema, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct NatsTls {
    /// Refuse to talk without encryption.
    pub required: bool,
    /// Begin with the TLS handshake, for servers set to `handshake_first`.
    pub first: bool,
    /// PEM file with the authority to trust, in addition to the system's.
    pub ca_file: Option<PathBuf>,
    /// PEM file with this client's certificate. Needs `key_file`.
    pub certificate_file: Option<PathBuf>,
    /// PEM file with the key of `certificate_file`.
    pub key_file: Option<PathBuf>,
}

/// Streams and consumer. `groundling setup` creates them by these settings, the worker uses them by their names.
#[derive(Debug, Clone, PartialEq, JsonSchema, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct StreamSettings {
    /// Name of the stream of jobs.
    pub jobs: String,
    /// Name of the stream of annotations.
    pub annotations: String,
    /// Name of the stream of failures.
    pub failed: String,
    /// Name of the stream of outcomes: what becomes of each job, written down before it is published.
    pub outcomes: String,
    /// Name of the stream of attempts: those at redelivered jobs, and those that failed. Between workers only.
    pub attempts: String,
    /// Name of the stream of retries: jobs that wait for their next attempt. Between workers only.
    pub retries: String,
    /// Name of the stream of the server's word that it gave up handing out a job.
    pub advisories: String,
    /// Name of the durable consumer on the stream of jobs, shared by all workers. Those on the streams of retries and of
    /// advisories have the same.
    pub consumer: String,
    /// Copies of each message in a cluster: 1, 3 or 5.
    pub replicas: usize,
    /// Time within which the streams of annotations and failures drop a second message with the same id. Also for jobs.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "DurationText")]
    pub duplicate_window: Duration,
    /// How long annotations are kept. `"0s"` keeps them for ever.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "DurationText")]
    pub annotations_max_age: Duration,
    /// How long failures are kept. `"0s"` keeps them for ever.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "DurationText")]
    pub failed_max_age: Duration,
    /// How long outcomes are kept: as long as a job may come back after it was done (all workers stopped, the server
    /// down) and still not be annotated a second time or in another way. Once the end of a job is confirmed, the worker
    /// replaces its outcome by a record of a few bytes that is kept for `duplicate_window`, where the NATS server can do
    /// that (2.11 and later, `allow_msg_ttl`).
    #[serde(with = "humantime_serde")]
    #[schemars(with = "DurationText")]
    pub outcomes_max_age: Duration,
    /// Most bytes of waiting jobs. The stream refuses submissions beyond it, so that waiting jobs cannot use the storage
    /// that finishing them needs; 200 bytes for a job that names an S3 object. Left out: a share of the account's storage
    /// limit, or 1 GiB where the account has none ([`crate::stream_sizes`]). Like the other bounds, it is reserved in the
    /// account when `groundling setup` creates the stream, and a stream that exists is only compared with a bound that is
    /// set here.
    pub jobs_max_bytes: Option<u64>,
    /// Most bytes of annotations; workers wait while the stream is full. Left out: a share of the account's storage limit,
    /// or no bound where the account has none.
    pub annotations_max_bytes: Option<u64>,
    /// Most bytes of failures. Left out: as for annotations.
    pub failed_max_bytes: Option<u64>,
    /// Most bytes of outcomes; workers wait while the stream is full. Left out: as for annotations.
    pub outcomes_max_bytes: Option<u64>,
    /// Most bytes of attempts. Left out: as for annotations.
    pub attempts_max_bytes: Option<u64>,
    /// Most bytes of jobs that wait for their next attempt: those beyond it wait in the stream of jobs. Left out: as for
    /// annotations.
    pub retries_max_bytes: Option<u64>,
    /// Time after which a job without a sign of life goes to another worker. Workers give signs three times as often.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "DurationText")]
    pub ack_wait: Duration,
    /// Most jobs of the stream of jobs that are delivered and not acknowledged, all workers together: those in hand
    /// (for each worker `worker.slots` and `worker.max_slow_reads`), and those that workers released with a delay, for
    /// example because a stream was full. Jobs whose attempt failed do not count: they wait in the stream of retries.
    pub max_ack_pending: i64,
    /// How often the server itself delivers a job; -1 for no limit. The server also counts deliveries that workers
    /// released unharmed (shutdown, a full stream), so that a limit can end healthy jobs: such a job becomes a failure
    /// with its last known error. `worker.max_deliveries` ends jobs that fail or crash workers.
    pub max_deliver: i64,
}

impl Default for NatsSettings {
    fn default() -> Self {
        Self {
            url: "nats://127.0.0.1:4222".to_owned(),
            user: None,
            password: None,
            token: None,
            nkey: None,
            credentials_file: None,
            inbox_prefix: "_INBOX".to_owned(),
            jetstream_domain: None,
            api_prefix: None,
            tls: NatsTls::default(),
            connect_timeout: Duration::from_secs(5),
            refused_timeout: Duration::from_secs(5 * 60),
            // A cluster that lost its leader was seen to answer again after 6.5 s.
            request_timeout: Duration::from_secs(15),
            ping_interval: Duration::from_secs(10),
        }
    }
}

impl Default for StreamSettings {
    fn default() -> Self {
        Self {
            jobs: wire::subjects::JOBS_STREAM.to_owned(),
            annotations: wire::subjects::ANNOTATIONS_STREAM.to_owned(),
            failed: wire::subjects::FAILED_STREAM.to_owned(),
            outcomes: wire::subjects::OUTCOMES_STREAM.to_owned(),
            attempts: wire::subjects::ATTEMPTS_STREAM.to_owned(),
            retries: wire::subjects::RETRIES_STREAM.to_owned(),
            advisories: wire::subjects::ADVISORIES_STREAM.to_owned(),
            consumer: "groundling-workers".to_owned(),
            replicas: 1,
            // Longer than every way a job can come back after its annotation was published.
            duplicate_window: Duration::from_secs(30 * 60),
            annotations_max_age: Duration::ZERO,
            failed_max_age: Duration::ZERO,
            outcomes_max_age: Duration::from_secs(6 * 60 * 60),
            jobs_max_bytes: None,
            annotations_max_bytes: None,
            failed_max_bytes: None,
            outcomes_max_bytes: None,
            attempts_max_bytes: None,
            retries_max_bytes: None,
            ack_wait: Duration::from_secs(60),
            max_ack_pending: 10_000,
            max_deliver: -1,
        }
    }
}
