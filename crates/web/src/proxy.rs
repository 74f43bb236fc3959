//! Connects through the proxies that the environment names.

use std::error::Error;
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use http::Uri;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::connect::proxy::Tunnel;
use hyper_util::client::proxy::matcher::Matcher;
use tower_service::Service;

type BoxError = Box<dyn Error + Send + Sync>;
type Stream = <HttpConnector as Service<Uri>>::Response;

/// Opens connections, those to `https://` addresses through a tunnel of the proxy that the environment names for them.
#[derive(Clone)]
pub struct ProxyConnector {
    http: HttpConnector,
    proxies: Arc<Matcher>,
}

// The addresses of proxies may hold passwords.
impl fmt::Debug for ProxyConnector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProxyConnector").finish_non_exhaustive()
    }
}

impl ProxyConnector {
    pub(crate) fn from_environment() -> Self {
        let mut http = HttpConnector::new();
        // TLS begins after the connection or the tunnel is made.
        http.enforce_http(false);
        Self { http, proxies: Arc::new(Matcher::from_env()) }
    }
}

impl Service<Uri> for ProxyConnector {
    type Response = Stream;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Stream, BoxError>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.http.poll_ready(context).map_err(Into::into)
    }

    fn call(&mut self, destination: Uri) -> Self::Future {
        let is_tls = destination.scheme_str() == Some("https");
        let proxy = if is_tls { self.proxies.intercept(&destination) } else { None };
        match proxy {
            None => {
                let connecting = self.http.call(destination);
                Box::pin(async move { Ok(connecting.await?) })
            }
            Some(proxy) => {
                let mut tunnel = Tunnel::new(proxy.uri().clone(), self.http.clone());
                if let Some(authorization) = proxy.basic_auth() {
                    tunnel = tunnel.with_auth(authorization.clone());
                }
                let connecting = tunnel.call(destination);
                Box::pin(async move { Ok(connecting.await?) })
            }
        }
    }
}
