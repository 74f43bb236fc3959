//! Answers for [`Health`] over HTTP, on a thread of its own: neither a busy worker silences it, nor can whoever connects
//! to it take the worker's file descriptors.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpStream;
use tokio::task::{AbortHandle, JoinSet};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::health::Health;

/// Most connections at once. One more ends the oldest: an honest one is answered within moments.
pub(crate) const CONNECTIONS: usize = 32;
/// How long a request may take to arrive.
const REQUEST: Duration = Duration::from_secs(2);
/// How long a connection may take in all.
const CONNECTION: Duration = Duration::from_secs(5);
/// Wait after a connection that could not be accepted.
const PAUSE: Duration = Duration::from_millis(100);
/// How often the worker's own threads show that they run.
const PULSE: Duration = Duration::from_secs(1);

/// Why health cannot be told.
#[derive(Debug, thiserror::Error)]
#[error("nothing can listen on worker.health_address {address}: {cause}; give a free address of this machine")]
pub struct HealthAddressError {
    address: SocketAddr,
    cause: std::io::Error,
}

/// A server that answers for a worker. It ends when dropped.
#[derive(Debug)]
pub struct HealthServer {
    address: SocketAddr,
    stop: Option<DropGuard>,
    pulse: AbortHandle,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl HealthServer {
    /// Listens, and answers from then on. To be called on the runtime of the worker, which is watched too.
    ///
    /// # Errors
    /// [`HealthAddressError`].
    pub fn start(address: SocketAddr, health: Health) -> Result<Self, HealthAddressError> {
        let unusable = |cause| HealthAddressError { address, cause };
        let listener = TcpListener::bind(address).map_err(unusable)?;
        listener.set_nonblocking(true).map_err(unusable)?;
        let address = listener.local_addr().map_err(unusable)?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(unusable)?;
        let stop = CancellationToken::new();
        let stopped = stop.clone();
        let pulse = tokio::spawn(beat(health.clone())).abort_handle();
        let thread = std::thread::Builder::new().name("health".to_owned()).spawn(move || {
            runtime.block_on(async {
                tokio::select! {
                    () = stopped.cancelled() => {}
                    ended = serve(listener, health) => {
                        if let Err(error) = ended {
                            tracing::error!("health is told no more: {error}");
                        }
                    }
                }
            });
        });
        let thread = thread.map_err(unusable)?;
        tracing::info!(%address, "health is told at /livez and /readyz");
        Ok(Self { address, stop: Some(stop.drop_guard()), pulse, thread: Some(thread) })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for HealthServer {
    fn drop(&mut self) {
        self.pulse.abort();
        drop(self.stop.take());
        // It has nothing to wait for. Once it has ended, nobody listens any more.
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

/// Shows that the worker's threads run.
async fn beat(health: Health) {
    loop {
        health.runs();
        tokio::time::sleep(PULSE).await;
    }
}

async fn serve(listener: TcpListener, health: Health) -> std::io::Result<()> {
    let listener = tokio::net::TcpListener::from_std(listener)?;
    let health = Arc::new(health);
    let (mut connections, mut oldest) = (JoinSet::new(), VecDeque::<AbortHandle>::new());
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            Some(_) = connections.join_next() => continue,
        };
        match accepted {
            Ok((stream, _)) => {
                oldest.retain(|connection| !connection.is_finished());
                while oldest.len() >= CONNECTIONS
                    && let Some(connection) = oldest.pop_front()
                {
                    connection.abort();
                }
                oldest.push_back(connections.spawn(converse(stream, Arc::clone(&health))));
            }
            Err(error) => {
                tracing::debug!(%error, "a connection to the health address was not accepted");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

/// One request and its answer.
async fn converse(stream: TcpStream, health: Arc<Health>) {
    let service = service_fn(move |request| {
        let answer = answer(&health, &request);
        async move { Ok::<_, Infallible>(answer) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(REQUEST)
        .keep_alive(false)
        .max_buf_size(8 << 10)
        .serve_connection(TokioIo::new(stream), service);
    match tokio::time::timeout(CONNECTION, connection).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(%error, "a connection to the health address ended early"),
        Err(_) => tracing::debug!("a connection to the health address took too long"),
    }
}

fn answer(health: &Health, request: &Request<Incoming>) -> Response<Full<Bytes>> {
    let (state, fine) = match request.uri().path() {
        "/livez" => (health.alive(), "alive"),
        "/readyz" => (health.ready(), "ready"),
        _ => return respond(StatusCode::NOT_FOUND, "there are /livez and /readyz"),
    };
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        return respond(StatusCode::METHOD_NOT_ALLOWED, "ask with GET");
    }
    match state {
        Ok(()) => respond(StatusCode::OK, fine),
        // One line, whatever an error says.
        Err(reason) => respond(StatusCode::SERVICE_UNAVAILABLE, &reason.replace(['\r', '\n'], " ")),
    }
}

fn respond(status: StatusCode, line: &str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(format!("{line}\n")));
    *response.status_mut() = status;
    let plain = http::HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(http::header::CONTENT_TYPE, plain);
    response
}
