//! How far a download is.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// How far a download is. Cheap to clone; clones show the same download.
#[derive(Debug, Clone, Default)]
pub struct DownloadProgress(Arc<State>);

#[derive(Debug, Default)]
struct State {
    total: AtomicU64,
    done: AtomicU64,
    phase: Mutex<Phase>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Phase {
    #[default]
    Listing,
    Waiting,
    Downloading,
    Checking,
    Done,
}

impl DownloadProgress {
    /// Bytes of all files to download; 0 until they are known.
    pub fn total(&self) -> u64 {
        self.0.total.load(Ordering::Relaxed)
    }

    /// Bytes that are there, those of an earlier, interrupted download included.
    pub fn done(&self) -> u64 {
        self.0.done.load(Ordering::Relaxed)
    }

    /// Whether bytes are being downloaded.
    pub fn is_downloading(&self) -> bool {
        self.phase() == Phase::Downloading
    }

    pub(crate) fn set_phase(&self, phase: Phase) {
        *self.0.phase.lock().unwrap_or_else(PoisonError::into_inner) = phase;
    }

    fn phase(&self) -> Phase {
        *self.0.phase.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn set_total(&self, bytes: u64) {
        self.0.total.store(bytes, Ordering::Relaxed);
    }

    pub(crate) fn set_done(&self, bytes: u64) {
        self.0.done.store(bytes, Ordering::Relaxed);
    }
}

impl std::fmt::Display for DownloadProgress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.phase() {
            Phase::Listing => f.write_str("looking up the model at its source"),
            Phase::Waiting => f.write_str("waiting for another process that downloads the model"),
            Phase::Checking => f.write_str("checking the downloaded model"),
            Phase::Done => f.write_str("the model is downloaded"),
            Phase::Downloading => {
                let (done, total) = (self.done(), self.total().max(1));
                let percent = u128::from(done.min(total)) * 100 / u128::from(total);
                write!(f, "downloading model: {percent} % of {:.1} MB", total as f64 / 1e6)
            }
        }
    }
}
