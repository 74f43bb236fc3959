//! `groundling index`: searchable databases of annotations.

mod connecting;
mod databases;
mod fields;
mod following;
mod kills;
mod measurements;
mod queries;
