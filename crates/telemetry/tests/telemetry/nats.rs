//! Trace contexts through a real NATS server, with and without its own message tracing.

use std::time::Duration;

use async_nats::{Client, HeaderMap};
use futures::StreamExt;
use opentelemetry::trace::TraceContextExt;
use sandbox::{NatsOptions, NatsServer};
use telemetry::attributes::JobOutcome;
use telemetry::job_span::ReceivedJob;
use telemetry::{JobSpans, propagation};

use crate::everything::{do_job, received};

const SUBMITTER: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
/// The server traces sampled messages of this account, and publishes what it saw.
const TRACING: &str = r#"
accounts {
  A {
    users: [{ user: a, password: a }]
    msg_trace: { dest: "trace.seen", sampling: 100 }
  }
}
no_auth_user: a
"#;

async fn server(extra_config: &str) -> (NatsServer, Client) {
    let options = NatsOptions { without_jetstream: true, extra_config: extra_config.into(), ..Default::default() };
    let server = NatsServer::start(&options).await.unwrap();
    let client = async_nats::connect(server.client_url()).await.unwrap();
    (server, client)
}

/// The headers with which a message arrives.
async fn through(client: &Client, headers: HeaderMap) -> HeaderMap {
    let mut messages = client.subscribe("groundling.jobs.cats").await.unwrap();
    client.publish_with_headers("groundling.jobs.cats", headers, "job".into()).await.unwrap();
    let message = tokio::time::timeout(Duration::from_secs(15), messages.next()).await.unwrap().unwrap();
    message.headers.unwrap()
}

async fn every_spelling_arrives(client: &Client) {
    for name in ["traceparent", "Traceparent", "Xraceparent"] {
        let mut headers = HeaderMap::new();
        headers.insert(name, SUBMITTER);
        let arrived = through(client, headers).await;
        let context = propagation::extract(Some(&arrived));
        let trace_id = context.span().span_context().trace_id().to_string();
        assert_eq!(trace_id, &SUBMITTER[3..35], "{name}: {arrived:?}");
        // What the worker publishes in turn has the context and none of the server's own headers.
        let job = ReceivedJob { headers: Some(&arrived), ..received() };
        let published = do_job(&JobSpans::off(), job, JobOutcome::Annotated);
        assert_eq!(published.len(), 1, "{published:?}");
        assert_eq!(published.get("traceparent").unwrap().as_str(), SUBMITTER);
    }
}

#[tokio::test]
async fn a_context_arrives_in_every_spelling() {
    let (_server, client) = server("").await;
    every_spelling_arrives(&client).await;
}

#[tokio::test]
async fn a_context_arrives_in_every_spelling_though_the_server_traces_messages() {
    let (_server, client) = server(TRACING).await;
    let mut traced = client.subscribe("trace.seen").await.unwrap();
    every_spelling_arrives(&client).await;
    assert!(tokio::time::timeout(Duration::from_secs(15), traced.next()).await.is_ok(), "the server traced nothing");
}
