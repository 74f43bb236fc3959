//! What the hub refuses, and what a repository lacks.

use models::{ModelError, ModelErrorKind};
use sandbox::{HubState, ModelHub};

use crate::{COMMIT, environment, model, supply};

/// The error for a source, from a hub in this state.
async fn refused(source: &str, token: Option<&str>, change: impl FnOnce(&mut HubState)) -> ModelError {
    let hub = ModelHub::start("o/n", model().path(), COMMIT).await.unwrap();
    change(&mut hub.state());
    let cache = tempfile::tempdir().unwrap();
    let mut variables = vec![("HF_ENDPOINT", hub.endpoint())];
    variables.extend(token.map(|token| ("HF_TOKEN", token)));
    let error = supply(source, &environment(cache.path(), &variables), false).directory().await.unwrap_err();
    let text = error.to_string();
    assert!(!text.contains('\n') && !text.contains("hush") && !text.contains("signature"), "{text}");
    error
}

#[tokio::test]
async fn each_refusal_is_one_sentence_with_the_fix() {
    use ModelErrorKind::{Denied, Incomplete, NotFound};
    let private = |state: &mut HubState| state.token = Some("right".into());
    let found = [
        (refused("hf://o/other", None, |_| {}).await, NotFound, "o/other does not exist or is private"),
        (refused("hf://o/n", None, private).await, NotFound, "set HF_TOKEN"),
        (refused("hf://o/n", Some("hush"), private).await, Denied, "rejects the token in HF_TOKEN"),
        (refused("hf://o/n", Some("hush"), |state| state.is_gated = true).await, Denied, "is gated: accept its terms"),
        (refused("hf://o/n", Some("hush"), |state| state.status = Some(403)).await, Denied, "denies access"),
        (refused("hf://o/n@v9", None, |_| {}).await, NotFound, "no revision \"v9\""),
        (
            refused("hf://o/n", None, |state| drop(state.files.remove("config.json"))).await,
            Incomplete,
            "no config.json",
        ),
        (
            refused("hf://o/n", None, |state| drop(state.files.remove("model.safetensors"))).await,
            Incomplete,
            "no weights",
        ),
    ];
    for (error, kind, part) in found {
        assert_eq!(error.kind(), kind, "{error}");
        assert!(error.to_string().contains(part), "{error}");
    }
}

#[tokio::test]
async fn a_hub_that_is_not_there_is_named() {
    let cache = tempfile::tempdir().unwrap();
    // Nothing listens on this port any more.
    let address = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let variables = [("HF_ENDPOINT", format!("http://{address}"))];
    let variables = variables.each_ref().map(|(name, value)| (*name, value.as_str()));
    let error = supply("hf://o/n", &environment(cache.path(), &variables), false).directory().await.unwrap_err();
    assert_eq!(error.kind(), ModelErrorKind::Unavailable);
    assert!(error.to_string().contains(&address.to_string()), "{error}");
}

#[tokio::test]
async fn a_commit_that_is_none_becomes_no_path() {
    let change = |state: &mut HubState| drop(state.revisions.insert("main".into(), "../../etc".into()));
    let error = refused("hf://o/n", None, change).await;
    assert!(error.to_string().contains("\"../../etc\" is not a commit"), "{error}");
}

#[tokio::test]
async fn a_hub_with_an_internal_error_is_asked_again_and_named() {
    let error = refused("hf://o/n", None, |state| state.status = Some(500)).await;
    assert_eq!(error.kind(), ModelErrorKind::Unavailable);
    assert!(error.to_string().contains("answered 500"), "{error}");
}
