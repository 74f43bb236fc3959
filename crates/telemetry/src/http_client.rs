//! The client for OTLP/HTTP: hyper over rustls with ring, like the program's other HTTP clients.

use std::path::Path;
use std::time::Duration;

use async_trait::async_trait;
use broker::causes::causes;
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full, Limited};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use opentelemetry_http::{HttpClient, HttpError};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use tokio::runtime::Handle;

use crate::error::TelemetryError;
use crate::export_state::ExportState;

/// Maximum size of a response. Collectors answer with a few bytes.
const MAX_ANSWER_BYTES: usize = 64 << 10;

/// Sends exports. The SDK calls it from threads without a runtime, so the work is spawned on the given one.
#[derive(Debug)]
pub(crate) struct ExportClient {
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
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

fn connector(ca_file: Option<&Path>) -> Result<HttpsConnector<HttpConnector>, TelemetryError> {
    let provider = rustls::crypto::ring::default_provider();
    let builder = match ca_file {
        None => HttpsConnectorBuilder::new()
            .with_provider_and_native_roots(provider)
            .map_err(TelemetryError::NoSystemCertificates)?,
        Some(file) => {
            let unusable = |cause: String| TelemetryError::CaFile { file: file.to_owned(), cause };
            let mut roots = rustls::RootCertStore::empty();
            let certificates = CertificateDer::pem_file_iter(file).map_err(|error| unusable(error.to_string()))?;
            for certificate in certificates {
                let certificate = certificate.map_err(|error| unusable(error.to_string()))?;
                roots.add(certificate).map_err(|error| unusable(error.to_string()))?;
            }
            if roots.is_empty() {
                return Err(unusable("it holds no certificate".to_owned()));
            }
            let config = rustls::ClientConfig::builder_with_provider(provider.into())
                .with_safe_default_protocol_versions()
                .map_err(|error| unusable(error.to_string()))?
                .with_root_certificates(roots)
                .with_no_client_auth();
            HttpsConnectorBuilder::new().with_tls_config(config)
        }
    };
    Ok(builder.https_or_http().enable_http1().build())
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
