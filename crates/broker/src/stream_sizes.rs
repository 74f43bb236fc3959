//! Bounds on the bytes of each stream, and the bounds that `groundling setup` chooses if the settings have none.
//!
//! All streams of a NATS account share its storage limit. If waiting jobs used all of it, no outcome and no annotation
//! could be written, so no job would leave the queue and no storage would be freed. A stream with `max_bytes` reserves
//! them in the account when it is created, but a stream without a bound can use what others have reserved. So if the
//! account has a limit, every stream that grows with jobs gets a bound, and their sum stays below the limit. A full
//! stream refuses messages and discards none.

use async_nats::jetstream::account::{Account, Limits};
use async_nats::jetstream::stream::{self, DiscardPolicy, Info};

use crate::api::{Broker, SetupError};
use crate::settings::StreamSettings;

/// Bound of the jobs stream in an account without a limit: about 5 million jobs that name an S3 object.
pub const JOBS_WITHOUT_LIMIT: u64 = 1 << 30;
/// Bound of the events stream in an account without a limit: about 700,000 events.
pub const EVENTS_WITHOUT_LIMIT: u64 = 1 << 30;
/// Parts that the available storage is divided into. The parts left over are for advisories and other streams.
const PARTS: u64 = 64;
/// A waiting job of 200 bytes leads to an annotation of 1 to 1.5 KB, and to an outcome of that size for about a minute.
const JOBS: u64 = 4;
const ANNOTATIONS: u64 = 31;
/// Enough for all waiting jobs to fail: a failure has its job and about 300 bytes more.
const FAILED: u64 = 12;
/// Full outcomes for about a minute, and settled ones for `duplicate_window`.
const OUTCOMES: u64 = 12;
const ATTEMPTS: u64 = 1;
/// While the stream is full, jobs wait for their next attempt in the jobs stream.
const RETRIES: u64 = 2;
/// Events wait only while the jobs stream is full or `groundling ingest` does not run.
const EVENTS: u64 = 1;

/// Bounds of the streams in bytes. `None` for no bound.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Bounds {
    jobs: Option<u64>,
    annotations: Option<u64>,
    failed: Option<u64>,
    outcomes: Option<u64>,
    attempts: Option<u64>,
    retries: Option<u64>,
    events: Option<u64>,
}

impl Bounds {
    /// The bounds in an account with this many bytes available for Groundling's streams; `None` for no limit.
    pub(crate) fn derive(settings: &StreamSettings, available: Option<u64>) -> Self {
        let share = |parts: u64| Some((available? / PARTS).saturating_mul(parts).max(1));
        Self {
            jobs: settings.jobs_max_bytes.or(share(JOBS)).or(Some(JOBS_WITHOUT_LIMIT)),
            annotations: settings.annotations_max_bytes.or(share(ANNOTATIONS)),
            failed: settings.failed_max_bytes.or(share(FAILED)),
            outcomes: settings.outcomes_max_bytes.or(share(OUTCOMES)),
            attempts: settings.attempts_max_bytes.or(share(ATTEMPTS)),
            retries: settings.retries_max_bytes.or(share(RETRIES)),
            events: settings.events_max_bytes.or(share(EVENTS)).or(Some(EVENTS_WITHOUT_LIMIT)),
        }
    }

    /// The bounds of the settings alone.
    pub(crate) fn from_settings(settings: &StreamSettings) -> Self {
        Self {
            jobs: settings.jobs_max_bytes,
            annotations: settings.annotations_max_bytes,
            failed: settings.failed_max_bytes,
            outcomes: settings.outcomes_max_bytes,
            attempts: settings.attempts_max_bytes,
            retries: settings.retries_max_bytes,
            events: settings.events_max_bytes,
        }
    }

    /// The bound of the stream with this name.
    pub(crate) fn of(&self, settings: &StreamSettings, stream: &str) -> Option<u64> {
        let bounds = [
            (&settings.jobs, self.jobs),
            (&settings.annotations, self.annotations),
            (&settings.failed, self.failed),
            (&settings.outcomes, self.outcomes),
            (&settings.attempts, self.attempts),
            (&settings.retries, self.retries),
            (&settings.events, self.events),
        ];
        bounds.into_iter().find(|(name, _)| *name == stream).and_then(|(_, size)| size)
    }
}

/// The storage that a stream uses and reserves in bytes, for all replicas together.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct StorageUse {
    used: u64,
    reserved: u64,
}

impl From<&Info> for StorageUse {
    fn from(info: &Info) -> Self {
        let replicas = u64::try_from(info.config.num_replicas).unwrap_or(1).max(1);
        let bound = u64::try_from(info.config.max_bytes).unwrap_or(0);
        Self { used: info.state.bytes.saturating_mul(replicas), reserved: bound.saturating_mul(replicas) }
    }
}

/// Bytes available for one replica of Groundling's streams, including what the existing ones (`own`) take. `None` if the
/// account has no limit.
pub(crate) fn available(account: &Account, replicas: usize, own: &[StorageUse]) -> Option<u64> {
    let own = own.iter().fold(StorageUse::default(), |sum, stream| StorageUse {
        used: sum.used.saturating_add(stream.used),
        reserved: sum.reserved.saturating_add(stream.reserved),
    });
    let replicas = u64::try_from(replicas).unwrap_or(1).max(1);
    // The limit of a tier is for one replica, that of an account without tiers for all replicas together.
    let (limits, used, reserved, copies_counted) = match account.tiers.get(&format!("R{replicas}")) {
        Some(tier) => (tier.limits, tier.storage / replicas, tier.reserved_storage, 1),
        None => (account.limits, account.storage, account.reserved_storage, replicas),
    };
    let limit = limit_of(&limits)?;
    let of_own = |bytes: u64| bytes / (replicas / copies_counted);
    // What other streams use or reserve.
    let foreign = used.saturating_sub(of_own(own.used)).max(reserved.saturating_sub(of_own(own.reserved)));
    Some(limit.saturating_sub(foreign) / copies_counted)
}

fn limit_of(limits: &Limits) -> Option<u64> {
    limits.max_storage.and_then(|limit| u64::try_from(limit).ok())
}

/// The account's storage. It is requested only if a bound is derived from it.
pub(crate) struct Storage<'a> {
    broker: &'a Broker,
    settings: &'a StreamSettings,
    /// The storage of the existing streams.
    own: Vec<StorageUse>,
    available: Option<Option<u64>>,
}

impl<'a> Storage<'a> {
    /// `own` is the storage of the existing streams.
    pub(crate) fn new(broker: &'a Broker, settings: &'a StreamSettings, own: Vec<StorageUse>) -> Self {
        Self { broker, settings, own, available: None }
    }

    async fn available(&mut self) -> Result<Option<u64>, SetupError> {
        if let Some(known) = self.available {
            return Ok(known);
        }
        let account = self.broker.account().await?;
        let found = available(&account, self.settings.replicas, &self.own);
        self.available = Some(found);
        Ok(found)
    }

    /// Sets the bound of a stream that is about to be created.
    pub(crate) async fn bound(&mut self, wanted: &mut stream::Config) -> Result<(), SetupError> {
        if wanted.max_bytes > 0 || wanted.name == self.settings.advisories {
            return Ok(());
        }
        let bounds = Bounds::derive(self.settings, self.available().await?);
        set_bound(wanted, bounds.of(self.settings, &wanted.name));
        Ok(())
    }

    /// A warning if waiting jobs can use up the account's storage.
    pub(crate) async fn unbounded_jobs(&mut self, found: &stream::Config) -> Result<Option<String>, SetupError> {
        if found.max_bytes > 0 || self.settings.jobs_max_bytes.is_some() {
            return Ok(None);
        }
        let bound = self
            .available()
            .await?
            .and_then(|left| Bounds::derive(self.settings, Some(left)).of(self.settings, &found.name));
        Ok(bound.map(|bound| {
            format!("stream {} has no max_bytes, and the account's storage is limited: waiting jobs can use up the storage that is needed to finish them; set its max_bytes, for example to {bound}", found.name)
        }))
    }
}

/// Sets the bound, and the discard policy New: no message of a worker may be discarded.
pub(crate) fn set_bound(wanted: &mut stream::Config, bytes: Option<u64>) {
    if let Some(bytes) = bytes {
        wanted.max_bytes = i64::try_from(bytes).unwrap_or(i64::MAX);
        wanted.discard = DiscardPolicy::New;
    }
}

/// Problems of the bounds in the settings.
pub(crate) fn size_problems(settings: &StreamSettings) -> Vec<String> {
    let bounds = [
        ("jobs", settings.jobs_max_bytes),
        ("annotations", settings.annotations_max_bytes),
        ("failed", settings.failed_max_bytes),
        ("outcomes", settings.outcomes_max_bytes),
        ("attempts", settings.attempts_max_bytes),
        ("retries", settings.retries_max_bytes),
        ("events", settings.events_max_bytes),
    ];
    let wrong = bounds.into_iter().filter_map(|(stream, bytes)| {
        let bytes = bytes.filter(|bytes| *bytes == 0 || i64::try_from(*bytes).is_err())?;
        Some(format!(
            "streams.{stream}_max_bytes is {bytes}, not in 1 to {}: give a number of bytes, or leave it out",
            i64::MAX
        ))
    });
    wrong.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;

    fn total(bounds: &Bounds) -> u64 {
        let Bounds { jobs, annotations, failed, outcomes, attempts, retries, events } = *bounds;
        [jobs, annotations, failed, outcomes, attempts, retries, events].into_iter().flatten().sum()
    }

    #[test]
    fn the_bounds_stay_below_the_limit_and_leave_room_for_what_becomes_of_all_waiting_jobs() {
        let bounds = Bounds::derive(&StreamSettings::default(), Some(GIB));
        assert!(total(&bounds) < GIB, "{bounds:?}");
        let waiting = bounds.jobs.unwrap() / 200;
        assert!(bounds.annotations.unwrap() / waiting >= 1500);
        assert!(bounds.failed.unwrap() / waiting >= 550);
    }

    #[test]
    fn a_bound_of_no_bytes_is_refused_by_name() {
        let fine = StreamSettings { jobs_max_bytes: Some(1), ..Default::default() };
        assert!(fine.problems().is_empty());
        for bytes in [0, u64::MAX] {
            let wrong = StreamSettings { outcomes_max_bytes: Some(bytes), ..Default::default() };
            let problems = wrong.problems().concat();
            assert!(problems.starts_with(&format!("streams.outcomes_max_bytes is {bytes}, ")), "{problems}");
        }
    }

    #[test]
    fn what_is_set_goes_before_what_is_derived() {
        let settings = StreamSettings { jobs_max_bytes: Some(7), outcomes_max_bytes: Some(9), ..Default::default() };
        for available in [Some(GIB), None] {
            let bounds = Bounds::derive(&settings, available);
            assert_eq!((bounds.jobs, bounds.outcomes), (Some(7), Some(9)));
        }
        assert_eq!(Bounds::derive(&settings, Some(GIB)).of(&settings, &settings.outcomes), Some(9));
        assert_eq!(Bounds::derive(&settings, Some(GIB)).of(&settings, &settings.advisories), None);
    }

    #[test]
    fn without_a_limit_of_the_account_only_waiting_jobs_and_events_are_bounded() {
        let bounds = Bounds::derive(&StreamSettings::default(), None);
        assert_eq!(total(&bounds), JOBS_WITHOUT_LIMIT + EVENTS_WITHOUT_LIMIT);
        assert_eq!(bounds.jobs, Some(JOBS_WITHOUT_LIMIT));
        let unlimited = Account::default();
        assert_eq!(available(&unlimited, 1, &[]), None);
    }

    #[test]
    fn what_others_use_or_have_reserved_is_not_available_and_copies_count() {
        let limits = Limits { max_storage: Some(6000), ..Default::default() };
        let account = Account { storage: 300, reserved_storage: 900, limits, ..Default::default() };
        assert_eq!(available(&account, 1, &[]), Some(5100));
        assert_eq!(available(&account, 3, &[]), Some(1700));
        let own = [StorageUse { used: 100, reserved: 500 }, StorageUse { used: 200, reserved: 0 }];
        assert_eq!(available(&account, 1, &own), Some(5600), "what Groundling's own streams take is available");
        let used = Account { storage: 1200, ..account.clone() };
        assert_eq!(available(&used, 1, &[]), Some(4800));
        let tier = async_nats::jetstream::account::Tier { storage: 600, limits, ..Default::default() };
        let tiered = Account { tiers: [("R3".to_owned(), tier)].into(), ..Account::default() };
        assert_eq!(available(&tiered, 3, &[]), Some(5800));
        assert_eq!(available(&tiered, 1, &[]), None);
    }
}
