//! Decodes pictures on blocking threads: a limited number at once, within a memory budget and a time limit.
//!
//! If a decoder does not stop when its time is over, the job continues without it, while its thread keeps its memory
//! reservation and its permit until it is done. A panic affects only the picture that caused it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use engine::panic_message;
use kosmos2::processor::image::{DecodeOptions, Header, ImageError, Picture, decode};
use tokio::sync::Semaphore;
use tokio::task::JoinError;

use crate::byte_budget::{ByteBudget, Reservation};
use crate::faults::Fault;
use crate::settings::WorkerSettings;

/// Decodes pictures.
pub(crate) struct DecodePool {
    budget: ByteBudget,
    threads: Arc<Semaphore>,
    timeout: Duration,
    options: DecodeOptions,
}

impl DecodePool {
    pub(crate) fn new(settings: &WorkerSettings) -> Self {
        let options = DecodeOptions {
            apply_orientation: settings.apply_orientation,
            max_pixels: settings.max_picture_pixels,
            max_side: settings.max_picture_side,
            max_memory: settings.max_decode_bytes,
            deadline: None,
        };
        Self {
            budget: ByteBudget::new(settings.max_decode_bytes),
            threads: Arc::new(Semaphore::new(settings.decode_threads)),
            timeout: settings.decode_timeout,
            options,
        }
    }

    /// Decodes a picture and passes it to `finish` on the same thread. `held` is released when the thread is done, even
    /// if the caller no longer waits.
    ///
    /// # Errors
    /// The error of `finish`, [`Fault::DecodingTimedOut`] or [`Fault::DecoderPanicked`].
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        bytes: Bytes,
        held: Reservation,
        finish: impl FnOnce(Bytes, Result<Picture, ImageError>) -> Result<T, Fault> + Send + 'static,
    ) -> Result<T, Fault> {
        // The semaphore is never closed.
        let thread = Arc::clone(&self.threads).acquire_owned().await.ok();
        let (file, options) = (bytes.clone(), self.options.clone());
        let header = tokio::task::spawn_blocking(move || Header::read(&file, &options)).await.map_err(panicked)?;
        // A picture that its header rules out needs no memory.
        let memory = self.budget.reserve(header.map_or(0, |header| header.memory)).await;
        let timeout = self.timeout;
        let options = DecodeOptions { deadline: Instant::now().checked_add(timeout), ..self.options.clone() };
        let decoded = tokio::task::spawn_blocking(move || {
            let _held = (held, memory, thread);
            match decode(&bytes, &options) {
                Err(ImageError::TimedOut) => Err(Fault::DecodingTimedOut(timeout)),
                decoded => finish(bytes, decoded),
            }
        });
        match tokio::time::timeout(timeout, decoded).await {
            Ok(Ok(finished)) => finished,
            Ok(Err(error)) => Err(panicked(error)),
            Err(_) => Err(Fault::DecodingTimedOut(timeout)),
        }
    }
}

fn panicked(error: JoinError) -> Fault {
    Fault::DecoderPanicked(match error.try_into_panic() {
        Ok(panic) => panic_message(panic.as_ref()),
        Err(error) => error.to_string(),
    })
}
