//! The permissions of `groundling ingest` on the NATS server.

use std::path::Path;

use sandbox::{NatsOptions, NatsServer};

use crate::bench::{Bench, minio};

#[tokio::test(flavor = "multi_thread")]
async fn ingest_needs_no_more_than_its_permissions() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/nats/ingest-permissions.conf");
    let permissions = std::fs::read_to_string(file).unwrap();
    let users = "{ user: admin, password: a }, { user: ingest, password: i, permissions: $GROUNDLING_INGEST }";
    // The test's own client has no credentials.
    let extra_config = format!("{permissions}\nno_auth_user: admin\nauthorization {{ users = [ {users} ] }}");
    let server = NatsServer::start(&NatsOptions { extra_config, ..NatsOptions::default() }).await.unwrap();
    let rules = "[[ingest]]\nname = \"minio\"\nsubject = \"minio.events\"\ndataset = \"d\"\n[[ingest]]\nname = \"http\"\npath = \"/e\"\ndataset = \"d\"\n";
    let bench = Bench::with_server(server, rules).await;
    let mut command = bench.command();
    command.env("GROUNDLING__NATS__USER", "ingest").env("GROUNDLING__NATS__PASSWORD", "i");
    let child = command.arg("ingest").stderr(std::process::Stdio::piped()).spawn().unwrap();
    bench.until("ready", async || bench.health("/readyz").await.is_some_and(|answer| answer.status == 200)).await;
    bench.publish("minio.events", minio(&["1.jpg"])).await;
    // One that fails, and one that is terminated.
    bench.publish("minio.events", "{}").await;
    assert_eq!(bench.post("/e", minio(&["2.jpg"]).as_bytes()).await.status, 200);
    bench.events_are_done().await;
    assert_eq!(bench.keys().await, ["1.jpg", "2.jpg"]);
    let id = child.id().unwrap().to_string();
    tokio::process::Command::new("kill").args(["-TERM", &id]).status().await.unwrap();
    let output = child.wait_with_output().await.unwrap();
    let log = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{log}");
    assert!(!log.to_lowercase().contains("permission"), "{log}");
}
