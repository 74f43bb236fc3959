//! The pictures of pages, read from their store.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::anyhow;
use archive::presigned::presign_url;
use futures::{StreamExt, stream};
use kosmos2::processor::image::{DecodeOptions, decode};
use review::Picture;
use tokio::sync::Semaphore;
use wire::identity::sha256_hex;
use wire::v1::{ObjectIdentity, PictureFacts, S3Object};
use worker::fetch::s3::ObjectStore;
use worker::fetch::{FetchError, FetchErrorKind};

use crate::counted::counted;
use crate::exit::Misuse;
use crate::settings::Settings;
use crate::{own_store, stderr};

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
    left_out: Mutex<LeftOut>,
}

/// Pictures that could not be shown, by the reason.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct LeftOut {
    /// The object does not exist any more.
    pub(crate) missing: u64,
    /// The object has other bytes now.
    pub(crate) changed: u64,
    /// The object cannot be used as a picture.
    pub(crate) unreadable: u64,
    /// The store cannot be reached, or refuses to give the object.
    pub(crate) refused: u64,
    /// What the store said first.
    cause: Option<String>,
}

/// Why there is no picture.
#[derive(Debug, thiserror::Error)]
enum NoPicture {
    #[error("{0}")]
    Missing(String),
    #[error("the object has other bytes now")]
    Changed,
    #[error("{0}")]
    Unreadable(String),
    #[error("{0}")]
    Refused(String),
}

impl From<FetchError> for NoPicture {
    fn from(error: FetchError) -> Self {
        use FetchErrorKind::{Changed, Denied, Exhausted, Misconfigured, NotAllowed, NotFound, Throttled, Unavailable};
        match error.kind() {
            NotFound => Self::Missing(error.to_string()),
            Changed => Self::Changed,
            Denied | NotAllowed | Throttled | Unavailable | Misconfigured | Exhausted => {
                Self::Refused(error.to_string())
            }
            _ => Self::Unreadable(error.to_string()),
        }
    }
}

impl LeftOut {
    fn add(&mut self, why: &NoPicture) {
        match why {
            NoPicture::Missing(_) => self.missing += 1,
            NoPicture::Changed => self.changed += 1,
            NoPicture::Unreadable(_) => self.unreadable += 1,
            NoPicture::Refused(cause) => {
                self.refused += 1;
                self.cause.get_or_insert_with(|| cause.clone());
            }
        }
    }

    /// A sentence for each reason.
    fn sentences(&self) -> Vec<String> {
        let refused = format!(
            "the store cannot be reached or refuses to give it: {}",
            self.cause.as_deref().unwrap_or("no reason was given")
        );
        let reasons = [
            (self.missing, "the object does not exist any more"),
            (self.changed, "the object has other bytes now"),
            (self.unreadable, "it cannot be read as a picture (RUST_LOG=groundling=debug says why)"),
            (self.refused, refused.as_str()),
        ];
        let found = reasons.into_iter().filter(|(count, _)| *count > 0);
        found.map(|(count, why)| format!("{} left out: {why}", counted(count, "picture"))).collect()
    }

    /// Says what was left out on stderr.
    pub(crate) fn report(&self) {
        for sentence in self.sentences() {
            stderr::message!("groundling: {sentence}");
        }
    }
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
        Ok(Self { store, links, decoders: Arc::new(Semaphore::new(decoders)), left_out: Mutex::default() })
    }

    /// Pictures of annotations that could not be shown. Those of failures do not count: many failures are about objects
    /// that cannot be read.
    pub(crate) fn left_out(&self) -> LeftOut {
        self.left_out.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn leave_out(&self, why: &NoPicture) {
        self.left_out.lock().unwrap_or_else(PoisonError::into_inner).add(why);
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
            let why = match self.thumbnail(object?, None, true).await {
                Ok(picture) => return Some(picture),
                Err(why) => why,
            };
            tracing::debug!("no picture of a failure: {why}");
            None
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
            Err(why) => {
                self.leave_out(&why);
                tracing::debug!(bucket = object.bucket, key = object.key, "no picture: {why}");
                None
            }
        }
    }

    async fn link(
        &self,
        object: &ObjectIdentity,
        facts: &PictureFacts,
        expiry: Duration,
    ) -> Result<Picture, NoPicture> {
        let address = presign_url(self.store.client(), object, expiry).await;
        let address = address.map_err(|error| NoPicture::Refused(error.to_string()))?;
        Ok(Picture::linked(address, facts.width, facts.height))
    }

    async fn thumbnail(
        &self,
        object: S3Object,
        sha256: Option<String>,
        apply_orientation: bool,
    ) -> Result<Picture, NoPicture> {
        let unreadable = |error: &dyn std::fmt::Display| NoPicture::Unreadable(error.to_string());
        let bytes = self.store.read(&object).await?.bytes;
        let _permit = self.decoders.acquire().await.map_err(|error| unreadable(&error))?;
        let made = tokio::task::spawn_blocking(move || {
            if sha256.is_some_and(|expected| expected != sha256_hex(&bytes)) {
                return Err(NoPicture::Changed);
            }
            let unreadable = |error: &dyn std::fmt::Display| NoPicture::Unreadable(error.to_string());
            let picture = decode(&bytes, &DecodeOptions { apply_orientation, ..DecodeOptions::default() });
            let picture = picture.map_err(|error| unreadable(&error))?;
            Picture::thumbnail(&picture.rgb).map_err(|error| unreadable(&error))
        });
        made.await.unwrap_or_else(|error| Err(unreadable(&error)))
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
    fn reasons_are_counted_apart_and_the_first_refusal_is_told() {
        let mut left_out = LeftOut::default();
        let refused = |cause: &str| NoPicture::Refused(cause.to_owned());
        let all = [NoPicture::Changed, refused("no connection"), refused("timeout"), NoPicture::Missing("k".into())];
        all.iter().for_each(|why| left_out.add(why));
        assert_eq!((left_out.missing, left_out.changed, left_out.unreadable, left_out.refused), (1, 1, 0, 2));
        let sentences = left_out.sentences();
        assert_eq!(sentences[0], "1 picture left out: the object does not exist any more");
        assert!(sentences[2].starts_with("2 pictures left out: the store cannot be reached"), "{sentences:?}");
        assert!(sentences.len() == 3 && sentences[2].ends_with("no connection"), "{sentences:?}");
    }

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
