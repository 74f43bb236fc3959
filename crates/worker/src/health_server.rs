//! Serves [`Health`] over HTTP on a thread of its own, so that it answers while the worker is busy. The number of
//! connections is limited, so that clients cannot use up the worker's file descriptors.

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

/// Maximum number of connections. One more closes the oldest, which should have been answered long ago.
pub(crate) const CONNECTIONS: usize = 32;
/// How long a request's header may take to arrive.
const REQUEST: Duration = Duration::from_secs(2);
/// How long a connection may last in total.
const CONNECTION: Duration = Duration::from_secs(5);
/// Delay after a connection that could not be accepted.
const PAUSE: Duration = Duration::from_millis(100);
/// How often the worker's own threads report that they run.
const HEARTBEAT: Duration = Duration::from_secs(1);

/// The health server cannot listen on its address.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on worker.health_address {address}: {cause}; set it to a free address of this machine")]
pub struct HealthAddressError {
    address: SocketAddr,
    cause: std::io::Error,
}

/// The health server of a worker. It stops when dropped.
#[derive(Debug)]
pub struct HealthServer {
    address: SocketAddr,
    stop: Option<DropGuard>,
    heartbeat: AbortHandle,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl HealthServer {
    /// Listens on `address` and starts to answer. Call it on the worker's runtime, whose threads it monitors.
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
        let heartbeat = tokio::spawn(send_heartbeats(health.clone())).abort_handle();
        let thread = std::thread::Builder::new().name("health".to_owned()).spawn(move || {
            runtime.block_on(async {
                tokio::select! {
                    () = stopped.cancelled() => {}
                    ended = serve(listener, health) => {
                        if let Err(error) = ended {
                            tracing::error!("the health server has stopped: {error}");
                        }
                    }
                }
            });
        });
        let thread = thread.map_err(unusable)?;
        tracing::info!(%address, "health endpoints /livez and /readyz are available");
        Ok(Self { address, stop: Some(stop.drop_guard()), heartbeat, thread: Some(thread) })
    }

    /// The address that it listens on.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for HealthServer {
    fn drop(&mut self) {
        self.heartbeat.abort();
        drop(self.stop.take());
        // The thread ends at once. After the join the address is free.
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

/// Reports that the worker's threads run.
async fn send_heartbeats(health: Health) {
    loop {
        health.record_heartbeat();
        tokio::time::sleep(HEARTBEAT).await;
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
                oldest.push_back(connections.spawn(serve_connection(stream, Arc::clone(&health))));
            }
            Err(error) => {
                tracing::debug!(%error, "a connection to the health address was not accepted");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

/// Answers one request.
async fn serve_connection(stream: TcpStream, health: Arc<Health>) {
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
    let (state, ok_line) = match request.uri().path() {
        "/livez" => (health.alive(), "alive"),
        "/readyz" => (health.ready(), "ready"),
        _ => return respond(StatusCode::NOT_FOUND, "use /livez or /readyz"),
    };
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        return respond(StatusCode::METHOD_NOT_ALLOWED, "use GET");
    }
    match state {
        Ok(()) => respond(StatusCode::OK, ok_line),
        // The answer is one line, even if an error has several.
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
