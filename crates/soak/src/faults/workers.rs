//! Faults of workers.

use std::ops::RangeInclusive;
use std::time::{Duration, Instant};

use rand::Rng;
use rand_chacha::ChaCha8Rng;

use crate::pool::WorkerProcesses;
use crate::s3_proxy::S3Proxy;

/// More than `worker.max_deliveries`.
const ROUNDS: RangeInclusive<u32> = 14..=18;
/// Milliseconds between two rounds. Workers receive jobs in that time, and finish few of them while the store is slow.
const BETWEEN_ROUNDS: RangeInclusive<u64> = 500..=1500;
/// Maximum clock offset in seconds.
const MAX_OFFSET: i64 = 3600;
/// Milliseconds between two random events in [`disturb`].
const BETWEEN_EVENTS: RangeInclusive<u64> = 500..=3000;

/// Restarts several or all workers repeatedly while jobs are active.
pub(super) async fn restart_many_times(
    pool: &mut WorkerProcesses,
    s3: &S3Proxy,
    random: &mut ChaCha8Rng,
) -> anyhow::Result<String> {
    let _slow = s3.slow();
    let (rounds, all) = (random.random_range(ROUNDS), random.random_bool(0.5));
    for _ in 0..rounds {
        tokio::time::sleep(Duration::from_millis(random.random_range(BETWEEN_ROUNDS))).await;
        let count = if all { pool.size() } else { random.random_range(1..=pool.size()) };
        let workers = rand::seq::index::sample(random, pool.size(), count).into_vec();
        pool.restart(&workers).await?;
        pool.restart_ended()?;
    }
    Ok(format!("{rounds} times {}", if all { "all" } else { "some" }))
}

/// Replaces a worker by one with a wrong clock, or sometimes a correct one. Sometimes replaces all workers by ones with
/// wrong clocks that return only after the duplicate window of their annotations.
pub(super) async fn skew_clock(
    pool: &mut WorkerProcesses,
    worker: usize,
    random: &mut ChaCha8Rng,
) -> anyhow::Result<String> {
    if random.random_bool(0.2) {
        let ahead: Vec<i64> = (0..pool.size()).map(|_| random.random_range(-MAX_OFFSET..=MAX_OFFSET)).collect();
        pool.replace_after_duplicate_window(&ahead).await?;
        return Ok(format!("all workers, after the duplicate window: {ahead:?} s ahead"));
    }
    let ahead = if random.random_bool(0.8) { random.random_range(-MAX_OFFSET..=MAX_OFFSET) } else { 0 };
    pool.replace_with_clock(worker, ahead).await?;
    Ok(format!("worker {worker}: {ahead} s ahead"))
}

/// Waits, and sometimes kills or terminates a worker meanwhile.
pub(super) async fn disturb(
    pool: &mut WorkerProcesses,
    duration: Duration,
    random: &mut ChaCha8Rng,
) -> anyhow::Result<()> {
    let end = Instant::now() + duration;
    while let Some(left) = end.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()) {
        tokio::time::sleep(left.min(Duration::from_millis(random.random_range(BETWEEN_EVENTS)))).await;
        pool.restart_ended()?;
        let worker = random.random_range(0..pool.size());
        match random.random_range(0..10) {
            0 => pool.replace(worker, None).await?,
            1 => pool.terminate(worker),
            _ => {}
        }
    }
    Ok(())
}
