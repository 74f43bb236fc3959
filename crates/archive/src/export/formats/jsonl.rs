//! JSON lines: an annotation in each, in the JSON of `wire::json`.

use std::io::Write;

use crate::export::error::ExportError;
use crate::export::item::Item;
use crate::export::shard_writer::{ShardContext, ShardWriter};
use crate::export::staged_file::{Finished, StagedFile};

pub(super) struct Shard {
    file: StagedFile,
    /// Reused for each line.
    line: Vec<u8>,
}

impl Shard {
    pub(super) fn create(context: &ShardContext) -> Result<Self, ExportError> {
        Ok(Self { file: context.create("shard", ".jsonl")?, line: Vec::new() })
    }
}

impl ShardWriter for Shard {
    fn add(&mut self, item: &Item) -> Result<(), ExportError> {
        self.line.clear();
        serde_json::to_writer(&mut self.line, &item.annotation).map_err(|error| self.file.failed(error))?;
        self.line.push(b'\n');
        self.file.write_all(&self.line).map_err(|error| self.file.failed(error))
    }

    fn finish(self: Box<Self>) -> Result<Vec<Finished>, ExportError> {
        Ok(vec![self.file.finish()?])
    }
}
