//! Counts pictures and shows how far the work is.

use std::collections::BTreeMap;
use std::fmt::Arguments;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use tokio::time::Instant;

use crate::sources::skipped::Reason;
use crate::stderr::{self, escape_control};

/// What was found, by outcome.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Counts {
    /// Annotated.
    pub(super) done: usize,
    /// Pictures, directories and prefixes that failed.
    pub(super) failed: usize,
    /// What was left out.
    pub(super) skipped: BTreeMap<Reason, usize>,
    /// Pictures that had not ended when the run was interrupted.
    pub(super) left: usize,
}

impl Counts {
    pub(super) fn skip(&mut self, reason: Reason, count: usize) {
        *self.skipped.entry(reason).or_default() += count;
    }

    /// The numbers in a sentence; the first is the sum of the others. Numbers other than the first two are left out if they
    /// are 0.
    fn summary(&self, elapsed: Duration) -> String {
        let skipped: usize = self.skipped.values().sum();
        let mut summary = format!("{} found: {} done", self.done + self.failed + skipped + self.left, self.done);
        if self.failed > 0 {
            summary += &format!(", {} failed", self.failed);
        }
        let reasons: Vec<_> = self.skipped.iter().filter(|(_, count)| **count > 0).collect();
        match reasons[..] {
            [] => {}
            [(reason, count)] => summary += &format!(", {count} skipped ({})", reason.words(*count)),
            _ => {
                let reason = |(reason, count): &(&Reason, &usize)| format!("{count} {}", reason.words(**count));
                let reasons: Vec<_> = reasons.iter().map(reason).collect();
                summary += &format!(", {skipped} skipped ({})", reasons.join(", "));
            }
        }
        if self.left > 0 {
            summary += &format!(", {} left", self.left);
        }
        format!("{summary}, {}", time(elapsed))
    }
}

/// Shows a bar on a terminal, and otherwise a line from time to time.
pub(super) struct Progress {
    bar: ProgressBar,
    counts: Counts,
    total: usize,
    /// The time between lines. Zero for no lines.
    interval: Duration,
    last_line: Instant,
    /// When the first picture could begin.
    started: Instant,
}

impl Progress {
    /// For `total` pictures and places that failed. What searches left out does not count.
    pub(super) fn new(total: usize, interval: Duration) -> Self {
        let bar = ProgressBar::new(total as u64);
        if let Ok(style) = ProgressStyle::with_template("{bar:30} {pos}/{len} {per_sec} eta {eta} {wide_msg}") {
            bar.set_style(style);
        }
        let now = Instant::now();
        Self { bar, counts: Counts::default(), total, interval, last_line: now, started: now }
    }

    pub(super) fn counts(&mut self) -> &mut Counts {
        &mut self.counts
    }

    /// The number of pictures that have not ended.
    pub(super) fn left(&self) -> usize {
        let ended = usize::try_from(self.bar.position()).unwrap_or(self.total);
        self.total.saturating_sub(ended)
    }

    /// Counts a picture that has ended.
    pub(super) fn count(&mut self, add: impl FnOnce(&mut Counts)) {
        let failed = self.counts.failed;
        add(&mut self.counts);
        if self.counts.failed > failed {
            self.bar.set_message(format!("{} failed", self.counts.failed));
        }
        self.bar.inc(1);
    }

    /// Prints a message, above the bar if one is shown.
    pub(super) fn message(&self, message: &str) {
        if self.bar.is_hidden() {
            stderr::message!("groundling: {message}");
        } else {
            self.bar.println(escape_control(&format!("groundling: {message}")));
        }
    }

    /// Prints results without the bar in between.
    pub(super) fn print<T>(&self, print: impl FnOnce() -> T) -> T {
        self.bar.suspend(print)
    }

    /// Returns when the next line is due.
    pub(super) async fn line_due(&self) {
        if self.interval.is_zero() || !self.bar.is_hidden() {
            std::future::pending::<()>().await;
        }
        tokio::time::sleep_until(self.last_line + self.interval).await;
    }

    /// The line of progress.
    pub(super) fn line(&mut self) -> String {
        self.last_line = Instant::now();
        let Counts { done, failed, .. } = self.counts;
        let present = self.counts.skipped.get(&Reason::AlreadyDone).copied().unwrap_or(0);
        let ended = self.total - self.left();
        let rate = (done + failed) as f64 / self.started.elapsed().as_secs_f64().max(1e-3);
        let mut line = format!("{ended} of {} pictures, {failed} failed", self.total);
        if present > 0 {
            line += &format!(", {present} already done");
        }
        line += &format!(", {rate:.1} pictures/s");
        if rate > 0.0 {
            let left = Duration::from_secs_f64(self.left() as f64 / rate);
            line += &format!(", about {} left", time(left));
        }
        line
    }

    /// Removes the bar and returns the summary.
    pub(super) fn finish(&self, elapsed: Duration) -> String {
        self.bar.finish_and_clear();
        self.counts.summary(elapsed)
    }
}

/// Writes a summary or a line of progress.
pub(super) fn write(text: Arguments<'_>) {
    stderr::message!("groundling: {text}");
}

/// A time for people: `0.4 s`, `23 s`, `5 min 12 s`, `2 h 5 min`.
pub(super) fn time(time: Duration) -> String {
    let seconds = time.as_secs();
    match seconds {
        0..10 => format!("{:.1} s", time.as_secs_f64()),
        10..120 => format!("{seconds} s"),
        120..7200 => format!("{} min {} s", seconds / 60, seconds % 60),
        _ => format!("{} h {} min", seconds / 3600, seconds % 3600 / 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_summary_has_every_number_that_is_not_zero_and_their_sum() {
        let mut counts = Counts { done: 1001, failed: 3, ..Counts::default() };
        counts.skip(Reason::NotAPicture, 2);
        let summary = counts.summary(Duration::from_millis(23_400));
        assert_eq!(summary, "1006 found: 1001 done, 3 failed, 2 skipped (not pictures), 23 s");
        counts = Counts { left: 1, ..Counts::default() };
        counts.skip(Reason::AlreadyDone, 7);
        counts.skip(Reason::Hidden, 2);
        counts.skip(Reason::Hidden, 1);
        assert_eq!(
            counts.summary(Duration::from_millis(440)),
            "11 found: 0 done, 10 skipped (3 hidden, 7 already done), 1 left, 0.4 s"
        );
    }

    #[test]
    fn times_have_the_units_that_matter() {
        let texts = [9.96, 10.0, 119.0, 312.0, 7500.0].map(|seconds| time(Duration::from_secs_f64(seconds)));
        assert_eq!(texts, ["10.0 s", "10 s", "119 s", "5 min 12 s", "2 h 5 min"]);
    }

    #[tokio::test]
    async fn a_line_is_due_after_each_interval_and_tells_rate_and_remaining_time() {
        let interval = Duration::from_millis(50);
        let mut progress = Progress::new(100, interval);
        let start = Instant::now();
        for number in 0..25 {
            progress.count(|counts| if number == 0 { counts.failed += 1 } else { counts.done += 1 });
        }
        for times in 1..=2 {
            progress.line_due().await;
            assert!(start.elapsed() >= interval * times);
            let line = progress.line();
            assert!(
                line.starts_with("25 of 100 pictures, 1 failed, ") && line.contains(" pictures/s, about "),
                "{line}"
            );
        }
    }
}
