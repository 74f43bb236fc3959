//! Exports: the annotations of a dataset as files for other tools.
//!
//! The stream is divided into shards of N sequences: shard k holds the annotations of the sequences kN to (k+1)N − 1.
//! Its bytes depend only on these, on the plan and, if pictures are exported, on their store. A shard that is made
//! again is the same, so a killed export loses and repeats nothing: the next run makes what is not finished. Files are
//! moved to their places in one step, and the record of a shard is written last.
//!
//! A stream can hold an annotation twice. Beside each shard lies a file of its annotation ids. After the shards, the
//! ids of all shards are compared, and shards with a repeat are made again without it; the first message of an id is
//! kept.

mod categories;
mod damage;
mod destination;
mod error;
mod formats;
mod head_noun;
mod id_files;
pub(crate) mod item;
mod manifest;
mod open_shard;
mod parquet_columns;
mod parquet_file;
mod pictures;
mod plan;
mod progress;
mod request;
mod run;
mod shard_builder;
mod shard_finisher;
mod shard_record;
mod shard_writer;
mod staged_file;
mod trim;
mod xml;

pub use categories::check_categories;
pub use destination::Destination;
pub use error::ExportError;
pub use formats::Format;
pub use head_noun::head_noun;
pub use pictures::Pictures;
pub use progress::{Progress, Snapshot};
pub use request::{Export, Start};
pub use run::Summary;
pub use shard_record::Counts;
