//! Classifies the errors that stores return, by a table of their codes.
//!
//! The codes are those of AWS, MinIO, Ceph, SeaweedFS and Google's XML API. Other codes are classified by the HTTP
//! status, see [`by_status`].

use super::action::Action;
use super::{FetchError, FetchErrorKind};

/// Maximum bytes of the store's own message in an error.
const MAX_MESSAGE: usize = 400;

/// An error that a store returned in place of an object.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct StoreError {
    pub(super) status: Option<u16>,
    /// The code, such as `NoSuchKey`. Empty if there is none.
    pub(super) code: String,
    /// The store's own message.
    pub(super) message: String,
    /// The bucket's region, if the store reports it.
    pub(super) region: Option<String>,
}

/// What an error means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ErrorClass {
    /// The object or version does not exist.
    Missing,
    /// The bucket does not exist.
    NoBucket,
    /// No object can have this name or version.
    Impossible,
    /// The object's ETag is not the requested one.
    Changed,
    /// The object is in an archive class and must be restored before it can be read.
    Archived,
    /// The object is encrypted with a key that the reader must send (SSE-C).
    CustomerKey,
    /// The object is encrypted with a key that the store cannot use: disabled, deleted, or not meant for encryption.
    ServerKey,
    /// The access key may not read the object.
    Denied,
    /// The store rejects the request for another reason.
    Rejected,
    /// The store throttles requests.
    Throttled,
    /// A temporary error of the store.
    Unavailable,
    /// The access key is unknown or has expired.
    AccessKey,
    /// The signature is wrong.
    Signature,
    /// The clocks differ too much.
    Clock,
    /// The bucket is in another region or at another address.
    Elsewhere,
    /// The response does not come from an S3 store.
    NotS3,
}

impl StoreError {
    /// The error for the object or prefix `name`. `requester_pays` is the setting.
    pub(super) fn into_fetch_error(self, action: Action, name: &str, requester_pays: bool) -> FetchError {
        let class = self.class();
        FetchError::new(class.kind(), self.sentence(class, action, name, requester_pays))
    }

    fn class(&self) -> ErrorClass {
        match self.code.as_str() {
            "NoSuchBucket" => ErrorClass::NoBucket,
            "NoSuchKey" | "NoSuchVersion" | "NotFound" | "NoSuchObject" | "MethodNotAllowed" => {
                // MethodNotAllowed: the version is a delete marker.
                ErrorClass::Missing
            }
            "KeyTooLongError"
            | "KeyTooLong"
            | "InvalidURI"
            | "InvalidObjectName"
            | "XMinioInvalidObjectName"
            | "InvalidBucketName"
            | "InvalidVersionId"
            | "InvalidTenantName" => ErrorClass::Impossible,
            "InvalidArgument" if self.is_about_encryption() => ErrorClass::CustomerKey,
            // The requests have no range or part number, so the version is the only remaining argument.
            "InvalidArgument" if !self.is_about_signing() => ErrorClass::Impossible,
            "InvalidRequest" if self.is_about_encryption() => ErrorClass::CustomerKey,
            "InvalidArgument" | "InvalidRequest" if self.is_about_signing() => ErrorClass::Signature,
            "SSECustomerKeyMD5Mismatch"
            | "InvalidEncryptionAlgorithmError"
            | "ResourceIsEncryptedWithCustomerEncryptionKey"
            | "CustomerEncryptionKeyIsIncorrect" => ErrorClass::CustomerKey,
            "PreconditionFailed" => ErrorClass::Changed,
            "InvalidObjectState" | "ObjectNotInActiveTierError" | "ObjectArchived" => ErrorClass::Archived,
            code if code.starts_with("KMS.") || code.starts_with("CloudKms") || code.starts_with("XMinioKMS") => {
                by_kms_code(code)
            }
            "XMinioObjectTampered" | "QuotaExceeded" | "NotImplemented" | "InvalidRequest" => ErrorClass::Rejected,
            "AccessDenied" | "AllAccessDisabled" | "AccountProblem" | "UserSuspended" | "NotSignedUp"
            | "AccessForbidden" | "Forbidden" => ErrorClass::Denied,
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
            | "XMinioServerNotInitialized" => ErrorClass::Throttled,
            "RequestTimeout" | "InternalError" | "ServiceUnavailable" | "ServiceFailure" | "OperationAborted"
            | "Busy" | "UnknownError" | "XMinioReadQuorum" => ErrorClass::Unavailable,
            "InvalidAccessKeyId"
            | "InvalidToken"
            | "ExpiredToken"
            | "TokenRefreshRequired"
            | "InvalidSecurity"
            | "AuthenticationRequired"
            | "MissingSecurityHeader"
            | "XMinioAccessKeyDisabled" => ErrorClass::AccessKey,
            "SignatureDoesNotMatch"
            | "AuthorizationQueryParametersError"
            | "XAmzContentSHA256Mismatch"
            | "CredentialsNotSupported" => ErrorClass::Signature,
            "RequestTimeTooSkewed" | "RequestExpired" => ErrorClass::Clock,
            "PermanentRedirect"
            | "TemporaryRedirect"
            | "Redirect"
            | "AuthorizationHeaderMalformed"
            | "IllegalLocationConstraintException"
            | "EndpointNotFound"
            | "InvalidLocationConstraint" => ErrorClass::Elsewhere,
            code => by_status(self.status, code),
        }
    }

    /// `InvalidRequest` and `InvalidArgument` have many causes, which only the message distinguishes.
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

    fn sentence(&self, class: ErrorClass, action: Action, name: &str, requester_pays: bool) -> String {
        let details = self.details();
        let (problem, remedy) = match class {
            ErrorClass::Missing => (format!("{name} does not exist"), ""),
            ErrorClass::NoBucket => (
                format!("{name} could not be {} because its bucket does not exist", action.participle()),
                ": correct the bucket's name, or check s3.endpoint and s3.region",
            ),
            ErrorClass::Impossible => {
                (format!("{name} cannot exist in the store"), ": correct the object's name or version")
            }
            ErrorClass::Changed => {
                (format!("{name} has another ETag than the job names"), ": submit the job again with the new ETag")
            }
            ErrorClass::Archived => (
                format!("{name} is archived and cannot be read now"),
                ": restore it, or move it to a storage class that can be read at once",
            ),
            ErrorClass::CustomerKey => (
                format!("{name} is encrypted with a customer key (SSE-C), which is not sent"),
                ": store it without SSE-C",
            ),
            ErrorClass::ServerKey => (
                format!("{name} is encrypted with a key that the store cannot use"),
                ": enable the key, or store the object with another key",
            ),
            ErrorClass::Denied => {
                let remedy = match (action, requester_pays) {
                    (Action::Read, true) => ": allow the access key to read it",
                    (Action::Read, false) => {
                        ": allow the access key to read it, or set s3.requester_pays if its bucket requires that"
                    }
                    (Action::List, true) => ": allow the access key to list the bucket",
                    (Action::List, false) => {
                        ": allow the access key to list the bucket, or set s3.requester_pays if the bucket requires that"
                    }
                };
                (format!("access to {name} is denied by the store"), remedy)
            }
            ErrorClass::Rejected => (format!("the request for {name} is rejected by the store"), ""),
            ErrorClass::Throttled => (format!("the store throttles requests for {name}"), ""),
            ErrorClass::Unavailable => (format!("{name} could not be {}", action.participle()), ""),
            ErrorClass::AccessKey => (
                format!("the store rejects the access key for {name}"),
                ": check s3.access_key and s3.session_token, or AWS_ACCESS_KEY_ID and AWS_SESSION_TOKEN, or set s3.anonymous if the bucket is public",
            ),
            ErrorClass::Signature => (
                format!("the store rejects the signature of the request for {name}"),
                ": check s3.secret_key or AWS_SECRET_ACCESS_KEY, s3.region and s3.endpoint, and that no proxy changes the request",
            ),
            ErrorClass::Clock => (
                format!(
                    "the store rejects the request for {name} because its clock and this machine's differ too much"
                ),
                ": check this machine's clock",
            ),
            // The request was signed for another region.
            ErrorClass::Elsewhere if self.code == "AuthorizationHeaderMalformed" && self.status == Some(400) => {
                (format!("the store rejects the region of the request for {name}"), ": check s3.region")
            }
            ErrorClass::Elsewhere => (
                format!("the store redirects the request for {name}, and redirects are not followed"),
                ": check s3.region and s3.endpoint",
            ),
            ErrorClass::NotS3 => (
                format!("the response for {name} does not come from an S3 store"),
                ": check s3.endpoint, whether it must begin with https:// or http://, and any proxy between it and this machine",
            ),
        };
        // A plain 404 may come from a server that is not an S3 store.
        let remedy = match (class, self.code.as_str()) {
            (ErrorClass::Missing, "" | "NotFound") => ": if it does exist, check s3.endpoint and s3.path_style",
            _ => remedy,
        };
        format!("{problem} ({details}){remedy}")
    }

    /// Status, code, message and region, if they are known.
    fn details(&self) -> String {
        let mut details = match self.status {
            Some(status) => format!("status {status}"),
            None => "an error document".to_owned(),
        };
        if !self.code.is_empty() {
            details.push_str(", ");
            details.push_str(&self.code);
        }
        let message = self.message.trim();
        if !message.is_empty() {
            details.push_str(": ");
            details.push_str(&message[..message.floor_char_boundary(MAX_MESSAGE)]);
        }
        if let Some(region) = &self.region {
            details.push_str(", the bucket's region is ");
            details.push_str(region);
        }
        details
    }
}

/// Errors of a key management service: temporary ones, and those of the key's own state.
fn by_kms_code(code: &str) -> ErrorClass {
    let temporary = ["Throttling", "LimitExceeded", "Internal", "DependencyTimeout", "KeyUnavailable", "Unavailable"];
    if code.contains("AccessDenied") {
        ErrorClass::Denied
    } else if temporary.iter().any(|part| code.contains(part)) {
        ErrorClass::Unavailable
    } else {
        ErrorClass::ServerKey
    }
}

/// The class of codes that are not in the table and of responses without a code.
///
/// A 4xx status with a code is permanent, because the same request would fail again. Without a code, nothing shows that
/// the response comes from an S3 store, so only 403, 404, 405, 410 and 412 are treated as permanent.
fn by_status(status: Option<u16>, code: &str) -> ErrorClass {
    match status {
        Some(404 | 405 | 410) => ErrorClass::Missing,
        Some(412) => ErrorClass::Changed,
        Some(403) => ErrorClass::Denied,
        Some(401) => ErrorClass::AccessKey,
        Some(429) => ErrorClass::Throttled,
        // Request timeout, conflict, locked, too early.
        Some(408 | 409 | 423 | 425) => ErrorClass::Unavailable,
        Some(300..=399) => ErrorClass::Elsewhere,
        Some(400..=499) if code.is_empty() => ErrorClass::NotS3,
        Some(400..=499) => ErrorClass::Rejected,
        _ => ErrorClass::Unavailable,
    }
}

impl ErrorClass {
    fn kind(self) -> FetchErrorKind {
        match self {
            Self::Missing | Self::NoBucket => FetchErrorKind::NotFound,
            Self::Impossible => FetchErrorKind::BadAddress,
            Self::Changed => FetchErrorKind::Changed,
            Self::Archived => FetchErrorKind::Archived,
            Self::CustomerKey | Self::ServerKey => FetchErrorKind::Encrypted,
            Self::Denied | Self::Rejected => FetchErrorKind::Denied,
            Self::Throttled => FetchErrorKind::Throttled,
            Self::Unavailable => FetchErrorKind::Unavailable,
            Self::AccessKey | Self::Signature | Self::Clock | Self::Elsewhere | Self::NotS3 => {
                FetchErrorKind::Misconfigured
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(status: u16, code: &str, message: &str) -> (FetchErrorKind, String) {
        let refusal = StoreError { status: Some(status), code: code.into(), message: message.into(), region: None };
        let error = refusal.into_fetch_error(Action::Read, "s3://b/k", false);
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
            (403, "AccessDenied", "", ["allow the access key to read", "s3.requester_pays"]),
            (403, "RequestTimeTooSkewed", "", ["differ too much", "clock"]),
            (400, "SomethingNew", "what it is", ["is rejected by the store", "SomethingNew: what it is"]),
            (404, "", "", ["does not exist", "check s3.endpoint"]),
            (404, "NoSuchBucket", "", ["its bucket does not exist", "correct the bucket's name"]),
            (502, "", "", ["could not be read", "status 502"]),
        ] {
            let (_, sentence) = judged(status, code, message);
            for part in parts {
                assert!(sentence.contains(part), "{part:?} in {sentence:?}");
            }
        }
        assert!(judged(400, "X", &"ä".repeat(5000)).1.len() < 600);
        let denied = StoreError { status: Some(403), code: "AccessDenied".into(), ..StoreError::default() };
        let sentence = denied.into_fetch_error(Action::List, "s3://b/p/", false).to_string();
        assert!(sentence.contains("allow the access key to list the bucket"), "{sentence}");
    }
}
