//! The device's thread: one request after the other, its prompts together.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Instant;

use kosmos2::model::ModelError;
use kosmos2::processor::prompt::EncodedPrompt;
use kosmos2::{AnnotateError, Kosmos2};
use tokio::sync::mpsc;

use crate::{EngineError, Response, Timings, Work};

/// Serves requests until the queue is closed and empty.
pub(crate) fn run(model: &Kosmos2, mut queue: mpsc::Receiver<Work>, max_batch_rows: usize) {
    while let Some(work) = queue.blocking_recv() {
        // A panic must cost one request, not the worker. The model keeps no state between requests that could be left torn.
        let outcome = catch_unwind(AssertUnwindSafe(|| answer(model, &work, max_batch_rows)));
        let response = match outcome {
            Ok(Ok(None)) => continue,
            Ok(Ok(Some(response))) => Ok(response),
            Ok(Err(error)) => Err(EngineError::Model(error)),
            Err(panic) => Err(EngineError::Panicked(panic_message(panic.as_ref()))),
        };
        // The receiver may have gone in the meantime, which needs no answer.
        let _ = work.reply.send(response);
    }
    tracing::debug!("the device's thread ends: no engine handle is left");
}

/// `None` when nobody waits for the answer any more.
fn answer(model: &Kosmos2, work: &Work, max_batch_rows: usize) -> Result<Option<Response>, AnnotateError> {
    if work.reply.is_closed() {
        return Ok(None);
    }
    let mut timings = Timings { queued: work.submitted.elapsed(), ..Timings::default() };
    let start = Instant::now();
    let embeddings = model.model().image_embeddings(&[&work.pixels])?.squeeze(0).map_err(ModelError::from)?;
    timings.vision = start.elapsed();
    let mut texts = Vec::with_capacity(work.prompts.len());
    for prompts in work.prompts.chunks(max_batch_rows) {
        let start = Instant::now();
        let mut batch = model.start(&embeddings, prompts)?;
        timings.prefill += start.elapsed();
        let start = Instant::now();
        while batch.step()? {
            if work.reply.is_closed() {
                return Ok(None);
            }
        }
        let read = |((prompt, _), tokens): (&(EncodedPrompt, _), _)| model.read(prompt, tokens);
        texts.extend(prompts.iter().zip(batch.finish()).map(read));
        timings.decode += start.elapsed();
    }
    Ok(Some(Response { texts, timings }))
}

fn panic_message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "no message".into())
}
