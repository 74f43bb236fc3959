//! The program with models of a hub and of a store.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use crate::support;

use std::net::SocketAddr;
use std::process::Output;
use std::time::Duration;

use sandbox::{ModelHub, free_address};
use support::{DEADLINE, TestServers, Worker, caption, demo, groundling, stderr_of};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::process::Command;

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";
/// Where a download stalls: most of the weights are still to come.
const STALL: usize = 4_000_000;

async fn hub() -> ModelHub {
    ModelHub::start("owner/emoji", &demo().model_dir, COMMIT).await.unwrap()
}

/// The command with this hub and this cache.
fn with_hub(mut command: Command, hub: &ModelHub, cache: &tempfile::TempDir) -> Command {
    for name in ["HF_HOME", "HF_HUB_CACHE", "HF_TOKEN", "HF_HUB_OFFLINE"] {
        command.env_remove(name);
    }
    command.env("HF_ENDPOINT", hub.endpoint()).env("XDG_CACHE_HOME", cache.path());
    command.env("GROUNDLING_MODEL", "hf://owner/emoji");
    command
}

fn ranges(hub: &ModelHub) -> Vec<Option<String>> {
    hub.take_requests().into_iter().filter(|request| !request.is_hub).map(|request| request.range).collect()
}

/// The body of a health answer; empty if nothing answers.
async fn startup(address: SocketAddr) -> String {
    let mut body = String::new();
    if let Ok(mut socket) = TcpStream::connect(address).await {
        let request = "GET /startupz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
        if socket.write_all(request.as_bytes()).await.is_ok() {
            drop(socket.read_to_string(&mut body).await);
        }
    }
    body
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_is_killed_while_it_downloads_goes_on_with_it() {
    let (servers, hub, cache) = (TestServers::start().await, hub().await, tempfile::tempdir().unwrap());
    servers.upload("scene.jpg", std::fs::read(&demo().scenes[0].path).unwrap()).await;
    servers.enqueue(&servers.job("job", "scene.jpg", vec![caption()])).await;
    let address = free_address().unwrap();
    let command = || {
        let mut command = with_hub(servers.groundling(), &hub, &cache);
        command.env("GROUNDLING__WORKER__HEALTH_ADDRESS", address.to_string());
        command
    };
    hub.state().stall_after = Some(STALL);
    let worker = Worker::start(command());
    tokio::time::timeout(DEADLINE, hub.stalled()).await.expect("nothing was downloaded");
    let told = async {
        while !startup(address).await.contains("downloading model: 3") {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(DEADLINE, told).await.expect("/startupz does not tell the progress");
    // Dropped, it is killed.
    drop(worker);
    hub.state().stall_after = None;
    assert_eq!(ranges(&hub), [None]);
    let worker = Worker::start(command());
    let (annotations, failures) = servers.wait_for_outcomes(1).await;
    assert_eq!(failures, []);
    let model = annotations[0].model.as_ref().unwrap();
    assert_eq!((model.name.as_str(), model.revision.as_deref()), ("owner/emoji", Some(COMMIT)));
    let rest = ranges(&hub);
    assert!(matches!(&rest[..], [Some(range)] if range != "bytes=0-"), "{rest:?}");
    assert!(worker.terminate().await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_processes_one_downloads_and_later_ones_need_no_hub() {
    let (hub, cache) = (hub().await, tempfile::tempdir().unwrap());
    let inspect = || {
        let mut command = with_hub(groundling(), &hub, &cache);
        command.args(["inspect", "prompt", "--prompt", "<grounding> An image of"]);
        command
    };
    let none = with_hub(groundling(), &hub, &cache).args(["annotate", "--offline", "x.jpg"]).output().await.unwrap();
    assert!(
        none.status.code() == Some(1) && stderr_of(&none).contains("not downloaded completely"),
        "{}",
        stderr_of(&none)
    );
    assert_eq!(hub.take_requests(), []);

    let (mut one, mut other) = (inspect(), inspect());
    let (one, other) = tokio::join!(one.output(), other.output());
    let (one, other) = (one.unwrap(), other.unwrap());
    assert!(one.status.success() && other.status.success(), "{}{}", stderr_of(&one), stderr_of(&other));
    assert_eq!(one.stdout, other.stdout);
    assert_eq!(ranges(&hub).len(), 1);
    let later = inspect().env("HF_HUB_OFFLINE", "1").output().await.unwrap();
    assert_eq!((later.stdout, hub.take_requests()), (one.stdout, vec![]));

    for (model, part) in
        [("hf://owner/none", "owner/none does not exist or is private"), ("hf://owner/emoji@v2", "no revision \"v2\"")]
    {
        let output = inspect().args(["--model", model]).output().await.unwrap();
        assert!(output.status.code() == Some(1) && stderr_of(&output).contains(part), "{}", stderr_of(&output));
    }
    let output = inspect().args(["--model", "hf://owner"]).output().await.unwrap();
    assert!(
        output.status.code() == Some(2) && stderr_of(&output).contains("hf://OWNER/NAME"),
        "{}",
        stderr_of(&output)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_of_a_store_annotates_as_its_directory_does() {
    let (servers, cache) = (TestServers::start().await, tempfile::tempdir().unwrap());
    for entry in std::fs::read_dir(demo().model_dir).unwrap() {
        let path = entry.unwrap().path();
        let key = format!("models/emoji/{}", path.file_name().unwrap().to_str().unwrap());
        servers.upload(&key, std::fs::read(path).unwrap()).await;
    }
    let annotate = async |model: &str| {
        let mut command = servers.groundling();
        // The model's prefix is not one that jobs may read.
        command.env("XDG_CACHE_HOME", cache.path()).env("GROUNDLING__S3__ALLOW", "other");
        command.args(["annotate", "--format", "json", "--model", model]).arg(&demo().scenes[0].path);
        command.output().await.unwrap()
    };
    let address = format!("s3://{}/models/emoji", servers.bucket().bucket);
    let (remote, local) = (annotate(&address).await, annotate(demo().model_dir.to_str().unwrap()).await);
    assert!(remote.status.success() && local.status.success(), "{}{}", stderr_of(&remote), stderr_of(&local));
    let results = |output: &Output| {
        let row: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        (row["results"].clone(), row["model"]["digest"].clone())
    };
    assert_eq!(results(&remote), results(&local));
}
