//! What a store's refusal means: one table of the codes that stores answer with.
//!
//! The codes are those of AWS, MinIO, Ceph, SeaweedFS and Google's XML interface. What is not in the table goes by the
//! status: see [`by_status`].

use super::{FetchError, FetchErrorKind};

/// Longest part of a store's own message that is repeated.
const MOST_OF_A_MESSAGE: usize = 400;
/// An error document is not larger than this.
const LARGEST_DOCUMENT: usize = 64 * 1024;

/// What a store said in place of the object's bytes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Refusal {
    pub(super) status: Option<u16>,
    /// The code, such as `NoSuchKey`; empty where there is none.
    pub(super) code: String,
    /// The store's own sentence.
    pub(super) message: String,
    /// The region in which the store says that the bucket is.
    pub(super) region: Option<String>,
}

/// What it means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Meaning {
    /// There is no such bucket, object or version.
    Missing,
    /// No object can have such a name or version.
    Impossible,
    /// It has another ETag than the one asked for.
    Changed,
    /// It is in an archive class and must be restored before it can be read.
    Archived,
    /// It is encrypted with a key that its reader must send along (SSE-C).
    CustomerKey,
    /// It is encrypted with a key that the store cannot use: disabled, deleted, or not for this.
    ServerKey,
    /// This key may not read it.
    Denied,
    /// It is refused for a reason of its own.
    Rejected,
    /// Fewer requests are asked for.
    Throttled,
    /// A fault of the store that may pass.
    Unavailable,
    /// The access key is not known, or not any more.
    AccessKey,
    /// The signature is not right.
    Signature,
    /// The clocks differ.
    Clock,
    /// The bucket is in another region or at another address.
    Elsewhere,
    /// The answer is not one of an S3 store.
    NoStore,
}

impl Refusal {
    /// The error about `name`; `requester_pays` is the setting.
    pub(super) fn into_error(self, name: &str, requester_pays: bool) -> FetchError {
        let meaning = self.meaning();
        FetchError::new(meaning.kind(), self.sentence(meaning, name, requester_pays))
    }

    fn meaning(&self) -> Meaning {
        match self.code.as_str() {
            "NoSuchKey" | "NoSuchBucket" | "NoSuchVersion" | "NotFound" | "NoSuchObject" | "MethodNotAllowed" => {
                // The last one: the version is a delete marker.
                Meaning::Missing
            }
            "KeyTooLongError"
            | "KeyTooLong"
            | "InvalidURI"
            | "InvalidObjectName"
            | "XMinioInvalidObjectName"
            | "InvalidBucketName"
            | "InvalidVersionId"
            | "InvalidTenantName" => Meaning::Impossible,
            "InvalidArgument" if self.is_about_encryption() => Meaning::CustomerKey,
            // Without range, part and the like, the version is the only argument that is left.
            "InvalidArgument" if !self.is_about_signing() => Meaning::Impossible,
            "InvalidRequest" if self.is_about_encryption() => Meaning::CustomerKey,
            "InvalidArgument" | "InvalidRequest" if self.is_about_signing() => Meaning::Signature,
            "SSECustomerKeyMD5Mismatch"
            | "InvalidEncryptionAlgorithmError"
            | "ResourceIsEncryptedWithCustomerEncryptionKey"
            | "CustomerEncryptionKeyIsIncorrect" => Meaning::CustomerKey,
            "PreconditionFailed" => Meaning::Changed,
            "InvalidObjectState" | "ObjectNotInActiveTierError" | "ObjectArchived" => Meaning::Archived,
            code if code.starts_with("KMS.") || code.starts_with("CloudKms") || code.starts_with("XMinioKMS") => {
                by_kms_code(code)
            }
            "XMinioObjectTampered" | "QuotaExceeded" | "NotImplemented" | "InvalidRequest" => Meaning::Rejected,
            "AccessDenied" | "AllAccessDisabled" | "AccountProblem" | "UserSuspended" | "NotSignedUp"
            | "AccessForbidden" | "Forbidden" => Meaning::Denied,
            "SlowDown"
            | "SlowDownRead"
            | "Throttling"
            | "ThrottlingException"
            | "RequestLimitExceeded"
            | "TooManyRequests"
            | "ErrTooManyRequest"
            | "ErrRequestBytesExceed"
            | "BandwidthLimitExceeded"
            | "LimitExceeded"
            | "RequestThrottled"
            | "XMinioServerNotInitialized" => Meaning::Throttled,
            "RequestTimeout" | "InternalError" | "ServiceUnavailable" | "ServiceFailure" | "OperationAborted"
            | "Busy" | "UnknownError" | "XMinioReadQuorum" => Meaning::Unavailable,
            "InvalidAccessKeyId"
            | "InvalidToken"
            | "ExpiredToken"
            | "TokenRefreshRequired"
            | "InvalidSecurity"
            | "AuthenticationRequired"
            | "MissingSecurityHeader"
            | "XMinioAccessKeyDisabled" => Meaning::AccessKey,
            "SignatureDoesNotMatch"
            | "AuthorizationQueryParametersError"
            | "XAmzContentSHA256Mismatch"
            | "CredentialsNotSupported" => Meaning::Signature,
            "RequestTimeTooSkewed" | "RequestExpired" => Meaning::Clock,
            "PermanentRedirect"
            | "TemporaryRedirect"
            | "Redirect"
            | "AuthorizationHeaderMalformed"
            | "IllegalLocationConstraintException"
            | "EndpointNotFound"
            | "InvalidLocationConstraint" => Meaning::Elsewhere,
            code => by_status(self.status, code),
        }
    }

    /// `InvalidRequest` and `InvalidArgument` stand for many things; the message tells them apart.
    fn is_about_encryption(&self) -> bool {
        let message = self.message.to_ascii_lowercase();
        ["server side encryption", "server-side encryption", "sse-c", "a form of sse", "customer key", "encrypt"]
            .iter()
            .any(|part| message.contains(part))
    }

    fn is_about_signing(&self) -> bool {
        let message = self.message.to_ascii_lowercase();
        ["authorization", "authentication", "signature", "signed", "credential"]
            .iter()
            .any(|part| message.contains(part))
    }

    fn sentence(&self, meaning: Meaning, name: &str, requester_pays: bool) -> String {
        let said = self.said();
        let (asked, mend) = match meaning {
            Meaning::Missing => (format!("{name} does not exist"), ""),
            Meaning::Impossible => (format!("{name} cannot exist in the store"), ": name the object as the store does"),
            Meaning::Changed => (format!("{name} has another ETag than the job says"), ": submit the job anew"),
            Meaning::Archived => (
                format!("{name} is archived and cannot be read now"),
                ": restore it, or move it to a storage class that can be read at once",
            ),
            Meaning::CustomerKey => (
                format!("{name} is encrypted with a key of its owner's (SSE-C), and the worker sends none"),
                ": store it without SSE-C",
            ),
            Meaning::ServerKey => (
                format!("{name} is encrypted with a key that the store cannot use"),
                ": enable the key, or store the object with another one",
            ),
            Meaning::Denied if requester_pays => {
                (format!("{name} is refused by the store"), ": let the worker's key read it")
            }
            Meaning::Denied => (
                format!("{name} is refused by the store"),
                ": let the worker's key read it, or set s3.requester_pays if the requester pays for its bucket",
            ),
            Meaning::Rejected => (format!("{name} is refused by the store"), ""),
            Meaning::Throttled => (format!("the store asks for fewer requests at {name}"), ""),
            Meaning::Unavailable => (format!("{name} could not be read"), ""),
            Meaning::AccessKey => (
                format!("the store does not accept the access key at {name}"),
                ": check s3.access_key and s3.session_token, or set s3.anonymous if the bucket is public",
            ),
            Meaning::Signature => (
                format!("the store does not accept the request's signature at {name}"),
                ": check s3.secret_key, s3.region and s3.endpoint, and that no proxy changes the request",
            ),
            Meaning::Clock => (
                format!("the store's time and this machine's differ too much at {name}"),
                ": check this machine's clock",
            ),
            // Signed for one region and sent to another.
            Meaning::Elsewhere if self.code == "AuthorizationHeaderMalformed" && self.status == Some(400) => {
                (format!("the store does not accept the request's region at {name}"), ": check s3.region")
            }
            Meaning::Elsewhere => (
                format!("the store sends this worker elsewhere for {name}, and redirects are not followed"),
                ": check s3.region and s3.endpoint",
            ),
            Meaning::NoStore => (
                format!("the answer for {name} is not one of an S3 store"),
                ": check s3.endpoint, and what stands between it and this machine",
            ),
        };
        // A store that says nothing but "not there" may be something else.
        let mend = match (meaning, self.code.as_str()) {
            (Meaning::Missing, "" | "NotFound") => ": if it does exist, check s3.endpoint and s3.path_style",
            _ => mend,
        };
        format!("{asked} ({said}){mend}")
    }

    /// Status, code, message and region, as far as they are known.
    fn said(&self) -> String {
        let mut said = match self.status {
            Some(status) => format!("status {status}"),
            None => "an error document".to_owned(),
        };
        if !self.code.is_empty() {
            said.push_str(", ");
            said.push_str(&self.code);
        }
        let message = self.message.trim();
        if !message.is_empty() {
            said.push_str(": ");
            said.push_str(&message[..message.floor_char_boundary(MOST_OF_A_MESSAGE)]);
        }
        if let Some(region) = &self.region {
            said.push_str(", the bucket's region is ");
            said.push_str(region);
        }
        said
    }
}

/// Keys of a key service: what may pass by itself, and the rest, which is the key's own state.
fn by_kms_code(code: &str) -> Meaning {
    let passes = ["Throttling", "LimitExceeded", "Internal", "DependencyTimeout", "KeyUnavailable", "Unavailable"];
    if code.contains("AccessDenied") {
        Meaning::Denied
    } else if passes.iter().any(|part| code.contains(part)) {
        Meaning::Unavailable
    } else {
        Meaning::ServerKey
    }
}

/// The default for codes that are not in the table, and for answers without one.
///
/// A status of 4xx with a code is a refusal that the same request would meet again, so it is final. Without a code
/// nothing in the answer shows that an S3 store gave it; only 403, 404, 405, 410 and 412 are believed then.
fn by_status(status: Option<u16>, code: &str) -> Meaning {
    match status {
        Some(404 | 405 | 410) => Meaning::Missing,
        Some(412) => Meaning::Changed,
        Some(403) => Meaning::Denied,
        Some(401) => Meaning::AccessKey,
        Some(429) => Meaning::Throttled,
        // Too slow, in conflict with another request, locked, too early.
        Some(408 | 409 | 423 | 425) => Meaning::Unavailable,
        Some(300..=399) => Meaning::Elsewhere,
        Some(400..=499) if code.is_empty() => Meaning::NoStore,
        Some(400..=499) => Meaning::Rejected,
        _ => Meaning::Unavailable,
    }
}

impl Meaning {
    fn kind(self) -> FetchErrorKind {
        match self {
            Self::Missing => FetchErrorKind::NotFound,
            Self::Impossible => FetchErrorKind::BadAddress,
            Self::Changed => FetchErrorKind::Changed,
            Self::Archived => FetchErrorKind::Archived,
            Self::CustomerKey | Self::ServerKey => FetchErrorKind::Encrypted,
            Self::Denied | Self::Rejected => FetchErrorKind::Denied,
            Self::Throttled => FetchErrorKind::Throttled,
            Self::Unavailable => FetchErrorKind::Unavailable,
            Self::AccessKey | Self::Signature | Self::Clock | Self::Elsewhere | Self::NoStore => {
                FetchErrorKind::Misconfigured
            }
        }
    }
}

/// The refusal in an error document that came with a status of success, as some stores answer when something goes wrong
/// after they have begun to.
pub(super) fn error_document(body: &[u8]) -> Option<Refusal> {
    if body.len() > LARGEST_DOCUMENT {
        return None;
    }
    let text = std::str::from_utf8(body).ok()?.trim_start_matches('\u{feff}').trim_start();
    let root = match text.strip_prefix("<?xml") {
        Some(declaration) => declaration.split_once("?>")?.1.trim_start(),
        None => text,
    };
    let inner = root.strip_prefix("<Error")?;
    if !inner.starts_with(['>', ' ', '\t', '\r', '\n']) {
        return None;
    }
    let code = element(inner, "Code")?;
    let message = element(inner, "Message").unwrap_or_default();
    Some(Refusal { status: None, code, message, region: element(inner, "Region") })
}

/// The text of the first element of this name.
fn element(document: &str, name: &str) -> Option<String> {
    let (_, rest) = document.split_once(&format!("<{name}>"))?;
    let (text, _) = rest.split_once(&format!("</{name}>"))?;
    Some(text.replace("&lt;", "<").replace("&gt;", ">").replace("&quot;", "\"").replace("&amp;", "&"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(status: u16, code: &str, message: &str) -> (FetchErrorKind, String) {
        let refusal = Refusal { status: Some(status), code: code.into(), message: message.into(), region: None };
        let error = refusal.into_error("s3://b/k", false);
        (error.kind(), error.to_string())
    }

    #[test]
    fn what_a_refusal_means_goes_by_code_and_then_by_status() {
        use FetchErrorKind::*;
        let sse = "The object was stored using a form of Server Side Encryption. The correct parameters must be provided to retrieve the object.";
        let table = [
            (404, "NoSuchKey", "", NotFound),
            (404, "", "", NotFound),
            (405, "MethodNotAllowed", "", NotFound),
            (412, "PreconditionFailed", "", Changed),
            (403, "AccessDenied", "", Denied),
            (403, "", "", Denied),
            (403, "InvalidObjectState", "", Archived),
            (403, "InvalidAccessKeyId", "", Misconfigured),
            (403, "SignatureDoesNotMatch", "", Misconfigured),
            (403, "RequestTimeTooSkewed", "", Misconfigured),
            (400, "AuthorizationHeaderMalformed", "", Misconfigured),
            (400, "ExpiredToken", "", Misconfigured),
            (301, "PermanentRedirect", "", Misconfigured),
            (302, "", "", Misconfigured),
            (307, "TemporaryRedirect", "", Misconfigured),
            (400, "InvalidRequest", sse, Encrypted),
            (400, "InvalidRequest", "Missing Credential field for this request.", Misconfigured),
            (400, "InvalidRequest", "no more is said", Denied),
            (400, "InvalidArgument", "Invalid version id specified", BadAddress),
            (400, "InvalidArgument", "", BadAddress),
            (400, "InvalidArgument", "Authorization header is invalid", Misconfigured),
            (400, "KeyTooLongError", "", BadAddress),
            (400, "InvalidURI", "", BadAddress),
            (400, "InvalidBucketName", "", BadAddress),
            (400, "KMS.DisabledException", "", Encrypted),
            (400, "KMS.NotFoundException", "", Encrypted),
            (400, "KMS.KMSInvalidStateException", "", Encrypted),
            (400, "KMS.InvalidStateException", "", Encrypted),
            (400, "KMS.KMSInvalidKeyUsage", "", Encrypted),
            (400, "KMS.ThrottlingException", "", Unavailable),
            (500, "KMS.KMSInternalException", "", Unavailable),
            (403, "KMS.AccessDeniedException", "", Denied),
            (400, "CloudKmsDisabledKey", "", Encrypted),
            (400, "ResourceIsEncryptedWithCustomerEncryptionKey", "", Encrypted),
            (400, "SomethingNew", "", Denied),
            (400, "", "", Misconfigured),
            (418, "Teapot", "", Denied),
            (400, "RequestTimeout", "", Unavailable),
            (409, "OperationAborted", "", Unavailable),
            (408, "", "", Unavailable),
            (503, "SlowDown", "", Throttled),
            (429, "", "", Throttled),
            (503, "ServiceUnavailable", "", Unavailable),
            (500, "InternalError", "", Unavailable),
            (599, "SomethingNew", "", Unavailable),
        ];
        for (status, code, message, kind) in table {
            assert_eq!(judged(status, code, message).0, kind, "{status} {code} {message}");
        }
    }

    #[test]
    fn a_sentence_names_the_object_the_cause_and_the_mend() {
        for (status, code, message, parts) in [
            (404, "NoSuchKey", "not there", ["s3://b/k does not exist", "(status 404, NoSuchKey: not there)"]),
            (403, "InvalidObjectState", "", ["is archived", "restore it"]),
            (400, "KMS.DisabledException", "", ["key that the store cannot use", "enable the key"]),
            (400, "KeyTooLongError", "Your key is too long", ["cannot exist", "Your key is too long"]),
            (403, "AccessDenied", "", ["let the worker's key read it", "s3.requester_pays"]),
            (403, "RequestTimeTooSkewed", "", ["differ too much", "clock"]),
            (400, "SomethingNew", "what it is", ["is refused by the store", "SomethingNew: what it is"]),
            (404, "", "", ["does not exist", "check s3.endpoint"]),
            (502, "", "", ["could not be read", "status 502"]),
        ] {
            let (_, sentence) = judged(status, code, message);
            for part in parts {
                assert!(sentence.contains(part), "{part:?} in {sentence:?}");
            }
        }
        assert!(judged(400, "X", &"ä".repeat(5000)).1.len() < 600);
    }

    #[test]
    fn an_error_document_is_told_from_an_object() {
        let found = |body: &str| error_document(body.as_bytes()).map(|refusal| (refusal.code, refusal.message));
        let document = "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Error><Code>InternalError</Code><Message>a &amp; b</Message></Error>";
        assert_eq!(found(document), Some(("InternalError".into(), "a & b".into())));
        assert_eq!(found("<Error xmlns=\"x\"><Code>SlowDown</Code></Error>"), Some(("SlowDown".into(), String::new())));
        for other in ["", "<svg/>", "<Errors><Code>X</Code></Errors>", "<Error></Error>", "<?xml <Error><Code>X</Code>"]
        {
            assert_eq!(found(other), None, "{other}");
        }
        assert_eq!(error_document(&[0xff; 10]), None);
        assert_eq!(found(&format!("<Error><Code>X</Code>{}", " ".repeat(LARGEST_DOCUMENT))), None);
    }
}
