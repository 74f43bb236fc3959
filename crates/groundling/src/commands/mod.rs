//! One module for each subcommand.

pub(crate) mod annotate;
pub(crate) mod bench;
pub(crate) mod datasets;
pub(crate) mod demo;
pub(crate) mod enqueue;
pub(crate) mod export;
pub(crate) mod inspect;
mod servers;
pub(crate) mod settings;
pub(crate) mod setup;
pub(crate) mod worker;
