//! SIGTERM and SIGINT: the first ends the work in order, the second ends the process.

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// A token that the first SIGTERM or SIGINT cancels. A second one calls `before_exit`, which must not take long, and
/// ends the process with 128 plus the signal's number: jobs in progress are then redelivered after `ack_wait`. For a
/// program, not for a library within one.
///
/// # Errors
/// The signal handlers cannot be installed.
pub fn shutdown_by_signals(before_exit: impl FnOnce() + Send + 'static) -> std::io::Result<CancellationToken> {
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let token = CancellationToken::new();
    let cancel = token.clone();
    tokio::spawn(async move {
        let signal = tokio::select! {
            _ = terminate.recv() => "SIGTERM",
            _ = interrupt.recv() => "SIGINT",
        };
        // Before anything is logged: nothing about logging may hold up the shutdown.
        cancel.cancel();
        tracing::info!("{signal}: finishing the jobs in progress; a second signal exits at once");
        let kind = tokio::select! {
            _ = terminate.recv() => SignalKind::terminate(),
            _ = interrupt.recv() => SignalKind::interrupt(),
        };
        tracing::warn!("second signal: exiting at once; jobs in progress are redelivered after ack_wait");
        before_exit();
        exit(kind);
    });
    Ok(token)
}

#[expect(clippy::disallowed_methods, reason = "a second signal asks for an exit that waits for nothing")]
fn exit(kind: SignalKind) -> ! {
    std::process::exit(128 + kind.as_raw_value())
}
