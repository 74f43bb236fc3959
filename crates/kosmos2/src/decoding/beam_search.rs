//! Beam search: several texts are continued in parallel, and the best are kept.
//!
//! The algorithm is that of `generate(num_beams=…)` in Hugging Face transformers 5.23, for one prompt. A search holds
//! no tensors: the caller computes the logits of every open text, and copies keys and values as each step says.

use std::cmp::Ordering;

use super::sampling::apply_rules;
use crate::options::{BeamOptions, EarlyStopping, FinishReason, GenerationOptions, OptionsError, Sampling};
use crate::reductions::log_sum_exp;

/// The beam search of one prompt.
pub struct BeamSearch {
    options: GenerationOptions,
    beam: BeamOptions,
    /// Without duplicates, since their number determines how many candidates are ranked.
    end_tokens: Vec<u32>,
    prompt_len: usize,
    generated: usize,
    /// Best first. Before the first step there is one, the prompt.
    open: Vec<OpenText>,
    /// Best first, at most `num_beams`.
    ended: Vec<Hypothesis>,
    finished: bool,
}

/// How the search continues after a step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BeamStep {
    /// The search continues with these beams.
    Continue {
        /// For each open text, best first: the index of its parent among the open texts before the step, and its new
        /// token.
        beams: Vec<(u32, u32)>,
    },
    /// The search has finished.
    Done,
}

/// A text found by the search.
#[derive(Debug, Clone, PartialEq)]
pub struct Hypothesis {
    /// New ids, including the end token if it was generated.
    pub token_ids: Vec<u32>,
    /// Natural-log probability of each under the model's raw logits.
    pub logprobs: Vec<f32>,
    /// Sum of the log-probabilities after penalties and bans.
    pub sum: f32,
    /// `sum` divided by the generated length to the power of `length_penalty`. Texts are ranked by it.
    pub score: f32,
    /// Why it ended.
    pub finish_reason: FinishReason,
}

#[derive(Clone)]
struct OpenText {
    /// The prompt and the generated tokens.
    ids: Vec<u32>,
    logprobs: Vec<f32>,
    sum: f32,
}

/// An open text continued by one token.
#[derive(Debug, Clone, Copy)]
struct Candidate {
    parent: usize,
    token: u32,
    logprob: f32,
    sum: f32,
}

impl BeamSearch {
    /// A search that starts from `prompt`, image placeholders included. `options.sampling` must be [`Sampling::Beam`].
    ///
    /// # Errors
    /// [`OptionsError`] if an option is out of range or `options.sampling` is not [`Sampling::Beam`].
    pub fn new(prompt: &[u32], options: &GenerationOptions, end_tokens: &[u32]) -> Result<Self, OptionsError> {
        options.check()?;
        let Sampling::Beam(beam) = options.sampling else {
            let found = "greedy or random".to_owned();
            return Err(OptionsError { name: "sampling", found, expected: "a beam search" });
        };
        let mut end_tokens = end_tokens.to_vec();
        end_tokens.sort_unstable();
        end_tokens.dedup();
        Ok(Self {
            options: options.clone(),
            beam,
            end_tokens,
            prompt_len: prompt.len(),
            generated: 0,
            open: vec![OpenText { ids: prompt.to_vec(), logprobs: Vec::new(), sum: 0.0 }],
            ended: Vec::new(),
            finished: false,
        })
    }

    /// The open texts, best first, each with the prompt.
    pub fn open_texts(&self) -> impl ExactSizeIterator<Item = &[u32]> {
        self.open.iter().map(|text| text.ids.as_slice())
    }

    /// Takes the logits `[vocabulary]` of each open text, in order (before the first step there is one, the prompt),
    /// and returns how the search continues.
    ///
    /// Returns `None` if logits are not finite, which only damaged weights or an overflow cause.
    pub fn step(&mut self, logits: &[&[f32]]) -> Option<BeamStep> {
        self.step_with(logits, |_, _| ())
    }

    /// Like [`step`](Self::step), but calls `mask` with the index of each open text and its log-probabilities after
    /// penalties and bans. It may set those of forbidden tokens to -∞.
    ///
    /// Forbidden tokens are never chosen, so there can be fewer open texts than beams. The reference pads with copies
    /// that score -1e9 instead.
    pub fn step_with(&mut self, logits: &[&[f32]], mask: impl FnMut(usize, &mut [f32])) -> Option<BeamStep> {
        debug_assert_eq!(logits.len(), self.open.len(), "one row of logits for each open text");
        if self.finished {
            return Some(BeamStep::Done);
        }
        let candidates = self.candidates(logits, mask)?;
        self.generated += 1;
        let cut = self.generated >= self.options.max_new_tokens;
        let mut beams = Vec::with_capacity(self.beam.num_beams);
        let mut open = Vec::with_capacity(self.beam.num_beams);
        for (rank, candidate) in candidates.into_iter().enumerate() {
            let ends = self.end_tokens.contains(&candidate.token);
            if !ends && !cut {
                if open.len() < self.beam.num_beams {
                    beams.push((candidate.parent as u32, candidate.token));
                    open.push(self.extended(&candidate));
                }
            } else if rank < self.beam.num_beams {
                // Ends of lower rank were candidates only so that enough open texts are left.
                let text = self.extended(&candidate);
                self.ended.push(self.hypothesis(text, if ends { FinishReason::Stop } else { FinishReason::Length }));
            }
        }
        self.open = open;
        self.keep_best_ended();
        self.finished = cut || self.can_stop();
        Some(if self.finished { BeamStep::Done } else { BeamStep::Continue { beams } })
    }

    /// The found texts, best first, at most `num_beams`. The open texts of an unfinished search count as cut.
    pub fn finish(mut self) -> Vec<Hypothesis> {
        if !self.finished {
            let open = std::mem::take(&mut self.open);
            let cut: Vec<_> = open.into_iter().map(|text| self.hypothesis(text, FinishReason::Length)).collect();
            self.ended.extend(cut);
            self.keep_best_ended();
        }
        self.ended
    }

    /// The best continuations of all open texts, best first: enough that at least `num_beams` of them do not end.
    fn candidates(&self, logits: &[&[f32]], mut mask: impl FnMut(usize, &mut [f32])) -> Option<Vec<Candidate>> {
        let mut best = BestCandidates::new(self.beam.num_beams * (1 + self.end_tokens.len()).max(2));
        let mut scores = Vec::new();
        for (parent, (text, logits)) in self.open.iter().zip(logits).enumerate() {
            let log_total = log_sum_exp(logits)?;
            scores.clear();
            scores.extend(logits.iter().map(|logit| logit - log_total));
            apply_rules(&self.options, &mut scores, &text.ids);
            mask(parent, &mut scores);
            for (token, (score, logit)) in scores.iter().zip(*logits).enumerate() {
                let (logprob, sum) = (logit - log_total, text.sum + score);
                best.offer(Candidate { parent, token: token as u32, logprob, sum });
            }
        }
        Some(best.found)
    }

    fn extended(&self, candidate: &Candidate) -> OpenText {
        let mut text = self.open[candidate.parent].clone();
        text.ids.push(candidate.token);
        text.logprobs.push(candidate.logprob);
        text.sum = candidate.sum;
        text
    }

    fn hypothesis(&self, text: OpenText, finish_reason: FinishReason) -> Hypothesis {
        let token_ids = text.ids[self.prompt_len..].to_vec();
        let score = self.normalized(text.sum, token_ids.len());
        Hypothesis { token_ids, logprobs: text.logprobs, sum: text.sum, score, finish_reason }
    }

    fn normalized(&self, sum: f32, length: usize) -> f32 {
        sum / (length.max(1) as f64).powf(f64::from(self.beam.length_penalty)) as f32
    }

    fn keep_best_ended(&mut self) {
        // Stable: of equal scores, the text that ended earlier comes first.
        self.ended.sort_by(|a, b| b.score.total_cmp(&a.score));
        self.ended.truncate(self.beam.num_beams);
    }

    /// Whether no open text can become better than the ended ones, by the early stopping rule.
    fn can_stop(&self) -> bool {
        let Some(best_open) = self.open.first() else { return true };
        if self.ended.len() < self.beam.num_beams {
            return false;
        }
        let length = match self.beam.early_stopping {
            EarlyStopping::Yes => return true,
            EarlyStopping::Never if self.beam.length_penalty > 0.0 => self.options.max_new_tokens,
            EarlyStopping::Never | EarlyStopping::No => self.generated,
        };
        let attainable = self.normalized(best_open.sum, length);
        self.ended.last().is_some_and(|worst| attainable <= worst.score)
    }
}

/// The candidates with the greatest sums, in order. Of equal sums, the one offered first wins.
struct BestCandidates {
    found: Vec<Candidate>,
    capacity: usize,
}

impl BestCandidates {
    fn new(capacity: usize) -> Self {
        Self { found: Vec::with_capacity(capacity + 1), capacity }
    }

    fn offer(&mut self, candidate: Candidate) {
        let floor = match self.found.last() {
            Some(last) if self.found.len() >= self.capacity => last.sum,
            _ => f32::NEG_INFINITY,
        };
        if candidate.sum.partial_cmp(&floor) != Some(Ordering::Greater) {
            return;
        }
        let index = self.found.partition_point(|other| other.sum >= candidate.sum);
        self.found.insert(index, candidate);
        self.found.truncate(self.capacity);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const END: u32 = 0;

    fn options(
        num_beams: usize,
        length_penalty: f32,
        early_stopping: EarlyStopping,
        max_new_tokens: usize,
    ) -> GenerationOptions {
        let sampling = Sampling::Beam(BeamOptions { num_beams, length_penalty, early_stopping });
        GenerationOptions { max_new_tokens, sampling, ..GenerationOptions::default() }
    }

    fn search(options: &GenerationOptions) -> BeamSearch {
        BeamSearch::new(&[9], options, &[END, END]).unwrap()
    }

    /// Logits of a distribution over four tokens. The first token ends a text.
    fn row(shares: [f32; 4]) -> [f32; 4] {
        shares.map(f32::ln)
    }

    fn texts(found: &[Hypothesis]) -> Vec<&[u32]> {
        found.iter().map(|h| h.token_ids.as_slice()).collect()
    }

    #[test]
    fn a_better_whole_beats_the_better_first_token() {
        let mut search = search(&options(2, 0.0, EarlyStopping::No, 3));
        let step = search.step(&[&row([0.01, 0.55, 0.43, 0.01])]).unwrap();
        assert_eq!(step, BeamStep::Continue { beams: vec![(0, 1), (0, 2)] });
        let (flat, sharp) = (row([0.3, 0.3, 0.2, 0.2]), row([0.9, 0.05, 0.03, 0.02]));
        let step = search.step(&[&flat, &sharp]).unwrap();
        assert_eq!(step, BeamStep::Done);
        let found = search.finish();
        assert_eq!(texts(&found), [&[2, END][..], &[1, END]]);
        assert!((found[0].sum - (0.43f32 * 0.9).ln()).abs() < 1e-6);
        assert!((found[0].logprobs[1] - 0.9f32.ln()).abs() < 1e-6);
        assert_eq!(found[0].finish_reason, FinishReason::Stop);
    }

    #[test]
    fn parents_are_places_before_the_step_and_two_beams_may_share_one() {
        let mut search = search(&options(2, 1.0, EarlyStopping::No, 9));
        search.step(&[&row([0.01, 0.6, 0.38, 0.01])]).unwrap();
        let step = search.step(&[&row([0.01, 0.01, 0.03, 0.95]), &row([0.01, 0.5, 0.48, 0.01])]).unwrap();
        assert_eq!(step, BeamStep::Continue { beams: vec![(0, 3), (1, 1)] });
        assert_eq!(search.open_texts().collect::<Vec<_>>(), [&[9, 1, 3][..], &[9, 2, 1]]);
        let step = search.step(&[&row([0.01, 0.5, 0.48, 0.01]), &row([0.25; 4])]).unwrap();
        assert_eq!(step, BeamStep::Continue { beams: vec![(0, 1), (0, 2)] });
    }

    #[test]
    fn an_end_below_the_best_beams_is_not_kept_and_does_not_take_a_place() {
        let mut search = search(&options(2, 1.0, EarlyStopping::Yes, 9));
        let step = search.step(&[&row([0.1, 0.5, 0.35, 0.05])]).unwrap();
        assert_eq!(step, BeamStep::Continue { beams: vec![(0, 1), (0, 2)] });
        let step = search.step(&[&row([0.7, 0.1, 0.1, 0.1]), &row([0.3, 0.4, 0.2, 0.1])]).unwrap();
        // 0.35 ends; the other text's end, 0.105, ranks third after 0.14.
        assert_eq!(step, BeamStep::Continue { beams: vec![(1, 1), (1, 2)] });
        assert_eq!(search.ended.len(), 1);
    }

    #[test]
    fn the_limit_ends_the_best_texts_as_they_are() {
        let mut search = search(&options(2, 1.0, EarlyStopping::No, 2));
        search.step(&[&row([0.3, 0.4, 0.2, 0.1])]).unwrap();
        assert_eq!(search.step(&[&row([0.1, 0.2, 0.6, 0.1]), &row([0.7, 0.1, 0.1, 0.1])]).unwrap(), BeamStep::Done);
        let found = search.finish();
        // ln 0.24 over 2 tokens is above ln 0.14 over 2 tokens; both are above ln 0.3 over 1.
        assert_eq!(texts(&found), [&[1, 2][..], &[2, END]]);
        assert_eq!([found[0].finish_reason, found[1].finish_reason], [FinishReason::Length, FinishReason::Stop]);
        assert!((found[0].score - 0.24f32.ln() / 2.0).abs() < 1e-6);
    }

    #[test]
    fn early_stopping_decides_how_much_hope_an_open_text_gets() {
        let run = |early_stopping| {
            let mut search = search(&options(2, 1.0, early_stopping, 50));
            search.step(&[&row([0.5, 0.4, 0.06, 0.04])]).unwrap();
            // One text ends with 0.97 × 0.4. The open ones have at most 0.01 × 0.4.
            let step = search.step(&[&row([0.97, 0.01, 0.01, 0.01]), &row([0.97, 0.01, 0.01, 0.01])]).unwrap();
            step == BeamStep::Done
        };
        assert!(run(EarlyStopping::Yes));
        assert!(run(EarlyStopping::No));
        assert!(!run(EarlyStopping::Never));
    }

    #[test]
    fn forbidden_tokens_are_never_taken() {
        let mut search = search(&options(3, 1.0, EarlyStopping::No, 9));
        let only_two = |_: usize, scores: &mut [f32]| {
            for token in [0, 1, 3] {
                scores[token] = f32::NEG_INFINITY;
            }
        };
        let step = search.step_with(&[&row([0.4, 0.3, 0.2, 0.1])], only_two).unwrap();
        assert_eq!(step, BeamStep::Continue { beams: vec![(0, 2)] });
        let everything = |_: usize, scores: &mut [f32]| scores.fill(f32::NEG_INFINITY);
        assert_eq!(search.step_with(&[&row([0.25; 4])], everything).unwrap(), BeamStep::Done);
        assert!(search.finish().is_empty());
    }

    #[test]
    fn repeated_ngrams_are_banned_in_each_text_by_its_own_tokens() {
        let options = GenerationOptions { no_repeat_ngram_size: 1, ..options(2, 1.0, EarlyStopping::No, 9) };
        let mut search = search(&options);
        search.step(&[&row([0.01, 0.5, 0.4, 0.09])]).unwrap();
        let step = search.step(&[&row([0.01, 0.9, 0.08, 0.01]), &row([0.01, 0.08, 0.9, 0.01])]).unwrap();
        assert_eq!(step, BeamStep::Continue { beams: vec![(0, 2), (1, 1)] });
    }

    #[test]
    fn logits_that_are_not_numbers_end_nothing_silently() {
        let mut search = search(&options(2, 1.0, EarlyStopping::No, 9));
        assert_eq!(search.step(&[&[f32::NAN; 4]]), None);
    }

    #[test]
    fn a_search_that_is_broken_off_gives_what_it_has() {
        let mut search = search(&options(2, 1.0, EarlyStopping::No, 9));
        search.step(&[&row([0.1, 0.5, 0.35, 0.05])]).unwrap();
        let found = search.finish();
        assert_eq!(texts(&found), [&[1][..], &[2]]);
        assert!(found.iter().all(|h| h.finish_reason == FinishReason::Length));
    }

    #[test]
    fn options_out_of_range_are_refused_by_name() {
        for (options, name) in [
            (options(1, 1.0, EarlyStopping::No, 9), "num_beams"),
            (options(65, 1.0, EarlyStopping::No, 9), "num_beams"),
            (options(2, f32::NAN, EarlyStopping::No, 9), "length_penalty"),
            (options(2, 1.0, EarlyStopping::No, 0), "max_new_tokens"),
            (GenerationOptions::default(), "sampling"),
        ] {
            let error = BeamSearch::new(&[9], &options, &[END]).err().unwrap().to_string();
            assert!(error.contains(name), "{error}");
        }
    }
}
