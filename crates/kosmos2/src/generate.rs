//! Prompts answered together, from the first token to the last: the way without a queue.

use std::sync::Arc;

use crate::backend::{Backend, ImageEmbedding, share_out};
use crate::decoding::Decoding;
use crate::model::ModelError;

/// Runs all to their ends, in slots of their own; what the backend's slots held before is lost.
///
/// # Errors
/// [`ModelError`] of the first that fails.
pub fn run_to_end(
    backend: &mut dyn Backend,
    decodings: &mut [(Decoding, Option<Arc<ImageEmbedding>>)],
) -> Result<(), ModelError> {
    let length = decodings.iter().map(|(decoding, _)| decoding.longest()).max().unwrap_or(0);
    let mut first = 0;
    let mut going: Vec<_> = decodings
        .iter_mut()
        .map(|(decoding, image)| {
            let slots: Vec<usize> = (first..first + decoding.slots()).collect();
            first += slots.len();
            (decoding, image.clone(), slots)
        })
        .collect();
    backend.reserve(first, length)?;
    while !going.is_empty() {
        let segments: Vec<Vec<_>> =
            going.iter().map(|(decoding, image, slots)| decoding.segments(slots, image.as_deref())).collect();
        let rows: Vec<usize> = segments.iter().map(|own| own.iter().map(|s| s.logits.len()).sum()).collect();
        let mut wants = Vec::new();
        going.iter().for_each(|(decoding, _, _)| decoding.wants(&mut wants));
        let answers = backend.answer(&segments.concat(), &wants)?;
        let mut ended = Vec::with_capacity(going.len());
        for ((decoding, _, _), rows) in going.iter_mut().zip(share_out(&answers, &rows)) {
            ended.push(decoding.accept(rows)?);
        }
        let mut ended = ended.into_iter();
        going.retain(|_| !ended.next().unwrap_or(false));
    }
    Ok(())
}
