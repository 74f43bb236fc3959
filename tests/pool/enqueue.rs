//! `groundling enqueue` and `groundling setup --migrate` as they are typed.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use crate::support;

use std::process::{Output, Stdio};
use std::time::{Duration, Instant};

use async_nats::jetstream::{self, stream::Config};
use sandbox::{EmbeddedS3, NatsOptions, NatsServer};
use serde_json::{Value, json};
use support::{groundling, send_signal, stderr_of, with_store};
use tempfile::TempDir;
use tokio::process::Command;
use wire::Message;
use wire::subjects::{FAILED_STREAM, JOBS_STREAM};
use wire::v1::{ImageJob, image_job};

struct Archive {
    nats: NatsServer,
    s3: EmbeddedS3,
    objects: TempDir,
}

impl Archive {
    async fn start() -> Self {
        let objects = tempfile::tempdir().unwrap();
        let s3 = EmbeddedS3::start(objects.path()).await.unwrap();
        let archive = Self { nats: NatsServer::start(&NatsOptions::default()).await.unwrap(), s3, objects };
        for i in 0..30 {
            archive.put(&format!("2024/{i:02}.{}", if i % 3 == 0 { "txt" } else { "JPG" }), &"x".repeat(i));
        }
        archive
    }

    fn put(&self, key: &str, text: &str) {
        let path = self.objects.path().join(&self.s3.access().bucket).join(key);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    async fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().await.unwrap()
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = groundling();
        with_store(&mut command, self.s3.access());
        command.env("GROUNDLING__NATS__URL", self.nats.client_url()).args(arguments);
        command
    }

    async fn enqueue(&self, arguments: &[&str]) -> Output {
        let source = format!("s3://{}/2024/", self.s3.access().bucket);
        self.run(&[&["enqueue", source.as_str()][..], arguments].concat()).await
    }

    async fn jetstream(&self) -> jetstream::Context {
        jetstream::new(async_nats::connect(self.nats.client_url()).await.unwrap())
    }
}

fn json_of(output: &Output) -> Value {
    assert!(output.status.success(), "{}", stderr_of(output));
    serde_json::from_slice(&output.stdout).unwrap()
}

#[tokio::test]
async fn an_archive_is_looked_at_and_then_enqueued_once() {
    let archive = Archive::start().await;
    let setup = archive.run(&["setup"]).await;
    assert!(setup.status.success(), "{}", stderr_of(&setup));
    let arguments =
        ["--dataset", "year", "--suffix", ".jpg", "--task", "brief", "--task", "ground=a cat", "--format", "json"];
    let dry = ["--dry-run", "--images-per-second", "2", "--price-per-hour", "1800", "--workers", "2"];
    let bytes: u64 = (0..30).filter(|i| i % 3 != 0).sum();
    assert_eq!(
        json_of(&archive.enqueue(&[&arguments[..], &dry[..]].concat()).await),
        json!({
            "dataset": "year", "dry_run": true, "read": 30, "jobs": 20, "bytes": bytes, "seconds": 10.0, "workers": 2, "cost": 10.0,
            "images_per_second": 2.0,
            "prompts": ["<grounding> An image of", "<grounding><phrase> a cat</phrase>"],
        })
    );
    let counts = json!({"read": 30, "jobs": 20, "bytes": bytes});
    assert_eq!(
        json_of(&archive.enqueue(&arguments).await),
        json!({"dataset": "year", "complete": true, "lanes": 1, "total": counts, "this_run": counts})
    );
    let again = json_of(&archive.enqueue(&arguments).await);
    assert_eq!(again["this_run"], json!({"read": 0, "jobs": 0, "bytes": 0}));

    let stream = archive.jetstream().await.get_stream(JOBS_STREAM).await.unwrap();
    let job = stream.get_last_raw_message_by_subject("groundling.jobs.year").await.unwrap();
    let job = ImageJob::decode(job.payload).unwrap();
    let Some(image_job::Source::S3(object)) = job.source else { panic!("no object") };
    assert_eq!(object.key, "2024/29.JPG");
    let ids: Vec<_> = job.tasks.iter().map(|task| task.task_id.as_str()).collect();
    assert_eq!((ids, job.dataset.as_str(), job.job_id.len()), (vec!["brief", "ground"], "year", 64));
}

#[tokio::test]
async fn what_cannot_be_enqueued_is_reported_with_its_exit_code() {
    let archive = Archive::start().await;
    let cases: [(&[&str], i32, &str); 10] = [
        (&["--dataset", "a.b"], 2, "--dataset: "),
        (&["--dataset", "d", "--task", "caption"], 2, "expected brief, detailed"),
        (&["--dataset", "d", "--prompt", "<image>"], 2, "groundling: "),
        (&["--dataset", "d", "--max-new-tokens", "0"], 2, "max_new_tokens"),
        (&["--dataset", "d", "--glob", "a["], 2, "--glob: "),
        (&["--dataset", "d", "--modified-after", "yesterday"], 2, "2026-11-29T08:00:00Z"),
        (&["--dataset", "d", "--max-waiting", "10"], 2, "--max-waiting"),
        (&["--dataset", "d", "keys.orc"], 2, "ORC files are not supported"),
        (&["--dataset", "d", "keys.csv"], 1, "keys.csv cannot be read"),
        (&["--dataset", "d"], 1, "the stream GROUNDLING_JOBS does not exist: run `groundling setup`"),
    ];
    for (arguments, code, text) in cases {
        let output = archive.enqueue(arguments).await;
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {}", stderr_of(&output));
        assert!(stderr_of(&output).contains(text), "{arguments:?}: {}", stderr_of(&output));
    }
    assert!(archive.run(&["setup"]).await.status.success());
    assert!(archive.enqueue(&["--dataset", "d"]).await.status.success());
    for (dataset, arguments, text) in [
        ("e", &["--suffix", ".jpeg"][..], "none of the 30 objects of the source was selected"),
        // Its name is not used up.
        ("e", &["--suffix", ".bmp"], "none of the 30 objects of the source was selected"),
    ] {
        let output = archive.enqueue(&[&["--dataset", dataset][..], arguments].concat()).await;
        assert_eq!(output.status.code(), Some(1), "{}", stderr_of(&output));
        assert!(stderr_of(&output).contains(text), "{}", stderr_of(&output));
    }
    let nothing = format!("s3://{}/2042/", archive.s3.access().bucket);
    let empty = archive.run(&["enqueue", &nothing, "--dataset", "n"]).await;
    assert_eq!(empty.status.code(), Some(1));
    assert!(stderr_of(&empty).contains("no object was found in the source of the dataset n"), "{}", stderr_of(&empty));
    let rate = archive.enqueue(&["--dataset", "e", "--max-failure-rate", "5%"]).await;
    assert!(
        rate.status.success() && stderr_of(&rate).contains("--max-failure-rate had no effect"),
        "{}",
        stderr_of(&rate)
    );
    let other = archive.enqueue(&["--dataset", "d", "--pin", "none"]).await;
    assert_eq!(other.status.code(), Some(2));
    assert!(stderr_of(&other).contains("--pin was \"version\" and is \"none\""), "{}", stderr_of(&other));
}

#[tokio::test]
async fn an_interrupted_run_says_how_to_continue() {
    let archive = Archive::start().await;
    assert!(archive.run(&["setup"]).await.status.success());
    for i in 0..1200 {
        archive.put(&format!("many/{i:04}.jpg"), "x");
    }
    let source = format!("s3://{}/many/", archive.s3.access().bucket);
    let arguments = ["enqueue", &source, "--dataset", "many", "--max-waiting", "1000", "--lanes", "1"];
    let mut child = archive.command(&arguments).stderr(Stdio::piped()).spawn().unwrap();
    let stream = archive.jetstream().await.get_stream(JOBS_STREAM).await.unwrap();
    let started = Instant::now();
    while stream.get_last_raw_message_by_subject("groundling.jobs.many").await.is_err() {
        assert!(started.elapsed() < Duration::from_secs(60) && child.try_wait().unwrap().is_none());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    // Until the feeder has the response.
    tokio::time::sleep(Duration::from_secs(1)).await;
    send_signal(child.id().unwrap(), "INT");
    let output = child.wait_with_output().await.unwrap();
    assert_eq!(output.status.code(), Some(130), "{}", stderr_of(&output));
    assert!(
        stderr_of(&output).contains("999 jobs are stored, and the same command continues"),
        "{}",
        stderr_of(&output)
    );
}

#[tokio::test]
async fn setup_reports_an_old_stream_and_migrates_it_when_told_to() {
    let archive = Archive::start().await;
    assert!(archive.run(&["setup"]).await.status.success());
    let jetstream = archive.jetstream().await;
    let config = jetstream.get_stream(JOBS_STREAM).await.unwrap().cached_info().config.clone();
    let subjects = vec!["groundling.jobs.*".to_owned()];
    jetstream.delete_consumer_from_stream("groundling-workers-urgent", JOBS_STREAM).await.unwrap();
    jetstream.update_stream(&Config { subjects, ..config }).await.unwrap();
    let config = jetstream.get_stream(FAILED_STREAM).await.unwrap().cached_info().config.clone();
    let subjects = vec!["groundling.failed.*".to_owned()];
    jetstream.update_stream(&Config { subjects, ..config }).await.unwrap();
    // A failure of an earlier version, which stays.
    jetstream.publish("groundling.failed.d", "x".into()).await.unwrap().await.unwrap();
    let reported = archive.run(&["setup"]).await;
    assert_eq!(reported.status.code(), Some(1));
    assert!(stderr_of(&reported).contains("GROUNDLING_JOBS has the subjects"), "{}", stderr_of(&reported));
    assert!(
        stderr_of(&reported).contains("workers will not start: stream GROUNDLING_FAILED"),
        "{}",
        stderr_of(&reported)
    );
    let refused = archive.enqueue(&["--dataset", "d"]).await;
    assert!(
        stderr_of(&refused).contains("does not accept cursors: run `groundling setup --migrate`"),
        "{}",
        stderr_of(&refused)
    );
    let migrated = archive.run(&["setup", "--migrate"]).await;
    assert!(migrated.status.success(), "{}", stderr_of(&migrated));
    let text = String::from_utf8(migrated.stdout).unwrap();
    assert!(
        text.starts_with(
            "migrate stream GROUNDLING_JOBS: add the subject groundling.cursor.*.*\n\
             migrate stream GROUNDLING_JOBS: add the subject groundling.urgent.*\n\
             migrate stream GROUNDLING_FAILED: replace the subject groundling.failed.* with groundling.failed.>\n"
        ),
        "{text}"
    );
    assert!(text.contains("created consumer groundling-workers-urgent\n"), "{text}");
    let failed = jetstream.get_stream(FAILED_STREAM).await.unwrap();
    assert_eq!(failed.cached_info().state.messages, 1);
    // Workers of both versions can publish.
    for subject in ["groundling.failed.d", "groundling.failed.d.internal"] {
        jetstream.publish(subject, "x".into()).await.unwrap().await.unwrap();
    }
    assert!(archive.enqueue(&["--dataset", "d", "--urgent"]).await.status.success());
}
