//! Ctrl-C and SIGTERM: the first ends the work in order within a limited time, the second at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use super::progress::time;
use crate::stderr;

/// Whether a signal has arrived. Clones share it.
#[derive(Debug, Clone, Default)]
pub(super) struct Interrupt {
    token: CancellationToken,
    signal: Arc<AtomicU8>,
    /// How long the pictures that were started may take after a signal.
    limit: Duration,
}

impl Interrupt {
    /// Handles SIGINT and SIGTERM from now on. A second one exits the program. After the first, the pictures that were
    /// started have `limit` to end.
    ///
    /// # Errors
    /// The signal handlers cannot be installed.
    pub(super) fn listen(limit: Duration) -> std::io::Result<Self> {
        let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        let own = Self { limit, ..Self::default() };
        let shared = own.clone();
        tokio::spawn(async move {
            for is_second in [false, true] {
                let kind = tokio::select! {
                    _ = terminate.recv() => SignalKind::terminate(),
                    _ = interrupt.recv() => SignalKind::interrupt(),
                };
                if is_second {
                    stderr::finish(&[]);
                    exit(kind);
                }
                shared.signal.store(u8::try_from(kind.as_raw_value()).unwrap_or(0), Ordering::Relaxed);
                shared.token.cancel();
                stderr::message!(
                    "groundling: interrupted: finishing the pictures that were started, for at most {} (worker.shutdown_timeout); a second Ctrl-C exits at once",
                    time(limit)
                );
            }
        });
        Ok(own)
    }

    /// The number of the signal that arrived.
    pub(super) fn signal(&self) -> Option<u8> {
        self.token.is_cancelled().then(|| self.signal.load(Ordering::Relaxed))
    }

    /// Returns when a signal arrives.
    pub(super) async fn arrived(self) {
        self.token.cancelled().await;
    }

    /// Returns when the time after a signal is over.
    pub(super) async fn expired(self) {
        self.token.cancelled().await;
        tokio::time::sleep(self.limit).await;
    }

    /// Waits for the future; `None` if a signal arrives before.
    pub(super) async fn or<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        tokio::select! {
            biased;
            () = self.token.cancelled() => None,
            done = work => Some(done),
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "a second signal requests an immediate exit")]
fn exit(kind: SignalKind) -> ! {
    std::process::exit(128 + kind.as_raw_value())
}
