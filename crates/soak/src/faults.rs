//! The faults of processes, servers and connections: which comes next, and making it.

use std::time::Duration;

use async_nats::jetstream;
use protocol::subjects::{ANNOTATIONS_STREAM, JOBS_STREAM, OUTCOMES_STREAM};
use rand::Rng;
use rand::seq::IndexedRandom;
use rand_chacha::ChaCha8Rng;
use worker::Step;

use crate::broker::Broker;
use crate::pool::Pool;
use crate::proxy::{Break, Mode};

/// Longer than the runs' `ack_wait` of 3 s: a worker that stands still for this long has lost its jobs to others.
const FREEZE: Duration = Duration::from_secs(5);
/// Longer than two unanswered pings, so that clients notice.
const BLACK_HOLE: Duration = Duration::from_secs(6);
const THROTTLE: Duration = Duration::from_secs(3);
/// Long enough for a cluster to notice, and for some answers to be lost.
const DOWN: Duration = Duration::from_millis(700);

/// One fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// SIGKILL to a worker.
    Kill,
    /// SIGKILL to a worker; the one in its place aborts at a step of a job.
    AbortAt(Step),
    /// SIGSTOP to a worker, SIGCONT after its leases are over.
    Freeze,
    /// SIGTERM to a worker.
    Terminate,
    /// Connections to a server break.
    Break(Break),
    /// Connections to a server misbehave for a while.
    Mode(Mode),
    /// SIGKILL to a server, and a new start; `true`: to the one that leads a stream.
    Crash(bool),
    /// SIGTERM to a server, and a new start.
    Restart,
}

/// The next fault. The steps at which workers abort come one after the other, so that none is left out.
pub fn next(number: usize, random: &mut ChaCha8Rng) -> Fault {
    match random.random_range(0..100) {
        0..25 => Fault::Kill,
        25..50 => Fault::AbortAt(Step::ALL[number % Step::ALL.len()]),
        50..58 => Fault::Freeze,
        58..63 => Fault::Terminate,
        63..75 => Fault::Break(Break::Cut),
        75..80 => Fault::Break(Break::HalfClose),
        80..85 => Fault::Break(Break::Truncate),
        85..88 => Fault::Mode(Mode::BlackHole),
        88..91 => Fault::Mode(Mode::Throttle),
        91..95 => Fault::Crash(true),
        95..98 => Fault::Crash(false),
        _ => Fault::Restart,
    }
}

/// Makes a fault, and waits until it is over.
///
/// # Errors
/// When a process does not start again.
pub async fn make(
    fault: Fault,
    pool: &mut Pool,
    broker: &mut Broker,
    jetstream: &jetstream::Context,
    random: &mut ChaCha8Rng,
) -> anyhow::Result<()> {
    let (worker, node) = (random.random_range(0..pool.size()), random.random_range(0..broker.size()));
    match fault {
        Fault::Kill => pool.replace(worker, None).await?,
        Fault::AbortAt(step) => {
            let after = random.random_range(0..5);
            pool.replace(worker, Some(&format!("{step:?}:{after}"))).await?;
        }
        Fault::Freeze => {
            pool.stop(worker, true);
            tokio::time::sleep(FREEZE).await;
            pool.stop(worker, false);
        }
        Fault::Terminate => pool.terminate(worker),
        Fault::Break(how) => broker.proxies[node].break_all(how),
        Fault::Mode(mode) => {
            broker.proxies[node].set(mode);
            tokio::time::sleep(if mode == Mode::BlackHole { BLACK_HOLE } else { THROTTLE }).await;
            broker.proxies[node].set(Mode::Pass);
        }
        Fault::Crash(true) => {
            let stream = [JOBS_STREAM, ANNOTATIONS_STREAM, OUTCOMES_STREAM].choose(random).unwrap_or(&JOBS_STREAM);
            let leader = broker.leader(jetstream, stream).await;
            broker.crash(leader, DOWN).await?;
        }
        Fault::Crash(false) => broker.crash(node, DOWN).await?,
        Fault::Restart => broker.restart(node).await?,
    }
    Ok(())
}
