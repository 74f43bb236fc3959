//! Lists the objects of a bucket.

use worker::fetch::FetchError;
use worker::fetch::request_error::listing_error;
use worker::fetch::s3::ObjectStore;

/// An object of a listing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ListedObject {
    pub(super) key: String,
    /// Without quotes.
    pub(super) etag: Option<String>,
}

/// All objects of a bucket whose keys have a prefix, in the order of the store.
///
/// # Errors
/// The store's error in a sentence that names the address.
pub(super) async fn list(
    store: &ObjectStore,
    bucket: &str,
    prefix: &str,
    requester_pays: bool,
) -> Result<Vec<ListedObject>, FetchError> {
    let mut request = store.client().list_objects_v2().bucket(bucket).prefix(prefix);
    if requester_pays {
        request = request.request_payer("requester".into());
    }
    let (mut pages, mut objects) = (request.into_paginator().send(), Vec::new());
    while let Some(page) = pages.next().await {
        let page = page.map_err(|error| listing_error(error, &format!("s3://{bucket}/{prefix}"), requester_pays))?;
        for object in page.contents() {
            let Some(key) = object.key() else { continue };
            let etag = object.e_tag().map(|etag| etag.trim_matches('"').to_owned());
            objects.push(ListedObject { key: key.to_owned(), etag });
        }
    }
    Ok(objects)
}

/// Whether the bucket has objects below `key/`. A store that does not tell counts as one without.
pub(super) async fn has_below(store: &ObjectStore, bucket: &str, key: &str, requester_pays: bool) -> bool {
    let mut request = store.client().list_objects_v2().bucket(bucket).prefix(format!("{key}/")).max_keys(1);
    if requester_pays {
        request = request.request_payer("requester".into());
    }
    request.send().await.is_ok_and(|page| !page.contents().is_empty())
}
