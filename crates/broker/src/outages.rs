//! What is worth a log line while the connection to NATS is down: the client tries again many times a minute.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Maximum number of different causes that are logged in one outage.
const MAX_CAUSES: usize = 5;

/// Whether the connection is down, and what was logged about it. Clones share it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Outages(Arc<Mutex<Option<Outage>>>);

#[derive(Debug)]
struct Outage {
    since: Instant,
    /// The kind of the last attempt's error.
    failed: Option<String>,
    logged: BTreeSet<String>,
}

impl Outages {
    /// The connection is lost.
    pub(crate) fn begin(&self) {
        self.locked().get_or_insert_with(|| Outage { since: Instant::now(), failed: None, logged: BTreeSet::new() });
    }

    /// An attempt to connect has failed with an error of this kind. Returns whether that belongs to an outage.
    pub(crate) fn attempt_failed(&self, kind: &str) -> bool {
        let mut outage = self.locked();
        let Some(outage) = outage.as_mut() else { return false };
        outage.failed = Some(kind.to_owned());
        true
    }

    /// Why the connection cannot be made, if an attempt has failed for this cause the first time in this outage.
    /// `servers`: the addresses with their last errors.
    pub(crate) fn new_cause(&self, servers: &[(String, Option<String>)]) -> Option<String> {
        let mut outage = self.locked();
        let outage = outage.as_mut()?;
        let failed = outage.failed.as_ref()?;
        let mut causes: Vec<String> = servers
            .iter()
            .filter_map(|(address, error)| error.as_ref().map(|error| format!("{address}: {error}")))
            .collect();
        if causes.is_empty() {
            // The client keeps no error of a name that cannot be resolved.
            causes.extend(servers.iter().map(|(address, _)| format!("{address}: {failed}")));
        }
        causes.sort();
        let cause = causes.join("; ");
        let is_news = outage.logged.len() < MAX_CAUSES && outage.logged.insert(cause.clone());
        is_news.then_some(cause)
    }

    /// The connection is made. Returns how long it was down; `None` for the first one.
    pub(crate) fn end(&self) -> Option<Duration> {
        self.locked().take().map(|outage| outage.since.elapsed())
    }

    /// Every change is complete, so a poisoned lock is safe to use.
    fn locked(&self) -> MutexGuard<'_, Option<Outage>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server(error: Option<&str>) -> [(String, Option<String>); 1] {
        [("nats:4222".to_owned(), error.map(str::to_owned))]
    }

    #[test]
    fn each_cause_of_an_outage_is_logged_once_with_its_address() {
        let outages = Outages::default();
        assert_eq!(outages.end(), None, "the first connection ends no outage");
        assert_eq!(outages.new_cause(&server(Some("refused"))), None, "there is no outage");
        assert!(!outages.attempt_failed("IO error"));
        outages.begin();
        assert_eq!(outages.new_cause(&server(Some("refused"))), None, "the error is from before the outage");
        for _ in 0..20 {
            assert!(outages.attempt_failed("IO error"));
            let first = outages.new_cause(&server(Some("refused")));
            assert!(first.is_none_or(|cause| cause == "nats:4222: refused"));
        }
        assert_eq!(outages.new_cause(&server(Some("refused"))), None);
        assert_eq!(outages.new_cause(&server(None)).unwrap(), "nats:4222: IO error");
        assert!(outages.end().is_some() && outages.end().is_none());
        outages.begin();
        assert!(outages.attempt_failed("IO error"));
        assert!(outages.new_cause(&server(Some("refused"))).is_some(), "another outage");
    }

    #[test]
    fn causes_that_keep_changing_end_up_in_silence() {
        let outages = Outages::default();
        outages.begin();
        outages.attempt_failed("IO error");
        let logged = (0..100).filter(|number| outages.new_cause(&server(Some(&format!("{number}")))).is_some());
        assert_eq!(logged.count(), MAX_CAUSES);
    }
}
