//! What a format must do to write shards.

use std::path::PathBuf;
use std::sync::Arc;

use super::error::ExportError;
use super::item::Item;
use super::staged_file::{Finished, StagedFile};

/// Writes the files of one shard.
pub(crate) trait ShardWriter: Send {
    /// Adds an annotation. They come in the order of the stream.
    fn add(&mut self, item: &Item) -> Result<(), ExportError>;

    /// Completes the files.
    fn finish(self: Box<Self>) -> Result<Vec<Finished>, ExportError>;
}

/// What is common to the files of a shard.
#[derive(Debug, Clone)]
pub(crate) struct ShardContext {
    /// The directory for unfinished files.
    pub(crate) staging: PathBuf,
    /// The shard's number.
    pub(crate) shard: u64,
    pub(crate) dataset: String,
    /// Whether pictures are exported.
    pub(crate) pictures: bool,
    /// The names of the categories by their index. Empty if every head noun is a category.
    pub(crate) categories: Arc<Vec<String>>,
}

impl ShardContext {
    /// A file `<stem>-<shard><rest>`.
    pub(crate) fn create(&self, stem: &str, rest: &str) -> Result<StagedFile, ExportError> {
        StagedFile::create(&self.staging, format!("{stem}-{:08}{rest}", self.shard))
    }
}
