//! Annotations per second, and the time that is left.

use broker::direct::{DirectReader, Start};
use futures::future::try_join_all;
use time::{Duration, OffsetDateTime};

use super::report::{Interval, Rates};
use crate::pool::PoolError;

/// The times over which rates are told: now, and over 1, 5 and 30 minutes.
const TIMES: [Duration; 4] = [Duration::seconds(10), Duration::minutes(1), Duration::minutes(5), Duration::minutes(30)];
/// The shortest time over which a rate is computed: before it has passed, all rates are unknown.
const SHORTEST: Duration = Duration::seconds(1);

/// The rates of a dataset whose first annotation has this time.
pub(super) async fn rates(
    annotations: &DirectReader,
    subject: &str,
    first: OffsetDateTime,
    now: OffsetDateTime,
) -> Result<Rates, PoolError> {
    let age = now - first;
    let counts = TIMES.map(|time| annotations.count(subject, Start::Time(now - time)));
    let counts = try_join_all(counts).await?;
    let rates: Vec<_> = TIMES.iter().zip(counts).map(|(time, count)| rate(count, *time, age)).collect();
    let of = |index: usize| rates.get(index).copied().flatten();
    Ok(Rates { now: of(0), one_minute: of(1), five_minutes: of(2), thirty_minutes: of(3) })
}

fn rate(count: u64, time: Duration, age: Duration) -> Option<f64> {
    let time = time.min(age);
    (time >= SHORTEST).then(|| count as f64 / time.as_seconds_f64())
}

/// The time until `remaining` jobs are done, at the fastest and the slowest of the rates over 1, 5 and 30 minutes.
/// `is_all` tells whether these are all jobs that there will be; otherwise there is no upper bound.
pub(super) fn time_left(remaining: u64, is_all: bool, rates: &Rates) -> Option<Interval> {
    if remaining == 0 && is_all {
        return Some(Interval { least: 0.0, most: Some(0.0) });
    }
    let known: Vec<f64> = [rates.one_minute, rates.five_minutes, rates.thirty_minutes].into_iter().flatten().collect();
    let fastest = known.iter().copied().fold(0.0, f64::max);
    let slowest = known.iter().copied().fold(f64::INFINITY, f64::min);
    if fastest <= 0.0 {
        return None;
    }
    let time = |rate: f64| remaining as f64 / rate;
    Some(Interval { least: time(fastest), most: (is_all && slowest > 0.0).then(|| time(slowest)) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_over_its_time_or_the_age_of_the_dataset() {
        let minute = Duration::minutes(1);
        assert_eq!(rate(120, minute, Duration::hours(1)), Some(2.0));
        assert_eq!(rate(120, minute, Duration::seconds(30)), Some(4.0));
        assert_eq!(rate(0, minute, Duration::hours(1)), Some(0.0));
        assert_eq!(rate(1, minute, Duration::milliseconds(10)), None);
    }

    #[test]
    fn the_time_left_is_between_the_fastest_and_the_slowest_rate() {
        let rates = |one, five, thirty| Rates {
            now: Some(1000.0),
            one_minute: one,
            five_minutes: five,
            thirty_minutes: thirty,
        };
        let steady = rates(Some(4.0), Some(5.0), Some(2.0));
        assert_eq!(time_left(100, true, &steady), Some(Interval { least: 20.0, most: Some(50.0) }));
        assert_eq!(time_left(100, false, &steady), Some(Interval { least: 20.0, most: None }));
        // Nothing was done in the last minute: nobody knows how long that lasts.
        let stopped = rates(Some(0.0), Some(5.0), Some(2.0));
        assert_eq!(time_left(100, true, &stopped), Some(Interval { least: 20.0, most: None }));
        assert_eq!(time_left(100, true, &rates(Some(0.0), Some(0.0), None)), None);
        assert_eq!(time_left(100, true, &Rates::default()), None);
        assert_eq!(time_left(0, true, &Rates::default()), Some(Interval { least: 0.0, most: Some(0.0) }));
        assert_eq!(time_left(0, false, &Rates::default()), None);
    }
}
