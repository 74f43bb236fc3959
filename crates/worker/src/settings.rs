//! What a worker can be told. The comment on each field is its documentation for users.
//!
//! Durations are written with their unit, as in `"30s"`, `"1m 30s"` or `"250ms"`.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use broker::settings::DurationText;
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize};

pub use broker::settings::{NatsSettings, NatsTls, Secret, StreamSettings};

/// All settings of the worker and of `groundling setup`.
#[derive(Debug, Clone, Default, PartialEq, JsonSchema, Serialize, Deserialize)]
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

/// The S3 store that pictures are read from.
#[derive(Debug, Clone, PartialEq, JsonSchema, Serialize, Deserialize)]
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
    #[schemars(with = "DurationText")]
    pub connect_timeout: Duration,
    /// How long the store may stay silent, before its answer and within it.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "DurationText")]
    pub read_timeout: Duration,
    /// How long reading one object may take, all tries together.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "DurationText")]
    pub operation_timeout: Duration,
    /// Tries for each read before the job goes back to the queue for a while.
    pub attempts: u32,
}

/// The work itself.
#[derive(Debug, Clone, PartialEq, JsonSchema, Serialize, Deserialize)]
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
    #[schemars(with = "DurationText")]
    pub decode_timeout: Duration,
    /// Maximum attempts at a job. An attempt counts if it failed for a reason that may be the job's own, or if it was
    /// started and never ended; deliveries that a worker released (shutdown, a full stream) do not. The last failed
    /// attempt makes the job a failure.
    pub max_deliveries: u64,
    /// How long one job may take until its answer is there. After that it goes back to the queue.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "DurationText")]
    pub job_timeout: Duration,
    /// How long an answer waits for its stream to take it (a full stream, a cluster without a leader). Meanwhile it
    /// holds its slot, so that intake slows down; after that the job goes back to the queue.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "DurationText")]
    pub publish_timeout: Duration,
    /// Longest delay before a job whose fault could pass is handed out again.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "DurationText")]
    pub max_retry_delay: Duration,
    /// How long jobs wait for a store, or a part of it (`bucket/prefix/`), that does not answer any of them. Meanwhile
    /// single reads find out whether it does, and no attempts are counted. After that the jobs are attempted again, and
    /// fail as usual. Left out: twelve times `max_retry_delay`. `"0s"`: they do not wait.
    #[serde(with = "humantime_serde::option")]
    #[schemars(with = "Option<DurationText>")]
    pub store_outage_wait: Option<Duration>,
    /// How long a job that this worker's own settings forbid is left to other workers, counted from the first refusal by
    /// any of them, before it becomes a failure: `s3.allow`, `s3.max_object_bytes`, `allow_raw_prompts`, the limits of
    /// pictures and of decoding, `engine.slots` and `engine.slot_tokens`. For pools in which a change of settings goes
    /// from worker to worker. `"0s"`: it fails at once.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "DurationText")]
    pub release_own_limits_for: Duration,
    /// How long shutdown waits for jobs in hand. After that they go back to the queue.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "DurationText")]
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
