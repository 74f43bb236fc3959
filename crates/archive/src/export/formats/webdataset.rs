//! WebDataset: tar files in which the members of a sample follow each other: `KEY.jpg`, `KEY.json`, `KEY.txt`.
//!
//! Loaders take the type of a column from the first sample, so pictures of each format have a tar file of their own. Keys
//! are sequences: they have no dots, at which loaders cut names.

use std::collections::BTreeMap;

use super::tar_members::TarFile;
use crate::export::error::ExportError;
use crate::export::item::Item;
use crate::export::shard_writer::{ShardContext, ShardWriter};
use crate::export::staged_file::Finished;

pub(super) struct Shard {
    context: ShardContext,
    /// By the extension of the pictures; empty if pictures are not exported.
    files: BTreeMap<String, TarFile>,
}

impl Shard {
    pub(super) fn create(context: ShardContext) -> Self {
        Self { context, files: BTreeMap::new() }
    }

    fn file(&mut self, extension: &str) -> Result<&mut TarFile, ExportError> {
        if !self.files.contains_key(extension) {
            let rest = if extension.is_empty() { ".tar".to_owned() } else { format!("-{extension}.tar") };
            self.files.insert(extension.to_owned(), TarFile::new(self.context.create("shard", &rest)?));
        }
        self.files.get_mut(extension).ok_or_else(|| ExportError::file(extension, "no such tar file"))
    }
}

impl ShardWriter for Shard {
    fn add(&mut self, item: &Item) -> Result<(), ExportError> {
        // A loader that expects a picture fails on a sample without one.
        if self.context.pictures && item.picture.is_none() {
            return Ok(());
        }
        let key = item.key();
        let extension = if item.picture.is_some() { item.extension().to_owned() } else { String::new() };
        let json = serde_json::to_vec(&item.annotation)
            .map_err(|error| ExportError::file(&item.annotation.annotation_id, error))?;
        let file = self.file(&extension)?;
        if let Some(picture) = &item.picture {
            file.add(&format!("{key}.{extension}"), picture)?;
        }
        file.add(&format!("{key}.json"), &json)?;
        let text = item.annotation.results.first().map_or("", |result| &result.text);
        file.add(&format!("{key}.txt"), text.as_bytes())
    }

    fn finish(self: Box<Self>) -> Result<Vec<Finished>, ExportError> {
        self.files.into_values().map(TarFile::finish).collect()
    }
}
