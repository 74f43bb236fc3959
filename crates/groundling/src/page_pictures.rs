//! The pictures of pages, read from their store.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{anyhow, bail};
use archive::presigned::presigned;
use futures::{StreamExt, stream};
use kosmos2::processor::image::{DecodeOptions, decode};
use review::Picture;
use tokio::sync::Semaphore;
use wire::identity::sha256_hex;
use wire::v1::{ObjectIdentity, PictureFacts, S3Object};
use worker::fetch::s3::ObjectStore;

use crate::exit::Misuse;
use crate::own_store;
use crate::settings::Settings;

/// Pictures that are read at once.
const AT_ONCE: usize = 16;

/// The formats that browsers show.
const SHOWN: [&str; 6] = ["jpeg", "png", "webp", "gif", "bmp", "avif"];

/// Reads pictures and makes thumbnails.
pub(crate) struct PagePictures {
    store: ObjectStore,
    /// Links to the objects instead of thumbnails, and for how long they work.
    links: Option<Duration>,
    /// Limits the pictures decoded at once to the number of processors: each takes memory.
    decoders: Arc<Semaphore>,
    missing: AtomicU64,
}

impl PagePictures {
    /// Of the store of the settings.
    pub(crate) async fn open(settings: &Settings, links: Option<Duration>) -> anyhow::Result<Self> {
        let store = own_store::open(&settings.s3).await?;
        if links.is_some() && settings.s3.requester_pays {
            let why = "--links presigned: browsers do not agree to pay (s3.requester_pays); use --links embedded";
            return Err(Misuse(anyhow!(why)).into());
        }
        let decoders = std::thread::available_parallelism().map_or(1, usize::from);
        Ok(Self { store, links, decoders: Arc::new(Semaphore::new(decoders)), missing: AtomicU64::new(0) })
    }

    /// Pictures of annotations that could not be shown.
    pub(crate) fn missing(&self) -> u64 {
        self.missing.load(Ordering::Relaxed)
    }

    /// The pictures of annotations, in their order. One that cannot be read, or has other bytes than those that were
    /// annotated, is left out and counted. Calls `watch` after each of them.
    pub(crate) async fn of_annotations(
        &self,
        facts: Vec<Option<PictureFacts>>,
        mut watch: impl FnMut(),
    ) -> Vec<Option<Picture>> {
        let mut pictures = stream::iter(facts).map(|facts| self.of_annotation(facts)).buffered(AT_ONCE);
        let mut all = Vec::new();
        while let Some(picture) = pictures.next().await {
            watch();
            all.push(picture);
        }
        all
    }

    /// The pictures of failed jobs, in their order, where the objects can be read and decoded.
    pub(crate) async fn of_failures(&self, objects: Vec<Option<S3Object>>) -> Vec<Option<Picture>> {
        let read = |object: Option<S3Object>| async move {
            let read = self.thumbnail(object?, None, true).await;
            read.map_err(|error| tracing::debug!("no picture of a failure: {error:#}")).ok()
        };
        stream::iter(objects).map(read).buffered(AT_ONCE).collect().await
    }

    async fn of_annotation(&self, facts: Option<PictureFacts>) -> Option<Picture> {
        let facts = facts?;
        // A picture within its job is stored nowhere else.
        let object = facts.object.clone()?;
        let read = match self.links {
            Some(expiry) if is_shown_as_annotated(&facts) => self.link(&object, &facts, expiry).await,
            _ => {
                let ObjectIdentity { bucket, key, version_id, .. } = object.clone();
                let named = S3Object { bucket, key, version_id, etag: None };
                self.thumbnail(named, Some(facts.sha256.clone()), facts.orientation_applied).await
            }
        };
        match read {
            Ok(picture) => Some(picture),
            Err(error) => {
                self.missing.fetch_add(1, Ordering::Relaxed);
                tracing::debug!(bucket = object.bucket, key = object.key, "no picture: {error:#}");
                None
            }
        }
    }

    async fn link(&self, object: &ObjectIdentity, facts: &PictureFacts, expiry: Duration) -> anyhow::Result<Picture> {
        let address = presigned(self.store.client(), object, expiry).await?;
        Ok(Picture::linked(address, facts.width, facts.height))
    }

    async fn thumbnail(
        &self,
        object: S3Object,
        sha256: Option<String>,
        apply_orientation: bool,
    ) -> anyhow::Result<Picture> {
        let bytes = self.store.read(&object).await?.bytes;
        let _permit = self.decoders.acquire().await?;
        let made = tokio::task::spawn_blocking(move || {
            if sha256.is_some_and(|expected| expected != sha256_hex(&bytes)) {
                bail!("the object has other bytes now");
            }
            let picture = decode(&bytes, &DecodeOptions { apply_orientation, ..DecodeOptions::default() })?;
            Ok(Picture::thumbnail(&picture.rgb)?)
        });
        made.await?
    }
}

/// Whether a browser shows the object as the model saw it. Browsers apply the orientation of EXIF to linked pictures.
fn is_shown_as_annotated(facts: &PictureFacts) -> bool {
    SHOWN.contains(&facts.format.as_str()) && (facts.orientation_applied || facts.orientation <= 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_pictures_that_browsers_show_as_they_were_annotated_are_linked() {
        let facts = |format: &str, orientation, orientation_applied| PictureFacts {
            format: format.into(),
            orientation,
            orientation_applied,
            ..PictureFacts::default()
        };
        assert!(is_shown_as_annotated(&facts("jpeg", 6, true)) && is_shown_as_annotated(&facts("webp", 1, false)));
        assert!(!is_shown_as_annotated(&facts("jpeg", 6, false)) && !is_shown_as_annotated(&facts("tiff", 1, true)));
    }
}
