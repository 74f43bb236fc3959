//! An archive from the bucket to the finished dataset, with the commands as they are typed and two workers.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use wire::subjects::ANNOTATIONS_STREAM;

use crate::support::{DEADLINE, TestServers, demo};

const DATASET: &str = "archive";

async fn run(servers: &TestServers, arguments: &[&str]) -> Vec<Value> {
    let output = servers.groundling().args(arguments).args(["--format", "json"]).output().await.unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?}: {stderr}");
    let lines = String::from_utf8(output.stdout).unwrap();
    lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

async fn status(servers: &TestServers) -> Value {
    run(servers, &["status", "--dataset", DATASET, "--price-per-hour", "2"]).await[0]["datasets"][0].clone()
}

/// Waits until so many jobs are done and failed, and nothing is left.
async fn until(servers: &TestServers, done: u64, failed: u64) -> Value {
    let start = Instant::now();
    loop {
        let status = status(servers).await;
        let of = |name: &str| status[name].as_u64().unwrap();
        if (of("done"), of("failed"), of("queued"), of("retrying")) == (done, failed, 0, 0) {
            return status;
        }
        assert!(start.elapsed() < DEADLINE, "expected {done} done and {failed} failed: {status}");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_archive_is_fed_watched_repaired_and_reconciled() {
    let servers = TestServers::start().await;
    let demo = demo();
    let scenes: Vec<Vec<u8>> = demo.scenes.iter().map(|scene| std::fs::read(&scene.path).unwrap()).collect();
    for (scene, bytes) in demo.scenes.iter().zip(&scenes) {
        servers.upload(&format!("2024/{}", scene.file_name), bytes.clone()).await;
    }
    let bad = ["text.jpg", "page.png", "cut-1.jpg", "cut-2.jpg", "cut-3.jpg"];
    for (i, name) in bad.into_iter().enumerate() {
        let bytes = match name {
            "text.jpg" => b"this is no picture".to_vec(),
            "page.png" => b"<html>404 not found</html>".to_vec(),
            _ => scenes[i][..scenes[i].len() / 2].to_vec(),
        };
        servers.upload(&format!("2024/bad/{name}"), bytes).await;
    }
    let source = format!("s3://{}/2024/", servers.bucket().bucket);
    let recipe = ["--dataset", DATASET, "--task", "brief", "--pin", "none"];
    let reconcile =
        async |more: &[&str]| run(&servers, &[&["reconcile", source.as_str()], &recipe[..], more].concat()).await;

    let fed = run(&servers, &[&["enqueue", source.as_str()], &recipe[..]].concat()).await;
    assert_eq!((&fed[0]["total"]["jobs"], &fed[0]["total"]["read"]), (&json!(53), &json!(53)));
    let waiting = status(&servers).await;
    assert_eq!((&waiting["waiting"], &waiting["in_flight"], &waiting["done"]), (&json!(53), &json!(0), &json!(0)));
    assert_eq!((&waiting["source"]["total_jobs"], &waiting["eta_seconds"]), (&json!(53), &Value::Null));
    assert_eq!((&waiting["source"]["state"], &waiting["source"]["read"]), (&json!("complete"), &json!(53)));
    let workers = [servers.worker(), servers.worker()];
    let first = until(&servers, 48, 5).await;
    assert_eq!(first["failed_by_reason"], json!({"undecodable_picture": 3, "unsupported_picture": 2}));
    let seen = first["workers"]["seen"].as_u64().unwrap();
    assert!((1..=2).contains(&seen), "{first}");
    assert!(first["device_seconds"].as_f64().unwrap() > 0.0 && first["cost"]["so_far"].as_f64().unwrap() > 0.0);
    assert_eq!(first["eta_seconds"], json!({"least": 0.0, "most": 0.0}));
    let found = reconcile(&[]).await;
    assert_eq!(
        found,
        [json!({
            "dataset": DATASET, "read": 53, "repeated": 0, "selected": 53, "done": 48, "failed": 5, "waiting": 0, "missing": 0, "elsewhere": 0,
            "enqueued": null,
        })]
    );

    let unsupported =
        run(&servers, &["failures", "list", "--dataset", DATASET, "--reason", "unsupported_picture"]).await;
    let addresses: Vec<_> = unsupported.iter().map(|failure| failure["address"].as_str().unwrap()).collect();
    let bucket = &servers.bucket().bucket;
    let of = |name: &str| format!("s3://{bucket}/2024/bad/{name}");
    assert!(addresses.len() == 2 && ["text.jpg", "page.png"].iter().all(|name| addresses.contains(&of(name).as_str())));
    let sequence = unsupported[0]["sequence"].to_string();
    let shown = &run(&servers, &["failures", "show", &sequence]).await[0];
    assert_eq!(shown["job"]["tasks"], json!([{"task_id": "brief", "kind": "brief_caption", "text": null}]));
    assert!(shown["worker"]["id"].is_string() && shown["deliveries"] == 1, "{shown}");

    // Nothing is repaired: each job is one failure again.
    let replayed = run(&servers, &["failures", "replay", "--dataset", DATASET]).await;
    assert_eq!(replayed, [json!({"replayed": 5, "replayed_before": 0, "not_replayed": 0})]);
    let again = until(&servers, 48, 5).await;
    assert_eq!(again["failed_by_reason"], first["failed_by_reason"]);

    for (i, name) in bad.into_iter().enumerate() {
        servers.upload(&format!("2024/bad/{name}"), scenes[i].clone()).await;
    }
    run(&servers, &["failures", "replay", "--dataset", DATASET]).await;
    until(&servers, 53, 0).await;
    let found = reconcile(&[]).await;
    assert_eq!((&found[0]["done"], &found[0]["missing"]), (&json!(53), &json!(0)));

    // One object is overwritten, and one is added that no feeder has seen.
    servers.upload("2024/bad/text.jpg", scenes[40].clone()).await;
    servers.upload("2024/new.jpg", scenes[41].clone()).await;
    let found = reconcile(&["--enqueue"]).await;
    let missing: Vec<_> = found.iter().filter_map(|line| line["missing"]["key"].as_str()).collect();
    assert!(missing.len() == 2 && missing.contains(&"2024/bad/text.jpg") && missing.contains(&"2024/new.jpg"));
    let summary = &found[2];
    assert_eq!((&summary["done"], &summary["missing"], &summary["enqueued"]), (&json!(52), &json!(2), &json!(2)));
    until(&servers, 55, 0).await;
    let found = reconcile(&["--enqueue"]).await;
    assert_eq!((&found[0]["done"], &found[0]["missing"], &found[0]["enqueued"]), (&json!(54), &json!(0), &json!(0)));
    for worker in workers {
        assert!(worker.terminate().await.success());
    }
    assert_eq!(servers.messages(ANNOTATIONS_STREAM).await, 55, "none twice");
}

#[tokio::test]
async fn wrong_arguments_of_the_commands_are_reported() {
    let servers = TestServers::start().await;
    for (arguments, code, text) in [
        (&["failures", "replay"][..], 2, "give the sequences of failures, --dataset or --all"),
        (&["failures", "drop", "--reason", "internal"], 2, "give the sequences of failures, --dataset or --all"),
        (&["failures", "list", "--reason", "lost"], 2, "expected one of invalid_job"),
        (&["failures", "list", "--dataset", "a.b"], 2, "--dataset: "),
        (&["failures", "show", "7"], 1, "there is no failure with the sequence 7"),
        (&["status", "--dataset", ">"], 2, "--dataset: "),
        (&["status", "--dataset", "typo"], 1, "nothing is known of the dataset typo"),
        (&["failures", "list", "--dataset", "typo"], 1, "nothing is known of the dataset typo"),
        (&["failures", "replay", "--dataset", "typo"], 1, "nothing is known of the dataset typo"),
        (&["reconcile", "s3://b/", "--dataset", "typo"], 1, "nothing is known of the dataset typo"),
        (&["reconcile", "s3://b/", "--dataset", "typo", "--enqueue"], 1, "nothing is known of the dataset typo"),
        (&["datasets", "cancel", "typo"], 1, "the dataset typo was not submitted by `groundling enqueue`"),
        (
            &["reconcile", "s3://b/", "--dataset", "d", "--sample", "3"],
            2,
            "--sample, --unique and --missing cannot be given",
        ),
    ] {
        let output = servers.groundling().args(arguments).output().await.unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {stderr}");
        assert!(stderr.contains(text), "{arguments:?}: {stderr}");
    }
    let empty = servers.groundling().arg("status").output().await.unwrap();
    assert!(String::from_utf8(empty.stdout).unwrap().starts_with("no dataset has a job"));
}
