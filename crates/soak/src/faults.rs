//! The faults of processes, servers and connections: which comes next, and making it.

use std::time::Duration;

use anyhow::bail;
use async_nats::jetstream;
use protocol::subjects::{ANNOTATIONS_STREAM, JOBS_STREAM, OUTCOMES_STREAM};
use rand::Rng;
use rand::seq::IndexedRandom;
use rand_chacha::ChaCha8Rng;
use sandbox::SeaweedFs;
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
    /// The server of a cluster, or each in turn, is told to end by and by, stopped and started again once the workers
    /// have left it; the next one only when it has all that the others have.
    Roll {
        /// Each in turn: a rolling restart.
        all: bool,
    },
    /// Connections between the servers of a cluster break.
    BreakRoutes(Break),
    /// A server of a cluster and the others do not hear each other for a while.
    Isolate,
    /// SIGKILL to the S3 store, and a new start.
    CrashStore,
}

impl Fault {
    /// The faults that can be asked for by name, for a run that makes no others.
    pub const NAMED: [(&str, Self); 14] = [
        ("kill", Self::Kill),
        ("freeze", Self::Freeze),
        ("terminate", Self::Terminate),
        ("cut", Self::Break(Break::Cut)),
        ("half-close", Self::Break(Break::HalfClose)),
        ("truncate", Self::Break(Break::Truncate)),
        ("black-hole", Self::Mode(Mode::BlackHole)),
        ("throttle", Self::Mode(Mode::Throttle)),
        ("crash", Self::Crash(false)),
        ("crash-leader", Self::Crash(true)),
        ("roll", Self::Roll { all: true }),
        ("cut-routes", Self::BreakRoutes(Break::Cut)),
        ("isolate", Self::Isolate),
        ("crash-store", Self::CrashStore),
    ];

    /// Whether it takes more than one server.
    pub fn needs_cluster(self) -> bool {
        matches!(self, Self::Roll { .. } | Self::BreakRoutes(_) | Self::Isolate)
    }
}

/// What faults are made to.
#[derive(Debug)]
pub struct Targets<'a> {
    /// The workers.
    pub pool: &'a mut Pool,
    /// The NATS servers.
    pub broker: &'a mut Broker,
    /// The S3 store.
    pub store: &'a mut SeaweedFs,
    /// A connection past all proxies.
    pub jetstream: &'a jetstream::Context,
}

/// The next fault. The steps at which workers abort come one after the other, so that none is left out.
pub fn next(number: usize, is_cluster: bool, random: &mut ChaCha8Rng) -> Fault {
    // Servers' own faults come on top of those that a single one has too.
    if is_cluster && random.random_bool(0.15) {
        return match random.random_range(0..10) {
            0 => Fault::Roll { all: true },
            1..3 => Fault::Roll { all: false },
            3..7 => Fault::BreakRoutes(Break::Cut),
            _ => Fault::Isolate,
        };
    }
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
        95..97 => Fault::Crash(false),
        97 => Fault::Restart,
        _ => Fault::CrashStore,
    }
}

/// Makes a fault, and waits until it is over.
///
/// # Errors
/// When a process does not start again.
pub async fn make(fault: Fault, targets: Targets<'_>, random: &mut ChaCha8Rng) -> anyhow::Result<()> {
    let Targets { pool, broker, store, jetstream } = targets;
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
        Fault::Roll { all } => {
            let nodes = if all { 0..broker.size() } else { node..node + 1 };
            for node in nodes {
                if !broker.roll(node, jetstream).await? {
                    bail!("workers did not leave the server n{node}, which had told them that it ends");
                }
            }
        }
        Fault::BreakRoutes(how) => broker.routes.iter().for_each(|routes| routes.break_all(node, how)),
        Fault::Isolate => {
            if let Some(routes) = &broker.routes {
                routes.set(node, Mode::BlackHole);
                tokio::time::sleep(BLACK_HOLE).await;
                routes.set(node, Mode::Pass);
            }
        }
        Fault::CrashStore => {
            store.kill();
            tokio::time::sleep(DOWN).await;
            store.restart().await?;
        }
    }
    Ok(())
}
