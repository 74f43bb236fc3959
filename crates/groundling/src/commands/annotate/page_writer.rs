//! The HTML page of `--page`.

use std::fs::File;
use std::io::{Read, Write};
use std::path::Path;

use anyhow::{Context, ensure};
use review::{Page, PageItem, Picture, page};
use wire::v1::ImageAnnotation;

use crate::files;
use crate::review_items::task_answer;

/// The most pictures of a page: it holds them all, at about 100 kB each.
const MAX_PICTURES: usize = 2000;

/// What every page begins with.
const BEGINNING: &[u8] = b"<!DOCTYPE html>";

/// Checks, before the work, that a page can be written: its directory exists, and it replaces nothing but another page.
/// `option` names the page.
///
/// # Errors
/// A sentence that names the path.
pub(in crate::commands) fn check(option: &str, path: &Path, out: Option<&Path>) -> anyhow::Result<()> {
    let shown = path.display();
    ensure!(out != Some(path), "{option} {shown}: --out has the same name; name another file");
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    ensure!(dir.is_dir(), "{option} {shown}: the directory {} does not exist", dir.display());
    files::check_writable(path).with_context(|| format!("{option} {shown}: cannot be written"))?;
    if path.try_exists().with_context(|| format!("{option} {shown}"))? {
        let is_page = path.is_file() && {
            let mut beginning = Vec::new();
            let file = File::open(path).with_context(|| format!("{option} {shown}"))?;
            file.take(BEGINNING.len() as u64)
                .read_to_end(&mut beginning)
                .with_context(|| format!("{option} {shown}"))?;
            beginning == BEGINNING
        };
        ensure!(is_page, "{option} {shown}: exists and is not a page; name another file");
    }
    Ok(())
}

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
        let annotations = annotation.results.iter().map(|result| task_answer(&annotation.job_id, result)).collect();
        self.items.push(PageItem { picture, annotations, ..PageItem::default() });
    }

    /// Writes the page. Returns a message if pictures were left out.
    pub(super) fn write(self, path: &Path) -> anyhow::Result<Option<String>> {
        let title = format!("Annotations, {}", path.file_stem().unwrap_or_default().to_string_lossy());
        let html = page(&Page { title, items: self.items, ..Page::default() });
        files::replace(path, |file| Ok(file.write_all(html.as_bytes())?))?;
        let message =
            || format!("{}: has the first {MAX_PICTURES} pictures; {} more do not fit", path.display(), self.left_out);
        Ok((self.left_out > 0).then(message))
    }
}
