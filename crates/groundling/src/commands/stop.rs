//! SIGTERM and Ctrl-C for commands that end by them.

use tokio::signal::unix::{SignalKind, signal};

/// Waits for SIGTERM or SIGINT, and gives its number. A second one exits at once.
pub(super) async fn stopped() -> u8 {
    let (Ok(mut terminate), Ok(mut interrupt)) = (signal(SignalKind::terminate()), signal(SignalKind::interrupt()))
    else {
        return std::future::pending().await;
    };
    let mut next = async move || {
        let kind = tokio::select! {
            _ = terminate.recv() => SignalKind::terminate(),
            _ = interrupt.recv() => SignalKind::interrupt(),
        };
        u8::try_from(kind.as_raw_value()).unwrap_or(0)
    };
    let first = next().await;
    tokio::spawn(async move {
        let second = next().await;
        kernels::process::exit_immediately(128 + second)
    });
    first
}
