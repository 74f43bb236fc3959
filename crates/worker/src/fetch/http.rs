//! Reads pictures from web addresses given on the command line. Jobs cannot name web addresses.

use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, CONTENT_ENCODING, CONTENT_LENGTH, LOCATION, USER_AGENT};
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Empty};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use url::Url;
use web::Direct;

use super::encoding::{Body, BodyError};
use super::{FetchError, FetchErrorKind, too_large, unsupported_encoding};

/// Maximum redirects that are followed. Browsers follow 20; pictures rarely need more than one.
const MAX_REDIRECTS: usize = 5;

/// The body of a response.
trait WebBody: BodyExt<Data = Bytes, Error: std::error::Error + Send + Sync + 'static> + Unpin {}

impl<B> WebBody for B where B: BodyExt<Data = Bytes, Error: std::error::Error + Send + Sync + 'static> + Unpin {}

/// Reads pictures from web addresses.
#[derive(Debug, Clone)]
pub struct WebReader {
    client: Client<Direct, Empty<Bytes>>,
    max_bytes: u64,
    timeout: Duration,
}

impl WebReader {
    /// A reader with a limit on the bytes and the time for each address.
    ///
    /// # Errors
    /// `Misconfigured` if the system's certificates cannot be read.
    pub fn new(max_bytes: u64, timeout: Duration) -> Result<Self, FetchError> {
        let tls =
            web::direct(None).map_err(|error| FetchError::new(FetchErrorKind::Misconfigured, error.to_string()))?;
        Ok(Self { client: Client::builder(TokioExecutor::new()).build(tls), max_bytes, timeout })
    }

    /// Reads one `http://` or `https://` address.
    ///
    /// # Errors
    /// `BadAddress`, `NotFound`, `Denied`, `TooLarge`, `Throttled`, `Unavailable`, `EncodingUnsupported`,
    /// `EncodingDamaged` or `Exhausted`. Never more than the limit is held in memory.
    pub async fn read(&self, address: &str) -> Result<Bytes, FetchError> {
        match tokio::time::timeout(self.timeout, self.follow(address)).await {
            Ok(read) => read,
            Err(_) => {
                let sentence = format!("{address} was not read within {:?}", self.timeout);
                Err(FetchError::new(FetchErrorKind::Unavailable, sentence))
            }
        }
    }

    async fn follow(&self, address: &str) -> Result<Bytes, FetchError> {
        let mut url = web_url(address)?;
        for _ in 0..=MAX_REDIRECTS {
            let answer = self.get(url.clone()).await?;
            let status = answer.status();
            if status.is_success() {
                return self.body(answer, &url).await;
            }
            let location = answer.headers().get(LOCATION).and_then(|value| value.to_str().ok());
            match location {
                Some(location) if status.is_redirection() => {
                    let next = url.join(location).ok().map(|next| next.to_string());
                    let next = web_url(next.as_deref().unwrap_or(location))?;
                    if url.scheme() == "https" && next.scheme() == "http" {
                        let sentence = format!(
                            "{url} redirects from https to http, which is not followed: use the http address itself if you trust it"
                        );
                        return Err(FetchError::new(FetchErrorKind::BadAddress, sentence));
                    }
                    url = next;
                }
                _ => return Err(FetchError::new(kind_of(status), format!("{url} returned status {status}"))),
            }
        }
        let sentence = format!("{address} redirects more than {MAX_REDIRECTS} times");
        Err(FetchError::new(FetchErrorKind::BadAddress, sentence))
    }

    async fn get(&self, url: Url) -> Result<Response<impl WebBody>, FetchError> {
        let request = Request::get(url.as_str())
            .header(USER_AGENT, concat!("groundling/", env!("CARGO_PKG_VERSION")))
            .header(ACCEPT, "image/*, */*;q=0.5")
            .body(Empty::new())
            .map_err(|error| bad_address(url.as_str()).because(error))?;
        self.client.request(request).await.map_err(|error| {
            FetchError::new(FetchErrorKind::Unavailable, format!("{url} could not be reached")).because(error)
        })
    }

    async fn body(&self, answer: Response<impl WebBody>, url: &Url) -> Result<Bytes, FetchError> {
        let too_large = || too_large(url.as_str(), self.max_bytes);
        let announced =
            answer.headers().get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
        if announced.is_some_and(|length| length > self.max_bytes) {
            return Err(too_large());
        }
        // The request asks for no encoding, but stored objects may have one, and some servers always send one.
        let encodings = answer.headers().get_all(CONTENT_ENCODING).iter().filter_map(|value| value.to_str().ok());
        let encodings = encodings.collect::<Vec<_>>().join(", ");
        let unread = |error| match error {
            BodyError::Larger => too_large(),
            BodyError::Unsupported(encoding) => unsupported_encoding(url.as_str(), &encoding),
            BodyError::Damaged { encoding, reason, .. } => {
                let sentence =
                    format!("{url} cannot be decoded according to its content encoding {encoding}: {reason}");
                FetchError::new(FetchErrorKind::EncodingDamaged, sentence)
            }
        };
        let mut bytes = Body::new(Some(&encodings), self.max_bytes);
        let mut body = answer.into_body();
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|error| {
                FetchError::new(FetchErrorKind::Unavailable, format!("reading {url} failed")).because(error)
            })?;
            let Ok(chunk) = frame.into_data() else { continue };
            bytes.push(&chunk).map_err(unread)?;
        }
        Ok(bytes.end().map_err(unread)?.bytes)
    }
}

fn web_url(address: &str) -> Result<Url, FetchError> {
    // Credentials in an address are not sent. The address is not repeated in the error, so that it gets into no logs.
    let holds_user = match Url::parse(address) {
        Ok(url) if url.has_host() => !url.username().is_empty() || url.password().is_some(),
        _ => address.contains('@'),
    };
    if holds_user {
        let sentence = "addresses with a user or password are not supported: remove them";
        return Err(FetchError::new(FetchErrorKind::BadAddress, sentence));
    }
    match Url::parse(address) {
        Ok(url) if matches!(url.scheme(), "http" | "https") && url.has_host() => Ok(url),
        _ => Err(bad_address(address)),
    }
}

fn bad_address(address: &str) -> FetchError {
    FetchError::new(FetchErrorKind::BadAddress, format!("{address:?} is not an address like https://host/picture.jpg"))
}

fn kind_of(status: StatusCode) -> FetchErrorKind {
    match status {
        StatusCode::NOT_FOUND | StatusCode::GONE => FetchErrorKind::NotFound,
        StatusCode::TOO_MANY_REQUESTS => FetchErrorKind::Throttled,
        status if status.is_client_error() => FetchErrorKind::Denied,
        _ => FetchErrorKind::Unavailable,
    }
}
