//! The connector of HTTP clients: hyper over rustls with ring, one TLS implementation for the whole program.
#![forbid(unsafe_code)]
#![warn(clippy::print_stderr, clippy::print_stdout)]

mod proxy;

use std::io;
use std::path::{Path, PathBuf};

use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::connect::HttpConnector;
pub use proxy::ProxyConnector;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

/// The connector of a direct connection, for `http://` and `https://`.
pub type Direct = HttpsConnector<HttpConnector>;
/// The connector through the proxies of the environment.
pub type Proxied = HttpsConnector<ProxyConnector>;

/// No connector can be made.
#[derive(Debug, thiserror::Error)]
pub enum ConnectorError {
    /// The system has no certificates.
    #[error("the system's certificates cannot be read: install them (package ca-certificates): {0}")]
    NoSystemCertificates(io::Error),
    /// A file of authorities cannot be used.
    #[error("the certificates in {} cannot be used: {cause}", file.display())]
    CaFile {
        /// The file.
        file: PathBuf,
        /// What is wrong with it.
        cause: String,
    },
}

/// A connector that trusts the system's authorities, or those of a PEM file in their place.
///
/// # Errors
/// [`ConnectorError`] if there are no certificates.
pub fn direct(ca_file: Option<&Path>) -> Result<Direct, ConnectorError> {
    Ok(with_tls(ca_file)?.https_or_http().enable_http1().build())
}

/// A connector that trusts the system's authorities. It reaches `https://` addresses through the proxy of `HTTPS_PROXY` or
/// `ALL_PROXY` unless `NO_PROXY` names them, and `http://` addresses directly.
///
/// # Errors
/// [`ConnectorError`] if there are no certificates.
pub fn proxied() -> Result<Proxied, ConnectorError> {
    Ok(with_tls(None)?.https_or_http().enable_http1().wrap_connector(ProxyConnector::from_environment()))
}

fn with_tls(
    ca_file: Option<&Path>,
) -> Result<HttpsConnectorBuilder<hyper_rustls::builderstates::WantsSchemes>, ConnectorError> {
    let provider = rustls::crypto::ring::default_provider();
    let Some(file) = ca_file else {
        return HttpsConnectorBuilder::new()
            .with_provider_and_native_roots(provider)
            .map_err(ConnectorError::NoSystemCertificates);
    };
    let unusable = |cause: String| ConnectorError::CaFile { file: file.to_owned(), cause };
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
    Ok(HttpsConnectorBuilder::new().with_tls_config(config))
}
