//! SIGTERM and SIGINT: the first shuts the worker down, the second exits at once.

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// A token that the first SIGTERM or SIGINT cancels. A second one calls `before_exit`, which must not take long, and
/// exits with 128 plus the signal's number: active jobs are then redelivered after `ack_wait`. Call it from a program,
/// not from a library.
///
/// # Errors
/// The signal handlers cannot be installed.
pub fn shutdown_by_signals(before_exit: impl FnOnce() + Send + 'static) -> std::io::Result<CancellationToken> {
    shutdown_with_messages(
        "taking no more jobs, finishing those at the model and releasing the others",
        "active jobs are redelivered after ack_wait",
        before_exit,
    )
}

/// Like [`shutdown_by_signals`], for a program that does `first` at the first signal, and for which `second` follows from an
/// immediate exit.
///
/// # Errors
/// The signal handlers cannot be installed.
pub fn shutdown_with_messages(
    first: &'static str,
    second: &'static str,
    before_exit: impl FnOnce() + Send + 'static,
) -> std::io::Result<CancellationToken> {
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let token = CancellationToken::new();
    let cancel = token.clone();
    tokio::spawn(async move {
        let signal = tokio::select! {
            _ = terminate.recv() => "SIGTERM",
            _ = interrupt.recv() => "SIGINT",
        };
        // Before the log line, because logging may block.
        cancel.cancel();
        tracing::info!("received {signal}: {first}; a second signal exits at once");
        let kind = tokio::select! {
            _ = terminate.recv() => SignalKind::terminate(),
            _ = interrupt.recv() => SignalKind::interrupt(),
        };
        tracing::warn!("received a second signal: exiting at once; {second}");
        before_exit();
        exit(kind);
    });
    Ok(token)
}

#[expect(clippy::disallowed_methods, reason = "a second signal requests an immediate exit")]
fn exit(kind: SignalKind) -> ! {
    std::process::exit(128 + kind.as_raw_value())
}
