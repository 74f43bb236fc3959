//! The engine as its users see it: a picture in, a request in, a response out.

use std::pin::Pin;

use kosmos2::processor::image::{Picture, PixelValues};

use crate::{Engine, EngineError, Request, Response};

/// An answer under way. Dropping it cancels the request.
pub type Answer<'a> = Pin<Box<dyn Future<Output = Result<Response, EngineError>> + Send + 'a>>;

/// What turns pictures and prompts into grounded texts: all that a worker knows of the thing that computes them.
///
/// [`Engine`] is the one that ships. A trait, so that the tests of delivery can put something in its place that answers
/// at once and whose answers follow from the request alone.
pub trait Annotator: Send + Sync {
    /// A picture as [`Request`] wants it. Costs processor time: not for an async thread.
    fn preprocess(&self, picture: &Picture) -> PixelValues;

    /// Queues a request and waits for its answer: one text for each prompt, in their order.
    ///
    /// # Errors
    /// The answer is an [`EngineError`] where a prompt or an option is not valid, the model fails, or nothing computes
    /// any more.
    fn submit(&self, request: Request) -> Answer<'_>;

    /// Requests that should be under way at once, those being prepared included, so that nothing computes too little.
    fn jobs_in_hand(&self) -> usize {
        8
    }

    /// Whether anything computes still. Once it does not, it never will again.
    fn is_alive(&self) -> bool {
        true
    }
}

impl Annotator for Engine {
    fn preprocess(&self, picture: &Picture) -> PixelValues {
        self.processor().images().pixel_values(picture)
    }

    fn submit(&self, request: Request) -> Answer<'_> {
        Box::pin(Engine::submit(self, request))
    }

    fn jobs_in_hand(&self) -> usize {
        self.jobs_in_hand
    }

    fn is_alive(&self) -> bool {
        // The device's thread owns the other end, and drops it however it ends.
        !self.queue.is_closed()
    }
}
