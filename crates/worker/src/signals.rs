//! SIGTERM and SIGINT: the first ends the work in order, the second ends the process.

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// A token that the first SIGTERM or SIGINT cancels. A second one ends the process at once, with 128 and the signal's
/// number: jobs in hand then come back after `ack_wait`. For a program, not for a library within one.
///
/// # Errors
/// When the system refuses to tell of signals.
pub fn shutdown_by_signals() -> std::io::Result<CancellationToken> {
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let token = CancellationToken::new();
    let cancel = token.clone();
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => tracing::info!("SIGTERM: finishing what is in hand; a second one leaves at once"),
            _ = interrupt.recv() => tracing::info!("SIGINT: finishing what is in hand; a second one leaves at once"),
        }
        cancel.cancel();
        let kind = tokio::select! {
            _ = terminate.recv() => SignalKind::terminate(),
            _ = interrupt.recv() => SignalKind::interrupt(),
        };
        tracing::warn!("second signal: leaving at once; jobs in hand come back after ack_wait");
        leave(kind);
    });
    Ok(token)
}

#[expect(clippy::disallowed_methods, reason = "whoever asks twice does not want to wait for what is dropped in order")]
fn leave(kind: SignalKind) -> ! {
    std::process::exit(128 + kind.as_raw_value())
}
