//! The keys of a range, page by page.

use std::time::Duration;

use broker::backoff::{Backoff, Delays};
use tokio::sync::mpsc;

use super::error::SourceError;
use super::outage::Waiting;
use super::store::{Listed, Store};
use crate::filter::Selection;
use crate::object::{PAGE_SIZE, Page, Position};

/// Maximum requests for one page. The client itself tries each request several times.
const MAX_ATTEMPTS: u32 = 8;
const RETRY_BACKOFF: Backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(30));

/// The keys of a bucket that begin with `prefix`, are greater than `after`, and at most `until`.
#[derive(Debug, Clone)]
pub(crate) struct Range {
    pub(crate) bucket: String,
    pub(crate) prefix: String,
    pub(crate) after: Option<String>,
    pub(crate) until: Option<String>,
    /// Whether it is the only range of its prefix. Then the store may list keys in any order.
    pub(crate) is_alone: bool,
}

/// Lists the range from `position` on and sends its pages, until the receiver is dropped.
pub(crate) async fn send_pages(
    store: Store,
    range: Range,
    position: Position,
    selection: Selection,
    pages: mpsc::Sender<Result<Page, SourceError>>,
) {
    let mut after = match position {
        Position::Key(key) => Some(key),
        _ => range.after.clone(),
    };
    loop {
        let page = match list_with_retries(&store, &range, after.as_deref()).await {
            Ok(listed) => page(&range, after.as_deref(), listed, &selection),
            Err(error) => Err(error),
        };
        let is_last = match &page {
            Ok(Page { after: Position::Key(key), .. }) => {
                after = Some(key.clone());
                false
            }
            _ => true,
        };
        if pages.send(page).await.is_err() || is_last {
            return;
        }
    }
}

async fn list_with_retries(store: &Store, range: &Range, after: Option<&str>) -> Result<Listed, SourceError> {
    let (mut attempt, mut delays) = (1, Delays::of(RETRY_BACKOFF));
    let mut waiting: Option<Waiting> = None;
    loop {
        match store.list(&range.bucket, &range.prefix, after, PAGE_SIZE).await {
            Err(error @ SourceError::Listing { is_temporary: true, .. }) if attempt < MAX_ATTEMPTS => {
                tracing::debug!(attempt, "{error}; trying again");
                match waiting.as_ref() {
                    Some(waiting) => waiting.again(&error),
                    None => waiting = Some(store.outage().begin(&error)),
                }
                attempt += 1;
                tokio::time::sleep(delays.after_failure()).await;
            }
            listed => {
                if listed.is_ok() {
                    waiting.into_iter().for_each(Waiting::over);
                }
                return listed;
            }
        }
    }
}

fn page(range: &Range, after: Option<&str>, listed: Listed, selection: &Selection) -> Result<Page, SourceError> {
    let Listed { mut objects, more } = listed;
    if !range.is_alone {
        let mut before = after.unwrap_or_default();
        for object in &objects {
            if object.key.as_str() <= before && !before.is_empty() {
                let (bucket, key) = (range.bucket.clone(), object.key.clone());
                return Err(SourceError::OutOfOrder { bucket, before: before.to_owned(), key });
            }
            before = &object.key;
        }
    }
    let beyond = |key: &str| range.until.as_deref().is_some_and(|until| key > until);
    let listed = objects.len();
    if more && listed == 0 {
        return Err(SourceError::Listing {
            bucket: range.bucket.clone(),
            prefix: range.prefix.clone(),
            cause: "the store returned an empty page that is not the last one".to_owned(),
            is_temporary: false,
        });
    }
    objects.retain(|object| !beyond(&object.key));
    let position = match objects.last() {
        Some(last) if more && objects.len() == listed => Position::Key(last.key.clone()),
        _ => Position::End,
    };
    let seen = objects.len() as u64;
    objects.retain(|object| selection.selects(object));
    Ok(Page { objects, seen, after: position })
}
