//! The bulk side of Groundling: archives in, jobs out; annotations in, files out ([`export`]).
//!
//! A *source* ([`source`]) names the objects of an archive. It is divided into *lanes*, parts that are read in parallel.
//! The feeder ([`feed`]) makes a job of each object and stores the jobs in the stream of jobs together with the lane's
//! *cursor*, its position in the source, in one atomic batch: both are stored, or neither is. So a feeder that is killed
//! loses no job and repeats none; the next one reads the cursors and goes on.
//!
//! State is in the stream of jobs alone, nothing is kept on the machine of the feeder. The crate knows neither the model
//! nor how jobs are processed.
#![forbid(unsafe_code)]
#![warn(clippy::print_stderr, clippy::print_stdout)]
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used))]

pub mod export;
pub mod feed;
pub mod filter;
pub mod object;
pub mod recipe;
pub mod source;
