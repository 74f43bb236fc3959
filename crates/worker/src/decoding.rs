//! Decoding of pictures: off the async threads, few at once, each with room for what its headers claim, within a time.
//!
//! A decoder that does not stop at the end of its time is left alone: the job goes on without it, while its thread
//! keeps its room and its place among the few until it is done. A panic ends with the picture that made it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use engine::panic_message;
use kosmos2::processor::image::{DecodeOptions, Header, ImageError, Picture, decode};
use tokio::sync::Semaphore;
use tokio::task::JoinError;

use crate::byte_budget::{ByteBudget, Taken};
use crate::faults::Fault;
use crate::settings::WorkerSettings;

/// The place where pictures are decoded.
pub(crate) struct Decoding {
    budget: ByteBudget,
    threads: Arc<Semaphore>,
    time: Duration,
    options: DecodeOptions,
}

impl Decoding {
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
            time: settings.decode_timeout,
            options,
        }
    }

    /// Decodes a picture and hands it to `finish`, on the same thread. `held` is given back when the thread is done,
    /// even if nobody waits for it any more.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        bytes: Bytes,
        held: Taken,
        finish: impl FnOnce(Bytes, Result<Picture, ImageError>) -> Result<T, Fault> + Send + 'static,
    ) -> Result<T, Fault> {
        // Fails only if the semaphore is closed, which nobody does.
        let thread = Arc::clone(&self.threads).acquire_owned().await.ok();
        let (file, options) = (bytes.clone(), self.options.clone());
        let header = tokio::task::spawn_blocking(move || Header::read(&file, &options)).await.map_err(panicked)?;
        // A picture that is refused by its headers needs none.
        let budget = self.budget.take(header.map_or(0, |header| header.memory)).await;
        let time = self.time;
        let options = DecodeOptions { deadline: Instant::now().checked_add(time), ..self.options.clone() };
        let decoded = tokio::task::spawn_blocking(move || {
            let _held = (held, budget, thread);
            match decode(&bytes, &options) {
                Err(ImageError::TimedOut) => Err(Fault::DecodingTimedOut(time)),
                decoded => finish(bytes, decoded),
            }
        });
        match tokio::time::timeout(time, decoded).await {
            Ok(Ok(finished)) => finished,
            Ok(Err(error)) => Err(panicked(error)),
            Err(_) => Err(Fault::DecodingTimedOut(time)),
        }
    }
}

fn panicked(error: JoinError) -> Fault {
    Fault::DecoderPanicked(match error.try_into_panic() {
        Ok(panic) => panic_message(panic.as_ref()),
        Err(error) => error.to_string(),
    })
}
