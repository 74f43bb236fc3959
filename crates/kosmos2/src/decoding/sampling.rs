//! From logits to the next token.
//!
//! The order is the reference's: repetition penalty, banned n-grams, temperature, top-k, top-p. Each sequence has its
//! own sampler and random generator, so its tokens do not depend on the batch.
//!
//! A sequence under a [`Constraint`] first chooses as if it had none. Only if that token is not allowed does it choose
//! again, among the allowed tokens. So text that is well formed anyway stays the same, sampled or greedy, at almost no
//! cost. Without top-k and top-p, samples still follow the softmax over the allowed tokens. If bans leave no allowed
//! token, the raw logits are used instead: the constraint overrides penalties and bans.

use std::ops::Range;

use rand::SeedableRng;
use rand::distr::{Distribution, StandardUniform};
use rand_chacha::ChaCha8Rng;

use crate::backend::LogitsRequest;
use crate::grounding::grammar::Constraint;
use crate::options::{GenerationOptions, OptionsError, Sampling};
use crate::reductions::{best, log_sum_exp};

/// Chooses the tokens of one sequence.
pub struct Sampler {
    options: GenerationOptions,
    /// ChaCha8 gives the same stream on every platform and in every release.
    random: Option<ChaCha8Rng>,
    constraint: Option<Constraint>,
    scratch: Vec<f32>,
}

/// A token chosen by a [`Sampler`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SampledToken {
    /// Its id.
    pub token: u32,
    /// Its natural-log probability under the model's raw logits.
    pub logprob: f32,
}

impl Sampler {
    /// A sampler for the tokens after a prompt. `constraint` must have the state after that prompt.
    ///
    /// # Errors
    /// [`OptionsError`] if an option is out of range or `options.sampling` is [`Sampling::Beam`].
    pub fn new(options: &GenerationOptions, constraint: Option<Constraint>) -> Result<Self, OptionsError> {
        options.check()?;
        let random = match options.sampling {
            Sampling::Greedy => None,
            Sampling::Random { seed, .. } => Some(ChaCha8Rng::seed_from_u64(seed)),
            Sampling::Beam(_) => {
                let found = "a beam search".to_owned();
                return Err(OptionsError { name: "sampling", found, expected: "greedy or random" });
            }
        };
        Ok(Self { options: options.clone(), random, constraint, scratch: Vec::new() })
    }

    /// What it needs of the next row of logits: only the best token if the options are greedy without penalties and
    /// bans. With a constraint that is the best allowed token, which is also the best of all if that one is allowed.
    pub fn logits_request(&self, patches: Range<u32>) -> LogitsRequest {
        let GenerationOptions { sampling, no_repeat_ngram_size, repetition_penalty, .. } = &self.options;
        if *sampling != Sampling::Greedy || *no_repeat_ngram_size != 0 || *repetition_penalty != 1.0 {
            return LogitsRequest::Logits;
        }
        LogitsRequest::Best { mask: self.constraint.as_ref().map(Constraint::token_mask), patches }
    }

    /// Advances past a token that the backend chose for [`Self::logits_request`].
    pub fn advance(&mut self, token: u32) {
        if let Some(constraint) = &mut self.constraint {
            constraint.advance(token);
        }
    }

    /// Chooses the token after `previous` (the prompt and all tokens so far) from `logits` `[vocabulary]`.
    ///
    /// Returns `None` if the logits are not finite, which only damaged weights or an overflow cause.
    pub fn choose(&mut self, logits: &[f32], previous: &[u32]) -> Option<SampledToken> {
        let log_total = log_sum_exp(logits)?;
        let mut scores = std::mem::take(&mut self.scratch);
        scores.clear();
        scores.extend_from_slice(logits);
        apply_rules(&self.options, &mut scores, previous);
        let mut token = pick(&self.options.sampling, &mut self.random, &scores);
        if let Some(constraint) = &self.constraint
            && !token.is_some_and(|token| constraint.allows(token as u32))
        {
            if !constraint.mask(&mut scores) {
                scores.copy_from_slice(logits);
                constraint.mask(&mut scores);
            }
            token = pick(&self.options.sampling, &mut self.random, &scores);
        }
        self.scratch = scores;
        let token = token?;
        if let Some(constraint) = &mut self.constraint {
            constraint.advance(token as u32);
        }
        Some(SampledToken { token: token as u32, logprob: logits[token] - log_total })
    }
}

/// Applies the repetition penalty, then the ban of repeated n-grams, to the scores of one sequence. As in the
/// reference, a beam search applies them to log-probabilities and a [`Sampler`] to logits.
pub(super) fn apply_rules(options: &GenerationOptions, scores: &mut [f32], previous: &[u32]) {
    penalize(options.repetition_penalty, scores, previous);
    ban_ngrams(options.no_repeat_ngram_size, scores, previous);
}

fn penalize(penalty: f32, scores: &mut [f32], previous: &[u32]) {
    if penalty == 1.0 {
        return;
    }
    let mut ids = previous.to_vec();
    ids.sort_unstable();
    ids.dedup();
    for id in ids {
        if let Some(score) = scores.get_mut(id as usize) {
            *score = if *score < 0.0 { *score * penalty } else { *score / penalty };
        }
    }
}

fn ban_ngrams(n: usize, scores: &mut [f32], previous: &[u32]) {
    if n == 0 || previous.len() + 1 < n {
        return;
    }
    let last = &previous[previous.len() + 1 - n..];
    for ngram in previous.windows(n).filter(|ngram| ngram[..n - 1] == *last) {
        if let Some(score) = scores.get_mut(ngram[n - 1] as usize) {
            *score = f32::NEG_INFINITY;
        }
    }
}

/// The best token, or a sampled one.
fn pick(sampling: &Sampling, random: &mut Option<ChaCha8Rng>, scores: &[f32]) -> Option<usize> {
    match (sampling, random) {
        (Sampling::Random { temperature, top_k, top_p, .. }, Some(random)) => {
            sample(scores, *temperature, *top_k, *top_p, random)
        }
        _ => best(scores),
    }
}

/// Samples from softmax(scores / temperature), cut to the `top_k` best and then to the smallest set that reaches
/// `top_p`.
fn sample(
    scores: &[f32],
    temperature: f32,
    top_k: Option<usize>,
    top_p: f32,
    random: &mut ChaCha8Rng,
) -> Option<usize> {
    let mut kept: Vec<(usize, f32)> =
        scores.iter().enumerate().filter(|(_, s)| s.is_finite()).map(|(i, s)| (i, s / temperature)).collect();
    // A total order, so that the sample does not depend on the sorting algorithm.
    let order = |a: &(usize, f32), b: &(usize, f32)| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0));
    if let Some(k) = top_k.filter(|&k| k > 0 && k < kept.len()) {
        let (_, &mut (_, kth), _) = kept.select_nth_unstable_by(k - 1, order);
        // As in the reference, all tokens that tie with the k-th best are kept.
        kept.retain(|&(_, score)| score >= kth);
    }
    // Only `top_p` needs them best first, and sorting a whole vocabulary by score is the most expensive part.
    if top_p < 1.0 {
        kept.sort_unstable_by(order);
    } else {
        kept.sort_unstable_by_key(|&(id, _)| id);
    }
    let best = kept.iter().map(|&(_, score)| score).max_by(f32::total_cmp)?;
    let mut weights: Vec<f64> = kept.iter().map(|&(_, s)| f64::from(s - best).exp()).collect();
    let total: f64 = weights.iter().sum();
    let mut mass = 0.0;
    let last = weights.iter().position(|w| {
        mass += w / total;
        mass >= f64::from(top_p)
    });
    weights.truncate(last.map_or(weights.len(), |last| last + 1));
    let uniform: f64 = StandardUniform.sample(random);
    let mut remaining = uniform * weights.iter().sum::<f64>();
    let chosen = weights.iter().position(|w| {
        remaining -= w;
        remaining < 0.0
    });
    Some(kept[chosen.unwrap_or(weights.len() - 1)].0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::choose_best;

    fn options(sampling: Sampling) -> GenerationOptions {
        GenerationOptions { sampling, ..GenerationOptions::default() }
    }

    fn random(temperature: f32, top_k: Option<usize>, top_p: f32, seed: u64) -> GenerationOptions {
        options(Sampling::Random { temperature, top_k, top_p, seed })
    }

    fn frequencies(options: &GenerationOptions, logits: &[f32], samples: u64) -> Vec<f64> {
        let mut counts = vec![0u64; logits.len()];
        let mut sampler = Sampler::new(options, None).unwrap();
        for _ in 0..samples {
            counts[sampler.choose(logits, &[]).unwrap().token as usize] += 1;
        }
        counts.iter().map(|&c| c as f64 / samples as f64).collect()
    }

    #[test]
    fn greedy_takes_the_first_of_equals_and_gives_its_log_probability() {
        let mut sampler = Sampler::new(&GenerationOptions::default(), None).unwrap();
        let choice = sampler.choose(&[0.0, 1.0, 1.0, -5.0], &[]).unwrap();
        assert_eq!(choice.token, 1);
        let expected = 1.0 - (1.0 + 2.0 * 1f32.exp() + (-5f32).exp()).ln();
        assert!((choice.logprob - expected).abs() < 1e-6);
    }

    #[test]
    fn logits_that_are_not_numbers_choose_nothing() {
        let mut sampler = Sampler::new(&GenerationOptions::default(), None).unwrap();
        assert_eq!(sampler.choose(&[0.0, f32::NAN], &[]), None);
        assert_eq!(sampler.choose(&[0.0, f32::INFINITY], &[]), None);
        assert_eq!(sampler.choose(&[], &[]), None);
    }

    #[test]
    fn a_token_that_would_complete_a_seen_ngram_is_banned() {
        let options = GenerationOptions { no_repeat_ngram_size: 3, ..GenerationOptions::default() };
        let mut sampler = Sampler::new(&options, None).unwrap();
        let logits = [0.0, 1.0, 2.0, 3.0];
        assert_eq!(sampler.choose(&logits, &[1, 2, 3, 1, 2]).unwrap().token, 2);
        assert_eq!(sampler.choose(&logits, &[1, 2, 3, 2, 1]).unwrap().token, 3);
        assert_eq!(sampler.choose(&logits, &[3]).unwrap().token, 3);
        let options = GenerationOptions { no_repeat_ngram_size: 1, ..GenerationOptions::default() };
        assert_eq!(Sampler::new(&options, None).unwrap().choose(&logits, &[3, 2]).unwrap().token, 1);
    }

    #[test]
    fn the_penalty_divides_positive_and_multiplies_negative_logits_once() {
        let options = GenerationOptions { repetition_penalty: 2.0, ..GenerationOptions::default() };
        let mut sampler = Sampler::new(&options, None).unwrap();
        assert_eq!(sampler.choose(&[3.0, 2.0], &[0]).unwrap().token, 1);
        assert_eq!(sampler.choose(&[3.0, 1.4], &[0, 0]).unwrap().token, 0);
        assert_eq!(sampler.choose(&[-1.0, -1.5], &[0, 7]).unwrap().token, 1);
    }

    #[test]
    fn draws_follow_the_softmax_and_its_cuts() {
        let logits = [4f32, 3.0, 2.0, 1.0].map(f32::ln);
        let near = |found: &[f64], expected: [f64; 4]| {
            found.iter().zip(expected).all(|(f, e)| (f - e).abs() < 0.02 && (e > 0.0 || *f == 0.0))
        };
        assert!(near(&frequencies(&random(1.0, None, 1.0, 7), &logits, 20_000), [0.4, 0.3, 0.2, 0.1]));
        assert!(near(
            &frequencies(&random(0.5, None, 1.0, 7), &logits, 20_000),
            [16.0 / 30.0, 0.3, 4.0 / 30.0, 1.0 / 30.0]
        ));
        assert!(near(&frequencies(&random(1.0, Some(2), 1.0, 7), &logits, 20_000), [4.0 / 7.0, 3.0 / 7.0, 0.0, 0.0]));
        assert!(near(&frequencies(&random(1.0, None, 0.65, 7), &logits, 20_000), [4.0 / 7.0, 3.0 / 7.0, 0.0, 0.0]));
        assert!(near(&frequencies(&random(1.0, None, 1e-6, 7), &logits, 100), [1.0, 0.0, 0.0, 0.0]));
    }

    #[test]
    fn a_seed_fixes_the_draws() {
        let run = |seed| {
            let mut sampler = Sampler::new(&random(1.0, None, 1.0, seed), None).unwrap();
            (0..32).map(|_| sampler.choose(&[0.0; 64], &[]).unwrap().token).collect::<Vec<_>>()
        };
        assert_eq!(run(1), run(1));
        assert_ne!(run(1), run(2));
    }

    #[test]
    fn options_out_of_range_are_refused_by_name() {
        for (options, name) in [
            (random(0.0, None, 1.0, 0), "temperature"),
            (random(f32::NAN, None, 1.0, 0), "temperature"),
            (random(1.0, Some(0), 1.0, 0), "top_k"),
            (random(1.0, None, 0.0, 0), "top_p"),
            (random(1.0, None, 1.5, 0), "top_p"),
            (GenerationOptions { repetition_penalty: 0.0, ..GenerationOptions::default() }, "repetition_penalty"),
            (GenerationOptions { max_new_tokens: 0, ..GenerationOptions::default() }, "max_new_tokens"),
        ] {
            let error = Sampler::new(&options, None).err().unwrap().to_string();
            assert!(error.contains(name), "{error}");
        }
    }

    #[test]
    fn a_choice_is_the_samplers() {
        let mut sampler = Sampler::new(&GenerationOptions::default(), None).unwrap();
        let request = sampler.logits_request(100..1124);
        for seed in 0..8_u32 {
            let logits: Vec<f32> = (0..1200_u32).map(|i| ((i * 37 + seed * 211) % 1009) as f32 / 100.0).collect();
            let chosen = choose_best(&request, &logits).unwrap();
            let expected = sampler.choose(&logits, &[]).unwrap();
            assert_eq!((chosen.token, chosen.logprob.to_bits()), (expected.token, expected.logprob.to_bits()));
            assert_eq!(chosen.corner.is_some(), (100..1124).contains(&chosen.token));
        }
        assert!(choose_best(&request, &[f32::NAN; 1200]).unwrap().logprob.is_nan());
        assert!(choose_best(&request, &[f32::NEG_INFINITY; 1200]).unwrap().logprob.is_nan());
        assert_eq!(choose_best(&LogitsRequest::Logits, &[0.0; 1200]), None);
    }
}
