//! The engine's interface to its users.

use std::pin::Pin;

use kosmos2::processor::image::{Picture, PixelValues};

use crate::engine::Engine;
use crate::request::{EngineError, Request, Response};
use crate::stats::{BatchObserver, EngineSnapshot};

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

    fn observe_batches(&self, observer: BatchObserver) {
        self.stats.observe_batches(observer);
    }
}
