//! Many requests, one device.
#![forbid(unsafe_code)]

use std::time::Duration;

use kosmos2::generation::{GenerationOptions, GroundedText};
use kosmos2::processor::image::PixelValues;
use kosmos2::processor::prompt::Prompt;

/// One picture and what is asked about it.
#[derive(Debug, Clone)]
pub struct Request {
    /// The preprocessed picture.
    pub pixels: PixelValues,
    /// The prompts, each with its own options. The picture goes through the vision tower once for all of them.
    pub prompts: Vec<(Prompt, GenerationOptions)>,
}

/// What came of a [`Request`].
#[derive(Debug, Clone)]
pub struct Response {
    /// One answer for each prompt, in the request's order.
    pub texts: Vec<GroundedText>,
    /// Where the time went.
    pub timings: Timings,
}

/// Time spent on one request, by stage.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Timings {
    /// From submission to the start of work on the device.
    pub queued: Duration,
    /// Vision tower and projection.
    pub vision: Duration,
    /// The prompts' forward pass.
    pub prefill: Duration,
    /// All decode steps together.
    pub decode: Duration,
}
