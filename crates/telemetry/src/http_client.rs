//! The client for OTLP/HTTP: hyper over rustls with ring, like the program's other HTTP clients.

use std::path::Path;
use std::time::Duration;

use async_trait::async_trait;
use broker::causes::causes;
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use opentelemetry_http::{HttpClient, HttpError};
use tokio::runtime::Handle;
use web::{ConnectorError, Direct};

use crate::error::TelemetryError;
use crate::export_state::ExportState;

/// Maximum size of a response. Collectors answer with a few bytes.
const MAX_ANSWER_BYTES: usize = 64 << 10;

/// Sends exports. The SDK calls it from threads without a runtime, so the work is spawned on the given one.
#[derive(Debug)]
pub(crate) struct ExportClient {
    client: Client<Direct, Full<Bytes>>,
    runtime: Handle,
    timeout: Duration,
    state: ExportState,
}

impl ExportClient {
    /// A client that takes at most `timeout` for a request.
    pub(crate) fn new(
        runtime: Handle,
        ca_file: Option<&Path>,
        timeout: Duration,
        state: ExportState,
    ) -> Result<Self, TelemetryError> {
        let client = Client::builder(TokioExecutor::new()).build(connector(ca_file)?);
        Ok(Self { client, runtime, timeout, state })
    }
}

fn connector(ca_file: Option<&Path>) -> Result<Direct, TelemetryError> {
    web::direct(ca_file).map_err(|error| match error {
        ConnectorError::NoSystemCertificates(cause) => TelemetryError::NoSystemCertificates(cause),
        ConnectorError::CaFile { file, cause } => TelemetryError::CaFile { file, cause },
    })
}

#[async_trait]
impl HttpClient for ExportClient {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let (client, timeout) = (self.client.clone(), self.timeout);
        let work = self.runtime.spawn(async move {
            let exchange = async {
                let (head, body) = client.request(request.map(Full::new)).await?.into_parts();
                let body = Limited::new(body, MAX_ANSWER_BYTES).collect().await?.to_bytes();
                Ok::<_, HttpError>(Response::from_parts(head, body))
            };
            match tokio::time::timeout(timeout, exchange).await {
                Ok(answer) => answer,
                Err(_) => Err(format!("the collector did not answer within {timeout:?}").into()),
            }
        });
        let answer = match work.await {
            Ok(answer) => answer,
            // The runtime has ended.
            Err(error) => Err(error.into()),
        };
        if let Err(error) = &answer {
            self.state.request_failed(causes(error.as_ref()));
        }
        answer
    }
}
