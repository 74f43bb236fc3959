//! Parts of a test program that run as a process of their own, so that they can be killed or their memory measured.

use std::process::Stdio;
use std::time::Duration;

use tokio::process::{Child, Command};

use super::{TestEnv, memory};

/// Variables of the environment.
const NATS: &str = "ARCHIVE_TEST_NATS";
const STORE: &str = "ARCHIVE_TEST_STORE";
const DATASET: &str = "ARCHIVE_TEST_DATASET";

/// What such a process works on.
pub(crate) struct Inputs {
    /// The URL of the NATS server.
    pub(crate) nats: String,
    /// The endpoint of the store; empty if the process reads none.
    pub(crate) store: String,
    pub(crate) dataset: String,
}

/// Starts this test program with this ignored test only, which gets its [`Inputs`] from [`inputs`].
pub(crate) fn spawn(test: &str, env: &TestEnv, store: &str, dataset: &str) -> Child {
    Command::from(sandbox::child_test(test))
        .envs([(NATS, env.server.client_url()), (STORE, store), (DATASET, dataset)])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .unwrap()
}

/// The inputs of this process; `None` if [`spawn`] did not start it.
pub(crate) fn inputs() -> Option<Inputs> {
    let of = |name| std::env::var(name).ok();
    Some(Inputs { nats: of(NATS)?, store: of(STORE)?, dataset: of(DATASET)? })
}

/// Kills a process after this time, unless it has ended by then. Returns whether it was killed.
pub(crate) async fn kill_after(mut child: Child, time: Duration) -> bool {
    match tokio::time::timeout(time, child.wait()).await {
        Ok(ended) => assert!(ended.unwrap().success()),
        Err(_) => child.kill().await.unwrap(),
    }
    // `kill` waits, and then knows how the process ended: it may have done so by itself in the meantime.
    !child.wait().await.unwrap().success()
}

/// Prints a result and the greatest memory of this process for [`result`].
pub(crate) fn report(result: &str) {
    println!("{result} peak_mb={:.1}", memory().1);
}

/// Waits for the end of a process. Returns the line with its result and memory, and the memory in MB.
pub(crate) async fn result(child: Child) -> (String, f64) {
    let output = child.wait_with_output().await.unwrap();
    let output = String::from_utf8(output.stdout).unwrap();
    let line = output.lines().find(|line| line.contains(" peak_mb=")).expect(&output);
    let (_, peak) = line.split_once(" peak_mb=").unwrap();
    (line.to_owned(), peak.parse().unwrap())
}
