//! A step's rows in the order that the card computes them: sequences with one new token first, then the others.

use kernels::cuda::index_tables::{Copy, NewRow, RowRequest, Tile};
use kernels::cuda::{Buffer, SelectedToken as RawChosen};

use crate::backend::positions::Positions;
use crate::backend::{Allowed, Chosen, CopyFrom, LogitsRequest, Segment};
use crate::grounding::corner::CornerEstimate;

/// What goes through the decoder in one pass.
#[derive(Default)]
pub(super) struct Plan {
    pub(super) rows: Vec<NewRow>,
    /// Rows of sequences with one new token, which come first.
    pub(super) singles: usize,
    /// For each row the picture's row that takes its place.
    pub(super) pictures: Vec<Option<(Buffer<f32>, usize)>>,
    /// The other rows, by sequence.
    pub(super) tiles: Vec<Tile>,
    pub(super) copies: Vec<Copy>,
    /// Rows that something is wanted of.
    pub(super) picks: Vec<u32>,
    /// What, and where it belongs in the step's answers.
    pub(super) requests: Vec<RowRequest>,
    pub(super) places: Vec<usize>,
}

impl Plan {
    /// Plans of a step, each of at most `most` rows unless a single sequence has more. Who takes columns over from others
    /// comes after these.
    pub(super) fn of_step(
        segments: &[Segment],
        requests: &[RowRequest],
        positions: &Positions,
        most: usize,
    ) -> Vec<Self> {
        let mut starts = Vec::with_capacity(segments.len());
        let mut total = 0;
        for segment in segments {
            starts.push(total);
            total += segment.logits.len();
        }
        let mut order: Vec<usize> = (0..segments.len()).collect();
        order.sort_by_key(|&index| (segments[index].copy.is_some(), segments[index].tokens.len() > 1));
        let (mut plans, mut first) = (Vec::new(), 0);
        while first < order.len() {
            let (mut end, mut rows) = (first, 0);
            while end < order.len() && (end == first || rows + segments[order[end]].tokens.len() <= most) {
                rows += segments[order[end]].tokens.len();
                end += 1;
            }
            let mut own = order[first..end].to_vec();
            own.sort_by_key(|&index| segments[index].tokens.len() > 1);
            let mut plan = Self::default();
            for index in own {
                let segment = &segments[index];
                plan.add(segment, &requests[starts[index]..][..segment.logits.len()], starts[index], positions);
            }
            plans.push(plan);
            first = end;
        }
        plans
    }

    fn add(&mut self, segment: &Segment, requests: &[RowRequest], place: usize, positions: &Positions) {
        let first = self.rows.len() as u32;
        let (slot, count) = (segment.slot as u32, segment.tokens.len());
        for ((&token, position), column) in
            segment.tokens.iter().zip(positions.of(segment.tokens, segment.seen)).zip(segment.cached..)
        {
            self.rows.push(NewRow { token, position: position as u32, slot, column: column as u32 });
        }
        match segment.image {
            Some(image) => {
                let values = image.embedding.as_cuda();
                let row = |row: Option<usize>| Some((values?.clone(), row?));
                self.pictures.extend(image.rows(segment.cached, count).map(row));
            }
            None => self.pictures.extend(std::iter::repeat_n(None, count)),
        }
        if let Some(CopyFrom { slot: from, columns }) = &segment.copy {
            let (first, count) = (columns.start as u32, columns.len() as u32);
            self.copies.push(Copy { from: *from as u32, to: slot, first, count });
        }
        if count == 1 {
            self.singles += 1;
        } else {
            self.tiles.extend(Tile::cover(first, count as u32, slot, segment.cached as u32 + 1, true, first));
        }
        self.picks.extend(segment.logits.clone().map(|row| first + row as u32));
        self.requests.extend(requests);
        self.places.extend((place..).take(requests.len()));
    }

    /// Whether it is a step of a decoding batch and nothing else: the newest token of each sequence, all of them chosen.
    pub(super) fn only_newest(&self) -> bool {
        self.singles == self.rows.len()
            && self.copies.is_empty()
            && self.picks.len() == self.rows.len()
            && self.pictures.iter().all(Option::is_none)
    }

    /// Whether any row is a picture's.
    pub(super) fn has_pictures(&self) -> bool {
        self.pictures.iter().any(Option::is_some)
    }
}

/// A want as the card takes it, where the token's codes are those of `codes`; whether the logits are needed as well.
pub(super) fn row_request(request: &LogitsRequest, codes: Option<&std::sync::Arc<[u16]>>) -> (RowRequest, bool) {
    let nothing = RowRequest { target: Some(0), set: RowRequest::EVERYTHING, upper_left: 0, patches: (0, 0) };
    match request {
        LogitsRequest::Logits => (nothing, true),
        LogitsRequest::Score(token) => (RowRequest { target: Some(*token), ..nothing }, false),
        LogitsRequest::Best { allowed: None, patches } => {
            (RowRequest { target: None, patches: (patches.start, patches.end), ..nothing }, false)
        }
        LogitsRequest::Best { allowed: Some(Allowed { codes: own, set, upper_left }), patches } => {
            let known = codes.is_some_and(|codes| std::sync::Arc::ptr_eq(codes, own));
            let patches = (patches.start, patches.end);
            let choice = RowRequest { target: None, set: *set, upper_left: *upper_left, patches };
            // Another vocabulary's grammar in the same step: whoever asked chooses from the logits.
            if known { (choice, false) } else { (nothing, true) }
        }
    }
}

/// What the card chose, as whoever asked takes it.
pub(super) fn chosen(raw: &RawChosen, request: &RowRequest) -> Chosen {
    let RawChosen { token, logprob, corner: (column, row) } = *raw;
    let (first, end) = request.patches;
    let corner = (first..end).contains(&token).then_some(CornerEstimate { column, row });
    Chosen { token, logprob, corner }
}
