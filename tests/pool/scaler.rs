//! `groundling scaler` as a process.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use crate::support;

use std::process::Stdio;

use sandbox::free_address;
use support::{DEADLINE, groundling, send_signal};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::net::TcpStream;

#[tokio::test]
async fn the_scaler_serves_without_a_broker_and_ends_with_sigterm() {
    let address = free_address().unwrap().to_string();
    let mut command = groundling();
    command.args(["scaler", "--log-format", "json", "--listen", &address, "--nats-url", "nats://127.0.0.1:9"]);
    let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let mut logged = async |part: &str| {
        let found = async {
            while let Some(line) = lines.next_line().await.unwrap() {
                if line.contains(part) {
                    return;
                }
            }
            panic!("{part:?} was not logged");
        };
        tokio::time::timeout(DEADLINE, found).await.unwrap();
    };
    logged("the scaler serves KEDA").await;
    logged("retrying until the NATS server responds").await;
    let connection = TcpStream::connect(&address).await.unwrap();
    send_signal(child.id().unwrap(), "TERM");
    logged("received SIGTERM: ending the answers to KEDA;").await;
    let status = tokio::time::timeout(DEADLINE, child.wait()).await.unwrap().unwrap();
    assert!(status.success(), "{status}");
    drop(connection);
    // Arguments and settings are checked as by other commands.
    let output = groundling().args(["scaler", "--listen", "nowhere"]).output().await.unwrap();
    assert_eq!(output.status.code(), Some(2));
}
