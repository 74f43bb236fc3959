//! The gRPC server.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tonic::body::Body;
use tonic::codegen::Service;

use crate::external_scaler::external_scaler_server::ExternalScalerServer;
use crate::grpc_health::health_server::HealthServer;
use crate::health::HealthService;
use crate::observation::Observer;
use crate::service::DrainScaler;

/// Connections at once. KEDA has one for each of its two processes, and probes are short.
const MAX_CONNECTIONS: usize = 64;
/// Largest request. A ScaledObject's metadata has some hundred bytes.
const MAX_REQUEST: usize = 64 << 10;
/// How long connections may take to end after the streams have.
const END: Duration = Duration::from_secs(2);
/// The pause after a connection that could not be accepted.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);

#[derive(Clone)]
struct Services {
    scaler: ExternalScalerServer<DrainScaler>,
    health: HealthServer<HealthService>,
}

impl Services {
    async fn answer(mut self, request: Request<Incoming>) -> Result<Response<Body>, Infallible> {
        match request.uri().path().starts_with("/grpc.health.v1.Health/") {
            true => self.health.call(request).await,
            // Other services are unimplemented there.
            false => self.scaler.call(request).await,
        }
    }
}

/// Serves KEDA and probes until the shutdown. Streams end then, and connections within two seconds.
pub async fn serve(listener: TcpListener, observer: Observer, shutdown: CancellationToken) {
    let scaler = DrainScaler { observer, shutdown: shutdown.clone() };
    let health = HealthService { shutdown: shutdown.clone() };
    let services = Services {
        scaler: ExternalScalerServer::new(scaler).max_decoding_message_size(MAX_REQUEST),
        health: HealthServer::new(health).max_decoding_message_size(MAX_REQUEST),
    };
    let permits = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((socket, _)) => {
                    if let Ok(permit) = Arc::clone(&permits).try_acquire_owned() {
                        let connection = connection(socket, services.clone(), shutdown.clone());
                        connections.spawn(async move {
                            connection.await;
                            drop(permit);
                        });
                    }
                }
                Err(error) => {
                    tracing::warn!("a connection could not be accepted: {error}");
                    tokio::time::sleep(ACCEPT_AGAIN).await;
                }
            },
            Some(_) = connections.join_next() => {}
            () = shutdown.cancelled() => break,
        }
    }
    drop(listener);
    let ended = async { while connections.join_next().await.is_some() {} };
    if tokio::time::timeout(END, ended).await.is_err() {
        tracing::debug!("connections are closed");
    }
}

async fn connection(socket: TcpStream, services: Services, shutdown: CancellationToken) {
    let service = service_fn(move |request| services.clone().answer(request));
    let builder = auto::Builder::new(TokioExecutor::new()).http2_only();
    let connection = builder.serve_connection(TokioIo::new(socket), service);
    let mut connection = std::pin::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = shutdown.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!("a connection ended: {error}");
    }
}
