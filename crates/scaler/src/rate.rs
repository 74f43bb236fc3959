//! The jobs per second of a worker, from how many jobs end while there is more work than workers.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// The weight of a new measurement. With one every ten seconds, a change shows within a minute.
const WEIGHT: f64 = 0.3;

/// The state of a pool at a moment.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Sample {
    pub(crate) at: Instant,
    /// Outcomes so far.
    pub(crate) ended: u64,
    /// Jobs that no worker has.
    pub(crate) waiting: u64,
}

/// How many jobs ended in a time during which jobs were always waiting.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Busy {
    pub(crate) time: Duration,
    pub(crate) ended: u64,
}

/// Measures the rate of a worker.
#[derive(Debug)]
pub(crate) struct Meter {
    samples: VecDeque<Sample>,
    /// The longest and the shortest time of a measurement.
    longest: Duration,
    shortest: Duration,
    rate: Option<f64>,
}

impl Meter {
    pub(crate) fn new(shortest: Duration, longest: Duration) -> Self {
        Self { samples: VecDeque::new(), longest, shortest, rate: None }
    }

    /// Jobs per second of a worker; `None` until they are measured.
    pub(crate) fn rate(&self) -> Option<f64> {
        self.rate
    }

    /// Adds a sample. Returns the busy time that ends with it, if it is long enough. Workers that wait for jobs tell nothing
    /// about their rate, and a count that falls is of another stream.
    pub(crate) fn add(&mut self, sample: Sample) -> Option<Busy> {
        if self.samples.back().is_some_and(|last| sample.ended < last.ended) {
            self.samples.clear();
        }
        if sample.waiting == 0 {
            self.samples.clear();
            return None;
        }
        self.samples.push_back(sample);
        while self.samples.front().is_some_and(|first| sample.at - first.at > self.longest) {
            self.samples.pop_front();
        }
        let first = self.samples.front()?;
        let busy = Busy { time: sample.at - first.at, ended: sample.ended - first.ended };
        (busy.time >= self.shortest).then_some(busy)
    }

    /// Forgets the samples, for a time that was not observed.
    pub(crate) fn interrupt(&mut self) {
        self.samples.clear();
    }

    /// Takes a busy time of this many workers into account.
    pub(crate) fn measured(&mut self, busy: Busy, workers: u64) {
        if workers == 0 || busy.ended == 0 {
            return;
        }
        let new = busy.ended as f64 / busy.time.as_secs_f64() / workers as f64;
        self.rate = Some(self.rate.map_or(new, |old| old + WEIGHT * (new - old)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn meter() -> Meter {
        Meter::new(Duration::from_secs(30), Duration::from_secs(60))
    }

    /// Adds samples at these seconds, with these counts.
    fn add(meter: &mut Meter, samples: &[(u64, u64, u64)]) -> Option<Busy> {
        let start = Instant::now();
        let sample = |&(second, ended, waiting)| Sample { at: start + Duration::from_secs(second), ended, waiting };
        samples.iter().map(sample).map(|sample| meter.add(sample)).last().flatten()
    }

    #[test]
    fn only_time_with_waiting_jobs_counts() {
        assert_eq!(add(&mut meter(), &[(0, 100, 5), (20, 300, 5)]), None);
        let busy = Busy { time: Duration::from_secs(30), ended: 400 };
        assert_eq!(add(&mut meter(), &[(0, 100, 5), (20, 300, 5), (30, 500, 5)]), Some(busy));
        assert_eq!(add(&mut meter(), &[(0, 100, 5), (20, 300, 0), (30, 500, 5), (50, 600, 5)]), None);
        // A stream that was deleted counts from the start again.
        assert_eq!(add(&mut meter(), &[(0, 100, 5), (40, 50, 5)]), None);
        // The time moves along.
        let moved = Busy { time: Duration::from_secs(60), ended: 600 };
        assert_eq!(add(&mut meter(), &[(0, 0, 5), (40, 400, 5), (100, 1000, 5)]), Some(moved));
    }

    #[test]
    fn the_rate_is_that_of_one_worker_and_follows_changes() {
        let mut meter = meter();
        let busy = |ended| Busy { time: Duration::from_secs(50), ended };
        meter.measured(busy(4000), 4);
        assert_eq!(meter.rate(), Some(20.0));
        meter.measured(busy(0), 4);
        meter.measured(busy(1000), 0);
        assert_eq!(meter.rate(), Some(20.0), "without jobs or workers there is nothing to measure");
        meter.measured(busy(2000), 4);
        assert_eq!(meter.rate(), Some(17.0));
    }
}
