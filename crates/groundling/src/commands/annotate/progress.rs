//! Counts pictures and shows how far the work is.

use std::fmt::Arguments;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use tokio::time::Instant;

use crate::stderr::{self, escape_control};

/// The pictures so far, by outcome.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Counts {
    /// Annotated.
    pub(super) done: usize,
    pub(super) failed: usize,
    /// Skipped because `--out` has them.
    pub(super) present: usize,
    /// Skipped because they are not pictures.
    pub(super) not_pictures: usize,
    /// Arguments and directories that could not be read or contain no pictures.
    pub(super) problems: usize,
}

impl Counts {
    /// The numbers in a sentence. Numbers other than the first are left out if they are 0.
    fn summary(&self, elapsed: Duration) -> String {
        let arguments = match self.problems {
            1 => "argument or directory",
            _ => "arguments or directories",
        };
        let parts = [
            (self.failed, "failed".to_owned()),
            (self.present, "already done".to_owned()),
            (self.not_pictures, "skipped (not pictures)".to_owned()),
            (self.problems, format!("{arguments} skipped")),
        ];
        let mut summary = format!("{} done", self.done);
        for (count, what) in parts.into_iter().filter(|(count, _)| *count > 0) {
            summary += &format!(", {count} {what}");
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
    /// `total` pictures; `counts` has what is known before.
    pub(super) fn new(total: usize, counts: Counts, interval: Duration) -> Self {
        let bar = ProgressBar::new(total as u64);
        if let Ok(style) = ProgressStyle::with_template("{bar:30} {pos}/{len} {per_sec} eta {eta} {wide_msg}") {
            bar.set_style(style);
        }
        let now = Instant::now();
        Self { bar, counts, total, interval, last_line: now, started: now }
    }

    pub(super) fn counts(&self) -> Counts {
        self.counts
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
        let Counts { done, failed, present, .. } = self.counts;
        let ended = usize::try_from(self.bar.position()).unwrap_or(self.total);
        let rate = (done + failed) as f64 / self.started.elapsed().as_secs_f64().max(1e-3);
        let mut line = format!("{ended} of {} pictures, {failed} failed", self.total);
        if present > 0 {
            line += &format!(", {present} already done");
        }
        line += &format!(", {rate:.1} pictures/s");
        if rate > 0.0 {
            let left = Duration::from_secs_f64(self.total.saturating_sub(ended) as f64 / rate);
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
fn time(time: Duration) -> String {
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
    fn the_summary_has_every_number_that_is_not_zero() {
        let counts = Counts { done: 1001, failed: 3, not_pictures: 2, ..Counts::default() };
        let summary = counts.summary(Duration::from_millis(23_400));
        assert_eq!(summary, "1001 done, 3 failed, 2 skipped (not pictures), 23 s");
        let counts = Counts { present: 7, problems: 1, ..Counts::default() };
        assert_eq!(
            counts.summary(Duration::from_millis(440)),
            "0 done, 7 already done, 1 argument or directory skipped, 0.4 s"
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
        let mut progress = Progress::new(100, Counts::default(), interval);
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
