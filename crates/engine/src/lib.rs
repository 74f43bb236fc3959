//! Many requests, one device.
//!
//! The model lives on one named thread. Requests reach it through a bounded queue, so that a slow device is felt by
//! whoever submits, and each answer comes back on its own channel. A request whose answer nobody waits for any more
//! is abandoned at its next decode step.
#![forbid(unsafe_code)]

mod device;

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use kosmos2::generation::{GenerationOptions, GroundedText, OptionsError};
use kosmos2::processor::image::PixelValues;
use kosmos2::processor::prompt::{EncodedPrompt, Prompt, PromptError};
use kosmos2::{AnnotateError, Kosmos2};
use tokio::sync::{mpsc, oneshot};

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
    /// All decode steps together, and the reading of the text.
    pub decode: Duration,
}

/// Why a request has no answer.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// A prompt or its boxes are not valid: it will fail every time.
    #[error(transparent)]
    Prompt(#[from] PromptError),
    /// An option is out of its range: it will fail every time.
    #[error(transparent)]
    Options(#[from] OptionsError),
    /// The model failed on this request.
    #[error(transparent)]
    Model(AnnotateError),
    /// The model panicked on this request; the engine goes on.
    #[error("the model panicked: {0}")]
    Panicked(String),
    /// The engine's thread has ended.
    #[error("the engine has stopped")]
    Stopped,
}

/// The engine's settings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EngineOptions {
    /// Requests that may wait for the device; at least 1.
    pub queue: usize,
    /// Most prompts of one request decoded together; more are taken in turns. At least 1; bounds the memory of the key-value cache.
    pub max_batch_rows: usize,
}

impl Default for EngineOptions {
    fn default() -> Self {
        Self { queue: 2, max_batch_rows: 16 }
    }
}

/// A handle to the device's thread; clones share it, and it ends once the last one is dropped.
#[derive(Clone)]
pub struct Engine {
    model: Arc<Kosmos2>,
    queue: mpsc::Sender<Work>,
}

/// A request on its way to the device.
struct Work {
    pixels: PixelValues,
    prompts: Vec<(EncodedPrompt, GenerationOptions)>,
    submitted: Instant,
    reply: oneshot::Sender<Result<Response, EngineError>>,
}

impl Engine {
    /// Starts the device's thread. Joining the handle returns once every engine handle is dropped and the work in hand is done.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub fn start(model: Kosmos2, options: EngineOptions) -> std::io::Result<(Self, JoinHandle<()>)> {
        let model = Arc::new(model);
        let (queue, work) = mpsc::channel(options.queue.max(1));
        let on_device = Arc::clone(&model);
        let thread = std::thread::Builder::new()
            .name("device".into())
            .spawn(move || device::run(&on_device, work, options.max_batch_rows.max(1)))?;
        Ok((Self { model, queue }, thread))
    }

    /// The model, for its processors.
    pub fn model(&self) -> &Kosmos2 {
        &self.model
    }

    /// Queues a request and waits for its answer. Dropping the future cancels the request.
    ///
    /// # Errors
    /// [`EngineError`]; a prompt or an option that is not valid is refused before it is queued.
    pub async fn submit(&self, request: Request) -> Result<Response, EngineError> {
        let submitted = Instant::now();
        let encode = |(prompt, options): &(Prompt, GenerationOptions)| {
            options.check()?;
            Ok((self.model.encode(prompt)?, options.clone()))
        };
        let prompts = request.prompts.iter().map(encode).collect::<Result<_, EngineError>>()?;
        let (reply, answer) = oneshot::channel();
        let work = Work { pixels: request.pixels, prompts, submitted, reply };
        self.queue.send(work).await.map_err(|_| EngineError::Stopped)?;
        answer.await.map_err(|_| EngineError::Stopped)?
    }
}
