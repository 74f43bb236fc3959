//! Reads and decodes pictures ahead of the model.

use std::sync::Arc;

use engine::Engine;
use kosmos2::Query;
use kosmos2::options::GroundedText;
use kosmos2::processor::image::{DecodeOptions, ImageProcessor, Picture, PixelValues, decode};
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use wire::identity::sha256_hex;
use wire::v1::{ImageAnnotation, PictureFacts};
use worker::annotation::picture_facts;

use super::done_rows::DoneRows;
use super::failure::Failure;
use crate::sources::input::{Input, Source};
use crate::sources::reader::{Encoded, Reader};

/// A decoded picture.
pub(super) struct Prepared {
    pixels: PixelValues,
    pub(super) view: View,
}

/// What is shown of a picture.
pub(super) struct View {
    pub(super) facts: PictureFacts,
    /// The pixels, if drawings are wanted.
    pub(super) picture: Option<Picture>,
    /// The picture for a page, if one is wanted.
    pub(super) for_page: Option<review::Picture>,
}

/// What has become of a picture before the model.
pub(super) enum Ready {
    New(Box<Prepared>),
    /// An earlier run has annotated it. The row and the picture for the page, if one is wanted.
    Present(Option<(Arc<ImageAnnotation>, Option<review::Picture>)>),
    /// A search found it by a name without an extension, and it is not a picture.
    NoPicture,
}

/// What has become of a picture.
pub(super) enum Ended {
    Annotated(Box<View>, Vec<GroundedText>),
    Present(Option<(Arc<ImageAnnotation>, Option<review::Picture>)>),
    NoPicture,
    Failed(Failure),
}

/// Waits for a picture, and then for the model's answers.
pub(super) async fn annotate(
    engine: &Engine,
    prepared: JoinHandle<Result<Ready, Failure>>,
    queries: &[Query],
) -> Ended {
    let ready = prepared.await.unwrap_or_else(|_| Err(Failure::internal("the decoder panicked")));
    let prepared = match ready {
        Ok(Ready::New(prepared)) => prepared,
        Ok(Ready::Present(row)) => return Ended::Present(row),
        Ok(Ready::NoPicture) => return Ended::NoPicture,
        Err(failure) => return Ended::Failed(failure),
    };
    let Prepared { pixels, view } = *prepared;
    match engine.submit(engine::Request { pixels, queries: queries.to_vec() }).await {
        Ok(response) => Ended::Annotated(Box::new(view), response.texts),
        Err(error) => Ended::Failed(error.into()),
    }
}

/// Reads and decodes pictures.
pub(super) struct Preparer {
    pub(super) reader: Reader,
    pub(super) decoding: DecodeOptions,
    pub(super) images: ImageProcessor,
    /// Whether decoded pictures are kept, for `--draw`.
    pub(super) keep_pictures: bool,
    /// Whether pictures are encoded for `--page`.
    pub(super) with_page: bool,
    /// The pictures that are skipped.
    pub(super) done: DoneRows,
    /// Limits the pictures decoded at once to the number of processors: each takes memory.
    pub(super) decoders: Semaphore,
}

impl Preparer {
    /// Starts to read and decode a picture.
    pub(super) fn start(self: &Arc<Self>, input: Input) -> JoinHandle<Result<Ready, Failure>> {
        let own = Arc::clone(self);
        tokio::spawn(async move { own.prepare(input).await })
    }

    async fn prepare(self: Arc<Self>, input: Input) -> Result<Ready, Failure> {
        let name = input.source.name();
        if !self.with_page && input.etag.as_deref().is_some_and(|etag| self.done.by_etag(&name, etag).is_some()) {
            return Ok(Ready::Present(None));
        }
        // Files are read only once they can be decoded, so that fewer of them are in memory.
        let is_file = matches!(input.source, Source::File(_));
        let fetched = if is_file { None } else { Some(self.read(&input.source).await?) };
        let _permit = self.decoders.acquire().await.map_err(|_| Failure::internal("the decoders have stopped"))?;
        let encoded = match fetched {
            Some(encoded) => encoded,
            None => self.read(&input.source).await?,
        };
        let own = Arc::clone(&self);
        let decoded = tokio::task::spawn_blocking(move || own.decode(&name, encoded)).await;
        match decoded.unwrap_or_else(|_| Err(Failure::internal("the decoder panicked"))) {
            Err(failure) if input.is_guess && failure.is_no_picture => Ok(Ready::NoPicture),
            decoded => decoded,
        }
    }

    async fn read(&self, source: &Source) -> Result<Encoded, Failure> {
        match self.reader.read(source).await {
            Ok(encoded) => Ok(encoded),
            Err(error) if self.reader.is_prefix(source, &error).await => {
                Err(Failure::from(error)
                    .advising("there are objects below it: end the address with / to annotate them"))
            }
            Err(error) => Err(error.into()),
        }
    }

    fn decode(&self, name: &str, encoded: Encoded) -> Result<Ready, Failure> {
        let Encoded { bytes, object } = encoded;
        let etag = object.as_ref().and_then(|object| object.etag.as_deref());
        let by_content = || self.done.by_content(name, &sha256_hex(&bytes));
        let present = match etag {
            _ if !self.done.has_name(name) => None,
            Some(etag) => self.done.by_etag(name, etag),
            None => by_content(),
        };
        if let Some(row) = present {
            let Some(annotation) = row.annotation.clone() else { return Ok(Ready::Present(None)) };
            let picture = decode(&bytes, &self.decoding).ok().and_then(|picture| for_page(&picture));
            return Ok(Ready::Present(Some((annotation, picture))));
        }
        let picture = decode(&bytes, &self.decoding)?;
        let facts = picture_facts(&picture.facts, &bytes, object);
        let pixels = self.images.pixel_values(&picture);
        let for_page = if self.with_page { for_page(&picture) } else { None };
        let picture = self.keep_pictures.then_some(picture);
        Ok(Ready::New(Box::new(Prepared { pixels, view: View { facts, picture, for_page } })))
    }
}

/// The picture for a page. One that cannot be encoded is shown as an empty background.
fn for_page(picture: &Picture) -> Option<review::Picture> {
    review::Picture::new(&picture.rgb).map_err(|error| tracing::warn!("{error}")).ok()
}
