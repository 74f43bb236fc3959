//! Progress of commands that read a stream.

use std::time::Duration;

use indicatif::ProgressBar;

/// How often the progress is drawn.
const REDRAW: Duration = Duration::from_millis(200);

/// Does the work and shows what `say` says on a terminal.
pub(crate) async fn watched<T>(work: impl Future<Output = T>, say: impl Fn() -> String) -> T {
    let bar = ProgressBar::new_spinner();
    let (mut work, mut ticks) = (std::pin::pin!(work), tokio::time::interval(REDRAW));
    let result = loop {
        tokio::select! {
            result = &mut work => break result,
            _ = ticks.tick() => {
                bar.set_message(say());
                bar.tick();
            }
        }
    };
    bar.finish_and_clear();
    result
}
