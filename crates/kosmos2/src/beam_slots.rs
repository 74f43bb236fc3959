//! A beam search in slots: which text is computed where, and what moves when texts branch.

use std::sync::Arc;

use crate::backend::{CopyFrom, ImageEmbedding, LogitsOutput, LogitsRequest, Segment};
use crate::beam_search::{BeamSearch, BeamStep, Hypothesis};
use crate::error::ModelError;
use crate::grounding::grammar::Constraint;
use crate::options::{BeamOptions, FinishReason, GenerationOptions};
use crate::processor::prompt::EncodedPrompt;
use crate::progress::Progress;
use crate::sequence::{GeneratedTokens, TokenRoles, Track, places};

/// A prompt continued as several texts, one lane (and so one slot) each.
///
/// A text that goes on stays in its lane; where a text branches, one branch stays and the others take over its keys and
/// values into lanes whose texts were given up. So nothing is moved that need not be, and no lane is read and
/// overwritten in one step.
pub struct BeamSlots {
    search: BeamSearch,
    /// What each lane holds; only those named in `order` are alive.
    lanes: Vec<Lane>,
    /// Lane of each open text, best first.
    order: Vec<usize>,
    /// For each open text, what its markup must keep to.
    constraints: Vec<Constraint>,
    /// What the first lane takes over in the first step.
    from_outside: Option<CopyFrom>,
    prompt: Vec<u32>,
    mask: Option<Vec<u8>>,
    roles: Arc<TokenRoles>,
    max_new_tokens: usize,
}

struct Lane {
    track: Track,
    /// Whether the prompt's keys and values are there already, from an earlier text.
    has_prompt: bool,
}

impl BeamSlots {
    /// A search at the end of its prompt.
    ///
    /// # Errors
    /// [`ModelError`] when the prompt is empty or an option out of its range.
    pub fn new(
        prompt: &EncodedPrompt,
        options: &GenerationOptions,
        beam: BeamOptions,
        roles: &Arc<TokenRoles>,
        constraint: Option<Constraint>,
    ) -> Result<Self, ModelError> {
        if prompt.input_ids.is_empty() {
            return Err(ModelError::EmptyPrompt);
        }
        let lane = |_| Lane { track: Track::new(prompt.input_ids.clone()), has_prompt: false };
        Ok(Self {
            search: BeamSearch::new(&prompt.input_ids, options, &roles.end)?,
            lanes: (0..beam.num_beams).map(lane).collect(),
            order: vec![0],
            constraints: constraint.into_iter().collect(),
            from_outside: None,
            prompt: prompt.input_ids.clone(),
            mask: prompt.image_embeds_position_mask.clone(),
            roles: Arc::clone(roles),
            max_new_tokens: options.max_new_tokens,
        })
    }

    pub(crate) fn slots(&self) -> usize {
        self.lanes.len()
    }

    pub(crate) fn max_tokens(&self) -> usize {
        self.prompt.len() + self.max_new_tokens
    }

    pub(crate) fn prompt(&self) -> &[u32] {
        &self.prompt
    }

    /// As [`crate::decoding::Decoding::share_prefix`], for the lane that starts.
    pub(crate) fn share_prefix(&mut self, slot: Option<usize>, columns: usize) {
        self.lanes[0].track.share(None, 0..columns);
        self.from_outside = slot.map(|slot| CopyFrom { slot, columns: 0..columns });
    }

    pub(crate) fn segments<'a>(&'a self, slots: &[usize], image: Option<&'a ImageEmbedding>) -> Vec<Segment<'a>> {
        let segment = |&lane: &usize| {
            let track = &self.lanes[lane].track;
            let mut segment = track.segment(slots[lane], places(image, &self.mask), self.roles.pad, usize::MAX);
            // Lanes name each other by their numbers.
            let from_lane = segment.copy.map(|copy| CopyFrom { slot: slots[copy.slot], ..copy });
            segment.copy = from_lane.or_else(|| self.from_outside.clone());
            segment
        };
        self.order.iter().map(segment).collect()
    }

    /// All logits of every open text: any of their tokens can be a candidate.
    pub(crate) fn logits_requests(&self) -> impl Iterator<Item = LogitsRequest> {
        self.order.iter().map(|_| LogitsRequest::Logits)
    }

    pub(crate) fn accept(&mut self, rows: &[LogitsOutput]) -> Result<Progress, ModelError> {
        let whole =
            rows.iter().filter_map(|row| if let LogitsOutput::Logits(logits) = row { Some(*logits) } else { None });
        let logits: Vec<&[f32]> = whole.collect();
        self.from_outside = None;
        for &lane in &self.order {
            self.lanes[lane].track.computed(usize::MAX);
            self.lanes[lane].has_prompt = true;
        }
        let constraints = &self.constraints;
        let step = self.search.step_with(&logits, |text, scores| {
            if let Some(constraint) = constraints.get(text) {
                constraint.mask(scores);
            }
        });
        match step.ok_or(ModelError::NotFinite)? {
            BeamStep::Done => Ok(Progress::Finished),
            BeamStep::Continue { beams } => {
                self.branch(&beams);
                Ok(Progress::Unfinished)
            }
        }
    }

    /// Puts each open text into a lane: `beams` names its parent among those before, and its new token.
    fn branch(&mut self, beams: &[(u32, u32)]) {
        let parents = std::mem::take(&mut self.order);
        let mut taken = vec![false; self.lanes.len()];
        let mut stays = vec![false; beams.len()];
        for (&(parent, _), stays) in beams.iter().zip(&mut stays) {
            let lane = parents[parent as usize];
            *stays = !std::mem::replace(&mut taken[lane], true);
        }
        let mut given_up = (0..self.lanes.len()).filter(|&lane| !taken[lane]).collect::<Vec<_>>().into_iter();
        for (&(parent, _), stays) in beams.iter().zip(stays) {
            let parent = parents[parent as usize];
            // There are as many lanes as open texts at most, so one is left.
            let lane = if stays { Some(parent) } else { given_up.next() };
            let Some(lane) = lane else { continue };
            if lane != parent {
                self.take_over(lane, parent);
            }
            self.order.push(lane);
        }
        for (&lane, ids) in self.order.iter().zip(self.search.open_texts()) {
            self.lanes[lane].track.ids.clear();
            self.lanes[lane].track.ids.extend_from_slice(ids);
        }
        let next = |&(parent, token): &(u32, u32)| {
            let mut constraint = self.constraints.get(parent as usize)?.clone();
            constraint.advance(token);
            Some(constraint)
        };
        self.constraints = beams.iter().filter_map(next).collect();
    }

    fn take_over(&mut self, lane: usize, from: usize) {
        let computed = self.lanes[from].track.cached();
        let first = if self.lanes[lane].has_prompt { self.prompt.len().min(computed) } else { 0 };
        self.lanes[lane].track.share(Some(from), first..computed);
    }

    /// The texts found, best first.
    pub fn into_texts(self) -> Vec<Hypothesis> {
        self.search.finish()
    }

    /// The best text. Its corners are not refined: that takes logits that only the search has seen.
    pub(crate) fn finish(self) -> GeneratedTokens {
        let best = self.into_texts().into_iter().next();
        let (token_ids, logprobs, finish_reason) =
            best.map_or((Vec::new(), Vec::new(), FinishReason::Length), |b| (b.token_ids, b.logprobs, b.finish_reason));
        GeneratedTokens { corners: vec![None; token_ids.len()], token_ids, logprobs, finish_reason }
    }
}
