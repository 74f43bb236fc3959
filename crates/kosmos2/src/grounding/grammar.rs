//! Well-formed decoding: which tokens may come next so that generated markup always reads.
//!
//! # What is well formed
//! What [`markup::read`](super::markup::read) makes whole entities of, with nothing left over:
//! - `<phrase>`, text that is not all blanks, `</phrase>`; an object may follow or not, as the reference has it;
//! - `<object>`, pairs of patch tokens between `</delimiter_of_multi_objects/>`, `</object>`, the second cell of a pair
//!   not to the left of the first nor above it;
//! - an object stands directly behind a phrase, or, in a row that asks for `<grounding>`, anywhere outside a phrase: the
//!   reference reads such a box without a phrase, but none of its prompts leads to one unless they ask for grounding;
//! - no other tag, and no piece of text that holds `<` or `>`, which the reader would take for a tag's end;
//! - the end of the text only where everything is closed.
//!
//! Phrases are not tied to `<grounding>`: the reference does not forbid them in other rows. `<s>`, `<pad>`, `<unk>` and
//! `<mask>` vanish when a row is decoded, so they change nothing and are left alone. Nothing else is banned: a row that
//! is well formed when decoded freely comes out the same under the grammar.
//!
//! # The length limit
//! A token is allowed only if what it opens can still be closed with the tokens left, so a row cut at `max_new_tokens`
//! is closed too. Where a prompt ends inside something that cannot be closed in so few tokens, only the shortest way to
//! its end is allowed.
//!
//! # Prompts
//! A row starts where its prompt leaves the reader. What is odd in a prompt counts as the reader takes it: what stands
//! before `</image>` is cut away, a new `<phrase>` or `<object>` leaves what was open behind, pairs may be reversed,
//! and after any other tag out of place the row is in plain text.

use std::collections::HashMap;
use std::sync::Arc;

use super::grid::{GRID_CELLS, GRID_SIDE};
use super::markup::trim;
use crate::backend::Allowed;
use crate::options::GenerationOptions;
use crate::processor::prompt::tags;
use crate::processor::tokenizer::KosmosTokenizer;

/// The grammar of one vocabulary. Follows token ids alone: no tensors, nothing decoded.
#[derive(Debug)]
pub struct Grammar {
    /// What each id is to the grammar.
    kinds: Vec<Kind>,
    /// The id of each cell's patch token.
    patches: Vec<u32>,
    cells: HashMap<u32, u16>,
    /// Both as [`Allowed`] has them.
    codes: Arc<[u16]>,
}

/// Where a row is in its markup, and how many tokens it may still have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GrammarState {
    place: Place,
    grounded: bool,
    left: usize,
}

/// A row's state with its grammar, for a sampler to follow.
#[derive(Debug, Clone)]
pub struct Constraint {
    grammar: Arc<Grammar>,
    state: GrammarState,
}

/// What a token is to the grammar. One bit each, so that a set of kinds is a mask that a whole vocabulary is tested
/// against without branches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u16)]
enum Kind {
    /// Text that can be seen.
    Word = 1,
    Blank = 1 << 1,
    /// Dropped by decoding.
    Silent = 1 << 2,
    /// Ends the row.
    End = 1 << 3,
    PhraseOpen = 1 << 4,
    PhraseClose = 1 << 5,
    ObjectOpen = 1 << 6,
    ObjectClose = 1 << 7,
    Delimiter = 1 << 8,
    Patch = 1 << 9,
    /// Text with `<` or `>` in it.
    Bracket = 1 << 10,
    Grounding = 1 << 11,
    ImageClose = 1 << 12,
    /// Any other tag, and ids that the vocabulary does not have.
    Foreign = 1 << 13,
}

/// The kinds that can ever be allowed.
const USABLE: [Kind; 10] = [
    Kind::Word,
    Kind::Blank,
    Kind::Silent,
    Kind::End,
    Kind::PhraseOpen,
    Kind::PhraseClose,
    Kind::ObjectOpen,
    Kind::ObjectClose,
    Kind::Delimiter,
    Kind::Patch,
];

/// A place in the markup.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Text,
    /// Directly behind `</phrase>`.
    Named,
    /// In a phrase; `seen` once it has text that can be seen.
    Phrase {
        seen: bool,
    },
    /// In an object, before a pair.
    Corner,
    /// Between the two patches of a pair.
    Opposite {
        upper_left: u16,
    },
    /// Behind a pair.
    Pair,
}

impl Place {
    /// Fewest tokens until everything is closed.
    fn least(self) -> usize {
        match self {
            Self::Text | Self::Named => 0,
            Self::Phrase { seen: true } | Self::Pair => 1,
            Self::Phrase { seen: false } | Self::Opposite { .. } => 2,
            Self::Corner => 3,
        }
    }

    /// The place after a token, of the cell `cell` if it is a patch; `None` where it would not be well formed.
    fn next(self, kind: Kind, cell: u16, grounded: bool) -> Option<Self> {
        Some(match (self, kind) {
            (place, Kind::Silent) => place,
            (place @ (Self::Text | Self::Named), Kind::End) => place,
            (Self::Text | Self::Named, Kind::Word | Kind::Blank) => Self::Text,
            (Self::Text | Self::Named, Kind::PhraseOpen) => Self::Phrase { seen: false },
            (Self::Named, Kind::ObjectOpen) => Self::Corner,
            (Self::Text, Kind::ObjectOpen) if grounded => Self::Corner,
            (Self::Phrase { .. }, Kind::Word) => Self::Phrase { seen: true },
            (place @ Self::Phrase { .. }, Kind::Blank) => place,
            (Self::Phrase { seen: true }, Kind::PhraseClose) => Self::Named,
            (Self::Corner, Kind::Patch) => Self::Opposite { upper_left: cell },
            (Self::Opposite { upper_left }, Kind::Patch) if reaches(upper_left, cell) => Self::Pair,
            (Self::Pair, Kind::Delimiter) => Self::Corner,
            (Self::Pair, Kind::ObjectClose) => Self::Text,
            _ => return None,
        })
    }

    /// The place after a token that is not well formed here, as the reader goes on behind it.
    fn recover(self, kind: Kind) -> Self {
        match (self, kind) {
            (place, Kind::End) => place,
            (Self::Phrase { .. }, Kind::Bracket) => Self::Phrase { seen: true },
            (Self::Opposite { .. }, Kind::Patch) => Self::Pair,
            (_, Kind::PhraseOpen) => Self::Phrase { seen: false },
            (_, Kind::ObjectOpen) => Self::Corner,
            _ => Self::Text,
        }
    }
}

/// Whether a box from the cell `upper_left` can end in `lower_right`.
fn reaches(upper_left: u16, lower_right: u16) -> bool {
    let cell = |index: u16| (u32::from(index) % GRID_SIDE, u32::from(index) / GRID_SIDE);
    let ((left, top), (right, bottom)) = (cell(upper_left), cell(lower_right));
    left <= right && top <= bottom
}

impl GrammarState {
    /// Whether a place may be entered with the next token: one that can be closed in time or, where nothing can be,
    /// one nearer to the end.
    fn affords(&self, place: Place) -> bool {
        place.least() < self.left.max(self.place.least()).max(1)
    }

    /// The kinds of tokens that may come next. Of patches, some may.
    fn kinds(&self) -> u16 {
        // Every box can at least end in its own first cell.
        let cell = if let Place::Opposite { upper_left } = self.place { upper_left } else { 0 };
        let allowed = |kind: &&Kind| self.place.next(**kind, cell, self.grounded).is_some_and(|p| self.affords(p));
        USABLE.iter().filter(allowed).fold(0, |set, &kind| set | kind as u16)
    }
}

impl Grammar {
    /// The grammar of a tokenizer's vocabulary, in rows that end with any of `end_tokens`.
    pub fn new(tokenizer: &KosmosTokenizer, end_tokens: &[u32]) -> Self {
        let (mut patches, mut cells) = (Vec::new(), HashMap::new());
        for cell in 0..GRID_CELLS as u16 {
            if let Some(id) = tokenizer.id(&tags::patch(cell.into())) {
                patches.push(id);
                cells.insert(id, cell);
            }
        }
        let kind = |id: u32| match tokenizer.piece(id) {
            _ if end_tokens.contains(&id) => Kind::End,
            None => Kind::Foreign,
            Some(_) if tokenizer.is_special(id) => Kind::Silent,
            Some(_) if cells.contains_key(&id) => Kind::Patch,
            Some(piece) => kind_of(&piece),
        };
        let kinds: Vec<Kind> = (0..tokenizer.vocab_size() as u32).map(kind).collect();
        let cell = |id: u32| cells.get(&id).copied().unwrap_or(0);
        let code = |(id, &kind): (u32, &Kind)| ((kind as u16).trailing_zeros() as u16) << Allowed::CELL_BITS | cell(id);
        let codes = (0..).zip(&kinds).map(code).collect();
        Self { kinds, patches, cells, codes }
    }

    /// The state behind a prompt, of whatever form, for a row of at most `max_new_tokens` more.
    pub fn start(&self, prompt: &[u32], max_new_tokens: usize) -> GrammarState {
        let mut state = GrammarState { place: Place::Text, grounded: false, left: 0 };
        for &token in prompt {
            self.advance(&mut state, token);
        }
        GrammarState { left: max_new_tokens, ..state }
    }

    /// Whether a token may come next.
    pub fn allows(&self, state: &GrammarState, token: u32) -> bool {
        let (kind, cell) = self.look_up(token);
        state.place.next(kind, cell, state.grounded).is_some_and(|place| state.affords(place))
    }

    /// Whether an answer of tokens is well formed behind its prompt and closed at its end: whether the grammar, at
    /// whatever `max_new_tokens` it was decoded with, would have left it as it is.
    pub fn accepts(&self, prompt: &[u32], answer: &[u32]) -> bool {
        let mut state = self.start(prompt, answer.len());
        answer.iter().all(|&token| {
            let allowed = self.allows(&state, token);
            self.advance(&mut state, token);
            allowed
        }) && state.place.least() == 0
    }

    /// Sets the scores `[vocabulary]` of all tokens that may not come next to -∞.
    ///
    /// `false` if that leaves nothing: the allowed tokens had been banned before for other reasons. Give them their raw
    /// scores back and mask again; the grammar always allows something.
    pub fn mask(&self, state: &GrammarState, scores: &mut [f32]) -> bool {
        let kinds = state.kinds();
        let (known, unknown) = scores.split_at_mut(scores.len().min(self.kinds.len()));
        unknown.fill(f32::NEG_INFINITY);
        for (score, &kind) in known.iter_mut().zip(&self.kinds) {
            *score = if kind as u16 & kinds == 0 { f32::NEG_INFINITY } else { *score };
        }
        if let Place::Opposite { upper_left } = state.place {
            for (_, &id) in (0..).zip(&self.patches).filter(|&(cell, _)| !reaches(upper_left, cell)) {
                if let Some(score) = scores.get_mut(id as usize) {
                    *score = f32::NEG_INFINITY;
                }
            }
        }
        scores.iter().any(|&score| score > f32::NEG_INFINITY)
    }

    /// As [`Self::mask`], for backends that choose where the logits are.
    pub fn allowed(&self, state: &GrammarState) -> Allowed {
        let upper_left = if let Place::Opposite { upper_left } = state.place { upper_left } else { 0 };
        Allowed { codes: Arc::clone(&self.codes), set: state.kinds(), upper_left }
    }

    /// Goes on behind a token, allowed or not.
    pub fn advance(&self, state: &mut GrammarState, token: u32) {
        let (kind, cell) = self.look_up(token);
        state.left = state.left.saturating_sub(1);
        state.grounded = match kind {
            Kind::Grounding => true,
            Kind::ImageClose => false,
            _ => state.grounded,
        };
        let next = state.place.next(kind, cell, state.grounded);
        state.place = next.unwrap_or_else(|| state.place.recover(kind));
    }

    fn look_up(&self, token: u32) -> (Kind, u16) {
        let kind = self.kinds.get(token as usize).copied().unwrap_or(Kind::Foreign);
        (kind, if kind == Kind::Patch { self.cells.get(&token).copied().unwrap_or(0) } else { 0 })
    }
}

/// The kind of a piece that is neither special nor a patch.
fn kind_of(piece: &str) -> Kind {
    match piece {
        tags::PHRASE_OPEN => Kind::PhraseOpen,
        tags::PHRASE_CLOSE => Kind::PhraseClose,
        tags::OBJECT_OPEN => Kind::ObjectOpen,
        tags::OBJECT_CLOSE => Kind::ObjectClose,
        tags::DELIMITER => Kind::Delimiter,
        tags::GROUNDING => Kind::Grounding,
        tags::IMAGE_CLOSE => Kind::ImageClose,
        tag if tags::ALL.contains(&tag) => Kind::Foreign,
        text if text.contains(['<', '>']) => Kind::Bracket,
        text if trim(&text.replace('▁', " ")).is_empty() => Kind::Blank,
        _ => Kind::Word,
    }
}

impl Constraint {
    /// The constraint of a row behind `prompt`, if its options ask for one.
    pub fn of_row(grammar: &Arc<Grammar>, prompt: &[u32], options: &GenerationOptions) -> Option<Self> {
        options
            .well_formed
            .then(|| Self { grammar: Arc::clone(grammar), state: grammar.start(prompt, options.max_new_tokens) })
    }

    /// As [`Grammar::allows`].
    pub fn allows(&self, token: u32) -> bool {
        self.grammar.allows(&self.state, token)
    }

    /// As [`Grammar::mask`].
    pub fn mask(&self, scores: &mut [f32]) -> bool {
        self.grammar.mask(&self.state, scores)
    }

    /// As [`Grammar::allowed`].
    pub fn allowed(&self) -> Allowed {
        self.grammar.allowed(&self.state)
    }

    /// As [`Grammar::advance`].
    pub fn advance(&mut self, token: u32) {
        self.grammar.advance(&mut self.state, token);
    }
}
