//! A request on the device: what of it waits, runs and is done.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use kosmos2::backend::ImageEmbedding;
use kosmos2::decoding::Decoding;
use kosmos2::processor::image::PixelValues;
use kosmos2::sequence::GeneratedTokens;
use kosmos2::{EncodedQuery, Processor};
use tokio::sync::oneshot;

use crate::{EngineError, Response, Timings};

pub(crate) struct Job {
    /// Until the picture was seen.
    pub(crate) pixels: Option<PixelValues>,
    pub(crate) embedding: Option<Arc<ImageEmbedding>>,
    /// Asks that have no slots yet, by index.
    pub(crate) waiting: VecDeque<(usize, Decoding)>,
    /// Asks that are being decoded.
    pub(crate) running: usize,
    queries: Vec<EncodedQuery>,
    decoded: Vec<Option<GeneratedTokens>>,
    deadline: Option<Instant>,
    submitted: Instant,
    reply: oneshot::Sender<Result<Decoded, EngineError>>,
    timings: Timings,
    seen: Option<Instant>,
    first_token: Option<Instant>,
}

/// What the device made of a request: its queries and their tokens, which whoever waits for them reads, so that the device
/// goes on meanwhile.
pub(crate) struct Decoded {
    answers: Vec<(EncodedQuery, GeneratedTokens)>,
    timings: Timings,
}

impl Decoded {
    pub(crate) fn read(self, processor: &Processor) -> Response {
        let texts = self.answers.into_iter().map(|(query, tokens)| processor.read(&query, tokens)).collect();
        Response { texts, timings: self.timings }
    }
}

impl Job {
    pub(crate) fn new(
        pixels: PixelValues,
        queries: Vec<EncodedQuery>,
        decodings: Vec<Decoding>,
        deadline: Option<Instant>,
        submitted: Instant,
        reply: oneshot::Sender<Result<Decoded, EngineError>>,
    ) -> Self {
        Self {
            pixels: Some(pixels),
            embedding: None,
            waiting: decodings.into_iter().enumerate().collect(),
            running: 0,
            decoded: queries.iter().map(|_| None).collect(),
            queries,
            deadline,
            submitted,
            reply,
            timings: Timings::default(),
            seen: None,
            first_token: None,
        }
    }

    /// Whether it should leave: nobody waits for the answer, or there is no time left. `Err` tells the one who waits.
    pub(crate) fn should_leave(&self, now: Instant) -> Option<EngineError> {
        let late = self.deadline.is_some_and(|deadline| deadline <= now);
        (late || self.reply.is_closed()).then_some(EngineError::DeadlinePassed)
    }

    /// Its picture goes to the vision tower now.
    pub(crate) fn work_begins(&mut self, now: Instant) {
        self.timings.queued = now - self.submitted;
    }

    pub(crate) fn picture_is_seen(&mut self, embedding: ImageEmbedding, started: Instant, now: Instant) {
        self.embedding = Some(Arc::new(embedding));
        self.pixels = None;
        self.timings.vision = now - started;
        self.seen = Some(now);
    }

    pub(crate) fn got_token(&mut self, now: Instant) {
        self.first_token.get_or_insert(now);
    }

    pub(crate) fn ended(&mut self, query: usize, decoded: GeneratedTokens) {
        self.running -= 1;
        self.decoded[query] = Some(decoded);
    }

    pub(crate) fn is_done(&self) -> bool {
        self.running == 0 && self.waiting.is_empty()
    }

    pub(crate) fn fail(self, error: EngineError) {
        // The receiver may have gone in the meantime, which needs no answer.
        let _ = self.reply.send(Err(error));
    }

    pub(crate) fn answer(mut self) {
        let now = Instant::now();
        let first = self.first_token.unwrap_or(now);
        self.timings.prefill = first - self.seen.unwrap_or(first);
        self.timings.decode = now - first;
        let answers = self.queries.into_iter().zip(self.decoded.into_iter().flatten()).collect();
        let _ = self.reply.send(Ok(Decoded { answers, timings: self.timings }));
    }
}
