//! Logs once that the store does not answer, and once that it does again, however many requests fail.

use std::fmt::Display;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// The shortest time between two warnings: a store that throttles fails now and then.
const WARN_INTERVAL: Duration = Duration::from_secs(60);

/// Whether the store answers. Clones share it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Outage(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    /// Requests that are tried again until the store answers.
    waiting: usize,
    /// When the first of them failed.
    since: Option<Instant>,
    warned: Option<Instant>,
    /// Whether there was a warning about this outage.
    is_told: bool,
    /// The lines that were logged.
    lines: u64,
}

/// A request that is tried again until it is dropped.
#[derive(Debug)]
pub(crate) struct Waiting(Outage);

impl Outage {
    /// Whether requests fail at present.
    pub(crate) fn is_on(&self) -> bool {
        self.lock().waiting > 0
    }

    /// Counts a request that failed and is tried again.
    pub(crate) fn begin(&self, error: &impl Display) -> Waiting {
        let mut state = self.lock();
        state.waiting += 1;
        state.since.get_or_insert_with(Instant::now);
        state.warn(error);
        Waiting(self.clone())
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // The state is consistent after every operation.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn warn(&mut self, error: &impl Display) {
        if self.is_told || self.warned.is_some_and(|at| at.elapsed() < WARN_INTERVAL) {
            return;
        }
        (self.is_told, self.warned) = (true, Some(Instant::now()));
        self.lines += 1;
        tracing::warn!("the store does not answer, waiting for it: {error}");
    }
}

impl Waiting {
    /// The request has failed again.
    pub(crate) fn again(&self, error: &impl Display) {
        self.0.lock().warn(error);
    }

    /// The request has succeeded.
    pub(crate) fn over(self) {
        let mut state = self.0.lock();
        if state.waiting == 1 && state.is_told {
            state.is_told = false;
            state.lines += 1;
            let seconds = state.since.map_or(0.0, |since| since.elapsed().as_secs_f64());
            tracing::info!("the store answers again, after {seconds:.0} s");
        }
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.waiting = state.waiting.saturating_sub(1);
        if state.waiting == 0 {
            (state.since, state.is_told) = (None, false);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_outage_of_many_requests_has_one_line_at_its_start_and_one_at_its_end() {
        let outage = Outage::default();
        assert!(!outage.is_on());
        let waiting: Vec<_> = (0..16).map(|_| outage.begin(&"refused")).collect();
        for _ in 0..5 {
            waiting.iter().for_each(|request| request.again(&"refused"));
        }
        assert!(outage.is_on());
        assert_eq!(outage.lock().lines, 1);
        waiting.into_iter().for_each(Waiting::over);
        assert!(!outage.is_on());
        assert_eq!(outage.lock().lines, 2);
        // Soon afterwards, a request fails once more.
        outage.begin(&"busy").over();
        assert_eq!(outage.lock().lines, 2);
    }
}
