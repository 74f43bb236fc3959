//! A request in the scheduler, with its waiting, active and finished queries.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use kosmos2::backend::ImageEmbedding;
use kosmos2::decoding::{Decoding, GeneratedTokens};
use kosmos2::processor::image::PixelValues;
use kosmos2::{EncodedQuery, Processor};
use tokio::sync::oneshot;

use crate::request::{EngineError, Response, Timings};
use crate::stats::Queued;

pub(crate) struct ScheduledRequest {
    /// `None` once the picture is encoded.
    pub(crate) pixels: Option<PixelValues>,
    pub(crate) embedding: Option<Arc<ImageEmbedding>>,
    /// Queries without slots, with their indices.
    pub(crate) waiting: VecDeque<(usize, Decoding)>,
    /// Number of queries that hold slots.
    pub(crate) active: usize,
    queries: Vec<EncodedQuery>,
    generated: Vec<Option<GeneratedTokens>>,
    submitted: Instant,
    /// `None` once the vision tower has started.
    queued: Option<Queued>,
    reply: oneshot::Sender<Result<FinishedRequest, EngineError>>,
    timings: Timings,
    encoded: Option<Instant>,
    first_token: Option<Instant>,
}

/// The queries of a request and their tokens. The submitter turns the tokens into text, so that the scheduler does not
/// have to.
pub(crate) struct FinishedRequest {
    queries: Vec<(EncodedQuery, GeneratedTokens)>,
    timings: Timings,
}

impl FinishedRequest {
    pub(crate) fn into_response(self, processor: &Processor) -> Response {
        let texts = self.queries.into_iter().map(|(query, tokens)| processor.grounded_text(&query, tokens)).collect();
        Response { texts, timings: self.timings }
    }
}

impl ScheduledRequest {
    pub(crate) fn new(
        pixels: PixelValues,
        queries: Vec<EncodedQuery>,
        decodings: Vec<Decoding>,
        submitted: Instant,
        queued: Queued,
        reply: oneshot::Sender<Result<FinishedRequest, EngineError>>,
    ) -> Self {
        Self {
            pixels: Some(pixels),
            embedding: None,
            waiting: decodings.into_iter().enumerate().collect(),
            active: 0,
            generated: queries.iter().map(|_| None).collect(),
            queries,
            submitted,
            queued: Some(queued),
            reply,
            timings: Timings::default(),
            encoded: None,
            first_token: None,
        }
    }

    /// Whether the submitter dropped its future.
    pub(crate) fn is_cancelled(&self) -> bool {
        self.reply.is_closed()
    }

    pub(crate) fn vision_started(&mut self, now: Instant) {
        self.timings.queued = now - self.submitted;
        self.queued = None;
    }

    pub(crate) fn image_encoded(&mut self, embedding: ImageEmbedding, started: Instant, now: Instant) {
        self.embedding = Some(Arc::new(embedding));
        self.pixels = None;
        self.timings.vision = now - started;
        self.encoded = Some(now);
    }

    pub(crate) fn token_generated(&mut self, now: Instant) {
        self.first_token.get_or_insert(now);
    }

    pub(crate) fn query_finished(&mut self, query: usize, tokens: GeneratedTokens) {
        self.active -= 1;
        self.generated[query] = Some(tokens);
    }

    pub(crate) fn is_finished(&self) -> bool {
        self.active == 0 && self.waiting.is_empty()
    }

    pub(crate) fn fail(self, error: EngineError) {
        // The submitter may have cancelled in the meantime.
        let _ = self.reply.send(Err(error));
    }

    pub(crate) fn respond(mut self) {
        let now = Instant::now();
        let first = self.first_token.unwrap_or(now);
        self.timings.prefill = first - self.encoded.unwrap_or(first);
        self.timings.decode = now - first;
        let queries = self.queries.into_iter().zip(self.generated.into_iter().flatten()).collect();
        let _ = self.reply.send(Ok(FinishedRequest { queries, timings: self.timings }));
    }
}
