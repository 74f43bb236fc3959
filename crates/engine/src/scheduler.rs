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
use crate::job::Job;
use crate::options::KvCapacity;
use crate::panics::panic_message;
use crate::request::EngineError;
use crate::slots::FreeSlots;
use crate::stats::EngineStats;

/// Jobs are numbered in order of arrival.
type JobId = u64;

pub(crate) struct Scheduler {
    model: Model,
    requests: mpsc::Receiver<Job>,
    vision_batch: usize,
    parallel_images: usize,
    admission: Admission,
    jobs: BTreeMap<JobId, Job>,
    next_id: JobId,
    active: Vec<ActiveQuery>,
    free: FreeSlots,
    slots: usize,
    stats: Arc<EngineStats>,
}

/// A query that holds slots.
struct ActiveQuery {
    job: JobId,
    /// Index of the query in its job.
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
        requests: mpsc::Receiver<Job>,
        kv_capacity: KvCapacity,
        vision_batch: usize,
        parallel_images: usize,
        admission: Admission,
        stats: Arc<EngineStats>,
    ) -> Self {
        Self {
            model,
            requests,
            vision_batch,
            parallel_images,
            admission,
            jobs: BTreeMap::new(),
            next_id: 0,
            active: Vec::new(),
            free: FreeSlots::all(kv_capacity.slots),
            slots: kv_capacity.slots,
            stats,
        }
    }

    /// Serves requests until the queue is closed and all jobs are finished.
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
    /// jobs. Returns `false` when the queue is closed and no jobs are left.
    fn receive(&mut self) -> bool {
        for _ in 0..self.image_demand() {
            let next = if self.jobs.is_empty() { self.wait_for_request() } else { self.requests.try_recv().ok() };
            let Some(job) = next else { break };
            self.jobs.insert(self.next_id, job);
            self.next_id += 1;
        }
        !self.jobs.is_empty()
    }

    fn wait_for_request(&mut self) -> Option<Job> {
        self.stats.idle();
        let next = self.requests.blocking_recv();
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
        let waiting: usize = self.jobs.values().map(|job| job.waiting.len()).sum();
        let startable = self.free.len().saturating_sub(waiting);
        startable.next_multiple_of(self.parallel_images).min(self.vision_batch)
    }

    /// Drops cancelled jobs and releases their slots.
    fn evict_cancelled(&mut self) {
        let cancelled: Vec<_> = self.jobs.iter().filter(|(_, job)| job.is_cancelled()).map(|(&id, _)| id).collect();
        for id in cancelled {
            self.remove(id);
        }
        // A request without queries needs no pass.
        let finished: Vec<_> = self.jobs.iter().filter(|(_, job)| job.is_finished()).map(|(&id, _)| id).collect();
        for id in finished {
            self.respond(id);
        }
    }

    /// Runs the vision tower on the pictures of new jobs, all in one batch.
    fn encode_images(&mut self) {
        let new_jobs = self.jobs.iter().filter(|(_, job)| job.embedding.is_none());
        let ids: Vec<JobId> = new_jobs.map(|(&id, _)| id).collect();
        if ids.is_empty() {
            return;
        }
        let started = Instant::now();
        self.jobs.values_mut().filter(|job| job.embedding.is_none()).for_each(|job| job.vision_started(started));
        let pictures: Vec<_> = ids.iter().filter_map(|id| self.jobs.get(id)?.pixels.as_ref()).collect();
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
        let now = Instant::now();
        for (id, result) in ids.into_iter().zip(results) {
            match result {
                Ok(embedding) => {
                    if let Some(job) = self.jobs.get_mut(&id) {
                        job.image_encoded(embedding, started, now);
                    }
                }
                Err(error) => self.fail(id, error),
            }
        }
    }

    /// Moves waiting queries into free slots, by the admission rule.
    fn admit(&mut self) {
        // A query shares its prefix with an active query of its job, or else with the first one admitted here.
        let mut waiting = Vec::new();
        for (&id, job) in self.jobs.iter().filter(|(_, job)| job.embedding.is_some() && !job.waiting.is_empty()) {
            let mut source = self.active.iter().find(|query| query.job == id).map(|q| q.decoding.decoding.prompt());
            for (_, decoding) in &job.waiting {
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

    /// Starts the next waiting query of a job in these slots. `cached` is the prompt whose keys and values are in the
    /// first of them.
    fn start(&mut self, id: JobId, slots: Vec<usize>, cached: Option<&[u32]>) {
        let Some((job, (index, mut decoding))) =
            self.jobs.get_mut(&id).and_then(|job| job.waiting.pop_front().map(|next| (job, next)))
        else {
            self.free.release(slots);
            return;
        };
        job.active += 1;
        let image = job.embedding.clone();
        if let Some(cached) = cached {
            decoding.share_prefix(None, common_prefix(decoding.prompt(), cached));
        } else if let Some(source) = self.active.iter().find(|query| query.job == id) {
            let tokens = common_prefix(decoding.prompt(), source.decoding.decoding.prompt());
            decoding.share_prefix(Some(source.decoding.slots[0]), tokens);
        }
        let decoding = ActiveDecoding { decoding, slots, image };
        self.active.push(ActiveQuery { job: id, index, decoding, progress: Ok(Progress::Unfinished) });
    }

    /// Runs one step of all active queries.
    fn step(&mut self) {
        if self.active.is_empty() {
            return;
        }
        if let Err(error) = step_guarded(&mut self.model, &mut self.active, &self.stats) {
            if self.active.len() == 1 {
                self.active[0].progress = Err(error);
                return;
            }
            tracing::warn!(queries = self.active.len(), %error, "step failed; repeating it for each query alone");
            for one in self.active.chunks_mut(1) {
                if let Err(error) = step_guarded(&mut self.model, one, &self.stats) {
                    one[0].progress = Err(error);
                }
            }
        }
    }

    /// Removes finished and failed queries, and responds to jobs whose last query finished.
    fn retire_finished(&mut self) {
        let now = Instant::now();
        let mut index = 0;
        while index < self.active.len() {
            let id = self.active[index].job;
            match std::mem::replace(&mut self.active[index].progress, Ok(Progress::Unfinished)) {
                Ok(Progress::Unfinished) => {
                    if let Some(job) = self.jobs.get_mut(&id) {
                        job.token_generated(now);
                    }
                    index += 1;
                }
                Ok(Progress::Finished) => {
                    let query = self.active.remove(index);
                    self.finish(query, now);
                }
                // This removes all queries of the job, also earlier ones: start over.
                Err(error) => {
                    self.fail(id, error);
                    index = 0;
                }
            }
        }
    }

    fn finish(&mut self, query: ActiveQuery, now: Instant) {
        let ActiveQuery { job: id, index, decoding: ActiveDecoding { decoding, slots, .. }, .. } = query;
        let cached = decoding.prompt().to_vec();
        let Some(job) = self.jobs.get_mut(&id) else {
            self.free.release(slots);
            return;
        };
        job.token_generated(now);
        job.query_finished(index, decoding.finish());
        // The slot holds the picture's keys and values: the job's next query takes it over before it is overwritten.
        let next = job.waiting.front().map(|(_, decoding)| decoding.slots());
        match next {
            Some(needed) if needed <= slots.len() => {
                let mut slots = slots;
                self.free.release(slots.split_off(needed));
                self.start(id, slots, Some(&cached));
            }
            _ => self.free.release(slots),
        }
        if self.jobs.get(&id).is_some_and(Job::is_finished) {
            self.respond(id);
        }
    }

    fn respond(&mut self, id: JobId) {
        if let Some(job) = self.jobs.remove(&id) {
            job.respond();
        }
    }

    fn fail(&mut self, id: JobId, error: EngineError) {
        if let Some(job) = self.remove(id) {
            job.fail(error);
        }
    }

    /// Removes a job and releases the slots of its active queries.
    fn remove(&mut self, id: JobId) -> Option<Job> {
        let removed = self.active.extract_if(.., |query| query.job == id);
        for query in removed.collect::<Vec<_>>() {
            self.free.release(query.decoding.slots);
        }
        self.jobs.remove(&id)
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
