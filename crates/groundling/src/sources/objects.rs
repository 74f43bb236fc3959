//! Lists the objects of a bucket.

use anyhow::anyhow;
use broker::causes::causes;
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
/// The store's error, with the address as context.
pub(super) async fn list(
    store: &ObjectStore,
    bucket: &str,
    prefix: &str,
    requester_pays: bool,
) -> anyhow::Result<Vec<ListedObject>> {
    let mut request = store.client().list_objects_v2().bucket(bucket).prefix(prefix);
    if requester_pays {
        request = request.request_payer("requester".into());
    }
    let (mut pages, mut objects) = (request.into_paginator().send(), Vec::new());
    while let Some(page) = pages.next().await {
        let page = page.map_err(|error| anyhow!("s3://{bucket}/{prefix}: cannot be listed: {}", causes(&error)))?;
        for object in page.contents() {
            let Some(key) = object.key() else { continue };
            let etag = object.e_tag().map(|etag| etag.trim_matches('"').to_owned());
            objects.push(ListedObject { key: key.to_owned(), etag });
        }
    }
    Ok(objects)
}
