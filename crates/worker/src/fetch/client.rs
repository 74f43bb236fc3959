//! Builds the client of an S3 store from the settings, for all commands and tests.

use std::path::Path;

use aws_sdk_s3::Client;
use aws_sdk_s3::config::retry::RetryConfig;
use aws_sdk_s3::config::timeout::TimeoutConfig;
use aws_sdk_s3::config::{BehaviorVersion, Credentials, Region, StalledStreamProtectionConfig};
use aws_smithy_http_client::Connector;
use aws_smithy_http_client::proxy::ProxyConfig;
use aws_smithy_http_client::tls::{Provider, TlsContext, TrustStore, rustls_provider::CryptoMode};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

use super::headers::NeededHeaders;
use crate::settings::S3Settings;

/// The file of `s3.ca_file` cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("the file {path} (s3.ca_file) cannot be used: {reason}")]
pub struct CaFileError {
    path: String,
    reason: String,
}

/// Builds the client. It does not connect before the first request.
pub(super) async fn client(settings: &S3Settings) -> Result<Client, CaFileError> {
    let trusted = match &settings.ca_file {
        None => TrustStore::default(),
        Some(file) => authorities(file).await?,
    };
    let tls = TlsContext::builder().with_trust_store(trusted).build();
    let tls = tls.map_err(|error| CaFileError { path: "(the system's)".to_owned(), reason: error.to_string() })?;
    // The SDK's default HTTP client does not support proxies.
    let http = aws_smithy_http_client::Builder::new().build_with_connector_fn(move |settings, components| {
        let mut connector = Connector::builder().proxy_config(ProxyConfig::from_env());
        connector.set_connector_settings(settings.cloned());
        connector.set_sleep_impl(components.and_then(|components| components.sleep_impl()));
        connector.tls_provider(Provider::Rustls(CryptoMode::Ring)).tls_context(tls.clone()).build()
    });
    let timeouts = TimeoutConfig::builder()
        .connect_timeout(settings.connect_timeout)
        .read_timeout(settings.read_timeout)
        .operation_timeout(settings.operation_timeout)
        .build();
    let mut loader = aws_config::defaults(BehaviorVersion::latest())
        .http_client(http)
        .region(Region::new(settings.region.clone()))
        .timeout_config(timeouts)
        // The read timeout covers only the headers; this one covers the body.
        .stalled_stream_protection(StalledStreamProtectionConfig::enabled().grace_period(settings.read_timeout).build())
        .retry_config(RetryConfig::standard().with_max_attempts(settings.attempts));
    if let (Some(key), Some(secret)) = (&settings.access_key, &settings.secret_key) {
        let session = settings.session_token.as_ref().map(|token| token.expose().to_owned());
        loader =
            loader.credentials_provider(Credentials::new(key, secret.expose(), session, None, "groundling settings"));
    } else if settings.anonymous {
        loader = loader.no_credentials();
    }
    if let Some(endpoint) = &settings.endpoint {
        loader = loader.endpoint_url(endpoint);
    }
    let shared = loader.load().await;
    let mut builder =
        aws_sdk_s3::config::Builder::from(&shared).force_path_style(settings.path_style).interceptor(NeededHeaders);
    // Overrides a profile's settings: dual-stack or FIPS would make the client reject every request to a custom
    // endpoint, and a profile's endpoint would direct reads to a store that the settings do not name.
    builder.set_endpoint_url(settings.endpoint.clone());
    if settings.endpoint.is_some() {
        builder = builder.use_dual_stack(false).use_fips(false);
    }
    Ok(Client::from_conf(builder.build()))
}

/// A trust store with only the authorities of a PEM file.
async fn authorities(file: &Path) -> Result<TrustStore, CaFileError> {
    let unusable = |reason: String| CaFileError { path: file.display().to_string(), reason };
    let pem = tokio::fs::read(file).await.map_err(|error| unusable(error.to_string()))?;
    // The client panics if the file has no certificate.
    let certificates = CertificateDer::pem_slice_iter(&pem).collect::<Result<Vec<_>, _>>();
    match certificates.map_err(|error| unusable(error.to_string()))?.len() {
        0 => Err(unusable("it contains no PEM certificate".to_owned())),
        _ => Ok(TrustStore::empty().with_pem_certificate(pem)),
    }
}
