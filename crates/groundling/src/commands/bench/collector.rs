//! An OpenTelemetry collector in this process that accepts everything and keeps nothing, and the telemetry of a worker
//! that exports to it.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use telemetry::{InstrumentOptions, LogLayer, ServiceIdentity, Telemetry, TelemetrySettings};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::AbortHandle;

/// More often than by default, so that short runs export metrics, too.
const METRICS_INTERVAL: Duration = Duration::from_secs(1);

/// A collector on 127.0.0.1 for OTLP/HTTP. It stops when dropped.
pub(super) struct Collector {
    endpoint: String,
    received: Arc<Received>,
    server: AbortHandle,
}

#[derive(Default)]
struct Received {
    exports: AtomicU64,
    bytes: AtomicU64,
}

impl Collector {
    pub(super) async fn start() -> io::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let (endpoint, received) = (format!("http://{}", listener.local_addr()?), Arc::<Received>::default());
        let counted = Arc::clone(&received);
        let server = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, Arc::clone(&counted)));
            }
        });
        Ok(Self { endpoint, received, server: server.abort_handle() })
    }

    /// Telemetry that exports everything to this collector, with a trace of every job.
    pub(super) fn telemetry(&self) -> anyhow::Result<Telemetry> {
        let settings = TelemetrySettings {
            endpoint: Some(self.endpoint.clone()),
            metrics_interval: METRICS_INTERVAL,
            sample_ratio: 1.0,
            ..TelemetrySettings::default()
        };
        let service = ServiceIdentity { version: env!("CARGO_PKG_VERSION").to_owned(), instance: "bench".to_owned() };
        Ok(Telemetry::start(&settings, InstrumentOptions::default(), &service, &LogLayer::default(), |_| None)?)
    }

    /// The number of exports received.
    pub(super) fn exports(&self) -> u64 {
        self.received.exports.load(Ordering::Relaxed)
    }

    /// The bytes of all exports received.
    pub(super) fn bytes(&self) -> u64 {
        self.received.bytes.load(Ordering::Relaxed)
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        self.server.abort();
    }
}

/// Answers every request with an empty success, which is a valid response to every export.
async fn serve(stream: TcpStream, received: Arc<Received>) -> io::Result<()> {
    let mut stream = BufReader::new(stream);
    loop {
        let (mut length, mut line) = (0, String::new());
        loop {
            line.clear();
            if stream.read_line(&mut line).await? == 0 {
                return Ok(());
            }
            match line.trim_end().split_once(':') {
                Some((name, value)) if name.eq_ignore_ascii_case("content-length") => {
                    length = value.trim().parse().map_err(io::Error::other)?;
                }
                None if line.trim_end().is_empty() => break,
                _ => {}
            }
        }
        let mut body = vec![0; length];
        stream.read_exact(&mut body).await?;
        received.exports.fetch_add(1, Ordering::Relaxed);
        received.bytes.fetch_add(length as u64, Ordering::Relaxed);
        stream
            .write_all(b"HTTP/1.1 200 OK\r\nContent-Type: application/x-protobuf\r\nContent-Length: 0\r\n\r\n")
            .await?;
    }
}
