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
    /// In nanoseconds since `started`; 0 while the scheduler waits for a request.
    last_progress: AtomicU64,
    /// When the first of the requests in the queue arrived, or the scheduler last began to wait, in nanoseconds since
    /// `started`.
    queued_since: AtomicU64,
    /// The longest time between two signs of progress with work in hand, in nanoseconds.
    longest_pass: AtomicU64,
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
            queued_since: AtomicU64::default(),
            longest_pass: AtomicU64::default(),
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
        if self.queue_size.fetch_add(1, Ordering::Relaxed) == 0 {
            self.queued_since.store(self.now(), Ordering::Relaxed);
        }
        Queued(Arc::clone(self))
    }

    /// The scheduler waits for a request. If one is in the queue, it must take it soon.
    pub(crate) fn idle(&self) {
        self.queued_since.store(self.now(), Ordering::Relaxed);
        self.last_progress.store(0, Ordering::Relaxed);
    }

    /// Work has arrived, or a pass over it has ended.
    pub(crate) fn progressed(&self) {
        let now = self.now().max(1);
        let last = self.last_progress.swap(now, Ordering::Relaxed);
        if last > 0 {
            self.longest_pass.fetch_max(now.saturating_sub(last), Ordering::Relaxed);
        }
    }

    /// The longest pass so far.
    pub(crate) fn longest_pass(&self) -> Duration {
        Duration::from_nanos(self.longest_pass.load(Ordering::Relaxed))
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
        let queue_size = self.queue_size.load(Ordering::Relaxed);
        let since = match (last_progress, queue_size) {
            (0, 0) => None,
            (0, _) => Some(self.queued_since.load(Ordering::Relaxed)),
            _ => Some(last_progress),
        };
        EngineSnapshot {
            slots_used: self.slots_used.load(Ordering::Relaxed),
            slots_limit: self.slots_limit,
            queue_size,
            steps: self.steps.load(Ordering::Relaxed),
            last_progress_age: since.map(|since| Duration::from_nanos(self.now().saturating_sub(since))),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_that_the_scheduler_does_not_take_has_an_age() {
        let stats = EngineStats::new(1);
        stats.progressed();
        stats.idle();
        assert_eq!(stats.snapshot().last_progress_age, None);
        std::thread::sleep(Duration::from_millis(20));
        let first = stats.queued();
        std::thread::sleep(Duration::from_millis(5));
        let second = stats.queued();
        let age = stats.snapshot().last_progress_age.unwrap();
        assert!(age >= Duration::from_millis(5), "{age:?}");
        // The requests overlap while the scheduler works: their age begins anew when it waits.
        stats.progressed();
        stats.idle();
        assert!(stats.snapshot().last_progress_age.unwrap() < age);
        drop((first, second));
        assert_eq!(stats.snapshot().last_progress_age, None);
    }

    #[test]
    fn the_longest_pass_leaves_out_the_time_without_work() {
        let stats = EngineStats::new(1);
        std::thread::sleep(Duration::from_millis(20));
        stats.progressed();
        assert_eq!(stats.longest_pass(), Duration::ZERO);
        std::thread::sleep(Duration::from_millis(5));
        stats.progressed();
        let longest = stats.longest_pass();
        assert!(longest >= Duration::from_millis(5), "{longest:?}");
        stats.idle();
        std::thread::sleep(longest * 2);
        stats.progressed();
        assert_eq!(stats.longest_pass(), longest);
    }
}
