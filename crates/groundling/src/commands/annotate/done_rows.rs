//! The pictures that an earlier run has annotated with the same recipe.

use std::collections::HashMap;
use std::sync::Arc;

use wire::v1::{ImageAnnotation, PictureFacts};

use super::recipe::Recipe;

/// The rows of earlier runs by the names of their pictures.
#[derive(Debug, Default)]
pub(super) struct DoneRows(HashMap<String, Vec<DoneRow>>);

/// A row of an earlier run.
#[derive(Debug, Clone)]
pub(super) struct DoneRow {
    sha256: String,
    etag: Option<String>,
    /// The row, if it is needed again.
    pub(super) annotation: Option<Arc<ImageAnnotation>>,
}

impl DoneRows {
    /// Adds a row, unless it was made with another recipe. `keep_row` keeps its results in memory.
    pub(super) fn add(&mut self, recipe: &Recipe, row: ImageAnnotation, keep_row: bool) {
        if !recipe.made(&row) {
            return;
        }
        let Some(PictureFacts { sha256, object, .. }) = row.picture.clone() else { return };
        let (name, etag) = (row.job_id.clone(), object.and_then(|object| object.etag));
        let annotation = keep_row.then(|| Arc::new(row));
        self.0.entry(name).or_default().push(DoneRow { sha256, etag, annotation });
    }

    /// The row of the picture with this name and ETag.
    pub(super) fn by_etag(&self, name: &str, etag: &str) -> Option<&DoneRow> {
        self.0.get(name)?.iter().find(|row| row.etag.as_deref() == Some(etag))
    }

    /// The row of the picture with this name and content.
    pub(super) fn by_content(&self, name: &str, sha256: &str) -> Option<&DoneRow> {
        self.0.get(name)?.iter().find(|row| row.sha256 == sha256)
    }

    /// Whether there is a row for a picture with this name.
    pub(super) fn has_name(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }
}
