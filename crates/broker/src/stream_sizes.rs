//! How many bytes each stream may hold, and what `groundling setup` chooses where the settings leave it out.
//!
//! In NATS all streams of an account share its storage limit. If waiting jobs may use all of it, no outcome and no
//! annotation can be written, so no job leaves the queue and nothing is ever freed. A stream with `max_bytes` reserves
//! them against the account's limit when it is created, but a stream without a bound can still use what others have
//! reserved. So where the account has a limit, every stream that grows with jobs gets a bound, and their sum stays below
//! the limit. They all refuse what is too much and discard nothing.

use async_nats::jetstream::account::{Account, Limits};
use async_nats::jetstream::stream::{self, DiscardPolicy, Info};

use crate::api::{Broker, SetupError};
use crate::settings::StreamSettings;

/// Bound of the jobs stream in an account without a limit: some 5 million jobs that name an S3 object.
pub const JOBS_WITHOUT_LIMIT: u64 = 1 << 30;
/// Parts that the available storage is divided into. Those not given out are for advisories and streams of others.
const PARTS: u64 = 64;
/// A waiting job of 200 bytes becomes an annotation of 1 to 1.5 KB, and an outcome of that size for a minute.
const JOBS: u64 = 4;
const ANNOTATIONS: u64 = 31;
/// If all waiting jobs fail: each with its job and some 300 bytes more.
const FAILED: u64 = 12;
/// Whole outcomes of a minute and settled ones of a `duplicate_window`.
const OUTCOMES: u64 = 12;
const ATTEMPTS: u64 = 1;
/// Where the stream is full, jobs wait for their next attempt in the jobs stream.
const RETRIES: u64 = 2;

/// Bounds of the streams in bytes, by the name of the stream. `None` stands for no bound.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Sizes {
    jobs: Option<u64>,
    annotations: Option<u64>,
    failed: Option<u64>,
    outcomes: Option<u64>,
    attempts: Option<u64>,
    retries: Option<u64>,
}

impl Sizes {
    /// The bounds for an account with this much storage left for Groundling's streams; `None` where it has no limit.
    pub(crate) fn derive(settings: &StreamSettings, available: Option<u64>) -> Self {
        // Streams have as many copies as there are replicas, and an account's limit counts each.
        let share = |parts: u64| Some((available? / PARTS).saturating_mul(parts).max(1));
        Self {
            jobs: settings.jobs_max_bytes.or(share(JOBS)).or(Some(JOBS_WITHOUT_LIMIT)),
            annotations: settings.annotations_max_bytes.or(share(ANNOTATIONS)),
            failed: settings.failed_max_bytes.or(share(FAILED)),
            outcomes: settings.outcomes_max_bytes.or(share(OUTCOMES)),
            attempts: settings.attempts_max_bytes.or(share(ATTEMPTS)),
            retries: settings.retries_max_bytes.or(share(RETRIES)),
        }
    }

    /// What is set, and nothing derived.
    pub(crate) fn of_settings(settings: &StreamSettings) -> Self {
        Self {
            jobs: settings.jobs_max_bytes,
            annotations: settings.annotations_max_bytes,
            failed: settings.failed_max_bytes,
            outcomes: settings.outcomes_max_bytes,
            attempts: settings.attempts_max_bytes,
            retries: settings.retries_max_bytes,
        }
    }

    /// The bound of the stream of this name.
    pub(crate) fn of(&self, settings: &StreamSettings, stream: &str) -> Option<u64> {
        let sizes = [
            (&settings.jobs, self.jobs),
            (&settings.annotations, self.annotations),
            (&settings.failed, self.failed),
            (&settings.outcomes, self.outcomes),
            (&settings.attempts, self.attempts),
            (&settings.retries, self.retries),
        ];
        sizes.into_iter().find(|(name, _)| *name == stream).and_then(|(_, size)| size)
    }
}

/// What one of Groundling's streams takes of the account's storage, all copies together.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Taken {
    used: u64,
    reserved: u64,
}

impl From<&Info> for Taken {
    fn from(info: &Info) -> Self {
        let copies = u64::try_from(info.config.num_replicas).unwrap_or(1).max(1);
        let bound = u64::try_from(info.config.max_bytes).unwrap_or(0);
        Self { used: info.state.bytes.saturating_mul(copies), reserved: bound.saturating_mul(copies) }
    }
}

/// Bytes of one copy that the account has for Groundling's streams, those that exist (`own`) included. `None` where the
/// account has no limit.
pub(crate) fn available(account: &Account, replicas: usize, own: &[Taken]) -> Option<u64> {
    let own = own.iter().fold(Taken::default(), |sum, taken| Taken {
        used: sum.used.saturating_add(taken.used),
        reserved: sum.reserved.saturating_add(taken.reserved),
    });
    let replicas = u64::try_from(replicas).unwrap_or(1).max(1);
    // A tier's limit is for one copy, that of an account without tiers for all copies together.
    let (limits, used, reserved, copies_counted) = match account.tiers.get(&format!("R{replicas}")) {
        Some(tier) => (tier.limits, tier.storage / replicas, tier.reserved_storage, 1),
        None => (account.limits, account.storage, account.reserved_storage, replicas),
    };
    let limit = limit_of(&limits)?;
    let of_own = |bytes: u64| bytes / (replicas / copies_counted);
    // Of streams that are not Groundling's: what they use or have reserved.
    let foreign = used.saturating_sub(of_own(own.used)).max(reserved.saturating_sub(of_own(own.reserved)));
    Some(limit.saturating_sub(foreign) / copies_counted)
}

fn limit_of(limits: &Limits) -> Option<u64> {
    limits.max_storage.and_then(|limit| u64::try_from(limit).ok())
}

/// Storage of the account that streams are made in. It is asked about only if a bound is to be derived from it.
pub(crate) struct Storage<'a> {
    broker: &'a Broker,
    settings: &'a StreamSettings,
    /// What the streams that were found take.
    own: Vec<Taken>,
    available: Option<Option<u64>>,
}

impl<'a> Storage<'a> {
    /// Of these streams those that were found take `own`.
    pub(crate) fn new(broker: &'a Broker, settings: &'a StreamSettings, own: Vec<Taken>) -> Self {
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

    /// Gives a stream that is to be made its bound, which its storage is reserved by.
    pub(crate) async fn bound(&mut self, wanted: &mut stream::Config) -> Result<(), SetupError> {
        if wanted.max_bytes > 0 || wanted.name == self.settings.advisories {
            return Ok(());
        }
        let sizes = Sizes::derive(self.settings, self.available().await?);
        set_bound(wanted, sizes.of(self.settings, &wanted.name));
        Ok(())
    }

    /// What to say of jobs that may use up the account's storage while they wait.
    pub(crate) async fn unbounded_jobs(&mut self, found: &stream::Config) -> Result<Option<String>, SetupError> {
        if found.max_bytes > 0 || self.settings.jobs_max_bytes.is_some() {
            return Ok(None);
        }
        let bound = self
            .available()
            .await?
            .and_then(|left| Sizes::derive(self.settings, Some(left)).of(self.settings, &found.name));
        Ok(bound.map(|bound| {
            format!("stream {} has no max_bytes, and the account's storage is limited: jobs that wait can use up what finishing them needs; set its max_bytes, for example to {bound}", found.name)
        }))
    }
}

/// A stream with a bound refuses what is too much: nothing that a worker has written may be discarded.
pub(crate) fn set_bound(wanted: &mut stream::Config, bytes: Option<u64>) {
    if let Some(bytes) = bytes {
        wanted.max_bytes = i64::try_from(bytes).unwrap_or(i64::MAX);
        wanted.discard = DiscardPolicy::New;
    }
}

/// What is wrong with the bounds that are set.
pub(crate) fn size_problems(settings: &StreamSettings) -> Vec<String> {
    let sizes = [
        ("jobs", settings.jobs_max_bytes),
        ("annotations", settings.annotations_max_bytes),
        ("failed", settings.failed_max_bytes),
        ("outcomes", settings.outcomes_max_bytes),
        ("attempts", settings.attempts_max_bytes),
        ("retries", settings.retries_max_bytes),
    ];
    let wrong = sizes.into_iter().filter_map(|(stream, bytes)| {
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

    fn total(sizes: &Sizes) -> u64 {
        [sizes.jobs, sizes.annotations, sizes.failed, sizes.outcomes, sizes.attempts, sizes.retries]
            .into_iter()
            .flatten()
            .sum()
    }

    #[test]
    fn the_bounds_stay_below_the_limit_and_leave_room_for_what_becomes_of_all_waiting_jobs() {
        let sizes = Sizes::derive(&StreamSettings::default(), Some(GIB));
        assert!(total(&sizes) < GIB, "{sizes:?}");
        let waiting = sizes.jobs.unwrap() / 200;
        assert!(sizes.annotations.unwrap() / waiting >= 1500);
        assert!(sizes.failed.unwrap() / waiting >= 550);
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
            let sizes = Sizes::derive(&settings, available);
            assert_eq!((sizes.jobs, sizes.outcomes), (Some(7), Some(9)));
        }
        assert_eq!(Sizes::derive(&settings, Some(GIB)).of(&settings, &settings.outcomes), Some(9));
        assert_eq!(Sizes::derive(&settings, Some(GIB)).of(&settings, &settings.advisories), None);
    }

    #[test]
    fn without_a_limit_of_the_account_only_waiting_jobs_are_bounded() {
        let sizes = Sizes::derive(&StreamSettings::default(), None);
        assert_eq!(total(&sizes), JOBS_WITHOUT_LIMIT);
        assert_eq!(sizes.jobs, Some(JOBS_WITHOUT_LIMIT));
        let unlimited = Account::default();
        assert_eq!(available(&unlimited, 1, &[]), None);
    }

    #[test]
    fn what_others_use_or_have_reserved_is_not_available_and_copies_count() {
        let limits = Limits { max_storage: Some(6000), ..Default::default() };
        let account = Account { storage: 300, reserved_storage: 900, limits, ..Default::default() };
        assert_eq!(available(&account, 1, &[]), Some(5100));
        assert_eq!(available(&account, 3, &[]), Some(1700));
        let own = [Taken { used: 100, reserved: 500 }, Taken { used: 200, reserved: 0 }];
        assert_eq!(available(&account, 1, &own), Some(5600), "what Groundling's own streams take is available");
        let used = Account { storage: 1200, ..account.clone() };
        assert_eq!(available(&used, 1, &[]), Some(4800));
        let tier = async_nats::jetstream::account::Tier { storage: 600, limits, ..Default::default() };
        let tiered = Account { tiers: [("R3".to_owned(), tier)].into(), ..Account::default() };
        assert_eq!(available(&tiered, 3, &[]), Some(5800));
        assert_eq!(available(&tiered, 1, &[]), None);
    }
}
