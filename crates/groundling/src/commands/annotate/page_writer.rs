//! The HTML page of `--page`.

use std::io::Write;
use std::path::Path;

use review::{Page, PageItem, Picture, page};
use wire::v1::ImageAnnotation;

use crate::files;
use crate::review_items::annotated;

/// The most pictures of a page: it holds them all, at about 100 kB each.
const MAX_PICTURES: usize = 2000;

/// The pictures of a page.
#[derive(Debug, Default)]
pub(super) struct PageWriter {
    items: Vec<PageItem>,
    left_out: usize,
}

impl PageWriter {
    /// Adds a picture with its annotations.
    pub(super) fn add(&mut self, annotation: &ImageAnnotation, picture: Option<Picture>) {
        if self.items.len() == MAX_PICTURES {
            self.left_out += 1;
            return;
        }
        let annotations = annotation.results.iter().map(|result| annotated(&annotation.job_id, result)).collect();
        self.items.push(PageItem { picture, annotations });
    }

    /// Writes the page. Returns a message if pictures were left out.
    pub(super) fn write(self, path: &Path) -> anyhow::Result<Option<String>> {
        let title = format!("Annotations, {}", path.file_stem().unwrap_or_default().to_string_lossy());
        let html = page(&Page { title, items: self.items });
        files::replace(path, |file| Ok(file.write_all(html.as_bytes())?))?;
        let message =
            || format!("{}: has the first {MAX_PICTURES} pictures; {} more do not fit", path.display(), self.left_out);
        Ok((self.left_out > 0).then(message))
    }
}
