//! What stands around an archive of annotations. [`review`] is for the eyes: pictures with their boxes drawn in, and a
//! page to look through the results.
//!
//! The crate takes plain data, so it depends neither on the model nor on the message broker.

#![forbid(unsafe_code)]
#![warn(clippy::print_stderr, clippy::print_stdout)]

pub mod review;
