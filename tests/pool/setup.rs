//! `groundling setup` as it is typed.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use crate::support;

use std::path::Path;

use async_nats::jetstream::stream::{Config, RetentionPolicy};
use async_nats::jetstream::{self, Context};
use async_nats::{Client, ConnectOptions};
use sandbox::{NatsOptions, NatsServer};
use support::groundling;
use wire::subjects::{EVENTS_STREAM, JOBS_STREAM, RETRIES_STREAM, RETRIES_WILDCARD};

/// A server whose user `setup` has the permissions of deploy, but for `without`, and no others.
async fn server(without: &str) -> (NatsServer, Client) {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/nats/setup-permissions.conf");
    let permissions = std::fs::read_to_string(file).unwrap();
    assert!(permissions.contains(without));
    let permissions = permissions.replace(without, "");
    let users = "{ user: admin, password: a }, { user: setup, password: s, permissions: $GROUNDLING_SETUP }";
    let extra_config = format!("{permissions}\nauthorization {{ users = [ {users} ] }}");
    let server = NatsServer::start(&NatsOptions { extra_config, ..NatsOptions::default() }).await.unwrap();
    let administrator = ConnectOptions::with_user_and_password("admin".into(), "a".into());
    let client = administrator.connect(server.client_url()).await.unwrap();
    (server, client)
}

/// Runs `groundling setup` with a rule on this subject. Returns its exit code, stdout and stderr.
async fn setup(server: &NatsServer, subject: &str, arguments: &[&str]) -> (Option<i32>, String, String) {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("groundling.toml");
    // A request without an answer would not return.
    let nats = format!("[nats]\nurl = {:?}\nuser = \"setup\"\nrequest_timeout = \"1h\"\n", server.client_url());
    let rule = format!("[[ingest]]\nname = \"a\"\nsubject = {subject:?}\ndataset = \"d\"\n");
    std::fs::write(&file, format!("{nats}{rule}")).unwrap();
    let mut command = groundling();
    // As from a file with a newline at its end.
    command.env("GROUNDLING__NATS__PASSWORD", "s\n").arg("--settings").arg(&file).arg("setup").args(arguments);
    let output = command.output().await.unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

#[tokio::test]
async fn setup_needs_no_more_than_its_permissions_and_a_check_creates_nothing() {
    let (server, client) = server("").await;
    let jetstream = jetstream::new(client);
    let (code, states, said) = setup(&server, "minio.events", &["--check"]).await;
    assert_eq!(code, Some(1), "{said}");
    for missing in ["stream GROUNDLING_JOBS", "consumer groundling-workers-urgent", "stream GROUNDLING_EVENTS"] {
        assert!(states.contains(&format!("missing {missing}\n")), "{states}");
    }
    assert!(said.contains("run `groundling setup` to create what is missing"), "{said}");
    for stream in [JOBS_STREAM, EVENTS_STREAM] {
        assert!(jetstream.get_stream(stream).await.is_err(), "{stream} was created");
    }
    let (code, states, said) = setup(&server, "minio.events", &[]).await;
    assert_eq!(code, Some(0), "{said}");
    assert!(states.contains("created stream GROUNDLING_EVENTS\n") && !states.contains("missing"), "{states}");
    let (code, states, said) = setup(&server, "minio.events", &["--check"]).await;
    assert_eq!((code, said.as_str()), (Some(0), ""));
    assert!(states.contains("found stream GROUNDLING_JOBS\n") && !states.contains("created"), "{states}");

    // A consumer that is missing, a stream of an earlier version, and a rule with another subject.
    jetstream.delete_consumer_from_stream("groundling-workers", JOBS_STREAM).await.unwrap();
    let config = jetstream.get_stream(JOBS_STREAM).await.unwrap().cached_info().config.clone();
    let subjects = vec!["groundling.jobs.*".to_owned(), "groundling.urgent.*".to_owned()];
    jetstream.update_stream(&Config { subjects, ..config }).await.unwrap();
    let (code, states, said) = setup(&server, "store.events", &["--check"]).await;
    assert_eq!(code, Some(1), "{said}");
    assert!(states.contains("missing consumer groundling-workers\n"), "{states}");
    assert!(said.contains("GROUNDLING_JOBS has the subjects"), "{said}");
    assert!(said.contains("GROUNDLING_EVENTS has the subjects [\"minio.events\"]"), "{said}");
    let (code, changes, said) = setup(&server, "store.events", &["--migrate"]).await;
    assert_eq!(code, Some(0), "{said}");
    assert!(changes.contains("migrate stream GROUNDLING_JOBS: add the subject groundling.cursor.*.*\n"), "{changes}");
    assert!(changes.contains("migrate stream GROUNDLING_EVENTS: add the subject store.events\n"), "{changes}");
    let (code, _, said) = setup(&server, "store.events", &["--check", "--migrate"]).await;
    assert!(code == Some(2) && said.contains("cannot be used with"), "{said}");
}

/// Creates the retries stream again as an earlier version did.
async fn make_retries_a_work_queue(jetstream: &Context) {
    let config = jetstream.get_stream(RETRIES_STREAM).await.unwrap().cached_info().config.clone();
    jetstream.delete_stream(RETRIES_STREAM).await.unwrap();
    jetstream.create_stream(Config { retention: RetentionPolicy::WorkQueue, ..config }).await.unwrap();
}

#[tokio::test]
async fn a_retries_stream_of_an_earlier_version_is_replaced_or_stays_as_it_is() {
    for (without, code) in [("", 0), ("\"$JS.API.STREAM.DELETE.GROUNDLING_RETRIES\"", 1), ("\"GROUNDLING_RETRIES\"", 1)]
    {
        let (server, client) = server(without).await;
        let jetstream = jetstream::new(client);
        assert_eq!(setup(&server, "minio.events", &[]).await.0, Some(0));
        make_retries_a_work_queue(&jetstream).await;
        let (exited, _, said) = setup(&server, "minio.events", &["--migrate"]).await;
        assert_eq!(exited, Some(code), "{said}");
        let retries = jetstream.get_stream(RETRIES_STREAM).await.unwrap();
        let config = &retries.cached_info().config;
        assert_eq!(config.subjects, [RETRIES_WILDCARD], "{without}");
        if code == 0 {
            assert_eq!(config.retention, RetentionPolicy::Limits);
            assert!(
                jetstream
                    .get_consumer_from_stream::<jetstream::consumer::pull::Config, _, _>(
                        "groundling-workers",
                        RETRIES_STREAM
                    )
                    .await
                    .is_ok()
            );
        } else {
            assert_eq!(config.retention, RetentionPolicy::WorkQueue);
            assert!(
                said.contains(without.trim_matches('"')) && said.contains("add it to the user's permissions"),
                "{said}"
            );
        }
    }
}
