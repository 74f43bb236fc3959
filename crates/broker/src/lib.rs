//! Groundling's side of NATS: the connection, the streams and consumers, and publishing into them.
//!
//! - [`connection`]: authentication, TLS, reconnection, and leaving a server that is about to end;
//! - [`settings`]: settings of the connection and of the streams;
//! - [`setup`]: creating streams and consumers, and comparing existing ones with the settings;
//! - [`migration`]: changing the streams of an earlier version into those of this one;
//! - [`stream_rules`]: settings of streams with which jobs could be lost;
//! - [`publish`]: publishing annotations and failures with retries;
//! - [`read`]: reading a range of a stream, each message once;
//! - [`stream_states`]: which streams refuse messages at present, and why.
//!
//! The crate knows the messages of `wire`, and neither the model nor how jobs are processed.
#![forbid(unsafe_code)]
#![warn(clippy::print_stderr, clippy::print_stdout)]

pub mod api;
pub mod backoff;
pub mod causes;
pub mod connection;
mod differences;
pub mod migration;
pub mod publish;
pub mod read;
pub mod refusals;
mod secret;
pub mod server_time;
pub mod settings;
pub mod settings_check;
pub mod setup;
pub mod stream_rules;
pub mod stream_sizes;
pub mod stream_states;
