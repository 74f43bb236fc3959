//! The engine's interface to its users.

use std::pin::Pin;
use std::time::Duration;

use kosmos2::processor::image::{Picture, PixelValues};

use crate::engine::Engine;
use crate::request::{EngineError, Request, Response};
use crate::stats::{BatchObserver, EngineSnapshot};

/// How long a GPU may be idle before it is checked.
const CANARY_INTERVAL: Duration = Duration::from_secs(30);

/// The response to a submitted request. Dropping the future cancels the request.
pub type ResponseFuture<'a> = Pin<Box<dyn Future<Output = Result<Response, EngineError>> + Send + 'a>>;

/// Turns pictures and queries into grounded texts.
///
/// Workers depend on this trait, not on [`Engine`], so that tests can replace the model by an implementation that
/// responds at once and deterministically.
pub trait Annotator: Send + Sync {
    /// Converts a picture to the pixel values of a [`Request`]. CPU-bound: do not call it on an async thread.
    fn preprocess(&self, picture: &Picture) -> PixelValues;

    /// Queues a request and waits for its response, which has one text for each query, in order.
    ///
    /// # Errors
    /// The future resolves to an [`EngineError`] if a prompt or an option is invalid, the model fails, or the engine
    /// has stopped.
    fn submit(&self, request: Request) -> ResponseFuture<'_>;

    /// Number of requests to keep in progress, including those still being prepared, so that the device is never idle.
    fn concurrent_jobs(&self) -> usize {
        8
    }

    /// Returns `false` once the engine has stopped, which is final.
    fn is_alive(&self) -> bool {
        true
    }

    /// What the engine is doing now; `None` if that is not known.
    fn snapshot(&self) -> Option<EngineSnapshot> {
        None
    }

    /// How long the engine may make no progress with work in hand before it counts as stalled; `None`: for ever. Needs
    /// [`Self::snapshot`].
    fn stall_timeout(&self) -> Option<Duration> {
        None
    }

    /// How long the engine may be idle before [`Self::canary`] should be submitted; `None`: for ever. Needs
    /// [`Self::snapshot`].
    fn canary_interval(&self) -> Option<Duration> {
        None
    }

    /// A small request that shows whether an idle device still works.
    fn canary(&self) -> Option<Request> {
        None
    }

    /// Calls `observer` for each batch from now on. Only the first observer is called.
    fn observe_batches(&self, observer: BatchObserver) {
        drop(observer);
    }
}

impl Annotator for Engine {
    fn preprocess(&self, picture: &Picture) -> PixelValues {
        self.processor().images().pixel_values(picture)
    }

    fn submit(&self, request: Request) -> ResponseFuture<'_> {
        Box::pin(Engine::submit(self, request))
    }

    fn concurrent_jobs(&self) -> usize {
        self.concurrent_jobs
    }

    fn is_alive(&self) -> bool {
        // The scheduler's thread owns the receiver and drops it however it ends.
        !self.queue.is_closed()
    }

    fn snapshot(&self) -> Option<EngineSnapshot> {
        Some(Engine::snapshot(self))
    }

    fn stall_timeout(&self) -> Option<Duration> {
        Some(Engine::stall_timeout(self))
    }

    fn canary_interval(&self) -> Option<Duration> {
        self.is_gpu.then_some(CANARY_INTERVAL)
    }

    fn canary(&self) -> Option<Request> {
        self.canary_request()
    }

    fn observe_batches(&self, observer: BatchObserver) {
        self.stats.observe_batches(observer);
    }
}
