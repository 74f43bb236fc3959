//! JSON lines: an annotation in each, in the JSON of `wire::json`.

use std::io::Write;

use crate::export::error::ExportError;
use crate::export::item::Item;
use crate::export::shard_writer::{ShardContext, ShardWriter};
use crate::export::staged_file::{Finished, StagedFile};

pub(super) struct Shard {
    file: StagedFile,
}

impl Shard {
    pub(super) fn create(context: &ShardContext) -> Result<Self, ExportError> {
        Ok(Self { file: context.create("shard", ".jsonl")? })
    }
}

impl ShardWriter for Shard {
    fn add(&mut self, item: &Item) -> Result<(), ExportError> {
        let written = serde_json::to_writer(&mut self.file, &item.annotation);
        written.map_err(std::io::Error::from).and_then(|()| self.file.write_all(b"\n")).map_err(|e| self.file.failed(e))
    }

    fn finish(self: Box<Self>) -> Result<Vec<Finished>, ExportError> {
        Ok(vec![self.file.finish()?])
    }
}
