//! What a worker can be told. The comment on each field is its documentation for users.
//!
//! Durations are written with their unit, as in `"30s"`, `"1m 30s"` or `"250ms"`.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use serde::de::{self, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

/// All settings of the worker and of `groundling setup`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// The NATS server.
    pub nats: NatsSettings,
    /// Streams and consumer.
    pub streams: StreamSettings,
    /// The S3 store.
    pub s3: S3Settings,
    /// The work itself.
    pub worker: WorkerSettings,
}

/// How to reach the NATS server.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
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
    pub connect_timeout: Duration,
    /// How long the server may refuse the credentials of a worker that it had let in, before the worker ends: its next
    /// start reads them anew. `"0s"`: for ever.
    #[serde(with = "humantime_serde")]
    pub refused_timeout: Duration,
    /// How long to wait for the server's answer to one request: an acknowledgement, a stream's facts.
    #[serde(with = "humantime_serde")]
    pub request_timeout: Duration,
    /// How often to ask a silent server for a sign of life. After two unanswered ones the connection is made anew.
    #[serde(with = "humantime_serde")]
    pub ping_interval: Duration,
}

/// Transport encryption of the connection to NATS.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
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
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
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
    pub duplicate_window: Duration,
    /// How long annotations are kept. `"0s"` keeps them for ever.
    #[serde(with = "humantime_serde")]
    pub annotations_max_age: Duration,
    /// How long failures are kept. `"0s"` keeps them for ever.
    #[serde(with = "humantime_serde")]
    pub failed_max_age: Duration,
    /// How long outcomes are kept: as long as a job may come back after it was done (all workers stopped, the server
    /// down) and still not be annotated a second time or in another way. Once the end of a job is confirmed, the worker
    /// replaces its outcome by a record of a few bytes that is kept for `duplicate_window`, where the NATS server can do
    /// that (2.11 and later, `allow_msg_ttl`).
    #[serde(with = "humantime_serde")]
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

/// The S3 store that pictures are read from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct S3Settings {
    /// Address of the store, `https://host`. Left out: AWS. The environment's `AWS_ENDPOINT_URL` has no say in it.
    pub endpoint: Option<String>,
    /// Region.
    pub region: String,
    /// Put the bucket into the path (`https://host/bucket/key`) and not into the host name. Most stores other than AWS
    /// need it.
    pub path_style: bool,
    /// Access key. Left out: the environment's, as AWS's own tools find it (variables, profile, web identity, instance
    /// role).
    pub access_key: Option<String>,
    /// Secret of `access_key`.
    pub secret_key: Option<Secret>,
    /// Session token of `access_key`, where it is a temporary one.
    pub session_token: Option<Secret>,
    /// Read without any key, for public buckets.
    pub anonymous: bool,
    /// Agree to pay for requests and transfer, as buckets with "requester pays" demand. Without it such a bucket refuses
    /// every read. The owner of the access key pays.
    pub requester_pays: bool,
    /// PEM file with the authorities to trust in place of the system's, for a store with certificates of its own.
    pub ca_file: Option<PathBuf>,
    /// What jobs may read: `bucket` for a whole bucket, `bucket/prefix` for the keys that begin with `prefix`, `*` for
    /// all. A list, or one text with commas between.
    #[serde(deserialize_with = "list_or_commas")]
    pub allow: Vec<String>,
    /// Largest object in bytes.
    pub max_object_bytes: u64,
    /// How long connecting may take.
    #[serde(with = "humantime_serde")]
    pub connect_timeout: Duration,
    /// How long the store may stay silent, before its answer and within it.
    #[serde(with = "humantime_serde")]
    pub read_timeout: Duration,
    /// How long reading one object may take, all tries together.
    #[serde(with = "humantime_serde")]
    pub operation_timeout: Duration,
    /// Tries for each read before the job goes back to the queue for a while.
    pub attempts: u32,
}

/// The work itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct WorkerSettings {
    /// Name of this worker in annotations, failures and logs, for example the pod's. Left out: made up at the start.
    pub id: Option<String>,
    /// Jobs in hand at once, from intake to the last acknowledgement: the depth of the pipeline. Left out: what keeps the
    /// engine's device busy, 8 on a CPU and some 1300 on CUDA.
    pub slots: Option<usize>,
    /// Most new jobs that wait for a slow store at once, in addition to `slots`: a read that takes much longer than most
    /// gives its slot back. Retries have half as many, and retries of one dataset half of those. Left out: as many as
    /// slots, but at least 64.
    pub max_slow_reads: Option<usize>,
    /// Most bytes of encoded pictures in memory, all jobs together. A job waits until there is room for an object as
    /// large as they were of late, and for the largest allowed, `s3.max_object_bytes`, where its own turns out larger.
    pub max_bytes_in_flight: u64,
    /// Most bytes of memory for decoding, all jobs together: a picture waits until there is room for what its headers
    /// claim, 6 to 20 bytes for each pixel. One that claims more than all of it is refused.
    pub max_decode_bytes: u64,
    /// Pictures decoded at once. Left out: one on each CPU.
    pub decode_threads: usize,
    /// How long decoding one picture may take. After that its job is given up.
    #[serde(with = "humantime_serde")]
    pub decode_timeout: Duration,
    /// Maximum attempts at a job. An attempt counts if it failed for a reason that may be the job's own, or if it was
    /// started and never ended; deliveries that a worker released (shutdown, a full stream) do not. The last failed
    /// attempt makes the job a failure.
    pub max_deliveries: u64,
    /// How long one job may take until its answer is there. After that it goes back to the queue.
    #[serde(with = "humantime_serde")]
    pub job_timeout: Duration,
    /// How long an answer waits for its stream to take it (a full stream, a cluster without a leader). Meanwhile it
    /// holds its slot, so that intake slows down; after that the job goes back to the queue.
    #[serde(with = "humantime_serde")]
    pub publish_timeout: Duration,
    /// Longest delay before a job whose fault could pass is handed out again.
    #[serde(with = "humantime_serde")]
    pub max_retry_delay: Duration,
    /// How long jobs wait for a store, or a part of it (`bucket/prefix/`), that does not answer any of them. Meanwhile
    /// single reads find out whether it does, and no attempts are counted. After that the jobs are attempted again, and
    /// fail as usual. Left out: twelve times `max_retry_delay`. `"0s"`: they do not wait.
    #[serde(with = "humantime_serde::option")]
    pub store_outage_wait: Option<Duration>,
    /// How long a job that this worker's own settings forbid is left to other workers, counted from the first refusal by
    /// any of them, before it becomes a failure: `s3.allow`, `s3.max_object_bytes`, `allow_raw_prompts`, the limits of
    /// pictures and of decoding, `engine.slots` and `engine.slot_tokens`. For pools in which a change of settings goes
    /// from worker to worker. `"0s"`: it fails at once.
    #[serde(with = "humantime_serde")]
    pub release_own_limits_for: Duration,
    /// How long shutdown waits for jobs in hand. After that they go back to the queue.
    #[serde(with = "humantime_serde")]
    pub shutdown_timeout: Duration,
    /// Most pixels of a picture.
    pub max_picture_pixels: u64,
    /// Longest side of a picture in pixels.
    pub max_picture_side: u32,
    /// Rotate pictures according to EXIF or XMP before the model sees them.
    pub apply_orientation: bool,
    /// Put token ids and log-probabilities on annotations.
    pub publish_tokens: bool,
    /// Take prompts in the model's own markup, given texts to score included. Without it such jobs become failures.
    ///
    /// On as delivered: such a prompt is a task of its own kind, which says what it is, and can spoil only its own
    /// answer; words of other tasks never act as markup, whatever stands here. To be turned off where strangers submit
    /// jobs and are to have no more than the six tasks that the model was tuned on.
    pub allow_raw_prompts: bool,
    /// Where `/livez` and `/readyz` answer, as in `"127.0.0.1:8080"`. Left out: nowhere.
    pub health_address: Option<SocketAddr>,
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

impl Default for S3Settings {
    fn default() -> Self {
        Self {
            endpoint: None,
            region: "us-east-1".to_owned(),
            path_style: false,
            access_key: None,
            secret_key: None,
            session_token: None,
            anonymous: false,
            requester_pays: false,
            ca_file: None,
            allow: Vec::new(),
            max_object_bytes: 64 << 20,
            connect_timeout: Duration::from_secs(3),
            read_timeout: Duration::from_secs(10),
            operation_timeout: Duration::from_secs(60),
            attempts: 3,
        }
    }
}

impl Default for WorkerSettings {
    fn default() -> Self {
        Self {
            id: None,
            slots: None,
            max_slow_reads: None,
            max_bytes_in_flight: 512 << 20,
            max_decode_bytes: 2 << 30,
            decode_threads: std::thread::available_parallelism().map_or(4, usize::from),
            // The largest picture takes a few seconds on one core.
            decode_timeout: Duration::from_secs(60),
            max_deliveries: 10,
            job_timeout: Duration::from_secs(15 * 60),
            publish_timeout: Duration::from_secs(2 * 60),
            max_retry_delay: Duration::from_secs(5 * 60),
            store_outage_wait: None,
            // A rolling change takes a few minutes; what is refused by all is known to be by then.
            release_own_limits_for: Duration::from_secs(2 * 60),
            shutdown_timeout: Duration::from_secs(5 * 60),
            // As Pillow's limit against decompression bombs.
            max_picture_pixels: 178_956_970,
            // The longest that JPEG and GIF know.
            max_picture_side: 65_535,
            apply_orientation: true,
            publish_tokens: false,
            allow_raw_prompts: true,
            health_address: None,
        }
    }
}

/// An environment variable holds one text.
fn list_or_commas<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged, expecting = "a list of texts, or one text with commas between")]
    enum Form {
        List(Vec<String>),
        Commas(String),
    }
    Ok(match Form::deserialize(deserializer)? {
        Form::List(list) => list,
        Form::Commas(text) => text.split(',').map(|entry| entry.trim().to_owned()).filter(|e| !e.is_empty()).collect(),
    })
}

/// A text that never prints: neither as `Debug` nor when settings are written out again.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Takes a secret in.
    pub fn new(secret: impl Into<String>) -> Self {
        Self(secret.into())
    }

    /// The secret itself, for the one place that needs it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[hidden]")
    }
}

impl Serialize for Secret {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str("[hidden]")
    }
}

impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(SecretVisitor)
    }
}

/// Refuses what a settings file writes without quotes; the usual error would print the value.
struct SecretVisitor;

impl Visitor<'_> for SecretVisitor {
    type Value = Secret;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a text")
    }

    fn visit_str<E: de::Error>(self, secret: &str) -> Result<Secret, E> {
        Ok(Secret::new(secret))
    }

    fn visit_u64<E: de::Error>(self, _: u64) -> Result<Secret, E> {
        Err(E::custom("the secret was read as a number: put it in quotes"))
    }

    fn visit_i64<E: de::Error>(self, _: i64) -> Result<Secret, E> {
        self.visit_u64(0)
    }

    fn visit_f64<E: de::Error>(self, _: f64) -> Result<Secret, E> {
        self.visit_u64(0)
    }

    fn visit_bool<E: de::Error>(self, _: bool) -> Result<Secret, E> {
        Err(E::custom("the secret was read as true or false: put it in quotes"))
    }
}
