//! Decoding: how a query's prompt becomes tokens, step by step.
//!
//! A [`Decoding`] is a query in the decoder. In each step, [`step`] runs the new tokens of all decodings through a
//! [`Backend`](crate::backend::Backend) in one pass, and each decoding takes its outputs: a [`Sequence`] its next
//! token, [`BeamSlots`] the next tokens of its beams, [`TeacherForcing`] the probabilities of the given tokens.
//! [`run_to_end`] repeats that until all are finished.

mod beam_search;
mod beam_slots;
mod dispatch;
mod driver;
mod progress;
mod sampling;
mod sequence;
mod teacher_forcing;
mod tokens;

pub use beam_search::{BeamSearch, BeamStep, Hypothesis};
pub use beam_slots::BeamSlots;
pub use dispatch::{Decoding, common_prefix};
pub use driver::{ActiveDecoding, run_to_end, step, step_all};
pub use progress::Progress;
pub use sampling::{SampledToken, Sampler};
pub use sequence::Sequence;
pub use teacher_forcing::TeacherForcing;
pub use tokens::{GeneratedTokens, StepTokens, TokenRoles};
