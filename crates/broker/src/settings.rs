//! Settings of the NATS connection, and of streams and consumers. The comment on each field is its documentation for
//! users.

use std::path::PathBuf;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use crate::duration_text::DurationText;
pub use crate::secret::{Secret, deserialize_name};

/// The connection to the NATS server.
#[derive(Debug, Clone, PartialEq, JsonSchema, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct NatsSettings {
    /// Address of the server: `nats://host:4222` or `tls://host:4222`. Several addresses of one cluster are separated by
    /// commas. Default: `nats://127.0.0.1:4222`. It must not contain a user or password, because addresses are logged.
    #[schemars(regex(pattern = "^( *((nats|tls)://)?[^/, ]+/? *(,|$))*$"))]
    pub url: String,
    /// User name, if the server asks for user and password. Needs `password`. Default: none.
    #[serde(deserialize_with = "deserialize_name")]
    pub user: Option<String>,
    /// Password of `user`. Default: none.
    pub password: Option<Secret>,
    /// Token, if the server asks for one. Default: none.
    pub token: Option<Secret>,
    /// Seed of an nkey, which begins with `SU`, if the server asks for one. Default: none.
    pub nkey: Option<Secret>,
    /// File with a user's JWT and seed, as `nsc` writes it. Default: none.
    pub credentials_file: Option<PathBuf>,
    /// Prefix of the subjects on which this client receives responses. Default: `_INBOX`. Change it if the server's
    /// permissions give each user a prefix of its own.
    pub inbox_prefix: String,
    /// JetStream domain of the streams. Default: that of the server connected to. Set it on clients of a leaf node whose
    /// streams are on the hub. Excludes `api_prefix`.
    pub jetstream_domain: Option<String>,
    /// Prefix of requests to JetStream. Default: `$JS.API`. Set it if JetStream is imported from another account with
    /// another prefix. Excludes `jetstream_domain`.
    pub api_prefix: Option<String>,
    /// TLS settings.
    pub tls: NatsTls,
    /// Timeout for connecting to one server. Default: 5 s. Raise it for servers that are far away.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "DurationText")]
    pub connect_timeout: Duration,
    /// How long the server may reject the credentials of a worker that was connected before the worker exits. A restart
    /// reads the credentials again. Default: 5 min; `"0s"`: forever. Raise it if credentials are replaced more slowly.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "DurationText")]
    pub refused_timeout: Duration,
    /// Timeout for the server's response to one request, such as the acknowledgement of a message. Default: 15 s, since a
    /// cluster that has lost its leader can take several seconds to elect another.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "DurationText")]
    pub request_timeout: Duration,
    /// Interval of pings to the server. After two unanswered pings the client reconnects. Default: 10 s. Lower it to
    /// detect broken connections sooner.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "DurationText")]
    pub ping_interval: Duration,
}

/// TLS on the connection to NATS.
#[derive(Debug, Clone, Default, PartialEq, JsonSchema, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct NatsTls {
    /// Connect only with TLS. Default: false, which uses TLS if the server or a `tls://` address asks for it.
    pub required: bool,
    /// Start with the TLS handshake. Default: false. Set it for servers with `handshake_first`.
    pub first: bool,
    /// PEM file with a certificate authority to trust in addition to the system's. Default: none. Set it if a private
    /// authority has signed the server's certificate.
    pub ca_file: Option<PathBuf>,
    /// PEM file with the client's certificate, if the server asks for one. Needs `key_file`. Default: none.
    pub certificate_file: Option<PathBuf>,
    /// PEM file with the private key of `certificate_file`. Default: none.
    pub key_file: Option<PathBuf>,
}

/// Streams and consumers. `groundling setup` creates them with these settings; workers find them by their names.
#[derive(Debug, Clone, PartialEq, JsonSchema, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct StreamSettings {
    /// Name of the jobs stream. Default: `GROUNDLING_JOBS`.
    pub jobs: String,
    /// Name of the annotations stream. Default: `GROUNDLING_ANNOTATIONS`.
    pub annotations: String,
    /// Name of the failed stream, which holds the failures. Default: `GROUNDLING_FAILED`.
    pub failed: String,
    /// Name of the outcomes stream: how each job ends, recorded before it is published. Used by workers only. Default:
    /// `GROUNDLING_OUTCOMES`.
    pub outcomes: String,
    /// Name of the attempts stream: attempts that failed or have not ended. Used by workers only. Default:
    /// `GROUNDLING_ATTEMPTS`.
    pub attempts: String,
    /// Name of the retries stream: jobs that wait for their next attempt. Used by workers only. Default:
    /// `GROUNDLING_RETRIES`.
    pub retries: String,
    /// Name of the advisories stream: the server's notices about jobs that reached `max_deliver`. Used by workers only.
    /// Default: `GROUNDLING_ADVISORIES`.
    pub advisories: String,
    /// Name of the events stream: events of object stores that wait for `groundling ingest`. `groundling setup` creates it
    /// if an `[[ingest]]` rule has a `subject`. Default: `GROUNDLING_EVENTS`.
    pub events: String,
    /// Name of the durable consumer of the events stream, which all processes of `groundling ingest` share. Default:
    /// `groundling-ingest`.
    pub events_consumer: String,
    /// Name of the durable consumer of the jobs stream, which all workers share. The consumers of the retries and
    /// advisories streams have the same name, and that of urgent jobs has `-urgent` added. Default: `groundling-workers`.
    pub consumer: String,
    /// Replicas of each stream in a cluster: 1, 3 or 5. Default: 1. Use 3 in a cluster, so that no message is lost with a
    /// server.
    #[schemars(extend("enum" = [1, 3, 5]))]
    pub replicas: usize,
    /// Time within which a stream drops a message whose `Nats-Msg-Id` it already has: a job that is submitted twice, an
    /// annotation or failure that is published twice. Default: 30 min, which is longer than any way by which a job is
    /// delivered again after its annotation was published.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "DurationText")]
    pub duplicate_window: Duration,
    /// How long annotations are kept. Default: `"0s"`, which keeps them forever.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "DurationText")]
    pub annotations_max_age: Duration,
    /// Compression of the annotations on the disks of the NATS server: `"s2"` or `"none"`. Default: `"s2"`.
    pub annotations_compression: Compression,
    /// How long failures are kept. Default: `"0s"`, which keeps them forever.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "DurationText")]
    pub failed_max_age: Duration,
    /// How long outcomes are kept. Default: 6 h. A job that is delivered again within this time after it was done is not
    /// annotated a second time, so raise it if all workers or the server may be down for longer. Once a job is
    /// acknowledged, its outcome is replaced by a record of a few bytes that is kept for `duplicate_window`, if the NATS
    /// server supports that (2.11 and later, `allow_msg_ttl`).
    #[serde(with = "humantime_serde")]
    #[schemars(with = "DurationText")]
    pub outcomes_max_age: Duration,
    /// Maximum bytes of waiting jobs; a job that names an S3 object takes about 200. A full stream refuses submissions, so
    /// that waiting jobs cannot use the storage needed to finish them. Default: a share of the account's storage limit, or
    /// 1 GiB if the account has none. `groundling setup` reserves the bytes of all bounds in the account when it creates
    /// the streams. An existing stream is compared only with a bound that is set here.
    pub jobs_max_bytes: Option<u64>,
    /// Maximum bytes of annotations, of 1 to 1.5 KB each for captions. Workers wait while the stream is full. Default: a
    /// share of the account's storage limit, or no bound if the account has none.
    pub annotations_max_bytes: Option<u64>,
    /// Maximum bytes of failures, which contain their jobs. Workers wait while the stream is full. Default: as for
    /// `annotations_max_bytes`.
    pub failed_max_bytes: Option<u64>,
    /// Maximum bytes of outcomes. Workers wait while the stream is full. Default: as for `annotations_max_bytes`.
    pub outcomes_max_bytes: Option<u64>,
    /// Maximum bytes of attempts. Workers wait while the stream is full. Default: as for `annotations_max_bytes`.
    pub attempts_max_bytes: Option<u64>,
    /// Maximum bytes of jobs that wait for their next attempt. While the stream is full, they wait in the jobs stream.
    /// Default: as for `annotations_max_bytes`.
    pub retries_max_bytes: Option<u64>,
    /// Maximum bytes of events that wait for `groundling ingest`; an event takes 1 to 2 KB. A full stream refuses events: a
    /// store that publishes to JetStream can try again, and what is published without it is lost. Default: a share of the
    /// account's storage limit, or 1 GiB if the account has none.
    pub events_max_bytes: Option<u64>,
    /// Time without an acknowledgement after which the server delivers a job again, to another worker. Workers send a
    /// progress acknowledgement three times as often. Default: 60 s; at least 3 s. Lower it to recover sooner from
    /// crashed workers, raise it for slow networks.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "DurationText")]
    pub ack_wait: Duration,
    /// Maximum number of delivered and unacknowledged jobs of the jobs stream, for all workers together: active jobs
    /// (`worker.slots` and `worker.max_slow_reads` of each worker), and jobs that were released with a delay, for example
    /// because a stream was full. Default: 10000. Raise it if the sum over all workers is larger. Jobs in the retries
    /// stream do not count.
    pub max_ack_pending: i64,
    /// Maximum deliveries of a job by the server; -1 for no maximum. Default: -1. The server also counts released
    /// deliveries (shutdown, a full stream), so a maximum can end healthy jobs; they become failures with their last
    /// known error. `worker.max_deliveries` is the limit for jobs that fail or crash workers.
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
            // A cluster that lost its leader took 6.5 s to answer again.
            request_timeout: Duration::from_secs(15),
            ping_interval: Duration::from_secs(10),
        }
    }
}

impl StreamSettings {
    /// The name of the durable consumer of urgent jobs: `consumer` and `-urgent`.
    pub fn urgent_consumer(&self) -> String {
        format!("{}-urgent", self.consumer)
    }
}

/// How the server compresses the files of a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, JsonSchema, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Compression {
    /// Not at all.
    None,
    /// With S2, which is fast.
    S2,
}

impl From<Compression> for async_nats::jetstream::stream::Compression {
    fn from(compression: Compression) -> Self {
        match compression {
            Compression::None => Self::None,
            Compression::S2 => Self::S2,
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
            events: wire::subjects::EVENTS_STREAM.to_owned(),
            events_consumer: "groundling-ingest".to_owned(),
            consumer: "groundling-workers".to_owned(),
            replicas: 1,
            // Longer than any way by which a job is delivered again after its annotation was published.
            duplicate_window: Duration::from_secs(30 * 60),
            annotations_max_age: Duration::ZERO,
            annotations_compression: Compression::S2,
            failed_max_age: Duration::ZERO,
            outcomes_max_age: Duration::from_secs(6 * 60 * 60),
            jobs_max_bytes: None,
            annotations_max_bytes: None,
            failed_max_bytes: None,
            outcomes_max_bytes: None,
            attempts_max_bytes: None,
            retries_max_bytes: None,
            events_max_bytes: None,
            ack_wait: Duration::from_secs(60),
            max_ack_pending: 10_000,
            max_deliver: -1,
        }
    }
}
