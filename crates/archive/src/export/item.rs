//! One annotation on its way into a shard.

use broker::read::StoredMessage;
use bytes::Bytes;
use wire::v1::{Entity, GroundedBox, ImageAnnotation, TaskResult};
use wire::{DecodeError, Message};

use super::categories::Category;
use super::error::ExportError;
use super::pictures::Pictures;

/// A message of the annotations stream.
#[derive(Debug, Clone)]
pub(crate) struct EncodedItem {
    /// The sequence in the stream.
    pub(crate) sequence: u64,
    /// The encoded annotation.
    payload: Bytes,
    /// The encoded picture, if pictures are exported and it could be read.
    pub(crate) picture: Option<Bytes>,
}

impl From<StoredMessage> for EncodedItem {
    fn from(message: StoredMessage) -> Self {
        Self { sequence: message.sequence, payload: message.payload, picture: None }
    }
}

impl EncodedItem {
    /// Decodes the annotation.
    pub(crate) fn annotation(&self) -> Result<ImageAnnotation, DecodeError> {
        ImageAnnotation::decode(self.payload.as_ref())
    }

    /// Reads the picture.
    pub(crate) async fn with_picture(mut self, pictures: &Pictures) -> Result<Self, ExportError> {
        if let Ok(annotation) = self.annotation()
            && let Some(facts) = &annotation.picture
        {
            self.picture = pictures.read(facts).await?;
        }
        Ok(self)
    }
}

/// An annotation with what formats need beside it.
#[derive(Debug, Clone)]
pub(crate) struct Item {
    /// The message's sequence in the stream.
    pub(crate) sequence: u64,
    pub(crate) annotation: ImageAnnotation,
    /// The encoded picture, if pictures are exported and it could be read.
    pub(crate) picture: Option<Bytes>,
    /// The category of each entity of each result. Empty for formats without categories.
    pub(crate) categories: Vec<Vec<Option<Category>>>,
}

/// A box with left before right and top before bottom.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Rectangle {
    pub(crate) x0: f64,
    pub(crate) y0: f64,
    pub(crate) x1: f64,
    pub(crate) y1: f64,
}

/// A box, its phrase and category.
#[derive(Debug, Clone, Copy)]
pub(crate) struct CategorizedBox<'a> {
    pub(crate) result: &'a TaskResult,
    pub(crate) entity: &'a Entity,
    pub(crate) category: &'a Category,
    /// Fractions of the picture.
    pub(crate) fractions: Rectangle,
    /// Probability of the box. `None` if it is part of the prompt.
    pub(crate) score: Option<f32>,
}

impl Item {
    /// Width and height in pixels.
    pub(crate) fn size(&self) -> (u32, u32) {
        self.annotation.picture.as_ref().map_or((0, 0), |picture| (picture.width, picture.height))
    }

    /// The sequence with a fixed number of digits: unique in a stream, without dots, in the order of the stream.
    pub(crate) fn key(&self) -> String {
        format!("{:012}", self.sequence)
    }

    /// Where the picture is: `s3://bucket/key`, or `sha256:` and its digest for a picture that was part of its job.
    pub(crate) fn url(&self) -> String {
        let Some(picture) = &self.annotation.picture else { return String::new() };
        match &picture.object {
            Some(object) => format!("s3://{}/{}", object.bucket, object.key),
            None => format!("sha256:{}", picture.sha256),
        }
    }

    /// The file extension of the picture's format: `jpg` for `jpeg`, otherwise the format.
    pub(crate) fn extension(&self) -> &str {
        match self.annotation.picture.as_ref().map_or("", |picture| picture.format.as_str()) {
            "jpeg" => "jpg",
            "" => "bin",
            format => format,
        }
    }

    /// The name of the picture's file among those of all shards.
    pub(crate) fn file_name(&self) -> String {
        format!("{}.{}", self.key(), self.extension())
    }

    /// The boxes that have a category.
    pub(crate) fn boxes(&self) -> impl Iterator<Item = CategorizedBox<'_>> {
        self.annotation.results.iter().zip(&self.categories).flat_map(|(result, categories)| {
            result.entities.iter().zip(categories).flat_map(move |(entity, category)| {
                let found = category.as_ref().map(|category| {
                    entity.boxes.iter().map(move |found| CategorizedBox {
                        result,
                        entity,
                        category,
                        fractions: Rectangle::of(found),
                        score: found.score,
                    })
                });
                found.into_iter().flatten()
            })
        })
    }
}

impl Rectangle {
    /// The box in fractions of the picture.
    pub(crate) fn of(found: &GroundedBox) -> Self {
        let (x0, y0, x1, y1) = found.fractions.as_ref().map_or((0.0, 0.0, 0.0, 0.0), |b| (b.x0, b.y0, b.x1, b.y1));
        Self { x0: x0.min(x1), y0: y0.min(y1), x1: x0.max(x1), y1: y0.max(y1) }
    }

    pub(crate) fn width(&self) -> f64 {
        self.x1 - self.x0
    }

    pub(crate) fn height(&self) -> f64 {
        self.y1 - self.y0
    }

    /// With other units: x multiplied by `width`, y by `height`.
    pub(crate) fn scaled(&self, width: f64, height: f64) -> Self {
        Self { x0: self.x0 * width, y0: self.y0 * height, x1: self.x1 * width, y1: self.y1 * height }
    }

    /// Left, top, width, height.
    pub(crate) fn xywh(&self) -> [f64; 4] {
        [self.x0, self.y0, self.width(), self.height()]
    }
}
