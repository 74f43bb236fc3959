//! File descriptors: each read may have a connection to the store, and a worker that has none left fails jobs that are
//! not at fault.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::health_server::CONNECTIONS;

/// For one read: a connection that is in use, and one that is being made in its place.
const FOR_A_READ: u64 = 2;
/// For everything else that is opened later: NATS, names that are looked up, files.
const OTHERS: u64 = 64;
/// Taken for open where the system does not say.
const USUALLY_OPEN: u64 = 64;

/// This process may not open enough files.
#[derive(Debug, thiserror::Error)]
#[error(
    "{slots} slots need {needed} open files, slow reads and retries included, and this process may have {limit} at most: raise the hard limit (`ulimit -Hn`, LimitNOFILE of systemd, --ulimit nofile of a container), or lower {}",
    if *possible == 0 { "worker.max_slow_reads".to_owned() } else { format!("worker.slots to {possible}") }
)]
pub struct TooFewDescriptors {
    slots: usize,
    needed: u64,
    limit: u64,
    possible: usize,
}

/// Raises the limit that holds for this process to what so many slots need, where the hard limit allows it. `reads` says
/// how many objects are read at once at most with a number of slots.
pub(crate) fn make_room(slots: usize, reads: impl Fn(usize) -> usize) -> Result<(), TooFewDescriptors> {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let others = open_now().saturating_add(OTHERS).saturating_add(CONNECTIONS as u64);
    let needed_by = |slots: usize| (reads(slots) as u64).saturating_mul(FOR_A_READ).saturating_add(others);
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
            tracing::info!(
                before = current,
                now = needed,
                "the limit of open files is raised to what reading from the store needs"
            );
            Ok(())
        }
        Err(error) => {
            tracing::debug!(%error, "the limit of open files is not to be raised");
            Err(too_few(current.unwrap_or(0)))
        }
    }
}

fn open_now() -> u64 {
    std::fs::read_dir("/proc/self/fd").map_or(USUALLY_OPEN, |open| open.count() as u64)
}
