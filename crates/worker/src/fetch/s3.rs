//! Reading objects from an S3 store, within bounds.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use aws_sdk_s3::Client;
use aws_sdk_s3::config::retry::RetryConfig;
use aws_sdk_s3::config::timeout::TimeoutConfig;
use aws_sdk_s3::config::{BehaviorVersion, Credentials, Region, StalledStreamProtectionConfig};
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_s3::operation::get_object::{GetObjectError, GetObjectOutput};
use aws_smithy_http_client::Connector;
use aws_smithy_http_client::proxy::ProxyConfig;
use aws_smithy_http_client::tls::{Provider, TlsContext, TrustStore, rustls_provider::CryptoMode};
use bytes::{Bytes, BytesMut};
use md5::Digest;
use protocol::v1::{ObjectIdentity, S3Object};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

use super::usual::UsualSize;
use super::{FetchError, FetchErrorKind, Fetched, too_large};
use crate::room::{Room, Taken};
use crate::settings::S3Settings;

/// An S3 store and what may be read from it. Cheap to clone.
#[derive(Debug, Clone)]
pub struct ObjectStore {
    client: Client,
    allow: Vec<String>,
    max_bytes: u64,
    usual: Arc<UsualSize>,
    operation_timeout: Duration,
}

/// What came of a request that was to bring no more than so many bytes.
enum Read {
    Whole(Fetched),
    /// The object is allowed, but larger than that.
    Larger,
}

/// Whether bytes are those that an ETag names. It is the MD5 of most objects' bytes, but not of all: not of those in
/// several parts, nor of some encrypted ones.
pub(crate) fn is_md5_of(etag: &str, bytes: &[u8]) -> bool {
    etag.eq_ignore_ascii_case(&hex::encode(md5::Md5::digest(bytes)))
}

/// The file of `s3.ca_file` cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("the file {path} of s3.ca_file cannot be used: {reason}")]
pub struct CaFileError {
    path: String,
    reason: String,
}

impl ObjectStore {
    /// Makes a client by the settings, `s3.ca_file` included. Nothing is connected before the first read.
    ///
    /// # Errors
    /// [`CaFileError`].
    pub async fn open(settings: &S3Settings) -> Result<Self, CaFileError> {
        let trusted = match &settings.ca_file {
            None => TrustStore::default(),
            Some(file) => authorities(file).await?,
        };
        let tls = TlsContext::builder().with_trust_store(trusted).build();
        let tls = tls.map_err(|error| CaFileError { path: "(the system's)".to_owned(), reason: error.to_string() })?;
        Ok(Self::with_client(settings, client(settings, Some(tls)).await))
    }

    /// Makes a client by the settings, which trusts the system's authorities alone.
    pub async fn new(settings: &S3Settings) -> Self {
        Self::with_client(settings, client(settings, None).await)
    }

    fn with_client(settings: &S3Settings, client: Client) -> Self {
        let (max_bytes, operation_timeout) = (settings.max_object_bytes, settings.operation_timeout);
        let usual = Arc::new(UsualSize::new(max_bytes));
        Self { client, allow: settings.allow.clone(), max_bytes, usual, operation_timeout }
    }

    /// The client itself, for what a worker does not do: listing, writing.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// Reads one object whole, as soon as `room` has place for one of the usual size; a larger one is asked for again
    /// once there is place for the largest allowed. The place that it turns out not to need is given back.
    ///
    /// # Errors
    /// As [`ObjectStore::read`].
    pub async fn read_into(&self, object: &S3Object, room: &Room) -> Result<(Fetched, Taken), FetchError> {
        let (mut claim, mut time) = (self.usual.bytes(), self.operation_timeout);
        loop {
            // Before the request, and let go before more is taken: a store does not keep an answer waiting, and who
            // waits for room must hold none.
            let mut taken = room.take(claim).await;
            let started = Instant::now();
            match self.read_up_to(object, claim, time).await? {
                Read::Whole(fetched) => {
                    let size = fetched.bytes.len() as u64;
                    self.usual.saw(size);
                    taken.shrink_to(size);
                    return Ok((fetched, taken));
                }
                Read::Larger => (claim, time) = (self.max_bytes, time.saturating_sub(started.elapsed())),
            }
        }
    }

    /// Reads one object whole.
    ///
    /// # Errors
    /// Every kind of [`FetchError`] but `BadAddress`; not more than `s3.max_object_bytes` are ever held.
    pub async fn read(&self, object: &S3Object) -> Result<Fetched, FetchError> {
        match self.read_up_to(object, self.max_bytes, self.operation_timeout).await? {
            Read::Whole(fetched) => Ok(fetched),
            Read::Larger => Err(too_large(&name_of(object), self.max_bytes, RAISE)),
        }
    }

    async fn read_up_to(&self, object: &S3Object, most: u64, time: Duration) -> Result<Read, FetchError> {
        let name = name_of(object);
        if !self.allows(&object.bucket, &object.key) {
            let sentence = format!("{name} may not be read by this worker: add its bucket or prefix to s3.allow");
            return Err(FetchError::new(FetchErrorKind::NotAllowed, sentence));
        }
        // The client's own timeout ends with the headers; the body counts as well.
        match tokio::time::timeout(time, self.read_within(object, &name, most)).await {
            Ok(read) => read,
            Err(_) => {
                let sentence =
                    format!("{name} was not read within {:?} (s3.operation_timeout)", self.operation_timeout);
                Err(FetchError::new(FetchErrorKind::Unavailable, sentence))
            }
        }
    }

    /// Whether an entry of `s3.allow` covers the object. A prefix covers no key with a segment `.` or `..`: to S3 these
    /// are letters as any other, but stores on top of folders take them for a way out.
    pub fn allows(&self, bucket: &str, key: &str) -> bool {
        let climbs = key.split('/').any(|segment| matches!(segment, "." | ".."));
        self.allow.iter().any(|entry| match entry.split_once('/') {
            _ if entry == "*" => true,
            None => entry == bucket && !climbs,
            Some((allowed, prefix)) => allowed == bucket && key.starts_with(prefix) && !climbs,
        })
    }

    async fn read_within(&self, object: &S3Object, name: &str, most: u64) -> Result<Read, FetchError> {
        let pinned = object.etag.as_deref().map(bare_etag);
        let answer = self
            .client
            .get_object()
            .bucket(&object.bucket)
            .key(&object.key)
            .set_version_id(object.version_id.clone())
            .set_if_match(pinned.map(|etag| format!("\"{etag}\"")))
            .send()
            .await
            .map_err(|error| refused(error, name))?;
        let identity = ObjectIdentity {
            bucket: object.bucket.clone(),
            key: object.key.clone(),
            etag: answer.e_tag().map(|etag| bare_etag(etag).to_owned()),
            // "null" is S3's way to say that the object has none.
            version_id: answer.version_id().filter(|version| *version != "null").map(str::to_owned),
        };
        // Stores exist that pass over conditions and versions; what was asked for is held against what came.
        if let (Some(wanted), Some(found)) = (pinned, identity.etag.as_deref())
            && wanted != found
        {
            let sentence = format!("{name} has the ETag {found:?} and not {wanted:?} as the job says: submit it anew");
            return Err(FetchError::new(FetchErrorKind::Changed, sentence));
        }
        if let (Some(wanted), Some(found)) = (object.version_id.as_deref(), identity.version_id.as_deref())
            && wanted != found
        {
            let sentence = format!("{name} came in the version {found:?} and not {wanted:?} as the job says");
            return Err(FetchError::new(FetchErrorKind::Changed, sentence));
        }
        let bytes = self.body(answer, name, most).await?;
        Ok(bytes.map_or(Read::Larger, |bytes| Read::Whole(Fetched { bytes, identity })))
    }

    /// The bytes, `None` where they are more than `most`.
    async fn body(&self, answer: GetObjectOutput, name: &str, most: u64) -> Result<Option<Bytes>, FetchError> {
        let too_large = || too_large(name, self.max_bytes, RAISE);
        let announced = answer.content_length().and_then(|length| u64::try_from(length).ok());
        if announced.is_some_and(|length| length > self.max_bytes) {
            return Err(too_large());
        }
        if announced.is_some_and(|length| length > most) {
            return Ok(None);
        }
        // Announced lengths are within the limit, but still only a word: reserve little, grow with what comes.
        let mut bytes = BytesMut::with_capacity(announced.unwrap_or(0).min(1 << 20) as usize);
        let mut body = answer.body;
        while let Some(chunk) = body.next().await {
            let chunk = chunk.map_err(|error| {
                FetchError::new(FetchErrorKind::Unavailable, format!("reading {name} broke off")).with_source(error)
            })?;
            match (bytes.len() + chunk.len()) as u64 {
                size if size > self.max_bytes => return Err(too_large()),
                size if size > most => return Ok(None),
                _ => {}
            }
            bytes.extend_from_slice(&chunk);
        }
        match announced {
            Some(length) if length != bytes.len() as u64 => {
                let sentence = format!("{name} was announced with {length} bytes and came with {}", bytes.len());
                Err(FetchError::new(FetchErrorKind::Unavailable, sentence))
            }
            _ => Ok(Some(bytes.freeze())),
        }
    }
}

/// What to do about an object that is too large.
const RAISE: &str = "raise s3.max_object_bytes if it is to be read";

fn name_of(object: &S3Object) -> String {
    format!("s3://{}/{}", object.bucket, object.key)
}

/// The authorities of a PEM file, and no others.
async fn authorities(file: &Path) -> Result<TrustStore, CaFileError> {
    let unusable = |reason: String| CaFileError { path: file.display().to_string(), reason };
    let pem = tokio::fs::read(file).await.map_err(|error| unusable(error.to_string()))?;
    // The client itself would panic on a file without one.
    let certificates = CertificateDer::pem_slice_iter(&pem).collect::<Result<Vec<_>, _>>();
    match certificates.map_err(|error| unusable(error.to_string()))?.len() {
        0 => Err(unusable("it holds no certificate in PEM form".to_owned())),
        _ => Ok(TrustStore::empty().with_pem_certificate(pem)),
    }
}

async fn client(settings: &S3Settings, tls: Option<TlsContext>) -> Client {
    // The client's own builder knows no proxies.
    let http = aws_smithy_http_client::Builder::new().build_with_connector_fn(move |settings, components| {
        let mut connector = Connector::builder().proxy_config(ProxyConfig::from_env());
        connector.set_connector_settings(settings.cloned());
        connector.set_sleep_impl(components.and_then(|components| components.sleep_impl()));
        let connector = connector.tls_provider(Provider::Rustls(CryptoMode::Ring));
        match &tls {
            Some(tls) => connector.tls_context(tls.clone()).build(),
            None => connector.build(),
        }
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
        // Its read timeout ends with the headers; this one holds for the body.
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
    let mut builder = aws_sdk_s3::config::Builder::from(&shared).force_path_style(settings.path_style);
    // Not those of a profile: with an endpoint of its own the client would refuse every request for the one thing, and
    // without one it would read from a place that no setting names.
    builder.set_endpoint_url(settings.endpoint.clone());
    if settings.endpoint.is_some() {
        builder = builder.use_dual_stack(false).use_fips(false);
    }
    Client::from_conf(builder.build())
}

fn bare_etag(etag: &str) -> &str {
    etag.trim_matches('"')
}

/// What a refused read means.
fn refused(error: SdkError<GetObjectError>, name: &str) -> FetchError {
    let status = error.raw_response().map(|response| response.status().as_u16());
    let code = error.code().unwrap_or_default().to_owned();
    let kind = kind_of(status, &code);
    let sentence = match kind {
        FetchErrorKind::NotFound => format!("{name} is not there ({})", said(status, &code)),
        FetchErrorKind::Changed => format!("{name} has another ETag than the job says: submit it anew"),
        FetchErrorKind::Denied => {
            format!("{name} is refused by the store ({}): let the worker's key read it", said(status, &code))
        }
        FetchErrorKind::Throttled => format!("the store asks for fewer requests ({}) at {name}", said(status, &code)),
        FetchErrorKind::Misconfigured if status.is_some_and(|status| (300..400).contains(&status)) => format!(
            "the store sends this worker elsewhere ({}) for {name}, and redirects are not followed: check s3.region and s3.endpoint",
            said(status, &code)
        ),
        FetchErrorKind::Misconfigured => format!(
            "the store does not accept this worker ({}) at {name}: check s3.access_key, s3.region, s3.endpoint and the clock",
            said(status, &code)
        ),
        _ => format!("{name} could not be read ({})", said(status, &code)),
    };
    FetchError::new(kind, sentence).with_source(error)
}

/// Codes first, for they are what S3 defines; statuses for stores that give no code.
fn kind_of(status: Option<u16>, code: &str) -> FetchErrorKind {
    match (code, status) {
        ("NoSuchKey" | "NoSuchBucket" | "NoSuchVersion" | "NotFound", _) => FetchErrorKind::NotFound,
        // A version id that none can have, and a version that is a delete marker.
        ("InvalidArgument", Some(400)) | ("MethodNotAllowed", _) | (_, Some(404 | 405 | 410)) => {
            FetchErrorKind::NotFound
        }
        ("PreconditionFailed", _) | (_, Some(412)) => FetchErrorKind::Changed,
        ("SlowDown" | "Throttling" | "ThrottlingException" | "RequestLimitExceeded" | "TooManyRequests", _)
        | (_, Some(429)) => FetchErrorKind::Throttled,
        (
            "InvalidAccessKeyId"
            | "SignatureDoesNotMatch"
            | "ExpiredToken"
            | "InvalidToken"
            | "TokenRefreshRequired"
            | "RequestTimeTooSkewed"
            | "AuthorizationHeaderMalformed"
            | "AuthorizationQueryParametersError"
            | "PermanentRedirect"
            | "IllegalLocationConstraintException",
            _,
        )
        // 3xx: another region or host, which only the settings may name.
        | (_, Some(300..=401)) => FetchErrorKind::Misconfigured,
        ("AccessDenied" | "AllAccessDisabled" | "InvalidObjectState", _) | (_, Some(403)) => FetchErrorKind::Denied,
        _ => FetchErrorKind::Unavailable,
    }
}

fn said(status: Option<u16>, code: &str) -> String {
    match (status, code) {
        (Some(status), "") => format!("status {status}"),
        (Some(status), code) => format!("status {status}, {code}"),
        (None, _) => "no answer".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn store(allow: &[&str]) -> ObjectStore {
        let allow = allow.iter().map(|entry| (*entry).to_owned()).collect();
        ObjectStore::new(&S3Settings { allow, anonymous: true, ..Default::default() }).await
    }

    #[tokio::test]
    async fn the_allow_list_takes_buckets_prefixes_and_everything() {
        let some = store(&["imgs", "archive/2024/"]).await;
        assert!(some.allows("imgs", "anything") && some.allows("archive", "2024/a.jpg"));
        assert!(some.allows("archive", "2024/größe 日本/a..b.jpg"));
        for (bucket, key) in [
            ("archive", "2023/a.jpg"),
            ("archive", "2024"),
            ("archive", "2024/../2023/a.jpg"),
            ("imgs", "../secrets/a"),
            ("imgs", "./a"),
            ("img", "a"),
            ("imgs2", "a"),
        ] {
            assert!(!some.allows(bucket, key), "{bucket}/{key}");
        }
        assert!(store(&["*"]).await.allows("x", "y"));
        assert!(!store(&[]).await.allows("x", "y"));
    }

    #[tokio::test]
    async fn an_object_outside_the_allow_list_is_refused_without_asking_the_store() {
        let object = S3Object { bucket: "secrets".into(), key: "k".into(), ..Default::default() };
        let error = store(&["imgs"]).await.read(&object).await.unwrap_err();
        assert_eq!(error.kind(), FetchErrorKind::NotAllowed);
        assert_eq!(
            error.to_string(),
            "s3://secrets/k may not be read by this worker: add its bucket or prefix to s3.allow"
        );
    }

    #[test]
    fn an_etag_is_the_md5_of_an_object_in_one_part() {
        assert!(is_md5_of("900150983CD24fb0d6963f7d28e17f72", b"abc"));
        assert!(!is_md5_of("900150983cd24fb0d6963f7d28e17f72-2", b"abc"));
        assert!(!is_md5_of("900150983cd24fb0d6963f7d28e17f72", b"ab"));
    }

    #[test]
    fn what_a_refusal_means_goes_by_code_and_then_by_status() {
        use FetchErrorKind::*;
        let table = [
            (Some(404), "NoSuchKey", NotFound),
            (Some(404), "", NotFound),
            (Some(405), "MethodNotAllowed", NotFound),
            (Some(412), "PreconditionFailed", Changed),
            (Some(403), "AccessDenied", Denied),
            (Some(403), "", Denied),
            (Some(403), "InvalidAccessKeyId", Misconfigured),
            (Some(403), "SignatureDoesNotMatch", Misconfigured),
            (Some(403), "RequestTimeTooSkewed", Misconfigured),
            (Some(301), "PermanentRedirect", Misconfigured),
            (Some(302), "", Misconfigured),
            (Some(307), "TemporaryRedirect", Misconfigured),
            (Some(503), "SlowDown", Throttled),
            (Some(429), "", Throttled),
            (Some(503), "ServiceUnavailable", Unavailable),
            (Some(500), "InternalError", Unavailable),
            (None, "", Unavailable),
        ];
        for (status, code, kind) in table {
            assert_eq!(kind_of(status, code), kind, "{status:?} {code}");
        }
    }
}
