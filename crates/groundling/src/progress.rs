//! The progress of commands that take long, on standard error.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use tokio::time::{Instant, Interval, interval, interval_at};

use crate::stderr;

/// How often the progress is drawn on a terminal.
const REDRAW: Duration = Duration::from_millis(200);

/// The state of a bar.
pub(crate) struct BarState {
    /// What is done, of `length`.
    pub(crate) position: u64,
    pub(crate) length: u64,
    pub(crate) line: String,
    /// Whether the line says something new. Without a terminal, other lines are not written.
    pub(crate) is_new: bool,
}

/// Does the work and shows what `say` says on a terminal.
pub(crate) async fn watched<T>(work: impl Future<Output = T>, say: impl Fn() -> String) -> T {
    let bar = new_bar("{spinner} {wide_msg}");
    let done = until_done(work, interval(REDRAW), || {
        bar.set_message(say());
        bar.tick();
    });
    let result = done.await;
    bar.finish_and_clear();
    result
}

/// Does the work and shows its state: as a bar on a terminal, otherwise as lines in this interval.
pub(crate) async fn watched_with_bar<T>(
    work: impl Future<Output = T>,
    line_interval: Duration,
    mut state: impl FnMut() -> BarState,
) -> T {
    let bar = new_bar("{spinner} [{bar:20}] {wide_msg}");
    let period = if bar.is_hidden() { line_interval } else { REDRAW };
    let done = until_done(work, interval_at(Instant::now() + period, period), || {
        let BarState { position, length, line, is_new } = state();
        if !bar.is_hidden() {
            bar.set_length(length);
            bar.set_position(position);
            bar.set_message(line);
            bar.tick();
        } else if is_new {
            stderr::message!("{line}");
        }
    });
    let result = done.await;
    bar.finish_and_clear();
    result
}

fn new_bar(template: &str) -> ProgressBar {
    let bar = ProgressBar::new(0);
    match ProgressStyle::with_template(template) {
        Ok(style) => bar.with_style(style.progress_chars("=> ")),
        Err(_) => bar,
    }
}

async fn until_done<T>(work: impl Future<Output = T>, mut ticks: Interval, mut show: impl FnMut()) -> T {
    let mut work = std::pin::pin!(work);
    loop {
        tokio::select! {
            result = &mut work => return result,
            _ = ticks.tick() => show(),
        }
    }
}
