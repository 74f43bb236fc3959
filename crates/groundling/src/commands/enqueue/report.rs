//! The output of `groundling enqueue`: progress on stderr, a summary on stdout.

use std::time::{Duration, Instant};

use archive::feed::{Counts, Progress, Snapshot, Summary};
use serde_json::json;

use crate::args::Format;
use crate::enqueue_args::EnqueueArgs;
use crate::progress::{BarState, watched_with_bar};
use crate::{stderr, stdout};

/// How often a line is written without a terminal.
const LINE_INTERVAL: Duration = Duration::from_secs(10);

/// Runs `work` and shows its progress: a bar on a terminal, otherwise lines.
pub(super) async fn with_progress<T>(work: impl Future<Output = T>, progress: &Progress) -> T {
    let mut rate = Rate::new();
    let state = || {
        let snapshot = progress.snapshot();
        BarState {
            position: snapshot.lanes_done as u64,
            length: snapshot.lanes as u64,
            line: rate.line(snapshot),
            is_new: true,
        }
    };
    watched_with_bar(work, LINE_INTERVAL, state).await
}

/// The current rate in jobs per second, and the estimated remaining time.
struct Rate {
    started: Instant,
    first: Option<Snapshot>,
    last: (Instant, u64),
    per_second: f64,
}

impl Rate {
    fn new() -> Self {
        let now = Instant::now();
        Self { started: now, first: None, last: (now, 0), per_second: 0.0 }
    }

    fn line(&mut self, now: Snapshot) -> String {
        if now.lanes == 0 {
            return "dividing the source into lanes".to_owned();
        }
        let first = *self.first.get_or_insert(now);
        let (at, jobs) = self.last;
        let seconds = at.elapsed().as_secs_f64();
        if seconds >= 1.0 {
            self.per_second = now.counts.jobs.saturating_sub(jobs.max(first.counts.jobs)) as f64 / seconds;
            self.last = (Instant::now(), now.counts.jobs);
        }
        let Snapshot { counts, lanes, lanes_done, lanes_waiting, is_paused, waits_for_store } = now;
        let mut line = format!(
            "{} objects read, {} jobs, {:.0} jobs/s, {lanes_done} of {lanes} lanes read",
            counts.seen, counts.jobs, self.per_second
        );
        if is_paused {
            line += ", paused (`groundling datasets resume` continues)";
        } else if waits_for_store {
            line += ", waiting for the store";
        } else if lanes_waiting > 0 {
            line += ", waiting for workers (--max-waiting)";
        } else if let Some(left) = self.remaining_seconds(first, now) {
            line += &format!(", about {} left", duration(left));
        }
        line
    }

    /// Estimated from the share of lanes that were read since the start.
    fn remaining_seconds(&self, first: Snapshot, now: Snapshot) -> Option<f64> {
        let done = now.lanes_done.checked_sub(first.lanes_done).filter(|done| *done > 0)?;
        let open = now.lanes.saturating_sub(now.lanes_done);
        Some(self.started.elapsed().as_secs_f64() * open as f64 / done as f64)
    }
}

/// Prints the result of a dry run. `rate` is the pool's rate in pictures per second, and `workers` the number of its
/// workers, if they are known.
pub(super) fn survey(
    args: &EnqueueArgs,
    prompts: &[String],
    counts: Counts,
    rate: Option<f64>,
    workers: Option<u64>,
) -> anyhow::Result<()> {
    let seconds = rate.map(|rate| counts.jobs as f64 / rate);
    let price = args.price_per_hour.zip(workers).map(|(price, workers)| price * workers as f64);
    let cost = seconds.zip(price).map(|(seconds, price)| seconds / 3600.0 * price);
    if args.format == Format::Json {
        return stdout::write_json(&json!({
            "dataset": args.dataset, "dry_run": true, "read": counts.seen, "jobs": counts.jobs,
            "bytes": counts.bytes, "prompts": prompts, "images_per_second": rate, "seconds": seconds,
            "workers": workers, "cost": cost,
        }));
    }
    let mut lines = format!(
        "dry run: {} of {} objects read would have a job in the dataset {}; their size is {}\n",
        counts.jobs,
        counts.seen,
        args.dataset,
        size(counts.bytes)
    );
    for prompt in prompts {
        lines += &format!("prompt: {}\n", stderr::escape_control(prompt));
    }
    if let (Some(seconds), Some(rate)) = (seconds, rate) {
        lines += &format!("time: {} at {rate:.1} images/s\n", duration(seconds));
    }
    if let Some(cost) = cost {
        lines += &format!("cost: {cost:.2} with {} workers\n", workers.unwrap_or_default());
    }
    Ok(stdout::write(format_args!("{lines}"))?)
}

/// Prints what was submitted.
pub(super) fn summary(args: &EnqueueArgs, summary: Summary) -> anyhow::Result<()> {
    let Summary { total, stored, lanes } = summary;
    if args.format == Format::Json {
        let counts = |counts: Counts| json!({"read": counts.seen, "jobs": counts.jobs, "bytes": counts.bytes});
        return stdout::write_json(&json!({
            "dataset": args.dataset, "complete": true, "lanes": lanes, "total": counts(total), "this_run": counts(stored),
        }));
    }
    // A manifest may not have the sizes.
    let size = if total.bytes > 0 { format!(", total size {}", size(total.bytes)) } else { String::new() };
    Ok(stdout::write_line(format_args!(
        "{}: all {} objects read, {} jobs stored ({} by this run){size}",
        args.dataset, total.seen, total.jobs, stored.jobs,
    ))?)
}

/// Formats a duration in its two largest units.
pub(crate) fn duration(seconds: f64) -> String {
    let seconds = seconds.ceil() as u64;
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds} s"),
        (0, 0, _) => format!("{minutes} min {} s", seconds % 60),
        (0, ..) => format!("{hours} h {minutes} min"),
        _ => format!("{days} d {hours} h"),
    }
}

pub(crate) fn size(bytes: u64) -> String {
    let mut size = bytes as f64;
    for unit in ["B", "kB", "MB", "GB", "TB"] {
        if size < 1000.0 {
            return format!("{size:.3} {unit}").replace(".000 B", " B");
        }
        size /= 1000.0;
    }
    format!("{size:.3} PB")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_and_sizes_are_written_in_their_largest_units() {
        let times = [0.2, 61.0, 7260.0, 200_000.0].map(duration);
        assert_eq!(times, ["1 s", "1 min 1 s", "2 h 1 min", "2 d 7 h"]);
        assert_eq!([12, 1_500_000].map(size), ["12 B", "1.500 MB"]);
    }
}
