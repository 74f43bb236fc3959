//! A worker that is killed at any step of a job: another worker continues, and the job ends exactly once.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a panic in a test is the report")]

use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use async_nats::jetstream::{self, message::PublishMessage};
use futures::future::join_all;
use sandbox::{NatsOptions, NatsServer, S3Access};
use soak::oracle::Records;
use soak::{plan, pool};
use tokio::process::{Child, Command};
use wire::Message;
use wire::subjects::{ATTEMPTS_STREAM, Dataset, JOBS_STREAM, OUTCOMES_STREAM, RETRIES_STREAM};
use wire::v1::{self, FailureReason, ImageJob, image_job, task};
use worker::Step;
use worker::settings::StreamSettings;
use worker::worker_error::ENGINE_STALLED;

const TIMEOUT: Duration = Duration::from_secs(60);
/// The ack wait of soak runs.
const ACK_WAIT: Duration = Duration::from_secs(3);
/// SIGABRT.
const ABORTED: i32 = 6;

/// The kind of job that reaches a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Ends as an annotation.
    Good,
    /// Ends as a failure.
    Bad,
    /// Its store is unavailable: it is retried once and then fails.
    Unavailable,
}

/// The kind of job that reaches a step, and the steps at which earlier workers are killed. The match covers every step.
fn path_to(step: Step) -> (Kind, &'static [Step]) {
    match step {
        Step::Received
        | Step::Fetched
        | Step::Decoded
        | Step::Answered
        | Step::AnnotationClaimed
        | Step::AnnotationPublished
        | Step::Acknowledged => (Kind::Good, &[]),
        // Outcomes are not looked up at the first delivery.
        Step::LookedUp => (Kind::Good, &[Step::Received]),
        Step::FailureClaimed | Step::FailurePublished | Step::Terminated => (Kind::Bad, &[]),
        Step::RetryPublished | Step::Requeued | Step::CopyDeleted => (Kind::Unavailable, &[]),
    }
}

fn job(kind: Kind) -> ImageJob {
    // A bitmap of one pixel.
    let mut bitmap = b"BM".to_vec();
    let one = 1u32.to_le_bytes();
    for field in [&[58, 0, 0, 0][..], &[0; 4], &[54, 0, 0, 0], &[40, 0, 0, 0], &one, &one, &[1, 0, 24, 0], &[0; 24]] {
        bitmap.extend(field);
    }
    bitmap.extend([1, 2, 3, 0]);
    let object = v1::S3Object { bucket: "away".into(), key: "k".into(), ..Default::default() };
    let source = match kind {
        Kind::Good => image_job::Source::Inline(bitmap.into()),
        Kind::Bad => image_job::Source::Inline(b"this is no picture".to_vec().into()),
        Kind::Unavailable => image_job::Source::S3(object),
    };
    let caption = v1::Task { task_id: "t".into(), kind: Some(task::Kind::BriefCaption(v1::BriefCaption {})) };
    ImageJob {
        job_id: "job".into(),
        dataset: plan::DATASET.into(),
        source: Some(source),
        tasks: vec![caption],
        ..Default::default()
    }
}

struct TestEnv {
    server: NatsServer,
    jetstream: jetstream::Context,
    settings: PathBuf,
    folder: PathBuf,
}

impl TestEnv {
    async fn start(name: &str, kind: Kind) -> Self {
        let server = NatsServer::start(&NatsOptions { sync_always: true, ..Default::default() }).await.unwrap();
        let client = async_nats::connect(server.client_url()).await.unwrap();
        let jetstream = jetstream::new(client);
        let streams = StreamSettings { ack_wait: ACK_WAIT, ..Default::default() };
        broker::setup::setup(&jetstream, &streams).await.unwrap();
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("steps").join(name);
        std::fs::create_dir_all(&folder).unwrap();
        let access = S3Access {
            endpoint: "http://127.0.0.1:9".into(),
            region: "us-east-1".into(),
            bucket: "away".into(),
            access_key: "AK".into(),
            secret_key: "SK".into(),
        };
        let text = pool::settings(server.client_url(), &access.endpoint, &access, 1, false);
        // An object that cannot be read fails at the second delivery.
        let text =
            if kind == Kind::Unavailable { text.replace("max_deliveries = 12", "max_deliveries = 2") } else { text };
        let settings = pool::write_settings(&folder, &text).unwrap();
        Self { server, jetstream, settings, folder }
    }

    async fn submit(&self, job: &ImageJob) {
        let subject = plan::DATASET.parse::<Dataset>().unwrap().jobs_subject();
        let message = PublishMessage::build().payload(job.encode_to_vec().into()).message_id(&job.job_id);
        self.jetstream.send_publish(subject, message).await.unwrap().await.unwrap();
    }

    fn worker(&self, number: usize, abort_at: Option<Step>) -> Child {
        let abort_at = abort_at.map(|step| format!("{step:?}:0"));
        self.worker_with(number, abort_at.iter().flat_map(|step| ["--abort-at", step]))
    }

    fn worker_with<'a>(&self, number: usize, arguments: impl IntoIterator<Item = &'a str>) -> Child {
        let log = std::fs::File::create(self.folder.join(format!("worker-{number}.log"))).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_soak"));
        command.args(["worker", "--settings"]).arg(&self.settings);
        command.args(arguments);
        command.env("RUST_LOG", "info").stdin(Stdio::piped()).stdout(Stdio::null()).stderr(log).kill_on_drop(true);
        command.spawn().unwrap()
    }

    /// Waits until a worker is connected, or none is.
    async fn wait_connected(&self, wanted: bool) {
        let is_connected = async || {
            let names = self.server.client_names().await.unwrap();
            names.iter().any(|name| name.starts_with("groundling worker"))
        };
        let started = Instant::now();
        while is_connected().await != wanted {
            assert!(started.elapsed() < TIMEOUT, "waiting for a connected worker: {wanted}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    async fn messages(&self, stream: &str) -> u64 {
        self.jetstream.get_stream(stream).await.unwrap().cached_info().state.messages
    }
}

async fn dies_at(step: Step) -> Result<(), String> {
    let (kind, earlier) = path_to(step);
    let env = TestEnv::start(&format!("{step:?}"), kind).await;
    env.submit(&job(kind)).await;
    for (number, &deadly) in earlier.iter().chain([&step]).enumerate() {
        let mut worker = env.worker(number, Some(deadly));
        // `wait` would close standard input, at which the worker exits.
        let _pipe = worker.stdin.take();
        let ended = tokio::time::timeout(TIMEOUT, worker.wait()).await;
        let status = ended.map_err(|_| format!("{step:?}: no job reached {deadly:?}"))?.unwrap();
        if status.signal() != Some(ABORTED) {
            return Err(format!("{step:?}: the worker ended with {status} instead of at {deadly:?}"));
        }
    }
    env.wait_connected(false).await;
    let mut last = env.worker(earlier.len() + 1, None);
    // The job may have ended already, but a worker shuts down in order only once it is connected.
    env.wait_connected(true).await;
    let _pipe = last.stdin.take();
    let started = Instant::now();
    loop {
        let records = Records::read(&env.jetstream).await.unwrap();
        let left = env.messages(JOBS_STREAM).await + env.messages(RETRIES_STREAM).await;
        if left == 0 && !(records.annotations.is_empty() && records.failures.is_empty()) {
            break;
        }
        if started.elapsed() > TIMEOUT {
            return Err(format!("{step:?}: the job never ended: {records:?}"));
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    // An orderly shutdown: the worker has published everything by then.
    let id = i32::try_from(last.id().unwrap()).unwrap();
    rustix::process::kill_process(rustix::process::Pid::from_raw(id).unwrap(), rustix::process::Signal::TERM).unwrap();
    let status = tokio::time::timeout(TIMEOUT, last.wait()).await.expect("the worker should end").unwrap();
    if !status.success() {
        return Err(format!("{step:?}: the last worker ended with {status} instead of in order"));
    }
    let Records { annotations, failures } = Records::read(&env.jetstream).await.unwrap();
    let reasons: Vec<FailureReason> = failures.values().map(|failure| failure.reason()).collect();
    let wanted = match kind {
        Kind::Good => (1, vec![]),
        Kind::Bad => (0, vec![FailureReason::UnsupportedPicture]),
        Kind::Unavailable => (0, vec![FailureReason::RetriesExhausted]),
    };
    if (annotations.len(), reasons.clone()) != wanted {
        return Err(format!("{step:?}: {} annotations and the failures {reasons:?}", annotations.len()));
    }
    match env.messages(OUTCOMES_STREAM).await {
        1 => Ok(()),
        count => Err(format!("{step:?}: {count} outcomes are recorded")),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_killed_at_any_step_leaves_a_job_that_ends_exactly_once() {
    let mut wrong = Vec::new();
    // Four at a time: each has a server and workers of its own.
    for steps in Step::ALL.chunks(4) {
        wrong.extend(join_all(steps.iter().map(|step| dies_at(*step))).await.into_iter().filter_map(Result::err));
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_whose_device_is_wedged_exits_with_its_own_code_and_its_jobs_end_exactly_once() {
    let env = TestEnv::start("wedged", Kind::Good).await;
    for number in 0..3 {
        env.submit(&ImageJob { job_id: format!("job-{number}"), ..job(Kind::Good) }).await;
    }
    // The first worker finishes one job, the second none.
    for (number, answered) in ["1", "0"].into_iter().enumerate() {
        let mut worker = env.worker_with(number, ["--wedge-after", answered]);
        let _pipe = worker.stdin.take();
        let status = tokio::time::timeout(TIMEOUT, worker.wait()).await.expect("the worker should exit").unwrap();
        assert_eq!(status.code(), Some(i32::from(ENGINE_STALLED)), "{status}");
        assert_eq!(env.messages(ATTEMPTS_STREAM).await, 0, "no attempt counts");
    }
    let mut last = env.worker(2, None);
    let _pipe = last.stdin.take();
    let started = Instant::now();
    while env.messages(JOBS_STREAM).await > 0 {
        assert!(started.elapsed() < TIMEOUT, "the jobs should end");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let Records { annotations, failures } = Records::read(&env.jetstream).await.unwrap();
    let mut ids: Vec<&str> = annotations.values().map(|annotation| annotation.job_id.as_str()).collect();
    ids.sort_unstable();
    assert_eq!((ids, failures.len()), (vec!["job-0", "job-1", "job-2"], 0));
}
