//! `groundling check` and `groundling dry-run`: every problem is reported with its fix, and nothing is changed.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::path::Path;
use std::process::Output;

use async_nats::jetstream::{self, stream};
use futures::TryStreamExt;
use sandbox::{EmbeddedS3, NatsOptions, NatsServer};
use serde_json::Value;
use support::{demo, groundling, stderr_of, with_store};
use tokio::net::TcpListener;
use tokio::process::Command;
use worker::settings::StreamSettings;

/// The servers of a worker, with the streams created.
struct Servers {
    nats: NatsServer,
    s3: EmbeddedS3,
    jetstream: jetstream::Context,
    _objects: tempfile::TempDir,
}

impl Servers {
    async fn start(extra_config: String, user: Option<&str>) -> Self {
        let nats = NatsServer::start(&NatsOptions { extra_config, ..Default::default() }).await.unwrap();
        let objects = tempfile::tempdir().unwrap();
        let s3 = EmbeddedS3::start(objects.path()).await.unwrap();
        let options = async_nats::ConnectOptions::new();
        let options =
            user.into_iter().fold(options, |options, user| options.user_and_password(user.into(), "p".into()));
        let client = options.connect(nats.client_url()).await.unwrap();
        let jetstream = jetstream::new(client);
        broker::setup::setup(&jetstream, &StreamSettings::default()).await.unwrap();
        Self { nats, s3, jetstream, _objects: objects }
    }

    /// The dry run of a worker with these servers.
    fn dry_run(&self, workers: &str) -> Command {
        let mut command = groundling();
        with_store(&mut command, self.s3.access());
        command
            .args(["dry-run", "--format", "json", "--workers", workers, "--device", "cpu"])
            .env("GROUNDLING__NATS__URL", self.nats.client_url())
            .env("GROUNDLING__TELEMETRY__TIMEOUT", "2s")
            .env("GROUNDLING_MODEL", demo().model_dir);
        command
    }

    /// All streams and consumers, with their configurations and contents, without the times of the queries.
    async fn state(&self) -> Vec<String> {
        let mut state = Vec::new();
        let mut streams = self.jetstream.streams();
        while let Some(stream) = streams.try_next().await.unwrap() {
            let (config, contents) = (&stream.config, &stream.state);
            let counts = (contents.messages, contents.last_sequence, contents.deleted_count, contents.consumer_count);
            state.push(format!("{config:?} {counts:?}"));
            let stream = self.jetstream.get_stream(&config.name).await.unwrap();
            let mut consumers = stream.consumers();
            while let Some(consumer) = consumers.try_next().await.unwrap() {
                let counts = (consumer.num_pending, consumer.num_ack_pending, consumer.num_redelivered);
                state.push(format!("{:?} {:?} {counts:?}", consumer.config, consumer.delivered.consumer_sequence));
            }
        }
        state
    }
}

fn lines(output: &Output) -> Vec<Value> {
    let text = String::from_utf8(output.stdout.clone()).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// The problems found, each with the name of its check.
fn problems(output: &Output) -> Vec<(String, String)> {
    let wrong = lines(output).into_iter().filter(|line| line["ok"] == false && line["check"] != "summary");
    wrong.map(|line| (line["check"].as_str().unwrap().into(), line["message"].as_str().unwrap().into())).collect()
}

/// Standard output, then standard error.
fn all_output(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), stderr_of(output))
}

fn worker_permissions() -> String {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/nats/worker-permissions.conf");
    std::fs::read_to_string(file).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dry_run_finds_nothing_wrong_with_a_pool_that_works_and_changes_nothing() {
    // The worker's user has the permissions of deploy and no others.
    let users = "authorization { users = [ { user: a, password: p }, { user: w, password: p, permissions: $GROUNDLING_WORKER } ] }";
    let servers = Servers::start(format!("{}{users}", worker_permissions()), Some("a")).await;
    for id in 0..3 {
        let payload = format!("job {id}").into();
        servers.jetstream.publish("groundling.jobs.scenes", payload).await.unwrap().await.unwrap();
    }
    let before = servers.state().await;
    let mut command = servers.dry_run("90");
    command.env("GROUNDLING__NATS__USER", "w").env("GROUNDLING__NATS__PASSWORD", "p");
    let output = command.output().await.unwrap();
    assert!(output.status.success(), "{}", all_output(&output));
    assert_eq!(servers.state().await, before);
    let checks: Vec<Value> = lines(&output).iter().map(|line| line["check"].clone()).collect();
    let expected = ["model", "device", "nats", "permissions", "streams", "consumer", "store", "telemetry", "summary"];
    assert_eq!(checks, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dry_run_reports_each_problem_with_its_fix() {
    // Two permissions of the worker are missing.
    let conf = worker_permissions();
    let conf =
        conf.replace("\"groundling.failed.>\"", "").replace("\"$JS.API.STREAM.MSG.DELETE.GROUNDLING_RETRIES\"", "");
    let users = "authorization { users = [ { user: a, password: p }, { user: w, password: p, permissions: $GROUNDLING_WORKER } ] }";
    let servers = Servers::start(format!("{conf}{users}"), Some("a")).await;
    servers.jetstream.delete_stream("GROUNDLING_ATTEMPTS").await.unwrap();
    servers.jetstream.publish("groundling.annotations.scenes", "full".into()).await.unwrap().await.unwrap();
    let mut annotations = servers.jetstream.get_stream("GROUNDLING_ANNOTATIONS").await.unwrap();
    let info = annotations.info().await.unwrap().clone();
    let max_bytes = i64::try_from(info.state.bytes).unwrap();
    servers.jetstream.update_stream(stream::Config { max_bytes, ..info.config }).await.unwrap();
    let before = servers.state().await;
    // A port on which nothing listens any more.
    let dead = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let mut command = servers.dry_run("1000");
    command.env("GROUNDLING__NATS__USER", "w").env("GROUNDLING__NATS__PASSWORD", "p");
    command
        .env("GROUNDLING__S3__ALLOW", "no-such-bucket")
        .env("GROUNDLING__TELEMETRY__ENDPOINT", format!("http://{dead}"));
    command.args(["--model", "/nowhere/kosmos-2"]);
    let output = command.output().await.unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", all_output(&output));
    assert_eq!(servers.state().await, before);
    let found = problems(&output);
    let of = |check: &str| -> Vec<&str> {
        found.iter().filter(|(name, _)| name == check).map(|(_, message)| message.as_str()).collect()
    };
    assert!(
        matches!(of("model")[..], [one] if one.contains("/nowhere/kosmos-2") && one.contains("model.path")),
        "{found:#?}"
    );
    let [failed, delete] = of("permissions")[..] else { panic!("{found:#?}") };
    assert!(failed.contains("publish to groundling.failed.") && failed.contains("add it"), "{failed}");
    assert!(delete.contains("publish to $JS.API.STREAM.MSG.DELETE.GROUNDLING_RETRIES"), "{delete}");
    let [missing, full] = of("streams")[..] else { panic!("{found:#?}") };
    assert_eq!(missing, "stream GROUNDLING_ATTEMPTS does not exist: run `groundling setup`, which creates it");
    assert!(full.starts_with("GROUNDLING_ANNOTATIONS uses") && full.contains("(100.0 %): workers wait"), "{full}");
    assert!(matches!(of("consumer")[..], [one] if one.contains("max_ack_pending of 10000")), "{found:#?}");
    assert!(matches!(of("store")[..], [one] if one.contains("no-such-bucket")), "{found:#?}");
    // Workers run without a collector.
    let printed = lines(&output);
    let warnings = printed.iter().filter(|line| line["warning"] == true);
    let warnings: Vec<&str> = warnings.map(|line| line["message"].as_str().unwrap()).collect();
    assert_eq!(warnings.len(), 3, "{warnings:#?}");
    assert!(warnings.iter().all(|one| one.contains(&dead.to_string()) && one.contains("telemetry.endpoint")));
    assert_eq!(lines(&output).last().unwrap()["check"], "summary");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dry_run_without_a_broker_checks_the_rest() {
    let servers = Servers::start(String::new(), None).await;
    let dead = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let mut command = servers.dry_run("1");
    command.env("GROUNDLING__NATS__URL", format!("nats://{dead}"));
    let output = command.output().await.unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", all_output(&output));
    let found = problems(&output);
    assert!(matches!(&found[..], [(check, message)] if check == "nats" && message.contains("nats.url")), "{found:?}");
    assert!(lines(&output).iter().any(|line| line["check"] == "store" && line["ok"] == true));
}

#[tokio::test]
async fn check_reports_every_problem_at_its_place_and_exits_with_1() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("pool.toml");
    std::fs::write(&file, "[worker]\nslots = 0\n\n[engine]\nstall_timeout = \"1s\"\nslotz = 3\n").unwrap();
    let check = async |arguments: &[&str]| groundling().arg("check").args(arguments).output().await.unwrap();
    let name = file.to_str().unwrap();
    let output = check(&[name]).await;
    assert_eq!(output.status.code(), Some(1), "{}", all_output(&output));
    let text = String::from_utf8(output.stdout).unwrap();
    let starts = [
        ":1:1: s3.allow is empty",
        ":2:1: worker.slots is 0",
        ":5:1: engine.stall_timeout is 1s",
        ":6:1: engine: unknown setting \"slotz\"; write \"slots\"",
    ];
    assert_eq!(text.lines().count(), starts.len(), "{text}");
    for (line, start) in text.lines().zip(starts) {
        assert!(line.starts_with(&format!("{name}{start}")), "{line}");
    }
    let output = check(&[name, "--format", "json"]).await;
    let second = &lines(&output)[1];
    assert_eq!((&second["source"], &second["line"], &second["column"]), (&name.into(), &2.into(), &1.into()));
    std::fs::write(&file, "[s3]\nallow = [\"imgs\"]\n").unwrap();
    let output = check(&[name]).await;
    assert!(output.status.success() && all_output(&output).ends_with(": no problems\n"), "{}", all_output(&output));
    assert_eq!(check(&["/nowhere/pool.toml"]).await.status.code(), Some(2));
}
