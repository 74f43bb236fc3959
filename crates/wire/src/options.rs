//! Generation options: their ranges and defaults.

use std::ops::RangeInclusive;

use crate::v1;

/// Valid values of `max_new_tokens`. The model's longest sequence has 2048 tokens.
pub const MAX_NEW_TOKENS: RangeInclusive<u32> = 1..=2048;
/// Valid values of `temperature` besides 0. With a lower one, the divided logits can leave the range of
/// f32. Sampling is as good as greedy long before.
pub const TEMPERATURE: RangeInclusive<f32> = 0.001..=100.0;
/// Valid values of `repetition_penalty`. With a lower one, the logits can leave the range of f32.
pub const REPETITION_PENALTY: RangeInclusive<f32> = 0.01..=100.0;
/// Largest valid `no_repeat_ngram_size`.
pub const MAX_NGRAM_SIZE: u32 = 64;
/// Largest valid `top_p`, which must be above 0.
pub const MAX_TOP_P: f32 = 1.0;
/// Valid values of `num_beams`.
pub const NUM_BEAMS: RangeInclusive<u32> = 2..=64;
/// Valid values of `length_penalty`.
pub const LENGTH_PENALTY: RangeInclusive<f32> = -8.0..=8.0;

/// Checked options with the defaults filled in. [`v1::GenerationOptions`] describes them.
#[derive(Debug, Clone, PartialEq)]
pub struct Options {
    /// Maximum tokens of an answer, including the end token.
    pub max_new_tokens: u32,
    /// How the next token is chosen.
    pub sampling: Sampling,
    /// No sequence of this many tokens may occur twice; 0 for no such rule.
    pub no_repeat_ngram_size: u32,
    /// Penalty for tokens that occurred before; 1 for none.
    pub repetition_penalty: f32,
    /// Whether only well-formed markup is generated.
    pub well_formed: bool,
}

/// How the next token is chosen.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Sampling {
    /// The most probable token.
    Greedy,
    /// Sampled at random.
    Random {
        /// The logits are divided by it; above 0.
        temperature: f32,
        /// Sample from this many most probable tokens only.
        top_k: Option<u32>,
        /// Sample from the most probable tokens whose probabilities add up to this.
        top_p: f32,
        /// Random seed.
        seed: u64,
    },
    /// Beam search.
    Beam {
        /// Number of beams.
        num_beams: u32,
        /// The score of a sequence is divided by its length to this power.
        length_penalty: f32,
        /// When the search ends. Never `Unspecified`.
        early_stopping: v1::EarlyStopping,
    },
}

impl Default for Options {
    fn default() -> Self {
        Self {
            max_new_tokens: 256,
            sampling: Sampling::Greedy,
            no_repeat_ngram_size: 0,
            repetition_penalty: 1.0,
            well_formed: true,
        }
    }
}

/// Checks options and fills in the defaults. Adds one sentence to `problems` for each broken rule.
pub(crate) fn check(wire: &v1::GenerationOptions, problems: &mut Vec<String>) -> Options {
    let mut options = Options::default();
    let mut require = |holds: bool, sentence: String| {
        if !holds {
            problems.push(sentence);
        }
    };
    if let Some(tokens) = wire.max_new_tokens {
        require(
            MAX_NEW_TOKENS.contains(&tokens),
            format!("max_new_tokens is {tokens}, not in {}", display(&MAX_NEW_TOKENS)),
        );
        options.max_new_tokens = tokens;
    }
    if let Some(size) = wire.no_repeat_ngram_size {
        require(size <= MAX_NGRAM_SIZE, format!("no_repeat_ngram_size is {size}, not in 0 to {MAX_NGRAM_SIZE}"));
        options.no_repeat_ngram_size = size;
    }
    if let Some(penalty) = wire.repetition_penalty {
        require(
            REPETITION_PENALTY.contains(&penalty),
            format!("repetition_penalty is {penalty}, not in {}", display(&REPETITION_PENALTY)),
        );
        options.repetition_penalty = penalty;
    }
    options.well_formed = wire.well_formed.unwrap_or(true);
    let temperature = wire.temperature.unwrap_or(0.0);
    require(
        temperature == 0.0 || TEMPERATURE.contains(&temperature),
        format!("temperature is {temperature}, neither 0 nor in {}", display(&TEMPERATURE)),
    );
    if let Some(k) = wire.top_k {
        require(k > 0, "top_k is 0: give at least 1, or leave it out to keep all tokens".to_owned());
    }
    if let Some(p) = wire.top_p {
        require(p > 0.0 && p <= MAX_TOP_P, format!("top_p is {p}, not above 0 and at most {MAX_TOP_P}"));
    }
    if temperature > 0.0 {
        require(wire.beam_search.is_none(), "beam_search does not sample: leave the temperature out".to_owned());
        options.sampling = Sampling::Random {
            temperature,
            top_k: wire.top_k,
            top_p: wire.top_p.unwrap_or(1.0),
            seed: wire.seed.unwrap_or(0),
        };
    } else {
        if let Some(beam) = &wire.beam_search {
            options.sampling = beam_search(beam, &mut require);
        }
        for (name, given) in [("top_k", wire.top_k.is_some()), ("top_p", wire.top_p.is_some())] {
            require(
                !given,
                format!("{name} needs a temperature above 0: without one the most probable token is always taken"),
            );
        }
    }
    options
}

fn beam_search(wire: &v1::BeamSearch, require: &mut impl FnMut(bool, String)) -> Sampling {
    let (num_beams, length_penalty) = (wire.num_beams, wire.length_penalty.unwrap_or(1.0));
    require(NUM_BEAMS.contains(&num_beams), format!("num_beams is {num_beams}, not in {}", display(&NUM_BEAMS)));
    require(
        LENGTH_PENALTY.contains(&length_penalty),
        format!("length_penalty is {length_penalty}, not in {}", display(&LENGTH_PENALTY)),
    );
    require(
        v1::EarlyStopping::try_from(wire.early_stopping).is_ok(),
        format!("early_stopping is {}, which is not a value of EarlyStopping", wire.early_stopping),
    );
    let early_stopping = match wire.early_stopping() {
        v1::EarlyStopping::Unspecified => v1::EarlyStopping::No,
        given => given,
    };
    Sampling::Beam { num_beams, length_penalty, early_stopping }
}

fn display<T: std::fmt::Display>(range: &RangeInclusive<T>) -> String {
    format!("{} to {}", range.start(), range.end())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(wire: v1::GenerationOptions) -> (Options, Vec<String>) {
        let mut problems = Vec::new();
        let options = check(&wire, &mut problems);
        (options, problems)
    }

    #[test]
    fn no_options_are_the_defaults() {
        assert_eq!(checked(v1::GenerationOptions::default()), (Options::default(), vec![]));
    }

    #[test]
    fn a_temperature_turns_drawing_on() {
        let wire =
            v1::GenerationOptions { temperature: Some(0.5), top_k: Some(3), seed: Some(7), ..Default::default() };
        let (options, problems) = checked(wire);
        assert_eq!(options.sampling, Sampling::Random { temperature: 0.5, top_k: Some(3), top_p: 1.0, seed: 7 });
        assert!(problems.is_empty());
    }

    #[test]
    fn a_beam_search_draws_nothing() {
        let beams = v1::BeamSearch { num_beams: 3, length_penalty: None, early_stopping: 3 };
        let (options, problems) = checked(v1::GenerationOptions { beam_search: Some(beams), ..Default::default() });
        let early_stopping = v1::EarlyStopping::Never;
        assert_eq!(options.sampling, Sampling::Beam { num_beams: 3, length_penalty: 1.0, early_stopping });
        assert!(problems.is_empty());
        let both = v1::GenerationOptions { beam_search: Some(beams), temperature: Some(1.0), ..Default::default() };
        assert_eq!(checked(both).1.len(), 1);
    }

    #[test]
    fn every_value_out_of_range_is_named() {
        let (_, problems) = checked(v1::GenerationOptions {
            max_new_tokens: Some(0),
            temperature: Some(-1.0),
            top_k: Some(0),
            top_p: Some(1.5),
            seed: None,
            no_repeat_ngram_size: Some(65),
            repetition_penalty: Some(0.0),
            well_formed: None,
            beam_search: Some(v1::BeamSearch::default()),
        });
        for name in [
            "max_new_tokens",
            "temperature",
            "top_k",
            "top_p",
            "no_repeat_ngram_size",
            "repetition_penalty",
            "num_beams",
        ] {
            assert!(problems.iter().any(|p| p.starts_with(name)), "{name} in {problems:?}");
        }
    }

    #[test]
    fn not_a_number_is_out_of_every_range() {
        let (_, problems) = checked(v1::GenerationOptions {
            temperature: Some(f32::NAN),
            top_p: Some(f32::NAN),
            repetition_penalty: Some(f32::INFINITY),
            ..Default::default()
        });
        assert!(problems.len() >= 3, "{problems:?}");
    }
}
