//! The generation options of the command line, and the engine that they need.

use anyhow::anyhow;
use engine::{EngineOptions, USUAL_SLOTS};
use kosmos2::options::{BeamOptions, GenerationOptions, Sampling};
use kosmos2::{Processor, Query};

use crate::annotate_args::GenerationArgs;
use crate::exit::Misuse;

/// Raises the engine's slots and their tokens to what the queries take.
///
/// # Errors
/// A query is not valid: it would fail for every picture.
pub(super) fn fit_queries(engine: &mut EngineOptions, processor: &Processor, queries: &[Query]) -> anyhow::Result<()> {
    for query in queries {
        let prepared = processor.encode(query).map_err(|error| Misuse(error.into()))?;
        let decoding = processor.decoding(&prepared).map_err(|error| Misuse(error.into()))?;
        engine.slot_tokens = engine.slot_tokens.max(decoding.max_tokens());
        if decoding.slots() > engine.slots.unwrap_or(USUAL_SLOTS) {
            engine.slots = Some(decoding.slots());
        }
    }
    Ok(())
}

pub(super) fn generation_options(args: &GenerationArgs) -> anyhow::Result<GenerationOptions> {
    let options = GenerationOptions {
        max_new_tokens: args.max_new_tokens,
        no_repeat_ngram_size: args.no_repeat_ngram_size,
        repetition_penalty: args.repetition_penalty,
        sampling: sampling(args),
        well_formed: args.well_formed,
    };
    options.check().map_err(|error| Misuse(anyhow!("--{}", error.to_string().replacen('_', "-", 3))))?;
    Ok(options)
}

fn sampling(args: &GenerationArgs) -> Sampling {
    if let Some(num_beams) = args.num_beams {
        let GenerationArgs { length_penalty, early_stopping, .. } = *args;
        return Sampling::Beam(BeamOptions { num_beams, length_penalty, early_stopping });
    }
    if args.temperature.is_none() && args.top_k.is_none() && args.top_p.is_none() {
        return Sampling::Greedy;
    }
    Sampling::Random {
        temperature: args.temperature.unwrap_or(1.0),
        top_k: args.top_k,
        top_p: args.top_p.unwrap_or(1.0),
        seed: args.seed,
    }
}
