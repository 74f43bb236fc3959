//! The rows of a pass: which segment they belong to, and where their keys and values go.

use std::ops::Range;

use kernels::cpu::{Attention, Context, KeyValueCache, PackedWeights};

use crate::backend::positions::Positions;
use crate::backend::segment::{CopyFrom, Segment};

/// The slots of a layer. `None` for slots that another thread has.
pub(super) type Slots<'a> = Vec<Option<&'a mut KeyValueCache>>;

/// Takes the segments' slots out of `all`.
pub(super) fn take_slots<'a>(all: &mut Slots<'a>, segments: &[Segment]) -> Slots<'a> {
    let mut own: Slots = all.iter().map(|_| None).collect();
    segments.iter().for_each(|segment| own[segment.slot] = all[segment.slot].take());
    own
}

pub(super) fn count_rows(segments: &[Segment]) -> usize {
    segments.iter().map(|segment| segment.tokens.len()).sum()
}

pub(super) fn count_logits(segments: &[Segment]) -> usize {
    segments.iter().map(|segment| segment.logits.len()).sum()
}

/// The rows of some segments in each buffer.
pub(super) struct Rows<'a> {
    pub(super) x: &'a mut [f32],
    pub(super) normed: &'a mut [f32],
    pub(super) qkv: &'a mut [f32],
    pub(super) inner: &'a mut [f32],
    pub(super) logits: &'a mut [f32],
}

impl Rows<'_> {
    /// Splits off the first `rows` rows and the first `logits_rows` rows of logits.
    pub(super) fn split_at(
        self,
        rows: usize,
        logits_rows: usize,
        (width, inner_width, outputs): (usize, usize, usize),
    ) -> (Self, Self) {
        let (x, other_x) = self.x.split_at_mut(rows * width);
        let (normed, other_normed) = self.normed.split_at_mut(rows * width);
        let (qkv, other_qkv) = self.qkv.split_at_mut(rows * 3 * width);
        let (inner, other_inner) = self.inner.split_at_mut(rows * inner_width);
        let (logits, other_logits) = self.logits.split_at_mut(logits_rows * outputs);
        let others =
            Self { x: other_x, normed: other_normed, qkv: other_qkv, inner: other_inner, logits: other_logits };
        (Self { x, normed, qkv, inner, logits }, others)
    }
}

/// Computes the input of the first layer: scaled token or image embeddings plus position embeddings.
pub(super) fn embed(segments: &[Segment], table: &PackedWeights, scale: f32, positions: &Positions, x: &mut [f32]) {
    let mut rows = x.chunks_exact_mut(table.inputs());
    for segment in segments {
        let mut image_rows = segment.image.map(|image| image.rows(segment.cached, segment.tokens.len()));
        let token_positions = positions.of(segment.tokens, segment.preceding_non_pad);
        for ((&token, position), row) in segment.tokens.iter().zip(token_positions).zip(&mut rows) {
            let image_row = image_rows.as_mut().and_then(|rows| rows.next().flatten());
            match image_row.zip(segment.image) {
                Some((index, image)) => row.copy_from_slice(image.embedding.row(index)),
                None => table.read_row(token as usize, row),
            }
            row.iter_mut().zip(positions.cached_row(position)).for_each(|(value, p)| *value = *value * scale + p);
        }
    }
}

/// Moves the rows that logits are computed for to the front, and returns their number.
pub(super) fn keep_logits_rows(segments: &[Segment], width: usize, rows: &mut [f32]) -> usize {
    let (mut start, mut kept) = (0, 0);
    for segment in segments {
        let Range { start: first, end } = segment.logits;
        rows.copy_within((start + first) * width..(start + end) * width, kept * width);
        kept += end - first;
        start += segment.tokens.len();
    }
    kept
}

/// Appends the keys and values of `qkv` `[rows, 3·width]` to the slots, then does the segments' copies from other
/// slots, which may include keys and values of the same pass.
pub(super) fn append_keys_values(slots: &mut Slots, segments: &[Segment], width: usize, qkv: &[f32]) {
    let mut rows = qkv.chunks_exact(3 * width);
    for segment in segments {
        let Some(cache) = &mut slots[segment.slot] else { unreachable!("a segment's slot belongs to this thread") };
        for (column, row) in (segment.cached..segment.cached + segment.tokens.len()).zip(&mut rows) {
            cache.write(column, &row[width..2 * width], &row[2 * width..]);
        }
    }
    for segment in segments {
        if let Some(CopyFrom { slot, columns }) = &segment.copy
            && let Ok([Some(to), Some(from)]) = slots.get_disjoint_mut([segment.slot, *slot])
        {
            to.copy_from(from, columns.clone());
        }
    }
}

/// The attention of a part of the rows, starting with row `first`. Each segment has rows for the given range of its
/// tokens; `qkv` `[rows, 3·width]` has the part's queries.
pub(super) fn attention_of_part<'a, 's>(
    segments: impl Iterator<Item = (&'s Segment<'s>, Range<usize>)>,
    first: usize,
    width: usize,
    slots: &'a Slots,
    mut qkv: &'a [f32],
    mut out: &'a mut [f32],
) -> Vec<Attention<'a>> {
    let part = first..first + out.len() / width;
    let mut start = 0;
    let mut attention = Vec::new();
    for (segment, tokens) in segments {
        let own = start..start + tokens.len();
        start = own.end;
        let taken = Range { start: own.start.max(part.start), end: own.end.min(part.end) };
        if taken.is_empty() {
            continue;
        }
        let Some(cache) = &slots[segment.slot] else { unreachable!("a segment's slot belongs to this thread") };
        let cached = segment.cached + tokens.start + taken.start - own.start;
        let (queries, next) = qkv.split_at(taken.len() * 3 * width);
        qkv = next;
        let (attended, next) = std::mem::take(&mut out).split_at_mut(taken.len() * width);
        out = next;
        attention.push(Attention {
            queries,
            query_stride: 3 * width,
            context: Context::Cache(cache),
            key_count: cached + taken.len(),
            causal_offset: Some(cached),
            out: attended,
        });
    }
    attention
}
