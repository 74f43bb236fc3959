//! gRPC's health interface, for the probes of Kubernetes.

use std::pin::Pin;

use futures::{Stream, StreamExt};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};

use crate::grpc_health::health_check_response::ServingStatus;
use crate::grpc_health::health_server::Health;
use crate::grpc_health::{HealthCheckRequest, HealthCheckResponse};

/// Serves while the process runs. An outage of the broker does not make the scaler unhealthy: KEDA must reach it to learn
/// of the outage.
#[derive(Debug, Clone)]
pub(crate) struct HealthService {
    /// Ends the streams.
    pub(crate) shutdown: CancellationToken,
}

fn serving(service: &str) -> Result<HealthCheckResponse, Status> {
    if !matches!(service, "" | "externalscaler.ExternalScaler") {
        return Err(Status::not_found(format!("there is no service {service:?}")));
    }
    Ok(HealthCheckResponse { status: ServingStatus::Serving.into() })
}

#[tonic::async_trait]
impl Health for HealthService {
    async fn check(&self, request: Request<HealthCheckRequest>) -> Result<Response<HealthCheckResponse>, Status> {
        serving(&request.get_ref().service).map(Response::new)
    }

    type WatchStream = Pin<Box<dyn Stream<Item = Result<HealthCheckResponse, Status>> + Send>>;

    async fn watch(&self, request: Request<HealthCheckRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let first = futures::stream::iter([serving(&request.get_ref().service)]);
        let stream = first.chain(futures::stream::pending()).take_until(self.shutdown.clone().cancelled_owned());
        Ok(Response::new(Box::pin(stream)))
    }
}
