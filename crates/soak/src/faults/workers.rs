//! What an operator does to workers.

use std::ops::RangeInclusive;
use std::time::{Duration, Instant};

use rand::Rng;
use rand_chacha::ChaCha8Rng;

use crate::pool::Pool;
use crate::s3_proxy::S3Proxy;

/// More often than `worker.max_deliveries` of the runs.
const ROUNDS: RangeInclusive<u32> = 14..=18;
/// Milliseconds between two rounds: workers take jobs, and end few of them while the store is slow.
const BETWEEN_ROUNDS: RangeInclusive<u64> = 500..=1500;
/// Most seconds by which a clock is wrong.
const SKEW: i64 = 3600;
/// Milliseconds between two looks at the workers while a limit lasts.
const BETWEEN_LOOKS: RangeInclusive<u64> = 500..=3000;

/// Restarts several workers, or all of them, again and again while jobs are in hand.
pub(super) async fn restart_many_times(
    pool: &mut Pool,
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
        pool.keep_up()?;
    }
    Ok(format!("{rounds} times {}", if all { "all" } else { "some" }))
}

/// Puts a worker with a wrong clock in the place of another one. It is right again by chance. Now and then all workers
/// have one, and come back only when what they have published is known by its id no more.
pub(super) async fn skew_clock(pool: &mut Pool, worker: usize, random: &mut ChaCha8Rng) -> anyhow::Result<String> {
    if random.random_bool(0.2) {
        let ahead: Vec<i64> = (0..pool.size()).map(|_| random.random_range(-SKEW..=SKEW)).collect();
        pool.leave_for_long(&ahead).await?;
        return Ok(format!("all workers, after a long absence: {ahead:?} s ahead"));
    }
    let ahead = if random.random_bool(0.8) { random.random_range(-SKEW..=SKEW) } else { 0 };
    pool.replace_with_clock(worker, ahead).await?;
    Ok(format!("worker {worker}: {ahead} s ahead"))
}

/// Waits. Now and then a worker is killed or told to end meanwhile.
pub(super) async fn disturb(pool: &mut Pool, lasts: Duration, random: &mut ChaCha8Rng) -> anyhow::Result<()> {
    let end = Instant::now() + lasts;
    while let Some(left) = end.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()) {
        tokio::time::sleep(left.min(Duration::from_millis(random.random_range(BETWEEN_LOOKS)))).await;
        pool.keep_up()?;
        let worker = random.random_range(0..pool.size());
        match random.random_range(0..10) {
            0 => pool.replace(worker, None).await?,
            1 => pool.terminate(worker),
            _ => {}
        }
    }
    Ok(())
}
