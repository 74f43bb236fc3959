//! KOSMOS-2 as a library: a picture and a prompt in, grounded text with boxes and scores out.
//!
//! No network, no async, nothing of queues: see the `engine` and `worker` crates for those.
#![forbid(unsafe_code)]

pub mod generation;
pub mod grounding;
pub mod processor;
