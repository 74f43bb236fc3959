//! A repository of the Hugging Face hub, read by its file routes.

use broker::settings::Secret;
use futures::StreamExt;
use http::header::{CONTENT_LENGTH, CONTENT_RANGE, ETAG};
use http::{HeaderMap, Method, Response, StatusCode};
use http_body_util::{BodyExt, BodyStream, Limited};
use hyper::body::Incoming;
use serde::Deserialize;

use crate::digest::Digest;
use crate::error::{ModelError, ModelErrorKind};
use crate::hub_answer::refusal;
use crate::hub_client::{Answer, HEAD_TIMEOUT, HubClient, shown};
use crate::remote::{Listing, Opened, RemoteFile};
use crate::source::{HubModel, is_commit};

/// Maximum size of a listing. The largest repositories list some ten thousand files, each with a few hundred bytes.
const MAX_LISTING: usize = 32 << 20;
const LINKED_ETAG: &str = "x-linked-etag";
const LINKED_SIZE: &str = "x-linked-size";
const COMMIT: &str = "x-repo-commit";

/// A repository at a revision.
#[derive(Debug)]
pub(crate) struct Hub {
    client: HubClient,
    model: HubModel,
}

#[derive(Deserialize)]
struct Info {
    sha: String,
    #[serde(default)]
    siblings: Vec<Sibling>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Sibling {
    rfilename: String,
    size: Option<u64>,
    blob_id: Option<String>,
    lfs: Option<Lfs>,
}

#[derive(Deserialize)]
struct Lfs {
    sha256: Option<String>,
    size: Option<u64>,
}

impl Hub {
    pub(crate) fn new(endpoint: &str, token: Option<Secret>, model: HubModel) -> Result<Self, ModelError> {
        Ok(Self { client: HubClient::new(endpoint, token)?, model })
    }

    /// The commit of the revision, and its files.
    pub(crate) async fn list(&self) -> Result<Listing, ModelError> {
        let HubModel { repository, revision, .. } = &self.model;
        let (owner, name) = repository.split_once('/').unwrap_or_default();
        let mut url = self.client.url(&["api", "models", owner, name, "revision", revision]);
        url.set_query(Some("blobs=true"));
        let answer = self.client.request(Method::GET, url, 0, |_| None::<()>).await?;
        let Answer::Response { response, url, .. } = answer else {
            return Err(ModelError::unavailable("the hub gave no listing"));
        };
        if !response.status().is_success() {
            return Err(self.refusal(&response, None));
        }
        let invalid =
            |cause: String| ModelError::unavailable(format!("{} gave no valid listing: {cause}", shown(&url)));
        let body = tokio::time::timeout(HEAD_TIMEOUT, Limited::new(response.into_body(), MAX_LISTING).collect()).await;
        let body = body.map_err(|_| invalid(format!("it was not complete within {HEAD_TIMEOUT:?}")))?;
        let body = body.map_err(|error| invalid(error.to_string()))?.to_bytes();
        let info: Info = serde_json::from_slice(&body).map_err(|error| invalid(error.to_string()))?;
        // It becomes part of a path.
        if !is_commit(&info.sha) {
            return Err(invalid(format!("{:?} is not a commit", info.sha)));
        }
        let files = info.siblings.into_iter().filter_map(|sibling| self.file(sibling)).collect();
        Ok(Listing { commit: info.sha, files })
    }

    /// A file directly in the model's folder.
    fn file(&self, sibling: Sibling) -> Option<RemoteFile> {
        let Sibling { rfilename: path, size, blob_id, lfs } = sibling;
        let name = match self.model.folder.as_str() {
            "" => path.as_str(),
            folder => path.strip_prefix(folder)?.strip_prefix('/')?,
        };
        if name.contains('/') {
            return None;
        }
        let (size, digest) = match lfs {
            Some(lfs) => (lfs.size.or(size), lfs.sha256.as_deref().and_then(Digest::of_hub_etag)),
            None => (size, blob_id.as_deref().and_then(Digest::of_hub_etag)),
        };
        let blob = digest.as_ref().map(|digest| digest.value().to_owned()).unwrap_or_default();
        // A size that the listing lacks is asked for with the digest.
        let digest = digest.filter(|_| size.is_some());
        Some(RemoteFile { name: name.to_owned(), size: size.unwrap_or(0), digest, etag: None, blob, path })
    }

    /// The file with its size and digest, from the headers of its route if the listing lacks them.
    pub(crate) async fn file_metadata(&self, commit: &str, file: RemoteFile) -> Result<RemoteFile, ModelError> {
        if file.digest.is_some() {
            return Ok(file);
        }
        let answer = self
            .client
            .request(Method::HEAD, self.url(commit, &file.path), 0, |response| {
                let found = response.status().is_success() || response.headers().contains_key(LINKED_ETAG);
                found.then(|| described(response.headers()))
            })
            .await?;
        let unknown =
            || ModelError::unavailable(format!("{} states no digest for {}", self.client.endpoint(), file.path));
        match answer {
            Answer::Found((commit_of_file, size, digest)) => {
                if commit_of_file.is_some_and(|found| found != commit) {
                    return Err(ModelError::unavailable(format!(
                        "the hub answered with another commit of {}",
                        file.path
                    )));
                }
                let (size, digest) = (size.ok_or_else(unknown)?, digest.ok_or_else(unknown)?);
                Ok(RemoteFile { size, blob: digest.value().to_owned(), digest: Some(digest), ..file })
            }
            Answer::Response { response, is_hub: true, .. } => Err(self.refusal(&response, Some(&file.path))),
            Answer::Response { .. } => Err(unknown()),
        }
    }

    /// The bytes of a file from an offset on.
    pub(crate) async fn open(&self, commit: &str, file: &RemoteFile, offset: u64) -> Result<Opened, ModelError> {
        let answer = self.client.request(Method::GET, self.url(commit, &file.path), offset, |_| None::<()>).await?;
        let Answer::Response { response, url, is_hub } = answer else {
            return Err(ModelError::unavailable(format!("{} was not answered", file.path)));
        };
        let offset = match response.status() {
            StatusCode::PARTIAL_CONTENT if start_of_range(response.headers()) == Some(offset) => offset,
            StatusCode::OK => 0,
            status if is_hub && !status.is_success() => return Err(self.refusal(&response, Some(&file.path))),
            status => {
                return Err(ModelError::unavailable(format!("{} answered {status} for {}", shown(&url), file.path)));
            }
        };
        let name = file.path.clone();
        let bytes = BodyStream::new(response.into_body()).filter_map(move |frame| {
            let frame = match frame {
                Ok(frame) => frame.into_data().ok().map(Ok),
                Err(error) => {
                    Some(Err(ModelError::unavailable(format!("reading {name} was interrupted")).because(&error)))
                }
            };
            std::future::ready(frame)
        });
        Ok(Opened { offset, bytes: bytes.boxed() })
    }

    fn url(&self, commit: &str, path: &str) -> url::Url {
        let (owner, name) = self.model.repository.split_once('/').unwrap_or_default();
        let segments: Vec<&str> = [owner, name, "resolve", commit].into_iter().chain(path.split('/')).collect();
        self.client.url(&segments)
    }

    fn refusal(&self, response: &Response<Incoming>, file: Option<&str>) -> ModelError {
        refusal(response, &self.model, file, self.client.endpoint().as_str(), self.client.has_token())
    }
}

/// Commit, size and digest of a file.
fn described(headers: &HeaderMap) -> (Option<String>, Option<u64>, Option<Digest>) {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let size = text(LINKED_SIZE).or_else(|| text(CONTENT_LENGTH.as_str())).and_then(|size| size.parse().ok());
    let etag = text(LINKED_ETAG).or_else(|| text(ETAG.as_str()));
    (text(COMMIT).map(str::to_owned), size, etag.and_then(Digest::of_hub_etag))
}

/// The first byte of a range: `bytes 100-199/200`.
pub(crate) fn start_of_range(headers: &HeaderMap) -> Option<u64> {
    let range = headers.get(CONTENT_RANGE)?.to_str().ok()?;
    range.strip_prefix("bytes ")?.split('-').next()?.trim().parse().ok()
}

impl ModelErrorKind {
    /// Whether another attempt may succeed.
    pub(crate) fn is_temporary(self) -> bool {
        self == Self::Unavailable
    }
}
