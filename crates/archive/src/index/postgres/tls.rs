//! TLS to PostgreSQL by rustls. The server's certificate and its name are always checked.

use std::future::Future;
use std::io;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use broker::causes::causes;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, InvalidDnsNameError, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_postgres::tls::{ChannelBinding, MakeTlsConnect, TlsConnect};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream as RustlsStream;

use crate::index::target::TargetError;

/// Makes encrypted connections.
#[derive(Clone)]
pub(crate) struct Tls {
    config: Arc<ClientConfig>,
}

impl Tls {
    /// Trusts the authorities of a file, or those of the system.
    pub(crate) fn new(roots: Option<&Path>) -> Result<Self, TargetError> {
        let mut store = RootCertStore::empty();
        match roots {
            Some(file) => {
                let failed = |cause: String| TargetError::RootCertificates { path: file.display().to_string(), cause };
                let certificates = CertificateDer::pem_file_iter(file).and_then(Iterator::collect::<Result<Vec<_>, _>>);
                for certificate in certificates.map_err(|error| failed(causes(&error)))? {
                    store.add(certificate).map_err(|error| failed(error.to_string()))?;
                }
                if store.is_empty() {
                    return Err(failed("it contains no certificate".to_owned()));
                }
            }
            None => drop(store.add_parsable_certificates(rustls_native_certs::load_native_certs().certs)),
        }
        Self::trusting(store)
    }

    /// For connections without TLS.
    pub(crate) fn unused() -> Result<Self, TargetError> {
        Self::trusting(RootCertStore::empty())
    }

    fn trusting(store: RootCertStore) -> Result<Self, TargetError> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let builder = builder.map_err(|error| TargetError::Address(error.to_string()))?;
        let mut config = builder.with_root_certificates(store).with_no_client_auth();
        // The server asks for it if TLS begins without a request (`sslnegotiation=direct`).
        config.alpn_protocols = vec![b"postgresql".to_vec()];
        Ok(Self { config: Arc::new(config) })
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin + Send + 'static> MakeTlsConnect<S> for Tls {
    type Stream = TlsStream<S>;
    type TlsConnect = Connector;
    type Error = InvalidDnsNameError;

    fn make_tls_connect(&mut self, host: &str) -> Result<Connector, InvalidDnsNameError> {
        // This is called for sockets too, which have no name and are never encrypted.
        let host = if host.is_empty() { "localhost" } else { host };
        let name = ServerName::try_from(host)?.to_owned();
        Ok(Connector { connector: TlsConnector::from(Arc::clone(&self.config)), name })
    }
}

/// Makes one encrypted connection.
pub(crate) struct Connector {
    connector: TlsConnector,
    name: ServerName<'static>,
}

impl<S: AsyncRead + AsyncWrite + Unpin + Send + 'static> TlsConnect<S> for Connector {
    type Stream = TlsStream<S>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<TlsStream<S>>> + Send>>;

    fn connect(self, stream: S) -> Self::Future {
        let connecting = self.connector.connect(self.name, stream);
        Box::pin(async { Ok(TlsStream(connecting.await?)) })
    }
}

/// An encrypted connection.
pub(crate) struct TlsStream<S>(RustlsStream<S>);

impl<S: AsyncRead + AsyncWrite + Unpin> tokio_postgres::tls::TlsStream for TlsStream<S> {
    /// Passwords are not bound to the connection: certificates are checked, so no one else can be at its other end.
    fn channel_binding(&self) -> ChannelBinding {
        ChannelBinding::none()
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for TlsStream<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buffer)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for TlsStream<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buffer)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}
