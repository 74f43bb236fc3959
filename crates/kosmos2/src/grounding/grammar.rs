//! Well-formed decoding: a mask over the next token that guarantees complete markup.
//!
//! # Rules
//! Markup is well formed if [`markup::parse`](super::markup::parse) finds only complete entities in it:
//! - `<phrase>`, text that is not blank, `</phrase>`, optionally followed by an object;
//! - `<object>`, pairs of patch tokens separated by `</delimiter_of_multi_objects/>`, `</object>`, where the second
//!   cell of a pair is not to the left of the first nor above it;
//! - an object directly follows a phrase or, after `<grounding>`, text outside a phrase. The reference parses such an
//!   object without a phrase, but the model generates them only after `<grounding>`;
//! - no other tags, and no text token with `<` or `>`, which the parser would take for part of a tag;
//! - the text ends only when everything is closed.
//!
//! Phrases do not require `<grounding>`, as in the reference. `<s>`, `<pad>`, `<unk>` and `<mask>` are always allowed,
//! since they are not part of the decoded text. Nothing else is banned: an answer that is well formed without the
//! grammar is the same with it.
//!
//! # Length limit
//! A token is allowed only if everything that it opens can still be closed within `max_new_tokens`, so that answers cut
//! at the limit are well formed too. If a prompt ends inside markup that cannot be closed in time, only tokens on the
//! shortest way to its end are allowed.
//!
//! # Prompts
//! An answer starts in the parser's state after the prompt. Malformed markup in a prompt is treated as by the parser:
//! text before `</image>` is ignored, a new `<phrase>` or `<object>` abandons an open one, pairs may be reversed, and
//! any other misplaced tag returns to plain text.

use std::collections::HashMap;
use std::sync::Arc;

use kernels::token_mask::{CELL_BITS, PATCH_KIND};

use super::grid::{GRID_CELLS, GRID_SIDE};
use super::markup::trim;
use crate::backend::TokenMask;
use crate::options::GenerationOptions;
use crate::processor::prompt::tags;
use crate::processor::tokenizer::KosmosTokenizer;

/// The grammar for one vocabulary. It works on token ids and decodes no text.
#[derive(Debug)]
pub struct Grammar {
    /// The kind of each token.
    kinds: Vec<TokenKind>,
    /// The patch token of each cell.
    patches: Vec<u32>,
    cells: HashMap<u32, u16>,
    /// Kind and cell of each token, encoded for [`TokenMask`].
    codes: Arc<[u16]>,
}

/// The state of the grammar between two tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GrammarState {
    markup: MarkupState,
    /// Whether there was a `<grounding>` since `</image>`.
    grounded: bool,
    /// Number of tokens until the length limit.
    remaining: usize,
}

/// A grammar with its state in one sequence.
#[derive(Debug, Clone)]
pub struct Constraint {
    grammar: Arc<Grammar>,
    state: GrammarState,
}

/// The kind of a token. Each kind is one bit, so that a set of kinds is a mask that can be tested without branches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u16)]
enum TokenKind {
    /// Text other than blanks.
    Word = 1,
    Blank = 1 << 1,
    /// A special token, which is not part of the decoded text.
    Special = 1 << 2,
    /// Ends the text.
    End = 1 << 3,
    PhraseOpen = 1 << 4,
    PhraseClose = 1 << 5,
    ObjectOpen = 1 << 6,
    ObjectClose = 1 << 7,
    Delimiter = 1 << 8,
    Patch = 1 << PATCH_KIND,
    /// Text that contains `<` or `>`.
    Bracket = 1 << 10,
    Grounding = 1 << 11,
    ImageClose = 1 << 12,
    /// Any other tag, and ids beyond the vocabulary.
    Other = 1 << 13,
}

/// The kinds that the grammar can allow.
const ALLOWABLE: [TokenKind; 10] = [
    TokenKind::Word,
    TokenKind::Blank,
    TokenKind::Special,
    TokenKind::End,
    TokenKind::PhraseOpen,
    TokenKind::PhraseClose,
    TokenKind::ObjectOpen,
    TokenKind::ObjectClose,
    TokenKind::Delimiter,
    TokenKind::Patch,
];

/// The position in the markup.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum MarkupState {
    Text,
    /// Directly after `</phrase>`.
    AfterPhrase,
    /// In a phrase.
    Phrase {
        /// Whether it has text other than blanks.
        has_text: bool,
    },
    /// In an object, before a pair.
    FirstPatch,
    /// Between the two patch tokens of a pair.
    SecondPatch {
        upper_left: u16,
    },
    /// After a pair.
    AfterPair,
}

impl MarkupState {
    /// Minimum number of tokens until everything is closed.
    fn tokens_to_close(self) -> usize {
        match self {
            Self::Text | Self::AfterPhrase => 0,
            Self::Phrase { has_text: true } | Self::AfterPair => 1,
            Self::Phrase { has_text: false } | Self::SecondPatch { .. } => 2,
            Self::FirstPatch => 3,
        }
    }

    /// The state after a token; `None` if the token is not well formed here. `cell` is the cell of a patch token.
    fn next(self, kind: TokenKind, cell: u16, grounded: bool) -> Option<Self> {
        Some(match (self, kind) {
            (state, TokenKind::Special) => state,
            (state @ (Self::Text | Self::AfterPhrase), TokenKind::End) => state,
            (Self::Text | Self::AfterPhrase, TokenKind::Word | TokenKind::Blank) => Self::Text,
            (Self::Text | Self::AfterPhrase, TokenKind::PhraseOpen) => Self::Phrase { has_text: false },
            (Self::AfterPhrase, TokenKind::ObjectOpen) => Self::FirstPatch,
            (Self::Text, TokenKind::ObjectOpen) if grounded => Self::FirstPatch,
            (Self::Phrase { .. }, TokenKind::Word) => Self::Phrase { has_text: true },
            (state @ Self::Phrase { .. }, TokenKind::Blank) => state,
            (Self::Phrase { has_text: true }, TokenKind::PhraseClose) => Self::AfterPhrase,
            (Self::FirstPatch, TokenKind::Patch) => Self::SecondPatch { upper_left: cell },
            (Self::SecondPatch { upper_left }, TokenKind::Patch) if is_box(upper_left, cell) => Self::AfterPair,
            (Self::AfterPair, TokenKind::Delimiter) => Self::FirstPatch,
            (Self::AfterPair, TokenKind::ObjectClose) => Self::Text,
            _ => return None,
        })
    }

    /// The parser's state after a token that is not well formed here.
    fn recover(self, kind: TokenKind) -> Self {
        match (self, kind) {
            (state, TokenKind::End) => state,
            (Self::Phrase { .. }, TokenKind::Bracket) => Self::Phrase { has_text: true },
            (Self::SecondPatch { .. }, TokenKind::Patch) => Self::AfterPair,
            (_, TokenKind::PhraseOpen) => Self::Phrase { has_text: false },
            (_, TokenKind::ObjectOpen) => Self::FirstPatch,
            _ => Self::Text,
        }
    }
}

/// Whether `lower_right` is not to the left of `upper_left` nor above it.
fn is_box(upper_left: u16, lower_right: u16) -> bool {
    let cell = |index: u16| (u32::from(index) % GRID_SIDE, u32::from(index) / GRID_SIDE);
    let ((left, top), (right, bottom)) = (cell(upper_left), cell(lower_right));
    left <= right && top <= bottom
}

impl GrammarState {
    /// Whether the next token may lead to a state: it must be possible to close it within the limit or, if that is
    /// impossible from the current state already, in fewer tokens than the current state.
    fn can_close_from(&self, next: MarkupState) -> bool {
        next.tokens_to_close() < self.remaining.max(self.markup.tokens_to_close()).max(1)
    }

    /// The kinds of allowed tokens. Some patch tokens may be forbidden although their kind is allowed.
    fn allowed_kinds(&self) -> u16 {
        // The first cell of a box is always a valid second cell.
        let cell = if let MarkupState::SecondPatch { upper_left } = self.markup { upper_left } else { 0 };
        let allowed = |kind: &&TokenKind| {
            self.markup.next(**kind, cell, self.grounded).is_some_and(|next| self.can_close_from(next))
        };
        ALLOWABLE.iter().filter(allowed).fold(0, |set, &kind| set | kind as u16)
    }
}

impl Grammar {
    /// The grammar for a tokenizer's vocabulary. Any of `end_tokens` ends a text.
    pub fn new(tokenizer: &KosmosTokenizer, end_tokens: &[u32]) -> Self {
        let (mut patches, mut cells) = (Vec::new(), HashMap::new());
        for cell in 0..GRID_CELLS as u16 {
            if let Some(id) = tokenizer.id(&tags::patch(cell.into())) {
                patches.push(id);
                cells.insert(id, cell);
            }
        }
        let kind = |id: u32| match tokenizer.piece(id) {
            _ if end_tokens.contains(&id) => TokenKind::End,
            None => TokenKind::Other,
            Some(_) if tokenizer.is_special(id) => TokenKind::Special,
            Some(_) if cells.contains_key(&id) => TokenKind::Patch,
            Some(piece) => kind_of(&piece),
        };
        let kinds: Vec<TokenKind> = (0..tokenizer.vocab_size() as u32).map(kind).collect();
        let cell = |id: u32| cells.get(&id).copied().unwrap_or(0);
        let code = |(id, &kind): (u32, &TokenKind)| ((kind as u16).trailing_zeros() as u16) << CELL_BITS | cell(id);
        let codes = (0..).zip(&kinds).map(code).collect();
        Self { kinds, patches, cells, codes }
    }

    /// The state after any prompt, well formed or not, for an answer of at most `max_new_tokens` tokens.
    pub fn start(&self, prompt: &[u32], max_new_tokens: usize) -> GrammarState {
        let mut state = GrammarState { markup: MarkupState::Text, grounded: false, remaining: 0 };
        for &token in prompt {
            self.advance(&mut state, token);
        }
        GrammarState { remaining: max_new_tokens, ..state }
    }

    /// Whether a token is allowed next.
    pub fn allows(&self, state: &GrammarState, token: u32) -> bool {
        let (kind, cell) = self.look_up(token);
        state.markup.next(kind, cell, state.grounded).is_some_and(|next| state.can_close_from(next))
    }

    /// Whether an answer is well formed after its prompt and closed at its end. The grammar does not change such an
    /// answer, whatever `max_new_tokens` is.
    pub fn accepts(&self, prompt: &[u32], answer: &[u32]) -> bool {
        let mut state = self.start(prompt, answer.len());
        answer.iter().all(|&token| {
            let allowed = self.allows(&state, token);
            self.advance(&mut state, token);
            allowed
        }) && state.markup.tokens_to_close() == 0
    }

    /// Sets the scores `[vocabulary]` of forbidden tokens to -∞.
    ///
    /// Returns `false` if no token is left, because all allowed tokens had a score of -∞ before. Some token is always
    /// allowed, so the caller can restore the raw scores and mask them.
    pub fn mask(&self, state: &GrammarState, scores: &mut [f32]) -> bool {
        let allowed = state.allowed_kinds();
        let (known, unknown) = scores.split_at_mut(scores.len().min(self.kinds.len()));
        unknown.fill(f32::NEG_INFINITY);
        for (score, &kind) in known.iter_mut().zip(&self.kinds) {
            *score = if kind as u16 & allowed == 0 { f32::NEG_INFINITY } else { *score };
        }
        if let MarkupState::SecondPatch { upper_left } = state.markup {
            for (_, &id) in (0..).zip(&self.patches).filter(|&(cell, _)| !is_box(upper_left, cell)) {
                if let Some(score) = scores.get_mut(id as usize) {
                    *score = f32::NEG_INFINITY;
                }
            }
        }
        scores.iter().any(|&score| score > f32::NEG_INFINITY)
    }

    /// The mask of [`Self::mask`] for backends, which choose the token where the logits are.
    pub fn token_mask(&self, state: &GrammarState) -> TokenMask {
        let upper_left = if let MarkupState::SecondPatch { upper_left } = state.markup { upper_left } else { 0 };
        TokenMask { codes: Arc::clone(&self.codes), kinds: state.allowed_kinds(), upper_left }
    }

    /// Advances the state past a token, allowed or not.
    pub fn advance(&self, state: &mut GrammarState, token: u32) {
        let (kind, cell) = self.look_up(token);
        state.remaining = state.remaining.saturating_sub(1);
        state.grounded = match kind {
            TokenKind::Grounding => true,
            TokenKind::ImageClose => false,
            _ => state.grounded,
        };
        let next = state.markup.next(kind, cell, state.grounded);
        state.markup = next.unwrap_or_else(|| state.markup.recover(kind));
    }

    /// Kind and cell of a token.
    fn look_up(&self, token: u32) -> (TokenKind, u16) {
        let kind = self.kinds.get(token as usize).copied().unwrap_or(TokenKind::Other);
        (kind, if kind == TokenKind::Patch { self.cells.get(&token).copied().unwrap_or(0) } else { 0 })
    }
}

/// The kind of a token that is neither special nor a patch token.
fn kind_of(piece: &str) -> TokenKind {
    match piece {
        tags::PHRASE_OPEN => TokenKind::PhraseOpen,
        tags::PHRASE_CLOSE => TokenKind::PhraseClose,
        tags::OBJECT_OPEN => TokenKind::ObjectOpen,
        tags::OBJECT_CLOSE => TokenKind::ObjectClose,
        tags::DELIMITER => TokenKind::Delimiter,
        tags::GROUNDING => TokenKind::Grounding,
        tags::IMAGE_CLOSE => TokenKind::ImageClose,
        tag if tags::ALL.contains(&tag) => TokenKind::Other,
        text if text.contains(['<', '>']) => TokenKind::Bracket,
        text if trim(&text.replace('▁', " ")).is_empty() => TokenKind::Blank,
        _ => TokenKind::Word,
    }
}

impl Constraint {
    /// The constraint of the answer to `prompt`, if its options require well-formed markup.
    pub fn for_prompt(grammar: &Arc<Grammar>, prompt: &[u32], options: &GenerationOptions) -> Option<Self> {
        options
            .well_formed
            .then(|| Self { grammar: Arc::clone(grammar), state: grammar.start(prompt, options.max_new_tokens) })
    }

    /// [`Grammar::allows`] in the current state.
    pub fn allows(&self, token: u32) -> bool {
        self.grammar.allows(&self.state, token)
    }

    /// [`Grammar::mask`] in the current state.
    pub fn mask(&self, scores: &mut [f32]) -> bool {
        self.grammar.mask(&self.state, scores)
    }

    /// [`Grammar::token_mask`] in the current state.
    pub fn token_mask(&self) -> TokenMask {
        self.grammar.token_mask(&self.state)
    }

    /// Advances the state past a token.
    pub fn advance(&mut self, token: u32) {
        self.grammar.advance(&mut self.state, token);
    }
}
