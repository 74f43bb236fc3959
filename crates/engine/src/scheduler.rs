//! The scheduler: the engine's thread, which admits queries into free slots and runs the steps.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Instant;

use kosmos2::backend::ImageEmbedding;
use kosmos2::decoding::{ActiveDecoding, Progress, common_prefix, step};
use kosmos2::{AnnotateError, Model, ModelError};
use tokio::sync::mpsc;

use crate::admission::{Admission, PromptCost};
use crate::options::KvCapacity;
use crate::panics::panic_message;
use crate::request::EngineError;
use crate::scheduled_request::ScheduledRequest;
use crate::slots::FreeSlots;
use crate::stats::EngineStats;

/// Jobs are numbered in order of arrival.
type RequestId = u64;

pub(crate) struct Scheduler {
    model: Model,
    queue: mpsc::Receiver<ScheduledRequest>,
    vision_batch: usize,
    parallel_images: usize,
    admission: Admission,
    requests: BTreeMap<RequestId, ScheduledRequest>,
    next_id: RequestId,
    active: Vec<ActiveQuery>,
    free: FreeSlots,
    slots: usize,
    stats: Arc<EngineStats>,
}

/// A query that holds slots.
struct ActiveQuery {
    request: RequestId,
    /// Index of the query in its request.
    index: usize,
    decoding: ActiveDecoding,
    /// Result of the last step.
    progress: Result<Progress, EngineError>,
}

impl AsRef<ActiveDecoding> for ActiveQuery {
    fn as_ref(&self) -> &ActiveDecoding {
        &self.decoding
    }
}

impl Scheduler {
    pub(crate) fn new(
        model: Model,
        queue: mpsc::Receiver<ScheduledRequest>,
        kv_capacity: KvCapacity,
        vision_batch: usize,
        parallel_images: usize,
        admission: Admission,
        stats: Arc<EngineStats>,
    ) -> Self {
        Self {
            model,
            queue,
            vision_batch,
            parallel_images,
            admission,
            requests: BTreeMap::new(),
            next_id: 0,
            active: Vec::new(),
            free: FreeSlots::all(kv_capacity.slots),
            slots: kv_capacity.slots,
            stats,
        }
    }

    /// Serves requests until the queue is closed and all requests are finished.
    pub(crate) fn run(mut self) {
        while self.receive() {
            self.evict_cancelled();
            self.encode_images();
            self.admit();
            self.record_slots();
            self.step();
            self.retire_finished();
            self.record_slots();
        }
        tracing::debug!("engine stopped: all handles dropped");
    }

    /// Receives as many requests as [`Self::image_demand`] allows; the others stay in the queue. Blocks if there are no
    /// requests. Returns `false` when the queue is closed and no requests are left.
    fn receive(&mut self) -> bool {
        for _ in 0..self.image_demand() {
            let next = if self.requests.is_empty() { self.wait_for_request() } else { self.queue.try_recv().ok() };
            let Some(request) = next else { break };
            self.requests.insert(self.next_id, request);
            self.next_id += 1;
        }
        !self.requests.is_empty()
    }

    fn wait_for_request(&mut self) -> Option<ScheduledRequest> {
        self.stats.idle();
        let next = self.queue.blocking_recv();
        self.stats.progressed();
        next
    }

    fn record_slots(&self) {
        let kv_tokens = self.active.iter().map(|query| query.decoding.decoding.cached()).sum();
        self.stats.slots(self.slots - self.free.len(), kv_tokens);
    }

    /// Number of pictures to encode now: enough for the free slots, rounded up to what the backend encodes in parallel,
    /// and at most one batch.
    fn image_demand(&self) -> usize {
        let waiting: usize = self.requests.values().map(|request| request.waiting.len()).sum();
        let startable = self.free.len().saturating_sub(waiting);
        startable.next_multiple_of(self.parallel_images).min(self.vision_batch)
    }

    /// Drops cancelled requests and releases their slots.
    fn evict_cancelled(&mut self) {
        let cancelled: Vec<_> =
            self.requests.iter().filter(|(_, request)| request.is_cancelled()).map(|(&id, _)| id).collect();
        for id in cancelled {
            self.remove(id);
        }
        // A request without queries needs no pass.
        let finished: Vec<_> =
            self.requests.iter().filter(|(_, request)| request.is_finished()).map(|(&id, _)| id).collect();
        for id in finished {
            self.respond(id);
        }
    }

    /// Runs the vision tower on the pictures of new requests, all in one batch.
    fn encode_images(&mut self) {
        let new = self.requests.iter().filter(|(_, request)| request.embedding.is_none());
        let ids: Vec<RequestId> = new.map(|(&id, _)| id).collect();
        if ids.is_empty() {
            return;
        }
        let started = Instant::now();
        self.requests
            .values_mut()
            .filter(|request| request.embedding.is_none())
            .for_each(|request| request.vision_started(started));
        let pictures: Vec<_> = ids.iter().filter_map(|id| self.requests.get(id)?.pixels.as_ref()).collect();
        let batch = guarded(|| self.model.backend().image_embeddings(&pictures));
        let results: Vec<Result<ImageEmbedding, EngineError>> = match batch {
            Ok(embeddings) => {
                self.stats.pictures_encoded(embeddings.len());
                embeddings.into_iter().map(Ok).collect()
            }
            Err(error) if pictures.len() == 1 => vec![Err(error)],
            // Encode one by one, so that a faulty picture fails only its own request.
            Err(_) => {
                let backend = self.model.backend();
                let mut encode = |picture| {
                    let mut one = guarded(|| backend.image_embeddings(&[picture]))?;
                    self.stats.pictures_encoded(1);
                    one.pop().ok_or(EngineError::Stopped)
                };
                pictures.into_iter().map(&mut encode).collect()
            }
        };
        // A pass that failed is progress, too.
        self.stats.progressed();
        let now = Instant::now();
        for (id, result) in ids.into_iter().zip(results) {
            match result {
                Ok(embedding) => {
                    if let Some(request) = self.requests.get_mut(&id) {
                        request.image_encoded(embedding, started, now);
                    }
                }
                Err(error) => self.fail(id, error),
            }
        }
    }

    /// Moves waiting queries into free slots, by the admission rule.
    fn admit(&mut self) {
        // A query shares its prefix with an active query of its request, or else with the first one admitted here.
        let mut waiting = Vec::new();
        for (&id, request) in
            self.requests.iter().filter(|(_, request)| request.embedding.is_some() && !request.waiting.is_empty())
        {
            let mut source = self.active.iter().find(|query| query.request == id).map(|q| q.decoding.decoding.prompt());
            for (_, decoding) in &request.waiting {
                let shared = source.map_or(0, |other| common_prefix(decoding.prompt(), other));
                source.get_or_insert(decoding.prompt());
                waiting.push((id, PromptCost { slots: decoding.slots(), tokens: decoding.prompt().len() - shared }));
            }
        }
        let admitted = self.admission.admit(self.free.len(), waiting.iter().map(|(_, cost)| *cost));
        for (id, cost) in waiting.into_iter().take(admitted) {
            let slots = self.free.take(cost.slots);
            self.start(id, slots, None);
        }
    }

    /// Starts the next waiting query of a request in these slots. `cached` is the prompt whose keys and values are in the
    /// first of them.
    fn start(&mut self, id: RequestId, slots: Vec<usize>, cached: Option<&[u32]>) {
        let Some((request, (index, mut decoding))) =
            self.requests.get_mut(&id).and_then(|request| request.waiting.pop_front().map(|next| (request, next)))
        else {
            self.free.release(slots);
            return;
        };
        request.active += 1;
        let image = request.embedding.clone();
        if let Some(cached) = cached {
            decoding.share_prefix(None, common_prefix(decoding.prompt(), cached));
        } else if let Some(source) = self.active.iter().find(|query| query.request == id) {
            let tokens = common_prefix(decoding.prompt(), source.decoding.decoding.prompt());
            decoding.share_prefix(Some(source.decoding.slots[0]), tokens);
        }
        let decoding = ActiveDecoding { decoding, slots, image };
        self.active.push(ActiveQuery { request: id, index, decoding, progress: Ok(Progress::Unfinished) });
    }

    /// Runs one step of all active queries.
    fn step(&mut self) {
        if self.active.is_empty() {
            return;
        }
        if let Err(error) = step_guarded(&mut self.model, &mut self.active, &self.stats) {
            self.stats.progressed();
            if self.active.len() == 1 {
                self.active[0].progress = Err(error);
                return;
            }
            tracing::warn!(queries = self.active.len(), %error, "step failed; repeating it for each query alone");
            for one in self.active.chunks_mut(1) {
                if let Err(error) = step_guarded(&mut self.model, one, &self.stats) {
                    self.stats.progressed();
                    one[0].progress = Err(error);
                }
            }
        }
    }

    /// Removes finished and failed queries, and responds to requests whose last query finished.
    fn retire_finished(&mut self) {
        let now = Instant::now();
        let mut index = 0;
        while index < self.active.len() {
            let id = self.active[index].request;
            match std::mem::replace(&mut self.active[index].progress, Ok(Progress::Unfinished)) {
                Ok(Progress::Unfinished) => {
                    if let Some(request) = self.requests.get_mut(&id) {
                        request.token_generated(now);
                    }
                    index += 1;
                }
                Ok(Progress::Finished) => {
                    let query = self.active.remove(index);
                    self.finish(query, now);
                }
                // This removes all queries of the request, also earlier ones: start over.
                Err(error) => {
                    self.fail(id, error);
                    index = 0;
                }
            }
        }
    }

    fn finish(&mut self, query: ActiveQuery, now: Instant) {
        let ActiveQuery { request: id, index, decoding: ActiveDecoding { decoding, slots, .. }, .. } = query;
        let cached = decoding.prompt().to_vec();
        let Some(request) = self.requests.get_mut(&id) else {
            self.free.release(slots);
            return;
        };
        request.token_generated(now);
        request.query_finished(index, decoding.finish());
        // The slot holds the picture's keys and values: the request's next query takes it over before it is overwritten.
        let next = request.waiting.front().map(|(_, decoding)| decoding.slots());
        match next {
            Some(needed) if needed <= slots.len() => {
                let mut slots = slots;
                self.free.release(slots.split_off(needed));
                self.start(id, slots, Some(&cached));
            }
            _ => self.free.release(slots),
        }
        if self.requests.get(&id).is_some_and(ScheduledRequest::is_finished) {
            self.respond(id);
        }
    }

    fn respond(&mut self, id: RequestId) {
        if let Some(request) = self.requests.remove(&id) {
            request.respond();
        }
    }

    fn fail(&mut self, id: RequestId, error: EngineError) {
        if let Some(request) = self.remove(id) {
            request.fail(error);
        }
    }

    /// Removes a request and releases the slots of its active queries.
    fn remove(&mut self, id: RequestId) -> Option<ScheduledRequest> {
        let removed = self.active.extract_if(.., |query| query.request == id);
        for query in removed.collect::<Vec<_>>() {
            self.free.release(query.decoding.slots);
        }
        self.requests.remove(&id)
    }
}

/// Runs one step. Returns `Err` if the pass itself failed; otherwise each query's result is in its `progress`.
fn step_guarded(model: &mut Model, active: &mut [ActiveQuery], stats: &EngineStats) -> Result<(), EngineError> {
    let tokens = active.iter().map(|query| query.decoding.decoding.step_tokens()).sum();
    guarded(|| {
        step(model.backend(), active, |query, outputs| {
            query.progress = guarded(|| query.decoding.decoding.accept(outputs));
        })
    })?;
    stats.stepped(tokens);
    Ok(())
}

/// Turns a panic into an error, so that it fails one request and not the worker. Unwind-safe because backends keep no
/// state across calls that a panic could corrupt: a repeated step rewrites everything that it reads.
fn guarded<T>(work: impl FnOnce() -> Result<T, ModelError>) -> Result<T, EngineError> {
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(result) => result.map_err(|error| AnnotateError::from(error).into()),
        Err(panic) => Err(EngineError::Panicked(panic_message(panic.as_ref()))),
    }
}
