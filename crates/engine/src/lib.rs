//! Many requests, one device.
//!
//! The model lives on one named thread. Requests reach it through a bounded queue, so that a slow device is felt by
//! whoever submits; the queue holds exactly one batch of prepared pictures, so that the next one is ready when the
//! vision tower is, and no more memory is held. Each answer comes back on its own channel.
//!
//! Batching is continuous. The decoder has a fixed number of slots, each with preallocated room for the keys and
//! values of one sequence. A request's prompts join at any step and leave when they are done; see [`Admission`] for
//! the rule. New prompts, however many, run in the same pass as everyone's newest token, without padding. What is
//! asked about one picture shares its vision pass and the decoder's work on the common first tokens.
//!
//! A request whose answer nobody waits for any more, or whose deadline has passed, leaves its slots at the next step.
//! A request that fails never harms its neighbours: a step that fails for all is repeated for each request alone.
#![forbid(unsafe_code)]
#![warn(clippy::print_stderr, clippy::print_stdout)]

mod admission;
mod annotator;
mod job;
mod panics;
mod request;
mod scheduler;
mod slots;

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Instant;

pub use admission::{Admission, Demand};
pub use annotator::{Annotator, Answer};
use job::Job;
use kosmos2::{EncodedQuery, Kosmos2, Processor};
pub use panics::panic_message;
use rayon::ThreadPoolBuilder;
pub use request::{EngineError, Request, Response, Timings};
pub use slots::StartError;
use tokio::sync::{mpsc, oneshot};

/// The engine's settings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EngineOptions {
    /// Prompts decoded at once; each takes a slot (a beam search one for each beam). `None`: as many as fit the
    /// device's free memory, up to what it uses with profit: 16 on a CPU, where more help throughput little and every
    /// prompt waits longer.
    pub slots: Option<usize>,
    /// Tokens that a slot holds: prompt, picture and answer.
    pub slot_tokens: usize,
    /// Pictures that go through the vision tower together, and that wait prepared for it. `None`: as many as the device
    /// takes with profit.
    pub vision_batch: Option<usize>,
    /// Most prompt tokens of a step. `None` likewise.
    pub prompt_tokens: Option<usize>,
}

/// Slots that are there on every device where the number is left open and memory allows for them.
pub const USUAL_SLOTS: usize = 16;

impl Default for EngineOptions {
    fn default() -> Self {
        Self { slots: None, slot_tokens: 512, vision_batch: None, prompt_tokens: None }
    }
}

/// A handle to the device's thread; clones share it, and it ends once the last one is dropped.
#[derive(Clone)]
pub struct Engine {
    processor: Arc<Processor>,
    queue: mpsc::Sender<Job>,
    kv_capacity: KvCapacity,
    jobs_in_hand: usize,
}

/// Slots, and tokens of each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KvCapacity {
    /// Number of slots.
    pub slots: usize,
    /// Tokens that each holds.
    pub slot_tokens: usize,
}

impl Engine {
    /// Reserves the slots and starts the device's thread. Joining the handle returns once every engine handle is
    /// dropped and the work in hand is done.
    ///
    /// # Errors
    /// [`StartError`] when the slots do not fit the device's memory, or the system gives no thread.
    pub fn start(model: Kosmos2, options: EngineOptions) -> Result<(Self, JoinHandle<()>), StartError> {
        let (mut model, processor) = model.into_parts();
        let kv_capacity = slots::reserve(model.backend(), &options)?;
        let useful = model.backend().preferred_batches();
        let vision_batch = options.vision_batch.unwrap_or(useful.pictures).max(1);
        let jobs_in_hand = useful.jobs.min(kv_capacity.slots + 4 * vision_batch);
        let (queue, requests) = mpsc::channel(vision_batch);
        let scheduler = scheduler::Scheduler::new(
            model,
            requests,
            kv_capacity,
            vision_batch,
            useful.parallel_images.max(1),
            Admission { prompt_tokens: options.prompt_tokens.unwrap_or(useful.prompt_tokens) },
        );
        // The device's loop is one of the threads it computes with: calling them from outside would cost a sleep and a
        // wake-up for every product.
        let pool = ThreadPoolBuilder::new().thread_name(|index| format!("device-{index}")).build()?;
        let thread =
            std::thread::Builder::new().name("device".into()).spawn(move || pool.install(|| scheduler.run()))?;
        Ok((Self { processor, queue, kv_capacity, jobs_in_hand }, thread))
    }

    /// What goes around the model: pictures to pixels, queries to tokens.
    pub fn processor(&self) -> &Processor {
        &self.processor
    }

    /// The slots there are.
    pub fn kv_capacity(&self) -> KvCapacity {
        self.kv_capacity
    }

    /// Queues a request and waits for its answer. Dropping the future cancels the request.
    ///
    /// # Errors
    /// [`EngineError`]; an ask that is not valid or does not fit is refused before it is queued.
    pub async fn submit(&self, request: Request) -> Result<Response, EngineError> {
        let submitted = Instant::now();
        let queries =
            request.queries.iter().map(|query| self.processor.encode(query)).collect::<Result<Vec<_>, _>>()?;
        let decodings = queries.iter().map(|query| self.fitting(query)).collect::<Result<Vec<_>, _>>()?;
        let (reply, answer) = oneshot::channel();
        let job = Job::new(request.pixels, queries, decodings, request.deadline, submitted, reply);
        self.queue.send(job).await.map_err(|_| EngineError::Stopped)?;
        let decoded = answer.await.map_err(|_| EngineError::Stopped)??;
        Ok(decoded.read(&self.processor))
    }

    fn fitting(&self, query: &EncodedQuery) -> Result<kosmos2::decoding::Decoding, EngineError> {
        let decoding = self.processor.decoding(query).map_err(kosmos2::AnnotateError::from)?;
        let KvCapacity { slots, slot_tokens } = self.kv_capacity;
        if decoding.max_tokens() > slot_tokens {
            return Err(EngineError::TooLong { tokens: decoding.max_tokens(), slot_tokens });
        }
        if decoding.slots() > slots {
            return Err(EngineError::TooWide { needed: decoding.slots(), slots });
        }
        Ok(decoding)
    }
}
