//! A client in Python that has the .proto files and nothing else of the project.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::path::Path;

use sandbox::rig::SearchPaths;
use support::{Pool, demo, goldens};
use tokio::process::Command;

#[tokio::test(flavor = "multi_thread")]
async fn a_client_without_the_projects_code_submits_jobs_and_reads_what_came_of_them() {
    let pool = Pool::start().await;
    let worker = pool.worker();
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    // `deploy/install-tools.sh --client` installs Python beside the servers.
    let servers = SearchPaths::from_environment().executable("weed").unwrap();
    let client = servers.ancestors().nth(2).unwrap().join("client/bin");
    let modules = tempfile::tempdir().unwrap();
    let protos = ["job", "annotation", "failure"].map(|name| format!("groundling/v1/{name}.proto"));
    let made = Command::new(client.join("protoc"))
        .current_dir(root.join("proto"))
        .arg(format!("--python_out={}", modules.path().display()))
        .args(protos)
        .status();
    assert!(made.await.unwrap().success());

    let golden = |prompt: &str| goldens().into_iter().find(|g| g.file == "0000.jpg" && g.prompt == prompt).unwrap();
    let output = Command::new(client.join("python"))
        .arg(root.join("tests/client/submit_and_read.py"))
        .args([pool.nats.client_url(), modules.path().to_str().unwrap()])
        .arg(demo().scenes_dir.join("0000.jpg"))
        .output()
        .await
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let found: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();

    let (caption, ground) = (golden("<grounding> An image of"), golden("<grounding><phrase> a snowman</phrase>"));
    let boxes = |golden: &support::Golden| {
        serde_json::json!(golden.entities.iter().map(|(phrase, _, boxes)| (phrase, boxes)).collect::<Vec<_>>())
    };
    assert_eq!(found["job_id"], "from-python");
    assert_eq!(found["labels"]["camera"], "7");
    assert_eq!(found["texts"], serde_json::json!({"caption": caption.text, "ground": ground.text}));
    assert_eq!(found["boxes"], serde_json::json!({"caption": boxes(&caption), "ground": boxes(&ground)}));
    assert_eq!(found["failure"]["reason"], "FAILURE_REASON_INVALID_JOB");
    assert_eq!(found["failure"]["job"], "ff6e6f742061206a6f62");
    assert!(worker.terminate().await.success());
}
