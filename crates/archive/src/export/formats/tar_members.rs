//! A tar file whose bytes depend on its members only.

use std::io::Write;

use tar::{Builder, EntryType, Header};

use crate::export::error::ExportError;
use crate::export::staged_file::{Finished, StagedFile};

pub(super) struct TarFile {
    builder: Builder<StagedFile>,
}

impl TarFile {
    pub(super) fn new(file: StagedFile) -> Self {
        Self { builder: Builder::new(file) }
    }

    pub(super) fn add(&mut self, name: &str, bytes: &[u8]) -> Result<(), ExportError> {
        let mut header = Header::new_ustar();
        header.set_entry_type(EntryType::Regular);
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        header.set_mtime(0);
        let added = self.builder.append_data(&mut header, name, bytes);
        added.map_err(|error| self.builder.get_ref().failed(error))
    }

    pub(super) fn finish(self) -> Result<Finished, ExportError> {
        let name = self.builder.get_ref().path().display().to_string();
        let mut file = self.builder.into_inner().map_err(|error| ExportError::file(name, error))?;
        file.flush().map_err(|error| file.failed(error))?;
        file.finish()
    }
}
