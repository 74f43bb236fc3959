//! The device's thread: step after step, with whoever is there.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Instant;

use kosmos2::backend::ImageEmbedding;
use kosmos2::decoding::common_prefix;
use kosmos2::driver::{ActiveDecoding, step};
use kosmos2::model::Model;
use kosmos2::{AnnotateError, ModelError, Progress};
use tokio::sync::mpsc;

use crate::job::Job;
use crate::panics::panic_message;
use crate::slots::FreeSlots;
use crate::{Admission, Demand, EngineError, KvCapacity};

/// Jobs by their order of arrival.
type JobId = u64;

pub(crate) struct Scheduler {
    model: Model,
    requests: mpsc::Receiver<Job>,
    vision_batch: usize,
    parallel_images: usize,
    admission: Admission,
    jobs: BTreeMap<JobId, Job>,
    next_id: JobId,
    running: Vec<Running>,
    free: FreeSlots,
}

/// A query in its slots.
struct Running {
    job: JobId,
    query: usize,
    active: ActiveDecoding,
    /// What the last step brought.
    progress: Result<Progress, EngineError>,
}

impl AsRef<ActiveDecoding> for Running {
    fn as_ref(&self) -> &ActiveDecoding {
        &self.active
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
    ) -> Self {
        Self {
            model,
            requests,
            vision_batch,
            parallel_images,
            admission,
            jobs: BTreeMap::new(),
            next_id: 0,
            running: Vec::new(),
            free: FreeSlots::all(kv_capacity.slots),
        }
    }

    /// Serves requests until the queue is closed and all work is done.
    pub(crate) fn run(mut self) {
        while self.receive() {
            self.evict_cancelled();
            self.encode_images();
            self.admit();
            self.step();
            self.retire_finished();
        }
        tracing::debug!("the device's thread ends: no engine handle is left");
    }

    /// Takes as many requests as could start now, or a few more that the device sees at no cost; the others wait in the
    /// queue, prepared. Waits where there is nothing to do. `false` once there is none and never will be.
    fn receive(&mut self) -> bool {
        for _ in 0..self.image_demand() {
            let next = if self.jobs.is_empty() { self.requests.blocking_recv() } else { self.requests.try_recv().ok() };
            let Some(job) = next else { break };
            self.jobs.insert(self.next_id, job);
            self.next_id += 1;
        }
        !self.jobs.is_empty()
    }

    /// Pictures that could be looked at now: as many as will find a free slot, rounded up to what the device takes side
    /// by side, and no more than go together.
    fn image_demand(&self) -> usize {
        let waiting: usize = self.jobs.values().map(|job| job.waiting.len()).sum();
        let startable = self.free.len().saturating_sub(waiting);
        startable.next_multiple_of(self.parallel_images).min(self.vision_batch)
    }

    /// Requests that nobody waits for, or that are too late, leave their slots.
    fn evict_cancelled(&mut self) {
        let now = Instant::now();
        let leaving: Vec<_> = self.jobs.iter().filter_map(|(&id, job)| Some((id, job.should_leave(now)?))).collect();
        for (id, error) in leaving {
            self.fail(id, error);
        }
        // A request without queries needs no device.
        let empty: Vec<_> = self.jobs.iter().filter(|(_, job)| job.is_done()).map(|(&id, _)| id).collect();
        for id in empty {
            self.answer(id);
        }
    }

    /// New requests' pictures go through the vision tower, several at a time.
    fn encode_images(&mut self) {
        let unseen = self.jobs.iter().filter(|(_, job)| job.embedding.is_none());
        let ids: Vec<JobId> = unseen.map(|(&id, _)| id).collect();
        if ids.is_empty() {
            return;
        }
        let started = Instant::now();
        self.jobs.values_mut().filter(|job| job.embedding.is_none()).for_each(|job| job.work_begins(started));
        let pictures: Vec<_> = ids.iter().filter_map(|id| self.jobs.get(id)?.pixels.as_ref()).collect();
        let together = guarded(|| self.model.backend().image_embeddings(&pictures));
        let looked: Vec<Result<ImageEmbedding, EngineError>> = match together {
            Ok(embeddings) => embeddings.into_iter().map(Ok).collect(),
            Err(error) if pictures.len() == 1 => vec![Err(error)],
            // One picture's fault must not be the others': each alone.
            Err(_) => {
                let backend = self.model.backend();
                let mut alone = |picture| {
                    guarded(|| backend.image_embeddings(&[picture]))
                        .and_then(|mut one| one.pop().ok_or(EngineError::Stopped))
                };
                pictures.into_iter().map(&mut alone).collect()
            }
        };
        let now = Instant::now();
        for (id, embedding) in ids.into_iter().zip(looked) {
            match embedding {
                Ok(embedding) => {
                    if let Some(job) = self.jobs.get_mut(&id) {
                        job.picture_is_seen(embedding, started, now);
                    }
                }
                Err(error) => self.fail(id, error),
            }
        }
    }

    /// Puts waiting queries into free slots, by the batch rule.
    fn admit(&mut self) {
        // Asks of one picture share its first tokens: with those that run, or with the first that is admitted here.
        let mut demands = Vec::new();
        for (&id, job) in self.jobs.iter().filter(|(_, job)| job.embedding.is_some() && !job.waiting.is_empty()) {
            let mut source =
                self.running.iter().find(|running| running.job == id).map(|running| running.active.decoding.prompt());
            for (_, decoding) in &job.waiting {
                let shared = source.map_or(0, |other| common_prefix(decoding.prompt(), other));
                source.get_or_insert(decoding.prompt());
                demands.push((id, Demand { slots: decoding.slots(), tokens: decoding.prompt().len() - shared }));
            }
        }
        let admitted = self.admission.admit(self.free.len(), demands.iter().map(|(_, demand)| *demand));
        for (id, demand) in demands.into_iter().take(admitted) {
            let slots = self.free.take(demand.slots);
            self.start(id, slots, None);
        }
    }

    /// Starts the next ask of a job in these slots. `held`: tokens whose keys and values are in the first of them.
    fn start(&mut self, id: JobId, slots: Vec<usize>, held: Option<&[u32]>) {
        let Some((job, (query, mut decoding))) =
            self.jobs.get_mut(&id).and_then(|job| job.waiting.pop_front().map(|next| (job, next)))
        else {
            self.free.give_back(slots);
            return;
        };
        job.running += 1;
        let image = job.embedding.clone();
        if let Some(held) = held {
            decoding.share_prefix(None, common_prefix(decoding.prompt(), held));
        } else if let Some(source) = self.running.iter().find(|running| running.job == id) {
            let columns = common_prefix(decoding.prompt(), source.active.decoding.prompt());
            decoding.share_prefix(Some(source.active.slots[0]), columns);
        }
        let active = ActiveDecoding { decoding, slots, image };
        self.running.push(Running { job: id, query, active, progress: Ok(Progress::Unfinished) });
    }

    /// One pass of the decoder over everyone's new tokens, then everyone's choice of the next.
    fn step(&mut self) {
        if self.running.is_empty() {
            return;
        }
        if let Err(error) = step_guarded(&mut self.model, &mut self.running) {
            if self.running.len() == 1 {
                self.running[0].progress = Err(error);
                return;
            }
            tracing::warn!("a step of {} prompts failed and is repeated one by one: {error}", self.running.len());
            for one in self.running.chunks_mut(1) {
                if let Err(error) = step_guarded(&mut self.model, one) {
                    one[0].progress = Err(error);
                }
            }
        }
    }

    /// Takes away what has ended or failed, and answers jobs of which that was the last.
    fn retire_finished(&mut self) {
        let now = Instant::now();
        let mut index = 0;
        while index < self.running.len() {
            let id = self.running[index].job;
            match std::mem::replace(&mut self.running[index].progress, Ok(Progress::Unfinished)) {
                Ok(Progress::Unfinished) => {
                    if let Some(job) = self.jobs.get_mut(&id) {
                        job.got_token(now);
                    }
                    index += 1;
                }
                Ok(Progress::Finished) => {
                    let ended = self.running.remove(index);
                    self.end(ended, now);
                }
                // Takes away all of the job's prompts, those before this one too: begin again.
                Err(error) => {
                    self.fail(id, error);
                    index = 0;
                }
            }
        }
    }

    fn end(&mut self, ended: Running, now: Instant) {
        let Running { job: id, query, active: ActiveDecoding { decoding, slots, .. }, .. } = ended;
        let held = decoding.prompt().to_vec();
        let Some(job) = self.jobs.get_mut(&id) else {
            self.free.give_back(slots);
            return;
        };
        job.got_token(now);
        job.ended(query, decoding.finish());
        // The picture's keys and values lie in this slot: its next ask goes on in it before anyone overwrites them.
        let next = job.waiting.front().map(|(_, decoding)| decoding.slots());
        match next {
            Some(needed) if needed <= slots.len() => {
                let mut slots = slots;
                self.free.give_back(slots.split_off(needed));
                self.start(id, slots, Some(&held));
            }
            _ => self.free.give_back(slots),
        }
        if self.jobs.get(&id).is_some_and(Job::is_done) {
            self.answer(id);
        }
    }

    fn answer(&mut self, id: JobId) {
        if let Some(job) = self.jobs.remove(&id) {
            job.answer();
        }
    }

    fn fail(&mut self, id: JobId, error: EngineError) {
        let leaving = self.running.extract_if(.., |running| running.job == id);
        for running in leaving.collect::<Vec<_>>() {
            self.free.give_back(running.active.slots);
        }
        if let Some(job) = self.jobs.remove(&id) {
            job.fail(error);
        }
    }
}

/// One step of the decoder. `Err` when the pass itself failed; what each decoding made of it is in its `progress`.
fn step_guarded(model: &mut Model, running: &mut [Running]) -> Result<(), EngineError> {
    guarded(|| {
        step(model.backend(), running, |one, outputs| {
            one.progress = guarded(|| one.active.decoding.accept(outputs));
        })
    })
}

/// A panic must cost one request, not the worker. Backends keep nothing across calls that a panic could tear: a
/// repeated step writes all it reads.
fn guarded<T>(work: impl FnOnce() -> Result<T, ModelError>) -> Result<T, EngineError> {
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(result) => result.map_err(|error| AnnotateError::from(error).into()),
        Err(panic) => Err(EngineError::Panicked(panic_message(panic.as_ref()))),
    }
}
