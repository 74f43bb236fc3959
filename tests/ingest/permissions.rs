//! The permissions of `groundling ingest` on the NATS server.

use std::path::Path;

use sandbox::{NatsOptions, NatsServer};

use crate::env::{TestEnv, minio};
use crate::support::send_signal;

#[tokio::test(flavor = "multi_thread")]
async fn ingest_needs_no_more_than_its_permissions() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/nats/ingest-permissions.conf");
    let permissions = std::fs::read_to_string(file).unwrap();
    let users = "{ user: admin, password: a }, { user: ingest, password: i, permissions: $GROUNDLING_INGEST }";
    // The test's own client has no credentials.
    let extra_config = format!("{permissions}\nno_auth_user: admin\nauthorization {{ users = [ {users} ] }}");
    let server = NatsServer::start(&NatsOptions { extra_config, ..NatsOptions::default() }).await.unwrap();
    let rules = "[[ingest]]\nname = \"minio\"\nsubject = \"minio.events\"\ndataset = \"d\"\n[[ingest]]\nname = \"http\"\npath = \"/e\"\ndataset = \"d\"\n";
    let env = TestEnv::with_server(server, rules).await;
    let mut command = env.command();
    command.env("GROUNDLING__NATS__USER", "ingest").env("GROUNDLING__NATS__PASSWORD", "i");
    let child = command.arg("ingest").stderr(std::process::Stdio::piped()).spawn().unwrap();
    env.until("ready", async || env.health("/readyz").await.is_some_and(|answer| answer.status == 200)).await;
    env.publish("minio.events", minio(&["1.jpg"])).await;
    // One that fails, and one that is terminated.
    env.publish("minio.events", "{}").await;
    assert_eq!(env.post("/e", minio(&["2.jpg"]).as_bytes()).await.status, 200);
    env.wait_until_events_are_done().await;
    assert_eq!(env.keys().await, ["1.jpg", "2.jpg"]);
    send_signal(child.id().unwrap(), "TERM");
    let output = child.wait_with_output().await.unwrap();
    let log = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{log}");
    assert!(!log.to_lowercase().contains("permission"), "{log}");
}
