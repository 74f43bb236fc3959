//! Requests to the hub, and redirects to the hosts that hold its large files.

use std::time::Duration;

use broker::settings::Secret;
use bytes::Bytes;
use http::header::{AUTHORIZATION, LOCATION, RANGE, USER_AGENT};
use http::{HeaderValue, Method, Request, Response};
use http_body_util::Empty;
use hyper::body::Incoming;
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use url::Url;
use web::Proxied;

use crate::error::{ModelError, ModelErrorKind};

/// Maximum redirects that are followed. The hub uses one for files, and one more for a repository that was renamed.
const MAX_REDIRECTS: usize = 5;
/// How long a server may take for the head of a response.
pub(crate) const HEAD_TIMEOUT: Duration = Duration::from_secs(30);

/// A client that sends the token only to the hub.
#[derive(Debug)]
pub(crate) struct HubClient {
    client: Client<Proxied, Empty<Bytes>>,
    /// The hub's address. The token goes nowhere else.
    endpoint: Url,
    token: Option<Secret>,
}

impl HubClient {
    pub(crate) fn new(endpoint: &str, token: Option<Secret>) -> Result<Self, ModelError> {
        let endpoint = Url::parse(&format!("{endpoint}/")).ok().filter(is_web);
        let endpoint = endpoint.ok_or_else(|| {
            ModelError::new(
                ModelErrorKind::InvalidSource,
                "HF_ENDPOINT is not an address like https://huggingface.co, without a user and password: correct it or unset it",
            )
        })?;
        let connector = web::proxied().map_err(|error| ModelError::unavailable(error.to_string()))?;
        Ok(Self { client: Client::builder(TokioExecutor::new()).build(connector), endpoint, token })
    }

    pub(crate) fn endpoint(&self) -> &Url {
        &self.endpoint
    }

    pub(crate) fn has_token(&self) -> bool {
        self.token.is_some()
    }

    /// The address of a path of the hub, each of whose segments is encoded.
    pub(crate) fn url(&self, segments: &[&str]) -> Url {
        let mut url = self.endpoint.clone();
        // Fails only for addresses that cannot be a base, which the endpoint is not.
        if let Ok(mut path) = url.path_segments_mut() {
            path.pop_if_empty().extend(segments);
        }
        url
    }

    /// Requests an address of the hub and follows redirects. `on_hub` sees each response of the hub itself; if it returns
    /// something, redirects are not followed further.
    pub(crate) async fn request<T>(
        &self,
        method: Method,
        url: Url,
        offset: u64,
        mut on_hub: impl FnMut(&Response<Incoming>) -> Option<T>,
    ) -> Result<Answer<T>, ModelError> {
        let mut next = url.clone();
        for _ in 0..=MAX_REDIRECTS {
            let response = self.send(method.clone(), &next, offset).await?;
            if self.is_hub(&next)
                && let Some(found) = on_hub(&response)
            {
                return Ok(Answer::Found(found));
            }
            let location = response.headers().get(LOCATION).and_then(|value| value.to_str().ok());
            match location {
                Some(location) if response.status().is_redirection() => {
                    let target = next.join(location).ok().filter(is_web);
                    let target = target.filter(|target| target.scheme() == "https" || next.scheme() == "http");
                    next = target.ok_or_else(|| {
                        ModelError::unavailable(format!(
                            "{} redirects to an address that is not followed",
                            shown(&next)
                        ))
                    })?;
                }
                _ => {
                    return Ok(Answer::Response {
                        is_hub: self.is_hub(&next),
                        url: next,
                        response: Box::new(response),
                    });
                }
            }
        }
        Err(ModelError::unavailable(format!("{} redirects more than {MAX_REDIRECTS} times", shown(&url))))
    }

    async fn send(&self, method: Method, url: &Url, offset: u64) -> Result<Response<Incoming>, ModelError> {
        let mut request = Request::builder()
            .method(method)
            .uri(url.as_str())
            .header(USER_AGENT, concat!("groundling/", env!("CARGO_PKG_VERSION")));
        if offset > 0 {
            request = request.header(RANGE, format!("bytes={offset}-"));
        }
        if let Some(token) = self.token.as_ref().filter(|_| self.is_hub(url)) {
            let mut value = HeaderValue::from_str(&format!("Bearer {}", token.expose())).map_err(|_| {
                ModelError::new(ModelErrorKind::Denied, "HF_TOKEN has characters that no token has: correct it")
            })?;
            value.set_sensitive(true);
            request = request.header(AUTHORIZATION, value);
        }
        let unreachable = || ModelError::unavailable(format!("{} could not be reached", shown(url)));
        let request = request.body(Empty::new()).map_err(|error| unreachable().because(&error))?;
        match tokio::time::timeout(HEAD_TIMEOUT, self.client.request(request)).await {
            Ok(answer) => answer.map_err(|error| unreachable().because(&error)),
            Err(_) => Err(ModelError::unavailable(format!("{} did not answer within {HEAD_TIMEOUT:?}", shown(url)))),
        }
    }

    fn is_hub(&self, url: &Url) -> bool {
        url.origin() == self.endpoint.origin()
    }
}

/// What came of a request.
pub(crate) enum Answer<T> {
    /// What was looked for in the hub's own responses.
    Found(T),
    /// The last response.
    Response {
        url: Url,
        /// Whether the hub itself sent it.
        is_hub: bool,
        response: Box<Response<Incoming>>,
    },
}

fn is_web(url: &Url) -> bool {
    matches!(url.scheme(), "http" | "https") && url.has_host() && url.username().is_empty() && url.password().is_none()
}

/// An address without its query, which is a signature at the hosts of large files.
pub(crate) fn shown(url: &Url) -> String {
    let mut url = url.clone();
    url.set_query(None);
    url.to_string()
}
