//! Serves the health of a process and its metrics over HTTP, on a thread of its own, so that it answers while the process
//! is busy. The number of connections is limited, so that clients cannot use up the file descriptors.

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

use crate::scrape::Scraper;

/// Maximum number of connections. One more closes the oldest, which should have been answered long ago.
pub const CONNECTIONS: usize = 32;
/// How long a request's header may take to arrive.
const REQUEST: Duration = Duration::from_secs(2);
/// How long a connection may last in total.
const CONNECTION: Duration = Duration::from_secs(5);
/// Delay after a connection that could not be accepted.
const PAUSE: Duration = Duration::from_millis(100);
/// How often the process's own threads report that they run.
const HEARTBEAT: Duration = Duration::from_secs(1);

/// The health server cannot listen on its address.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {setting} {address}: {cause}; set it to a free address of this machine")]
pub struct HealthAddressError {
    setting: &'static str,
    address: SocketAddr,
    cause: std::io::Error,
}

/// What the endpoints answer. Errors are the reason, in one line.
pub trait HealthState: Send + Sync + 'static {
    /// `/startupz`: whether the process has started.
    ///
    /// # Errors
    /// How far it is.
    fn started(&self) -> Result<(), String>;
    /// `/livez`: whether the process works; otherwise it should be restarted.
    ///
    /// # Errors
    /// Why it does not.
    fn alive(&self) -> Result<(), String>;
    /// `/readyz`: whether the process can do its work at present.
    ///
    /// # Errors
    /// Why it cannot.
    fn ready(&self) -> Result<(), String>;
    /// Called every second by the runtime that started the server: its threads are not blocked.
    fn record_heartbeat(&self);
}

/// The health server of a process. It stops when dropped.
#[derive(Debug)]
pub struct HealthServer {
    address: SocketAddr,
    stop: Option<DropGuard>,
    heartbeat: AbortHandle,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl HealthServer {
    /// Listens on `address`, the value of `setting`, and starts to answer. Without a `scraper`, metrics are not served. Call
    /// it on the process's runtime, whose threads it monitors.
    ///
    /// # Errors
    /// [`HealthAddressError`].
    pub fn start(
        setting: &'static str,
        address: SocketAddr,
        health: impl HealthState,
        scraper: Option<Scraper>,
    ) -> Result<Self, HealthAddressError> {
        let unusable = |cause| HealthAddressError { setting, address, cause };
        let health: Arc<dyn HealthState> = Arc::new(health);
        let listener = TcpListener::bind(address).map_err(unusable)?;
        listener.set_nonblocking(true).map_err(unusable)?;
        let address = listener.local_addr().map_err(unusable)?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(unusable)?;
        let stop = CancellationToken::new();
        let stopped = stop.clone();
        let serves_metrics = scraper.is_some();
        let heartbeat = tokio::spawn(send_heartbeats(Arc::clone(&health))).abort_handle();
        let thread = std::thread::Builder::new().name("health".to_owned()).spawn(move || {
            runtime.block_on(async {
                tokio::select! {
                    () = stopped.cancelled() => {}
                    ended = serve(listener, Served { health, scraper }) => {
                        if let Err(error) = ended {
                            tracing::error!("the health server has stopped: {error}");
                        }
                    }
                }
            });
        });
        let thread = thread.map_err(unusable)?;
        let metrics = if serves_metrics { ", and metrics at /metrics" } else { "" };
        tracing::info!(%address, "health endpoints /startupz, /livez and /readyz are available{metrics}");
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

/// What the server answers with.
struct Served {
    health: Arc<dyn HealthState>,
    scraper: Option<Scraper>,
}

/// Reports that the process's threads run.
async fn send_heartbeats(health: Arc<dyn HealthState>) {
    loop {
        health.record_heartbeat();
        tokio::time::sleep(HEARTBEAT).await;
    }
}

async fn serve(listener: TcpListener, served: Served) -> std::io::Result<()> {
    let listener = tokio::net::TcpListener::from_std(listener)?;
    let served = Arc::new(served);
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
                oldest.push_back(connections.spawn(serve_connection(stream, Arc::clone(&served))));
            }
            Err(error) => {
                tracing::debug!(%error, "a connection to the health address was not accepted");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

/// Answers one request.
async fn serve_connection(stream: TcpStream, served: Arc<Served>) {
    let service = service_fn(move |request| {
        let answer = answer(&served, &request);
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

fn answer(Served { health, scraper }: &Served, request: &Request<Incoming>) -> Response<Full<Bytes>> {
    let known = match scraper {
        Some(_) => "use /startupz, /livez, /readyz or /metrics",
        None => "use /startupz, /livez or /readyz",
    };
    let is_get = matches!(*request.method(), Method::GET | Method::HEAD);
    match (request.uri().path(), scraper) {
        ("/startupz" | "/livez" | "/readyz", _) | ("/metrics", Some(_)) if !is_get => {
            respond(StatusCode::METHOD_NOT_ALLOWED, "use GET")
        }
        ("/startupz", _) => respond_state(health.started(), "started"),
        ("/livez", _) => respond_state(health.alive(), "alive"),
        ("/readyz", _) => respond_state(health.ready(), "ready"),
        ("/metrics", Some(scraper)) => metrics(scraper),
        _ => respond(StatusCode::NOT_FOUND, known),
    }
}

fn respond_state(state: Result<(), String>, ok_line: &str) -> Response<Full<Bytes>> {
    match state {
        Ok(()) => respond(StatusCode::OK, ok_line),
        // The answer is one line, even if an error has several.
        Err(reason) => respond(StatusCode::SERVICE_UNAVAILABLE, &reason.replace(['\r', '\n'], " ")),
    }
}

fn metrics(scraper: &Scraper) -> Response<Full<Bytes>> {
    match scraper.render() {
        Ok(metrics) => with_type(Response::new(Full::from(metrics)), Scraper::CONTENT_TYPE),
        Err(error) => respond(StatusCode::INTERNAL_SERVER_ERROR, &error),
    }
}

fn respond(status: StatusCode, line: &str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(format!("{line}\n")));
    *response.status_mut() = status;
    with_type(response, "text/plain; charset=utf-8")
}

fn with_type(mut response: Response<Full<Bytes>>, content_type: &'static str) -> Response<Full<Bytes>> {
    response.headers_mut().insert(http::header::CONTENT_TYPE, http::HeaderValue::from_static(content_type));
    response
}
