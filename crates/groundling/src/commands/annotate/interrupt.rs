//! Ctrl-C and SIGTERM: the first ends the work in order, the second at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::stderr;

/// Whether a signal has arrived. Clones share it.
#[derive(Debug, Clone, Default)]
pub(super) struct Interrupt {
    token: CancellationToken,
    signal: Arc<AtomicU8>,
}

impl Interrupt {
    /// Handles SIGINT and SIGTERM from now on. A second one exits the program.
    ///
    /// # Errors
    /// The signal handlers cannot be installed.
    pub(super) fn listen() -> std::io::Result<Self> {
        let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        let own = Self::default();
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
                    "groundling: interrupted: finishing the pictures that were started; a second Ctrl-C exits at once"
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
