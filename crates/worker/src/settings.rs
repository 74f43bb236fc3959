//! The settings of a worker. The comments on the fields are their documentation for users.
//!
//! Durations are written with a unit, for example `"30s"`, `"1m 30s"` or `"250ms"`.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use broker::settings::{DurationText, deserialize_name};
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize};

pub use broker::settings::{NatsSettings, NatsTls, Secret, StreamSettings};

/// All settings of a worker and of `groundling setup`.
#[derive(Debug, Clone, Default, PartialEq, JsonSchema, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// The connection to NATS.
    pub nats: NatsSettings,
    /// The streams and the consumers.
    pub streams: StreamSettings,
    /// The S3 store.
    pub s3: S3Settings,
    /// The worker.
    pub worker: WorkerSettings,
}

/// The S3 store that pictures are read from.
#[derive(Debug, Clone, PartialEq, JsonSchema, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct S3Settings {
    /// Address of the store, for example `https://s3.example`. Default: AWS. The environment variable
    /// `AWS_ENDPOINT_URL` is not used.
    pub endpoint: Option<String>,
    /// Region of the store. Default: `us-east-1`, which suits most stores that have no regions.
    pub region: String,
    /// Put the bucket into the path (`https://host/bucket/key`) instead of the host name. Default: `false`. Most stores
    /// other than AWS need `true`.
    pub path_style: bool,
    /// Access key. Default: taken from the environment in the order of AWS's tools: variables, profile, web identity,
    /// instance role.
    #[serde(deserialize_with = "deserialize_name")]
    pub access_key: Option<String>,
    /// Secret key of `access_key`. Set both or neither.
    pub secret_key: Option<Secret>,
    /// Session token of `access_key`. Set it if the key is temporary.
    pub session_token: Option<Secret>,
    /// Read without an access key. Default: `false`. Set it to `true` for public buckets.
    pub anonymous: bool,
    /// Agree to pay for requests and transfer, which "requester pays" buckets require for every read. Default: `false`.
    /// The owner of the access key pays.
    pub requester_pays: bool,
    /// PEM file with the certificate authorities to trust instead of the system's. Set it for a store with a private
    /// authority.
    pub ca_file: Option<PathBuf>,
    /// What jobs may read: `bucket` for a bucket, `bucket/prefix` for keys that begin with `prefix`, `*` for
    /// everything. Required; a list, or one string separated by commas.
    #[serde(deserialize_with = "list_or_commas")]
    pub allow: Vec<String>,
    /// Maximum size of an object in bytes. Default: 67108864 (64 MiB). Larger objects become failures.
    pub max_object_bytes: u64,
    /// Maximum time to connect to the store. Default: `"3s"`.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "DurationText")]
    pub connect_timeout: Duration,
    /// Maximum silence of the store, before and during its response. Default: `"10s"`.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "DurationText")]
    pub read_timeout: Duration,
    /// Maximum total time to read one object, including retries. Default: `"60s"`. Raise it for large objects on a slow
    /// store.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "DurationText")]
    pub operation_timeout: Duration,
    /// Requests for each object, 1 to 20, before the attempt at the job fails. Default: 3.
    pub attempts: u32,
}

/// The worker.
#[derive(Debug, Clone, PartialEq, JsonSchema, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct WorkerSettings {
    /// Name of this worker in annotations, failures and logs, for example the name of its pod. Default: a random name.
    pub id: Option<String>,
    /// Maximum number of active jobs, 1 to 4096. Default: as many as keep the engine busy, 40 on a CPU and about 1300 on
    /// CUDA. Raise it if the engine waits for pictures from a distant store.
    pub slots: Option<usize>,
    /// Maximum number of slow reads of new jobs, 1 to 4096, in addition to `slots`; retries have half as many. Default:
    /// as many as slots, but at least 64. A read that takes much longer than most releases its job slot and counts
    /// here.
    pub max_slow_reads: Option<usize>,
    /// Maximum bytes of encoded pictures in memory. Default: 536870912 (512 MiB). Jobs wait when it is used up; it must
    /// be at least `s3.max_object_bytes`.
    pub max_bytes_in_flight: u64,
    /// Maximum bytes of memory for decoding pictures. Default: 2147483648 (2 GiB). A picture needs 6 to 20 bytes for
    /// each pixel and waits until they are free; one that needs more than the maximum becomes a failure.
    pub max_decode_bytes: u64,
    /// Number of pictures that are decoded at once, 1 to 1024. Default: the number of CPUs.
    pub decode_threads: usize,
    /// Maximum time to decode one picture. Default: `"60s"`. After that its job becomes a failure.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "DurationText")]
    pub decode_timeout: Duration,
    /// Maximum attempts at a job before it becomes a failure. Default: 10. An attempt counts if it failed for a reason
    /// that may be the job's own or never ended; deliveries that a worker released do not count.
    pub max_deliveries: u64,
    /// Maximum time from the start of a job to its annotation. Default: `"15m"`. After that the attempt fails.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "DurationText")]
    pub job_timeout: Duration,
    /// How long a worker retries to record or publish an outcome if its stream does not accept it. Default: `"2m"`. The
    /// job keeps its slot meanwhile, which slows intake down; after that it is released.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "DurationText")]
    pub publish_timeout: Duration,
    /// Maximum delay before a job is delivered again after a temporary error. Default: `"5m"`.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "DurationText")]
    pub max_retry_delay: Duration,
    /// How long jobs wait for a bucket or prefix from which nothing can be read, without counting attempts. Default:
    /// twelve times `max_retry_delay`, which is one hour. `"0s"` disables waiting; after the time the jobs are
    /// attempted again.
    #[serde(with = "humantime_serde::option")]
    #[schemars(with = "Option<DurationText>")]
    pub store_outage_wait: Option<Duration>,
    /// How long a job that this worker's own settings forbid is left to other workers before it becomes a failure,
    /// counted from the first refusal by any worker. Default: `"2m"`; `"0s"` fails it at once. This concerns
    /// `s3.allow`, `s3.max_object_bytes`, `allow_raw_prompts`, the limits on pictures and decoding, and the engine's
    /// slots; choose a time that covers the rollout of changed settings.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "DurationText")]
    pub release_own_limits_for: Duration,
    /// How long shutdown waits for active jobs. Default: `"5m"`. After that they are released to other workers. After
    /// Ctrl-C, `groundling annotate` waits as long for the pictures that were started.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "DurationText")]
    pub shutdown_timeout: Duration,
    /// Time between the log lines that sum up the jobs: annotated, failed by reason, requeued, active and waiting. Default:
    /// `"1m"`; `"0s"` for none. Single jobs are logged at debug level.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "DurationText")]
    pub summary_interval: Duration,
    /// Maximum number of pixels of a picture. Default: 178956970, as in Pillow. Larger pictures become failures.
    pub max_picture_pixels: u64,
    /// Maximum width and height of a picture in pixels. Default: 65535, the limit of JPEG and GIF.
    pub max_picture_side: u32,
    /// Rotate pictures according to EXIF or XMP before the model sees them. Default: `true`.
    pub apply_orientation: bool,
    /// Include token ids and log-probabilities in annotations. Default: `false`, because they take most of the bytes.
    pub publish_tokens: bool,
    /// Accept prompts in the model's own markup, including texts to score. Default: `true`. Set it to `false` if
    /// untrusted clients submit jobs and may use only the six tasks that the model was tuned for; texts in other tasks
    /// never act as markup.
    pub allow_raw_prompts: bool,
    /// Address on which `/startupz`, `/livez`, `/readyz` and `/metrics` are served, for example `"127.0.0.1:8080"`. Default: not
    /// served.
    pub health_address: Option<SocketAddr>,
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
            // Long enough for a rollout of changed settings.
            release_own_limits_for: Duration::from_secs(2 * 60),
            shutdown_timeout: Duration::from_secs(5 * 60),
            summary_interval: Duration::from_secs(60),
            // Pillow's limit against decompression bombs.
            max_picture_pixels: 178_956_970,
            // The maximum of JPEG and GIF.
            max_picture_side: 65_535,
            apply_orientation: true,
            publish_tokens: false,
            allow_raw_prompts: true,
            health_address: None,
        }
    }
}

/// Environment variables cannot hold a list, so a string separated by commas is accepted too.
fn list_or_commas<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged, expecting = "a list of strings, or one string separated by commas")]
    enum Form {
        List(Vec<String>),
        Commas(String),
    }
    Ok(match Form::deserialize(deserializer)? {
        Form::List(list) => list,
        Form::Commas(text) => text.split(',').map(|entry| entry.trim().to_owned()).filter(|e| !e.is_empty()).collect(),
    })
}
