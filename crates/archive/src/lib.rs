//! Submits archives, a job for each object of a source; shows and repairs what became of the jobs; exports and
//! indexes annotations.
//!
//! A *source* ([`source`]) lists the objects of an archive. It is divided into *lanes*, which are read in parallel. The
//! feeder ([`feed`]) creates a job for each object. It stores jobs in the jobs stream together with the lane's *cursor*,
//! the position in the source after them, in one atomic batch: the server stores all of it or nothing. A feeder that is
//! killed therefore loses no job and repeats none; the next one continues at the cursors.
//!
//! Beside the feeder: what a pool is doing ([`status`]), its failures ([`failures`]), and whether each object of an archive
//! has an outcome ([`reconcile`]). For people who look at the results: samples of them ([`sample`]), and what differs
//! between two datasets ([`diff`]).
//!
//! [`ingest`] creates jobs for objects as they arrive, from the events of their store.
//!
//! All state is in the jobs stream, none on the feeder's machine. The crate knows neither the model nor how jobs are
//! processed.
#![forbid(unsafe_code)]
#![warn(clippy::print_stderr, clippy::print_stdout)]
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used))]

pub mod diff;
mod digest;
pub mod export;
pub mod failures;
pub mod feed;
pub mod filter;
pub mod index;
pub mod ingest;
pub mod load;
pub mod object;
pub mod pool;
pub mod presigned;
pub mod recipe;
pub mod reconcile;
pub mod sample;
pub mod source;
pub mod status;
