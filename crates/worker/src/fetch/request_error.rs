//! Requests to a store that failed: with an error of the store, or without a response.

use std::error::Error;

use aws_sdk_s3::config::http::HttpResponse;
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use broker::causes::causes;

use super::action::Action;
use super::store_error::StoreError;
use super::{FetchError, FetchErrorKind};

/// The error for a listing of the keys that begin with a prefix. `name` is the address of the prefix.
pub fn listing_error<E>(error: SdkError<E, HttpResponse>, name: &str, requester_pays: bool) -> FetchError
where
    E: ProvideErrorMetadata + Error + Send + Sync + 'static,
{
    request_error(error, Action::List, name, requester_pays)
}

/// The error for a failed read of the object `name`.
pub(super) fn reading_error<E>(error: SdkError<E, HttpResponse>, name: &str, requester_pays: bool) -> FetchError
where
    E: ProvideErrorMetadata + Error + Send + Sync + 'static,
{
    request_error(error, Action::Read, name, requester_pays)
}

fn request_error<E>(error: SdkError<E, HttpResponse>, action: Action, name: &str, requester_pays: bool) -> FetchError
where
    E: ProvideErrorMetadata + Error + Send + Sync + 'static,
{
    match error.raw_response() {
        Some(response) if !response.status().is_success() => {
            let region = response.headers().get("x-amz-bucket-region").map(str::to_owned);
            let status = Some(response.status().as_u16());
            let (code, message) = (error.code().unwrap_or_default(), error.message().unwrap_or_default());
            let error = StoreError { status, code: code.to_owned(), message: message.to_owned(), region };
            error.into_fetch_error(action, name, requester_pays)
        }
        Some(_) => {
            let sentence = format!("the response for {name} cannot be read: check s3.endpoint");
            FetchError::new(FetchErrorKind::Unavailable, sentence).because(error)
        }
        None => no_response(error, action, name),
    }
}

/// The error for a request without a response.
fn no_response(error: impl Error + Send + Sync + 'static, action: Action, name: &str) -> FetchError {
    let failed = format!("{name} could not be {}", action.participle());
    match explanation(&causes(&error)) {
        Some((problem, remedy)) => {
            // The causes tell only whether this machine lacks resources.
            let kind = FetchError::new(FetchErrorKind::Unavailable, "").because(error).kind();
            FetchError::new(kind, format!("{failed}: {problem}: {remedy}"))
        }
        None => {
            let sentence = format!("{failed} because the store did not respond");
            FetchError::new(FetchErrorKind::Unavailable, sentence).because(error)
        }
    }
}

/// The problem and its remedy, if the causes show them. The clients have no error kinds for them.
fn explanation(causes: &str) -> Option<(&'static str, &'static str)> {
    const EXPLANATIONS: [(&str, &str, &str); 7] = [
        (
            "Connection refused",
            "nothing answers at the store's address (connection refused)",
            "check s3.endpoint, and that the store runs",
        ),
        (
            "InvalidContentType",
            "the store's address does not speak TLS",
            "check the port in s3.endpoint, or begin it with http:// instead of https://",
        ),
        (
            "certificate",
            "the store's certificate is not trusted",
            "name its authority in s3.ca_file, or check s3.endpoint",
        ),
        (
            "lookup address",
            "the store's host name is not known",
            "check s3.endpoint, and set s3.path_style if the store has no host name for each bucket",
        ),
        (
            "dns error",
            "the store's host name is not known",
            "check s3.endpoint, and set s3.path_style if the store has no host name for each bucket",
        ),
        (
            "no providers in chain provided credentials",
            "no access key was found",
            "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or s3.access_key and s3.secret_key, or s3.anonymous for a public bucket",
        ),
        (
            "the credential provider was not enabled",
            "no access key was found",
            "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or s3.access_key and s3.secret_key, or s3.anonymous for a public bucket",
        ),
    ];
    let known = EXPLANATIONS.iter().find(|(cause, ..)| causes.contains(cause));
    known.map(|(_, problem, remedy)| (*problem, *remedy))
}
