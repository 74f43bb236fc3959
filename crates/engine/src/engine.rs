//! The engine's handle and settings.

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use kosmos2::decoding::Decoding;
use kosmos2::options::GenerationOptions;
use kosmos2::processor::image::PixelValues;
use kosmos2::{AnnotateError, EncodedQuery, Kosmos2, Processor, Query};
use rayon::ThreadPoolBuilder;
use tokio::sync::{mpsc, oneshot};

use crate::admission::Admission;
use crate::options::{EngineOptions, KvCapacity};
use crate::request::{EngineError, Request, Response};
use crate::scheduled_request::ScheduledRequest;
use crate::scheduler::Scheduler;
use crate::slots::{self, StartError};
use crate::stats::{EngineSnapshot, EngineStats};

/// The default of [`EngineOptions::stall_timeout`] on a GPU.
const GPU_STALL_TIMEOUT: Duration = Duration::from_secs(120);
/// On the CPU, the engine counts as stalled after this many times its longest pass.
const STALLED_PASSES: u32 = 20;
/// The minimum of the default on the CPU. The longest pass is known only once it has ended.
const MIN_CPU_STALL_TIMEOUT: Duration = Duration::from_secs(5 * 60);

/// A handle to the engine's thread. Clones share the thread, which ends after the last of them is dropped.
#[derive(Clone)]
pub struct Engine {
    processor: Arc<Processor>,
    pub(crate) queue: mpsc::Sender<ScheduledRequest>,
    kv_capacity: KvCapacity,
    pub(crate) concurrent_jobs: usize,
    pub(crate) stats: Arc<EngineStats>,
    pub(crate) is_gpu: bool,
    stall_timeout: Option<Duration>,
}

impl Engine {
    /// Allocates the slots and starts the engine's thread. The thread can be joined once every handle is dropped and
    /// all requests are finished.
    ///
    /// # Errors
    /// [`StartError`] if the slots do not fit into the device's memory, or a thread cannot be spawned.
    pub fn start(model: Kosmos2, options: EngineOptions) -> Result<(Self, JoinHandle<()>), StartError> {
        let (mut model, processor) = model.into_parts();
        let kv_capacity = slots::reserve(model.backend(), &options)?;
        let preferred = model.backend().preferred_batches();
        let vision_batch = options.vision_batch.unwrap_or(preferred.pictures).max(1);
        let concurrent_jobs = preferred.jobs.min(kv_capacity.slots + 4 * vision_batch);
        let (queue, requests) = mpsc::channel(vision_batch);
        let stats = EngineStats::new(kv_capacity.slots);
        let (is_gpu, stall_timeout) = (model.backend().is_gpu(), options.stall_timeout);
        let scheduler = Scheduler::new(
            model,
            requests,
            kv_capacity,
            vision_batch,
            preferred.parallel_images.max(1),
            Admission { prompt_tokens: options.prompt_tokens.unwrap_or(preferred.prompt_tokens) },
            Arc::clone(&stats),
        );
        // The scheduler runs on a thread of the pool that it computes with: entering the pool from outside would cost a
        // sleep and a wake-up for every matrix product.
        let pool = ThreadPoolBuilder::new().thread_name(|index| format!("compute-{index}")).build()?;
        let thread =
            std::thread::Builder::new().name("engine".into()).spawn(move || pool.install(|| scheduler.run()))?;
        Ok((Self { processor, queue, kv_capacity, concurrent_jobs, stats, is_gpu, stall_timeout }, thread))
    }

    /// The processor, which converts pictures to pixel values and queries to tokens.
    pub fn processor(&self) -> &Processor {
        &self.processor
    }

    /// The allocated slots.
    pub fn kv_capacity(&self) -> KvCapacity {
        self.kv_capacity
    }

    /// What the engine is doing now.
    pub fn snapshot(&self) -> EngineSnapshot {
        self.stats.snapshot()
    }

    /// How long the engine may make no progress with work in hand before it counts as stalled:
    /// [`EngineOptions::stall_timeout`] or its default.
    pub fn stall_timeout(&self) -> Duration {
        match self.stall_timeout {
            Some(timeout) => timeout,
            None if self.is_gpu => GPU_STALL_TIMEOUT,
            None => cpu_stall_timeout(self.stats.longest_pass()),
        }
    }

    /// A request for one token about a grey picture, which shows whether the device works.
    pub fn canary_request(&self) -> Option<Request> {
        let side = self.processor.images().size();
        let pixels = PixelValues::new(vec![0.0; 3 * side * side], side)?;
        let options = GenerationOptions { max_new_tokens: 1, ..GenerationOptions::default() };
        Some(Request { pixels, queries: vec![Query::generate("<grounding> An image of", options)] })
    }

    /// Queues a request and waits for its response. Dropping the future cancels the request.
    ///
    /// # Errors
    /// [`EngineError`]. Queries that are invalid or do not fit into the slots are refused before the request is queued.
    pub async fn submit(&self, request: Request) -> Result<Response, EngineError> {
        let submitted = Instant::now();
        let queries =
            request.queries.iter().map(|query| self.processor.encode(query)).collect::<Result<Vec<_>, _>>()?;
        let decodings = queries.iter().map(|query| self.decoding(query)).collect::<Result<Vec<_>, _>>()?;
        let (reply, response) = oneshot::channel();
        let scheduled =
            ScheduledRequest::new(request.pixels, queries, decodings, submitted, self.stats.queued(), reply);
        self.queue.send(scheduled).await.map_err(|_| EngineError::Stopped)?;
        let finished = response.await.map_err(|_| EngineError::Stopped)??;
        Ok(finished.into_response(&self.processor))
    }

    /// The decoding of a query, if it fits into the slots.
    fn decoding(&self, query: &EncodedQuery) -> Result<Decoding, EngineError> {
        let decoding = self.processor.decoding(query).map_err(AnnotateError::from)?;
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

fn cpu_stall_timeout(longest_pass: Duration) -> Duration {
    longest_pass.saturating_mul(STALLED_PASSES).max(MIN_CPU_STALL_TIMEOUT)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn on_the_cpu_the_stall_timeout_follows_the_longest_pass() {
        let minutes = |minutes: u64| Duration::from_secs(60 * minutes);
        assert_eq!(cpu_stall_timeout(Duration::ZERO), minutes(5));
        assert_eq!(cpu_stall_timeout(Duration::from_secs(3)), minutes(5));
        assert_eq!(cpu_stall_timeout(minutes(1)), minutes(20));
    }
}
