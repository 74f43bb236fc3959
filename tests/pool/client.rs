//! The Python client, with the program's own worker.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use crate::support;

use std::path::Path;

use sandbox::tools::SearchPaths;
use support::{TestServers, demo, goldens};
use tokio::process::Command;

/// The trace of the client.
const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";

#[tokio::test(flavor = "multi_thread")]
async fn the_python_client_submits_jobs_and_reads_what_came_of_them() {
    let servers = TestServers::start().await;
    let worker = servers.worker();
    let package = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../clients/python");
    // `deploy/install-tools.sh --client` installs Python beside the servers.
    let weed = SearchPaths::from_environment().executable("weed").unwrap();
    let client = weed.ancestors().nth(2).unwrap().join("client/bin");

    let golden = |prompt: &str| goldens().into_iter().find(|g| g.file == "0000.jpg" && g.prompt == prompt).unwrap();
    let output = Command::new(client.join("python"))
        .env("PYTHONPATH", package.join("src"))
        .arg(package.join("tests/submit_and_read.py"))
        .arg(servers.nats.client_url())
        .arg(demo().scenes_dir.join("0000.jpg"))
        .arg(format!("00-{TRACE}-b7ad6b7169203331-01"))
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
    let traceparent = found["traceparent"].as_str().unwrap();
    assert!(traceparent.starts_with(&format!("00-{TRACE}-")), "{traceparent}");
    assert_eq!(found["labels"]["camera"], "7");
    assert_eq!(found["texts"], serde_json::json!({"caption": caption.text, "ground": ground.text}));
    assert_eq!(found["boxes"], serde_json::json!({"caption": boxes(&caption), "ground": boxes(&ground)}));
    assert_eq!(found["failure"]["reason"], "FAILURE_REASON_INVALID_JOB");
    assert_eq!(found["failure"]["job"], "ff6e6f742061206a6f62");
    assert!(worker.terminate().await.success());
}
