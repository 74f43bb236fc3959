//! The objects of a dataset that have an annotation.

use std::collections::HashSet;

use async_nats::jetstream::Context;
use broker::read::{Range, ReadError, read};
use futures::TryStreamExt;
use wire::Message;
use wire::subjects::Dataset;
use wire::v1::ImageAnnotation;

use crate::digest::sha256_u128;
use crate::object::SourceObject;

/// The objects of a dataset that have an annotation, whatever their version. Takes about 40 bytes of memory for each.
#[derive(Debug, Clone, Default)]
pub struct Annotated(HashSet<u128>);

impl Annotated {
    /// Reads all annotations of the dataset from the stream with the name `annotations`.
    ///
    /// # Errors
    /// [`ReadError`] if the stream does not exist or cannot be read.
    pub async fn read(jetstream: &Context, annotations: &str, dataset: &Dataset) -> Result<Self, ReadError> {
        let range = Range { subject: dataset.annotations_subject(), deduplicate: false, ..Range::all() };
        let mut messages = std::pin::pin!(read(jetstream, annotations, range).await?);
        let mut objects = HashSet::new();
        while let Some(message) = messages.try_next().await? {
            match ImageAnnotation::decode(message.payload) {
                Ok(annotation) => {
                    let object = annotation.picture.and_then(|picture| picture.object);
                    objects.extend(object.map(|object| digest(&object.bucket, &object.key)));
                }
                Err(error) => {
                    let sequence = message.sequence;
                    tracing::warn!(sequence, "ignored a message that is not an annotation: {error}");
                }
            }
        }
        Ok(Self(objects))
    }

    /// Whether the object has an annotation.
    pub(crate) fn contains(&self, object: &SourceObject) -> bool {
        self.0.contains(&digest(&object.bucket, &object.key))
    }
}

fn digest(bucket: &str, key: &str) -> u128 {
    sha256_u128(format!("{bucket}/{key}").as_bytes())
}
