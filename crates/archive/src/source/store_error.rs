//! The errors of the store as sentences with cause and fix.

use aws_sdk_s3::config::http::HttpResponse;
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use broker::causes::causes;

/// The error of the store, or of the connection.
pub(super) fn message<E>(error: &SdkError<E, HttpResponse>) -> String
where
    E: ProvideErrorMetadata + std::error::Error + Send + Sync + 'static,
{
    let details = match (error.code(), error.message()) {
        (Some(code), Some(message)) => format!("{code}: {message}"),
        (Some(code), None) => code.to_owned(),
        _ => causes(error),
    };
    sentence(error.code(), status(error), &details)
}

/// Whether the same request may succeed later.
pub(super) fn is_temporary<E>(error: &SdkError<E, HttpResponse>) -> bool {
    match status(error) {
        None => true,
        Some(status) => status >= 500 || status == 429 || status == 200,
    }
}

fn status<E>(error: &SdkError<E, HttpResponse>) -> Option<u16> {
    error.raw_response().map(|response| response.status().as_u16())
}

/// `status` is `None` if there was no response. Responses to requests without a body, such as HEAD, have no code.
fn sentence(code: Option<&str>, status: Option<u16>, details: &str) -> String {
    let (problem, fix) = match (code, status) {
        (Some("NoSuchBucket"), _) => {
            ("the bucket does not exist", "correct its name, or check s3.endpoint and s3.region")
        }
        (Some("NoSuchKey" | "NotFound"), _) | (None, Some(404)) => {
            ("there is no such object", "correct the address, or check s3.endpoint and s3.path_style")
        }
        (Some("AccessDenied" | "AllAccessDisabled" | "Forbidden"), _) | (None, Some(403)) => (
            "access is denied by the store",
            "allow the access key to list the bucket (s3:ListBucket) and to read manifests (s3:GetObject), or set s3.requester_pays if the bucket requires that",
        ),
        (Some("InvalidAccessKeyId" | "InvalidToken" | "ExpiredToken"), _) => (
            "the store rejects the access key",
            "check s3.access_key and s3.session_token, or AWS_ACCESS_KEY_ID and AWS_SESSION_TOKEN, or set s3.anonymous if the bucket is public",
        ),
        (Some("SignatureDoesNotMatch"), _) => (
            "the store rejects the signature of the request",
            "check s3.secret_key or AWS_SECRET_ACCESS_KEY, s3.region and s3.endpoint, and that no proxy changes the request",
        ),
        (Some("RequestTimeTooSkewed"), _) => {
            ("the store's clock and this machine's differ too much", "check this machine's clock")
        }
        (Some("PermanentRedirect" | "TemporaryRedirect" | "AuthorizationHeaderMalformed"), _) => {
            ("the bucket is in another region or at another address", "check s3.region and s3.endpoint")
        }
        (None, None) if details.contains("credential") => (
            "there are no credentials for the store",
            "set s3.access_key and s3.secret_key, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or s3.anonymous if the bucket is public",
        ),
        (None, None) => ("the store cannot be reached", "check s3.endpoint, and that the store runs"),
        _ => return details.to_owned(),
    };
    format!("{problem} ({details}): {fix}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_usual_errors_have_a_cause_and_a_fix() {
        for (code, status, parts) in [
            (Some("NoSuchBucket"), Some(404), ["the bucket does not exist", "correct its name"]),
            (Some("AccessDenied"), Some(403), ["access is denied", "s3:ListBucket"]),
            (None, Some(403), ["access is denied", "s3:GetObject"]),
            (None, Some(404), ["no such object", "correct the address"]),
            (Some("InvalidAccessKeyId"), Some(403), ["rejects the access key", "s3.access_key"]),
            (Some("SignatureDoesNotMatch"), Some(403), ["rejects the signature", "s3.secret_key"]),
            (None, None, ["cannot be reached", "check s3.endpoint"]),
        ] {
            let text = sentence(code, status, "details");
            assert!(parts.iter().chain(&["(details)"]).all(|part| text.contains(part)), "{text}");
        }
        assert_eq!(sentence(Some("SlowDown"), Some(503), "SlowDown: less"), "SlowDown: less");
    }
}
