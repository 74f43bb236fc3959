//! Errors of connections that cannot be made: each cause appears once.
#![allow(clippy::unwrap_used, reason = "a panic in a test is the report")]

use std::net::TcpListener;

use broker::causes::causes;
use broker::connection::{ConnectionError, open};
use broker::settings::{NatsSettings, Secret};
use sandbox::{NatsOptions, NatsServer};

/// The address and error of a connection that cannot be made.
async fn error_at(url: &str, settings: NatsSettings) -> ConnectionError {
    open(&NatsSettings { url: url.to_owned(), ..settings }, "test").await.unwrap_err()
}

/// The text between the address and the advice, for an error printed alone and with its sources.
fn cause_of(url: &str, error: ConnectionError) -> String {
    let text = error.to_string();
    assert_eq!(causes(&error), text, "the causes are not repeated as sources");
    assert_eq!(causes(anyhow::Error::from(error).as_ref()), text);
    let cause = text.strip_prefix(&format!("no connection to NATS at {url}: ")).unwrap();
    cause.strip_suffix("; check nats.url and the credentials, and that the server runs").unwrap().to_owned()
}

#[tokio::test]
async fn a_closed_port_is_one_cause() {
    // Freed here, so nothing listens on it.
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let url = format!("nats://127.0.0.1:{port}");
    let error = error_at(&url, NatsSettings::default()).await;
    assert!(error.is_temporary());
    assert_eq!(cause_of(&url, error), "IO error: Connection refused (os error 111)");
}

#[tokio::test]
async fn a_server_that_refuses_the_credentials_is_one_cause() {
    let extra_config = "authorization { user: u, password: p }".to_owned();
    let server = NatsServer::start(&NatsOptions { extra_config, ..NatsOptions::default() }).await.unwrap();
    let wrong = NatsSettings { user: Some("u".into()), password: Some(Secret::new("x")), ..NatsSettings::default() };
    for settings in [NatsSettings::default(), wrong] {
        let error = error_at(server.client_url(), settings).await;
        assert!(!error.is_temporary());
        assert_eq!(cause_of(server.client_url(), error), "nats: authorization violation");
    }
}

#[tokio::test]
async fn a_server_that_does_not_speak_nats_is_one_cause() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("nats://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((connection, _)) = listener.accept().await {
            drop(connection);
        }
    });
    let cause = cause_of(&url, error_at(&url, NatsSettings::default()).await);
    let parts: Vec<&str> = cause.split(": ").collect();
    let distinct: std::collections::BTreeSet<&str> = parts.iter().copied().collect();
    assert_eq!(parts.len(), distinct.len(), "{cause}");
}
