//! The faults of a run: of processes, servers and connections, and mistakes and actions of operators.

mod server;
mod stream;
mod workers;

use std::collections::VecDeque;
use std::time::Duration;

use anyhow::bail;
use async_nats::jetstream;
use rand::Rng;
use rand::seq::IndexedRandom;
use rand_chacha::ChaCha8Rng;
use sandbox::SeaweedFs;
use worker::Step;

use crate::plan::PlannedJob;
use crate::pool::WorkerProcesses;
use crate::proxy::{Break, Mode};
use crate::s3_proxy::{S3Fault, S3Proxy};
use crate::servers::Servers;
use crate::streams;
use crate::submit::publish_until_accepted;

/// Longer than the `ack_wait` of 3 s: the jobs of a worker that is suspended for this long are delivered to others.
const FREEZE: Duration = Duration::from_secs(5);
/// Longer than two unanswered pings, so that clients reconnect.
const BLACK_HOLE: Duration = Duration::from_secs(6);
const THROTTLE: Duration = Duration::from_secs(3);
/// Long enough for a cluster to elect other leaders, and for some responses to be lost.
const DOWN: Duration = Duration::from_millis(700);

/// One fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// SIGKILL to a worker.
    Kill,
    /// SIGKILL to a worker; its replacement aborts at a step of a job.
    AbortAt(Step),
    /// SIGSTOP to a worker, and SIGCONT after its leases have expired.
    Freeze,
    /// SIGTERM to a worker.
    Terminate,
    /// Connections to a server are broken.
    Break(Break),
    /// Connections to a server misbehave for a while.
    Mode(Mode),
    /// SIGKILL to a server, and a restart.
    Crash {
        /// The server is the leader of a stream.
        leader: bool,
    },
    /// SIGTERM to a server, and a restart.
    Restart,
    /// A server of a cluster goes into lame duck mode and is restarted once the workers have left it.
    Roll {
        /// Each server in turn, after the one before has caught up: a rolling restart.
        all: bool,
    },
    /// Connections between the servers of a cluster are broken.
    BreakRoutes(Break),
    /// A server of a cluster is partitioned from the others for a while.
    Isolate,
    /// SIGKILL to the S3 store, and a restart.
    CrashStore,
    /// Several or all workers are restarted with SIGTERM, more often than `worker.max_deliveries`.
    RestartWorkers,
    /// A worker's clock is wrong by up to an hour.
    SkewClock,
    /// A stream that workers publish to is full for a while.
    FillStream,
    /// The storage of the account is used up for a while.
    ExhaustStorage,
    /// A consumer is deleted and created again with the same settings.
    RecreateConsumer,
    /// A consumer's `ack_wait` is raised, and lowered again.
    ChangeConsumer,
    /// Jobs of another dataset are submitted; half or all of their objects always have this fault.
    Poison(S3Fault),
}

impl Fault {
    /// The names of faults for `--only`.
    pub const NAMED: [(&str, Self); 24] = [
        ("kill", Self::Kill),
        ("freeze", Self::Freeze),
        ("terminate", Self::Terminate),
        ("cut", Self::Break(Break::Cut)),
        ("half-close", Self::Break(Break::HalfClose)),
        ("truncate", Self::Break(Break::Truncate)),
        ("black-hole", Self::Mode(Mode::BlackHole)),
        ("throttle", Self::Mode(Mode::Throttle)),
        ("crash", Self::Crash { leader: false }),
        ("crash-leader", Self::Crash { leader: true }),
        ("roll", Self::Roll { all: true }),
        ("cut-routes", Self::BreakRoutes(Break::Cut)),
        ("isolate", Self::Isolate),
        ("crash-store", Self::CrashStore),
        ("restart-workers", Self::RestartWorkers),
        ("skew-clock", Self::SkewClock),
        ("fill-stream", Self::FillStream),
        ("exhaust-storage", Self::ExhaustStorage),
        ("recreate-consumer", Self::RecreateConsumer),
        ("change-consumer", Self::ChangeConsumer),
        ("stall", Self::Poison(S3Fault::Stall)),
        ("stall-in-body", Self::Poison(S3Fault::StallInBody)),
        ("drip", Self::Poison(S3Fault::Drip)),
        ("unavailable", Self::Poison(S3Fault::Unavailable)),
    ];

    /// The fault of objects in the poisoned dataset, if this is [`Fault::Poison`].
    pub fn poison(self) -> Option<S3Fault> {
        match self {
            Self::Poison(fault) => Some(fault),
            _ => None,
        }
    }

    /// Whether the fault needs a cluster.
    pub fn needs_cluster(self) -> bool {
        matches!(self, Self::Roll { .. } | Self::BreakRoutes(_) | Self::Isolate)
    }
}

/// The targets of faults.
#[derive(Debug)]
pub struct Targets<'a> {
    /// The workers.
    pub pool: &'a mut WorkerProcesses,
    /// The NATS servers.
    pub servers: &'a mut Servers,
    /// The S3 store.
    pub store: &'a mut SeaweedFs,
    /// The proxy in front of it.
    pub s3: &'a S3Proxy,
    /// A connection that bypasses the proxies.
    pub jetstream: &'a jetstream::Context,
    /// Jobs of the poisoned dataset: a block for each remaining [`Fault::Poison`].
    pub poisoned: VecDeque<Vec<PlannedJob>>,
}

/// The sequence of `count` faults: of all kinds, or `only` one.
pub fn sequence(count: usize, only: Option<Fault>, is_cluster: bool, random: &mut ChaCha8Rng) -> Vec<Fault> {
    (0..count).map(|number| only.unwrap_or_else(|| next(number, is_cluster, random))).collect()
}

/// A random fault. The steps at which workers abort follow in turn, so that every step is covered.
fn next(number: usize, is_cluster: bool, random: &mut ChaCha8Rng) -> Fault {
    // Faults of a cluster come in addition to those of a single server.
    if is_cluster && random.random_bool(0.15) {
        return match random.random_range(0..10) {
            0 => Fault::Roll { all: true },
            1..3 => Fault::Roll { all: false },
            3..7 => Fault::BreakRoutes(Break::Cut),
            _ => Fault::Isolate,
        };
    }
    match random.random_range(0..126) {
        0..25 => Fault::Kill,
        25..50 => Fault::AbortAt(Step::ALL[number % Step::ALL.len()]),
        50..58 => Fault::Freeze,
        58..63 => Fault::Terminate,
        63..75 => Fault::Break(Break::Cut),
        75..80 => Fault::Break(Break::HalfClose),
        80..85 => Fault::Break(Break::Truncate),
        85..88 => Fault::Mode(Mode::BlackHole),
        88..91 => Fault::Mode(Mode::Throttle),
        91..95 => Fault::Crash { leader: true },
        95..97 => Fault::Crash { leader: false },
        97 => Fault::Restart,
        98..100 => Fault::CrashStore,
        100..103 => Fault::RestartWorkers,
        103..107 => Fault::SkewClock,
        107..112 => Fault::FillStream,
        112..115 => Fault::ExhaustStorage,
        115..119 => Fault::RecreateConsumer,
        119..122 => Fault::ChangeConsumer,
        _ => Fault::Poison(S3Fault::PERMANENT[number % S3Fault::PERMANENT.len()].0),
    }
}

/// Injects a fault, waits until it is over, and returns details for the log.
///
/// # Errors
/// If a process does not start again, or a fault could not be undone.
pub async fn inject(fault: Fault, targets: &mut Targets<'_>, random: &mut ChaCha8Rng) -> anyhow::Result<String> {
    let Targets { pool, servers, store, s3, jetstream, poisoned } = targets;
    let (worker, node) = (random.random_range(0..pool.size()), random.random_range(0..servers.size()));
    let (of_worker, of_node) = (format!("worker {worker}"), format!("server n{node}"));
    match fault {
        Fault::Kill => pool.replace(worker, None).await.map(|()| of_worker),
        Fault::AbortAt(step) => {
            let after = random.random_range(0..5);
            pool.replace(worker, Some(&format!("{step:?}:{after}"))).await?;
            Ok(of_worker)
        }
        Fault::Freeze => {
            pool.suspend(worker);
            tokio::time::sleep(FREEZE).await;
            pool.resume(worker);
            Ok(of_worker)
        }
        Fault::Terminate => {
            pool.terminate(worker);
            Ok(of_worker)
        }
        Fault::Break(how) => {
            servers.proxies[node].break_all(how);
            Ok(of_node)
        }
        Fault::Mode(mode) => {
            servers.proxies[node].set(mode);
            tokio::time::sleep(if mode == Mode::BlackHole { BLACK_HOLE } else { THROTTLE }).await;
            servers.proxies[node].set(Mode::Pass);
            Ok(of_node)
        }
        Fault::Crash { leader: true } => {
            let stream = streams::ALL.choose(random).unwrap_or(&streams::ALL[0]);
            let leader = servers.leader(jetstream, stream).await;
            servers.crash(leader, DOWN).await?;
            Ok(format!("server n{leader}, leader of {stream}"))
        }
        Fault::Crash { leader: false } => servers.crash(node, DOWN).await.map(|()| of_node),
        Fault::Restart => servers.restart(node).await.map(|()| of_node),
        Fault::Roll { all } => {
            let nodes = if all { 0..servers.size() } else { node..node + 1 };
            for node in nodes {
                if !servers.roll(node, jetstream).await? {
                    bail!("workers did not leave the server n{node}, which was in lame duck mode");
                }
            }
            Ok(of_node)
        }
        Fault::BreakRoutes(how) => {
            servers.routes.iter().for_each(|routes| routes.break_all(node, how));
            Ok(of_node)
        }
        Fault::Isolate => {
            if let Some(routes) = &servers.routes {
                routes.set(node, Mode::BlackHole);
                tokio::time::sleep(BLACK_HOLE).await;
                routes.set(node, Mode::Pass);
            }
            Ok(of_node)
        }
        Fault::CrashStore => {
            store.kill();
            tokio::time::sleep(DOWN).await;
            store.restart().await?;
            Ok(String::new())
        }
        Fault::RestartWorkers => workers::restart_many_times(pool, s3, random).await,
        Fault::SkewClock => workers::skew_clock(pool, worker, random).await,
        Fault::FillStream => stream::fill(jetstream, pool, random).await,
        Fault::ExhaustStorage => server::exhaust_storage(servers, jetstream, pool, random).await,
        Fault::RecreateConsumer => stream::recreate_consumer(jetstream, s3, random).await,
        Fault::ChangeConsumer => stream::change_consumer(jetstream, s3, random).await,
        Fault::Poison(_) => {
            let jobs = poisoned.pop_front().unwrap_or_default();
            for job in &jobs {
                publish_until_accepted(jetstream, job, false).await?;
            }
            let ids: Vec<&str> = jobs.iter().map(|job| job.id.as_str()).collect();
            Ok(ids.join(" "))
        }
    }
}
