//! A beam search in slots: which beam is computed in which slot, and what is copied when beams branch.

use std::sync::Arc;

use super::beam_search::{BeamSearch, BeamStep, Hypothesis};
use super::progress::Progress;
use super::tokens::{CachedTokens, GeneratedTokens, StepTokens, TokenRoles, image_places};
use crate::backend::{CopyFrom, ImageEmbedding, LogitsOutput, LogitsRequest, Segment};
use crate::error::ModelError;
use crate::grounding::grammar::Constraint;
use crate::options::{BeamOptions, FinishReason, GenerationOptions};
use crate::processor::prompt::EncodedPrompt;

/// A beam search over the continuations of a prompt, with one slot for each beam.
///
/// A beam that continues stays in its slot. Where a beam branches, one branch stays, and the others copy its keys and
/// values into slots whose beams were dropped. So only branches are copied, and no slot is both read and overwritten in
/// one step.
pub struct BeamSlots {
    search: BeamSearch,
    /// All slots of the search; only those in `order` hold an open beam.
    slots: Vec<BeamSlot>,
    /// Index into `slots` of each open beam, best first.
    order: Vec<usize>,
    /// The grammar state of each open beam; empty without a grammar.
    constraints: Vec<Constraint>,
    /// Prefix that the first slot copies from another decoding in the first step.
    shared_prefix: Option<CopyFrom>,
    prompt: Vec<u32>,
    image_mask: Option<Vec<u8>>,
    roles: Arc<TokenRoles>,
    max_new_tokens: usize,
}

struct BeamSlot {
    tokens: CachedTokens,
    /// Whether it holds the prompt's keys and values already, from an earlier beam.
    has_prompt: bool,
}

impl BeamSlots {
    /// A search that starts from the prompt.
    ///
    /// # Errors
    /// [`ModelError::EmptyPrompt`] if the prompt has no tokens, [`ModelError::Options`] if an option is out of range.
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
        let slot = |_| BeamSlot { tokens: CachedTokens::new(prompt.input_ids.clone()), has_prompt: false };
        Ok(Self {
            search: BeamSearch::new(&prompt.input_ids, options, &roles.end)?,
            slots: (0..beam.num_beams).map(slot).collect(),
            order: vec![0],
            constraints: constraint.into_iter().collect(),
            shared_prefix: None,
            prompt: prompt.input_ids.clone(),
            image_mask: prompt.image_embeds_position_mask.clone(),
            roles: Arc::clone(roles),
            max_new_tokens: options.max_new_tokens,
        })
    }

    pub(super) fn slots(&self) -> usize {
        self.slots.len()
    }

    pub(super) fn max_tokens(&self) -> usize {
        self.prompt.len() + self.max_new_tokens
    }

    pub(super) fn prompt(&self) -> &[u32] {
        &self.prompt
    }

    pub(super) fn step_tokens(&self) -> StepTokens {
        self.order.iter().map(|&index| self.slots[index].tokens.step_tokens(self.prompt.len(), usize::MAX)).sum()
    }

    pub(super) fn cached(&self) -> usize {
        self.order.iter().map(|&index| self.slots[index].tokens.cached()).sum()
    }

    /// [`Decoding::share_prefix`](super::Decoding::share_prefix) for the first beam.
    pub(super) fn share_prefix(&mut self, slot: Option<usize>, tokens: usize) {
        self.slots[0].tokens.share(None, 0..tokens);
        self.shared_prefix = slot.map(|slot| CopyFrom { slot, columns: 0..tokens });
    }

    /// `kv_slots` are the backend's slots, one for each of `self.slots`.
    pub(super) fn segments<'a>(&'a self, kv_slots: &[usize], image: Option<&'a ImageEmbedding>) -> Vec<Segment<'a>> {
        let segment = |&index: &usize| {
            let tokens = &self.slots[index].tokens;
            let image = image_places(image, &self.image_mask);
            let mut segment = tokens.segment(kv_slots[index], image, self.roles.pad, usize::MAX);
            // Copies between beams name indices into `self.slots`.
            let between_beams = segment.copy.map(|copy| CopyFrom { slot: kv_slots[copy.slot], ..copy });
            segment.copy = between_beams.or_else(|| self.shared_prefix.clone());
            segment
        };
        self.order.iter().map(segment).collect()
    }

    /// Every open beam needs all of its logits, since any token can be a candidate.
    pub(super) fn logits_requests(&self) -> impl Iterator<Item = LogitsRequest> {
        self.order.iter().map(|_| LogitsRequest::Logits)
    }

    pub(super) fn accept(&mut self, outputs: &[LogitsOutput]) -> Result<Progress, ModelError> {
        let logits = outputs
            .iter()
            .filter_map(|output| if let LogitsOutput::Logits(logits) = output { Some(*logits) } else { None });
        let logits: Vec<&[f32]> = logits.collect();
        self.shared_prefix = None;
        for &index in &self.order {
            self.slots[index].tokens.mark_cached(usize::MAX);
            self.slots[index].has_prompt = true;
        }
        let constraints = &self.constraints;
        let step = self.search.step_with(&logits, |beam, scores| {
            if let Some(constraint) = constraints.get(beam) {
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

    /// Assigns a slot to each open beam. `beams` has the index of its parent among the beams before the step, and its
    /// new token.
    fn branch(&mut self, beams: &[(u32, u32)]) {
        let parents = std::mem::take(&mut self.order);
        let mut taken = vec![false; self.slots.len()];
        let mut stays = vec![false; beams.len()];
        for (&(parent, _), stays) in beams.iter().zip(&mut stays) {
            let slot = parents[parent as usize];
            *stays = !std::mem::replace(&mut taken[slot], true);
        }
        let mut dropped = (0..self.slots.len()).filter(|&slot| !taken[slot]).collect::<Vec<_>>().into_iter();
        for (&(parent, _), stays) in beams.iter().zip(stays) {
            let parent = parents[parent as usize];
            // There are at least as many slots as open beams, so one is left.
            let slot = if stays { Some(parent) } else { dropped.next() };
            let Some(slot) = slot else { continue };
            if slot != parent {
                self.copy_beam(slot, parent);
            }
            self.order.push(slot);
        }
        for (&slot, ids) in self.order.iter().zip(self.search.open_texts()) {
            self.slots[slot].tokens.ids.clear();
            self.slots[slot].tokens.ids.extend_from_slice(ids);
        }
        let next = |&(parent, token): &(u32, u32)| {
            let mut constraint = self.constraints.get(parent as usize)?.clone();
            constraint.advance(token);
            Some(constraint)
        };
        self.constraints = beams.iter().filter_map(next).collect();
    }

    fn copy_beam(&mut self, to: usize, from: usize) {
        let cached = self.slots[from].tokens.cached();
        let first = if self.slots[to].has_prompt { self.prompt.len().min(cached) } else { 0 };
        self.slots[to].tokens.share(Some(from), first..cached);
    }

    /// The found texts, best first.
    pub fn into_texts(self) -> Vec<Hypothesis> {
        self.search.finish()
    }

    /// The best text. It has no corner estimates: these need the logits of its tokens, which the search does not keep.
    pub(super) fn finish(self) -> GeneratedTokens {
        let best = self.into_texts().into_iter().next();
        let (token_ids, logprobs, finish_reason) =
            best.map_or((Vec::new(), Vec::new(), FinishReason::Length), |b| (b.token_ids, b.logprobs, b.finish_reason));
        GeneratedTokens { corners: vec![None; token_ids.len()], token_ids, logprobs, finish_reason }
    }
}
