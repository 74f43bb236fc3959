//! What the hub's refusals mean.

use http::{Response, StatusCode};
use hyper::body::Incoming;

use crate::error::{ModelError, ModelErrorKind};
use crate::source::HubModel;

/// The hub's word for the reason of a refusal.
const ERROR_CODE: &str = "x-error-code";

/// The error for a response of the hub that is not a success. `file` is the file that was requested.
pub(crate) fn refusal(
    response: &Response<Incoming>,
    model: &HubModel,
    file: Option<&str>,
    endpoint: &str,
    has_token: bool,
) -> ModelError {
    let code = response.headers().get(ERROR_CODE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let HubModel { repository, revision, .. } = model;
    let denied = |sentence: String| ModelError::new(ModelErrorKind::Denied, sentence);
    let not_found = |sentence: String| ModelError::new(ModelErrorKind::NotFound, sentence);
    match (code, response.status()) {
        ("GatedRepo", _) if has_token => denied(format!(
            "the repository {repository} is gated: accept its terms at {endpoint}{repository} with the account of the token in HF_TOKEN"
        )),
        ("GatedRepo", _) => denied(format!(
            "the repository {repository} is gated: accept its terms at {endpoint}{repository}, and set HF_TOKEN to a token of that account"
        )),
        ("RevisionNotFound", _) => not_found(format!(
            "the repository {repository} has no revision {revision:?}: name a branch, a tag or a full commit of it"
        )),
        ("EntryNotFound", _) => not_found(no_file(model, file)),
        // The hub answers so for repositories that do not exist, too.
        ("RepoNotFound", _) | (_, StatusCode::UNAUTHORIZED) if !has_token => not_found(format!(
            "the repository {repository} does not exist or is private: correct its name, or set HF_TOKEN to a token that may read it"
        )),
        ("RepoNotFound", _) => not_found(format!(
            "the repository {repository} does not exist, or the token in HF_TOKEN may not read it: correct its name, or give the token the permission"
        )),
        (_, StatusCode::UNAUTHORIZED) => {
            denied(format!("the hub rejects the token in HF_TOKEN ({repository}): set it to a valid token"))
        }
        (_, StatusCode::FORBIDDEN) => denied(format!(
            "the hub denies access to the repository {repository}: set HF_TOKEN to a token with the permission to read it"
        )),
        (_, StatusCode::NOT_FOUND) if file.is_some() => not_found(no_file(model, file)),
        (_, StatusCode::NOT_FOUND) => not_found(format!(
            "the hub has no repository {repository} with the revision {revision:?}: correct the name or the revision"
        )),
        (_, status) => ModelError::unavailable(format!("{endpoint} answered {status} for the repository {repository}")),
    }
}

fn no_file(model: &HubModel, file: Option<&str>) -> String {
    let file = file.unwrap_or(&model.folder);
    format!(
        "the repository {} has no file {file:?} in the revision {:?}: name a complete checkpoint",
        model.repository, model.revision
    )
}
