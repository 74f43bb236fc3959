//! Receives events over HTTP.

use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::body::{Body, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use telemetry::Instruments;
use telemetry::ingest_attributes::IngestStatus;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::access::Access;
use super::refusals::Refusals;
use super::respond::{self, Answer};
use crate::ingest::handler::Handler;
use crate::ingest::headers::EventHeaders;
use crate::ingest::rule::Rule;

/// Maximum number of connections. Further ones wait in the system's queue.
const CONNECTIONS: usize = 1024;
/// How long a request's header may take to arrive, and how long a connection may be idle.
const HEADER: Duration = Duration::from_secs(30);
/// How long a request's body may take to arrive.
const BODY: Duration = Duration::from_secs(10);
/// Delay after a connection that could not be accepted.
const PAUSE: Duration = Duration::from_millis(100);

/// The webhook server.
pub(in crate::ingest) struct Webhook {
    /// The rules of each path.
    pub(in crate::ingest) rules: HashMap<String, Vec<Arc<Rule>>>,
    pub(in crate::ingest) access: Access,
    /// `None` until the connection to NATS is made.
    pub(in crate::ingest) handler: watch::Receiver<Option<Handler>>,
    pub(in crate::ingest) slots: Arc<Semaphore>,
    pub(in crate::ingest) max_bytes: usize,
    pub(in crate::ingest) hold: Duration,
    pub(in crate::ingest) refusals: Refusals,
    pub(in crate::ingest) instruments: Instruments,
    pub(in crate::ingest) shutdown: CancellationToken,
}

impl Webhook {
    /// Answers requests until the shutdown, and finishes those that have begun.
    pub(in crate::ingest) async fn serve(self, listener: TcpListener) {
        let (server, limit) = (Arc::new(self), Arc::new(Semaphore::new(CONNECTIONS)));
        let mut connections = JoinSet::new();
        while let Some((stream, permit)) = server.accept(&listener, &limit, &mut connections).await {
            connections.spawn(Arc::clone(&server).connection(stream, permit));
        }
        // The port refuses connections from now on, so that senders turn to another process.
        drop(listener);
        while connections.join_next().await.is_some() {}
    }

    /// The next connection; `None` at the shutdown.
    async fn accept(
        &self,
        listener: &TcpListener,
        limit: &Arc<Semaphore>,
        connections: &mut JoinSet<()>,
    ) -> Option<(TcpStream, OwnedSemaphorePermit)> {
        loop {
            let accepted = async {
                let permit = Arc::clone(limit).acquire_owned().await.ok()?;
                Some((listener.accept().await, permit))
            };
            tokio::select! {
                () = self.shutdown.cancelled() => return None,
                accepted = accepted => match accepted? {
                    (Ok((stream, _)), permit) => return Some((stream, permit)),
                    (Err(error), _) => {
                        tracing::debug!(%error, "a connection to the webhook server was not accepted");
                        tokio::time::sleep(PAUSE).await;
                    }
                },
                Some(_) = connections.join_next() => {}
            }
        }
    }

    async fn connection(self: Arc<Self>, stream: TcpStream, _permit: OwnedSemaphorePermit) {
        let sender = stream.peer_addr().ok();
        let service = service_fn(|request: Request<Incoming>| {
            let server = Arc::clone(&self);
            async move {
                let path = request.uri().path().to_owned();
                let answer = Arc::clone(&server).answer(request).await;
                server.instruments.ingest_request_answered(IngestStatus::of(answer.status().as_u16()));
                server.refusals.record(answer.status(), &path, sender);
                Ok::<_, Infallible>(answer)
            }
        });
        let mut builder = http1::Builder::new();
        builder.timer(TokioTimer::new()).header_read_timeout(HEADER);
        let connection = builder.serve_connection(TokioIo::new(stream), service);
        tokio::pin!(connection);
        let ended = tokio::select! {
            ended = connection.as_mut() => ended,
            () = self.shutdown.cancelled() => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
        if let Err(error) = ended {
            tracing::debug!(%error, "a connection to the webhook server ended early");
        }
    }

    async fn answer(self: Arc<Self>, request: Request<Incoming>) -> Answer {
        let deadline = Instant::now() + self.hold;
        // Before the path: scanners of the internet mostly send GET, and a store with a wrong path is worth an alert.
        if !matches!(*request.method(), Method::POST | Method::PUT) {
            return respond::use_post();
        }
        let Some(rules) = self.rules.get(request.uri().path()).cloned() else {
            return respond::line(StatusCode::NOT_FOUND, "no rule has this path");
        };
        if !self.access.allows(request.headers()) {
            return respond::unauthorized();
        }
        let Ok(Ok(permit)) = tokio::time::timeout_at(deadline.into(), Arc::clone(&self.slots).acquire_owned()).await
        else {
            return respond::try_again("too many requests are being handled");
        };
        let headers = request.headers().iter();
        let headers =
            EventHeaders::new(headers.filter_map(|(name, value)| Some((name.as_str(), value.to_str().ok()?))));
        let body = match self.read(request).await {
            Ok(body) => body,
            Err(answer) => return answer,
        };
        // In a task of its own: a sender that gives up has often lost the event, and its jobs can still be stored.
        let handling = tokio::spawn(async move {
            let answer = self.handle(&rules, &headers, &body, deadline).await;
            drop(permit);
            answer
        });
        handling.await.unwrap_or_else(|_| respond::line(StatusCode::INTERNAL_SERVER_ERROR, "the event was not handled"))
    }

    async fn handle(&self, rules: &[Arc<Rule>], headers: &EventHeaders, body: &[u8], deadline: Instant) -> Answer {
        let mut handler = self.handler.clone();
        let connected = tokio::select! {
            connected = tokio::time::timeout_at(deadline.into(), handler.wait_for(Option::is_some)) => connected,
            () = self.shutdown.cancelled() => return respond::try_again("the server is shutting down"),
        };
        let handler = connected.ok().and_then(Result::ok).and_then(|handler| handler.clone());
        match handler {
            Some(handler) => respond::handled(&handler.handle(rules, headers, body, deadline).await),
            None => respond::try_again("there is no connection to NATS"),
        }
    }

    /// Reads the body of a request.
    async fn read(&self, request: Request<Incoming>) -> Result<Bytes, Answer> {
        let too_large = || {
            let limit = format!("an event has at most {} bytes (events.max_event_bytes)", self.max_bytes);
            respond::line(StatusCode::PAYLOAD_TOO_LARGE, &limit)
        };
        let body = request.into_body();
        if body.size_hint().lower() > self.max_bytes as u64 {
            return Err(too_large());
        }
        match tokio::time::timeout(BODY, Limited::new(body, self.max_bytes).collect()).await {
            Ok(Ok(body)) => Ok(body.to_bytes()),
            Ok(Err(error)) if error.is::<LengthLimitError>() => Err(too_large()),
            Ok(Err(_)) => Err(respond::line(StatusCode::BAD_REQUEST, "the body is incomplete")),
            Err(_) => Err(respond::line(StatusCode::REQUEST_TIMEOUT, "the body took too long to arrive")),
        }
    }
}
