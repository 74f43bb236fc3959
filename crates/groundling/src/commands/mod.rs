//! One module for each subcommand.

pub(crate) mod annotate;
pub(crate) mod bench;
pub(crate) mod check;
pub(crate) mod datasets;
pub(crate) mod demo;
pub(crate) mod diff;
pub(crate) mod dry_run;
pub(crate) mod enqueue;
pub(crate) mod export;
pub(crate) mod failures;
pub(crate) mod index;
pub(crate) mod ingest;
pub(crate) mod inspect;
mod known_datasets;
pub(crate) mod reconcile;
pub(crate) mod review;
pub(crate) mod scaler;
mod servers;
pub(crate) mod settings;
pub(crate) mod setup;
pub(crate) mod status;
mod stop;
pub(crate) mod worker;
