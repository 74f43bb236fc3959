//! Pictures named on the command line: files, directories, patterns, lists, standard input, S3 objects and URLs.

pub(crate) mod collect;
mod folder;
pub(crate) mod input;
mod objects;
pub(crate) mod reader;
pub(crate) mod skipped;
