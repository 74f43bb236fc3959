//! Raises the limit of open files to what the worker needs. Without free file descriptors, reads from the store would
//! fail although no job is at fault.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::health_server::CONNECTIONS;

/// Descriptors for one read: its connection, and one that is being opened to replace it.
const PER_READ: u64 = 2;
/// Descriptors for everything else that is opened later: NATS, DNS, files.
const OTHERS: u64 = 64;
/// The number of open descriptors if the system does not report it.
const ASSUMED_OPEN: u64 = 64;

/// The process may not open enough files.
#[derive(Debug, thiserror::Error)]
#[error(
    "{slots} slots need {needed} open files, including slow reads and retries, but this process may have {limit} at most: raise the hard limit (`ulimit -Hn`, LimitNOFILE of systemd, --ulimit nofile of a container) or lower {}",
    if *possible == 0 { "worker.max_slow_reads".to_owned() } else { format!("worker.slots to {possible}") }
)]
pub struct TooFewDescriptors {
    slots: usize,
    needed: u64,
    limit: u64,
    possible: usize,
}

/// Raises the soft limit of open files to what `slots` need. `reads` returns the maximum number of concurrent reads for
/// a number of slots.
///
/// # Errors
/// [`TooFewDescriptors`] if the hard limit is too low.
pub(crate) fn raise_limit(slots: usize, reads: impl Fn(usize) -> usize) -> Result<(), TooFewDescriptors> {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let others = open_now().saturating_add(OTHERS).saturating_add(CONNECTIONS as u64);
    let needed_by = |slots: usize| (reads(slots) as u64).saturating_mul(PER_READ).saturating_add(others);
    let needed = needed_by(slots);
    if current.is_none_or(|current| current >= needed) {
        return Ok(());
    }
    let too_few = |limit: u64| {
        let possible = (1..slots).rev().find(|slots| needed_by(*slots) <= limit).unwrap_or(0);
        TooFewDescriptors { slots, needed, limit, possible }
    };
    if let Some(limit) = maximum.filter(|limit| *limit < needed) {
        return Err(too_few(limit));
    }
    match setrlimit(Resource::Nofile, Rlimit { current: Some(needed), maximum }) {
        Ok(()) => {
            tracing::info!(before = current, now = needed, "raised the limit of open files for reads from the store");
            Ok(())
        }
        Err(error) => {
            tracing::debug!(%error, "the limit of open files could not be raised");
            Err(too_few(current.unwrap_or(0)))
        }
    }
}

fn open_now() -> u64 {
    std::fs::read_dir("/proc/self/fd").map_or(ASSUMED_OPEN, |open| open.count() as u64)
}
