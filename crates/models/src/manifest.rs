//! The record of a complete download. It is written after the last file.

use serde::{Deserialize, Serialize};

use crate::digest::Digest;

/// The files of a model in the cache.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Manifest {
    /// The source, as an address.
    pub(crate) source: String,
    /// The commit, or what stands for one.
    pub(crate) commit: String,
    pub(crate) files: Vec<ManifestFile>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ManifestFile {
    pub(crate) name: String,
    /// In bytes.
    pub(crate) size: u64,
    /// In lower-case hexadecimal.
    pub(crate) sha256: String,
    /// The digest that the source stated, with which the contents were compared.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) stated: Option<Digest>,
    /// Its name among the contents.
    pub(crate) blob: String,
}
