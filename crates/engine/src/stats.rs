//! What the engine is doing, in numbers that can be read at any time.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use kosmos2::decoding::StepTokens;

/// What a batch goes through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pass {
    /// The vision tower; the batch has pictures.
    Vision,
    /// The decoder; the batch has sequences.
    Decoder,
}

/// Called with the size of each batch, on the engine's thread. It must neither block nor panic.
pub type BatchObserver = Box<dyn Fn(Pass, usize) + Send + Sync>;

/// The engine's state at one moment, and its counts since the start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct EngineSnapshot {
    /// Slots that hold a sequence.
    pub slots_used: u64,
    /// Slots there are.
    pub slots_limit: u64,
    /// Requests whose picture has not reached the vision tower.
    pub queue_size: u64,
    /// Steps of the decoder.
    pub steps: u64,
    /// Time since the last step or vision pass, or since the first request arrived; `None` without work.
    pub last_progress_age: Option<Duration>,
    /// Tokens of prompts that the decoder computed.
    pub prompt_tokens: u64,
    /// Tokens after prompts that the decoder computed.
    pub answer_tokens: u64,
    /// Tokens whose keys and values are held in slots.
    pub kv_tokens: u64,
}

/// The numbers, written by the scheduler.
pub(crate) struct EngineStats {
    started: Instant,
    slots_limit: u64,
    slots_used: AtomicU64,
    queue_size: AtomicU64,
    steps: AtomicU64,
    /// In nanoseconds since `started`; 0 without work.
    last_progress: AtomicU64,
    prompt_tokens: AtomicU64,
    answer_tokens: AtomicU64,
    kv_tokens: AtomicU64,
    observer: OnceLock<BatchObserver>,
}

/// A request in the queue; counted until this is dropped.
pub(crate) struct Queued(Arc<EngineStats>);

impl Drop for Queued {
    fn drop(&mut self) {
        self.0.queue_size.fetch_sub(1, Ordering::Relaxed);
    }
}

impl EngineStats {
    pub(crate) fn new(slots: usize) -> Arc<Self> {
        Arc::new(Self {
            started: Instant::now(),
            slots_limit: slots as u64,
            slots_used: AtomicU64::default(),
            queue_size: AtomicU64::default(),
            steps: AtomicU64::default(),
            last_progress: AtomicU64::default(),
            prompt_tokens: AtomicU64::default(),
            answer_tokens: AtomicU64::default(),
            kv_tokens: AtomicU64::default(),
            observer: OnceLock::new(),
        })
    }

    /// The first observer counts.
    pub(crate) fn observe_batches(&self, observer: BatchObserver) {
        drop(self.observer.set(observer));
    }

    pub(crate) fn queued(self: &Arc<Self>) -> Queued {
        self.queue_size.fetch_add(1, Ordering::Relaxed);
        Queued(Arc::clone(self))
    }

    /// There is no work.
    pub(crate) fn idle(&self) {
        self.last_progress.store(0, Ordering::Relaxed);
    }

    pub(crate) fn progressed(&self) {
        self.last_progress.store(self.now().max(1), Ordering::Relaxed);
    }

    pub(crate) fn slots(&self, used: usize, kv_tokens: usize) {
        self.slots_used.store(used as u64, Ordering::Relaxed);
        self.kv_tokens.store(kv_tokens as u64, Ordering::Relaxed);
    }

    pub(crate) fn pictures_encoded(&self, count: usize) {
        self.progressed();
        self.observe(Pass::Vision, count);
    }

    pub(crate) fn stepped(&self, tokens: StepTokens) {
        self.steps.fetch_add(1, Ordering::Relaxed);
        self.prompt_tokens.fetch_add(tokens.prompt as u64, Ordering::Relaxed);
        self.answer_tokens.fetch_add(tokens.answer as u64, Ordering::Relaxed);
        self.progressed();
        self.observe(Pass::Decoder, tokens.sequences);
    }

    pub(crate) fn snapshot(&self) -> EngineSnapshot {
        let last_progress = self.last_progress.load(Ordering::Relaxed);
        let age = || Duration::from_nanos(self.now().saturating_sub(last_progress));
        EngineSnapshot {
            slots_used: self.slots_used.load(Ordering::Relaxed),
            slots_limit: self.slots_limit,
            queue_size: self.queue_size.load(Ordering::Relaxed),
            steps: self.steps.load(Ordering::Relaxed),
            last_progress_age: (last_progress > 0).then(age),
            prompt_tokens: self.prompt_tokens.load(Ordering::Relaxed),
            answer_tokens: self.answer_tokens.load(Ordering::Relaxed),
            kv_tokens: self.kv_tokens.load(Ordering::Relaxed),
        }
    }

    fn observe(&self, pass: Pass, size: usize) {
        if let Some(observer) = self.observer.get() {
            observer(pass, size);
        }
    }

    fn now(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }
}
