//! The order in which the GPU computes a pass's rows: first the sequences with one new token, then the others.

use kernels::cuda::index_tables::{Copy, NewRow, RowRequest, Tile};
use kernels::cuda::{Buffer, SelectedToken as RawChosen};

use crate::backend::logits::{ChosenToken, LogitsRequest, TokenMask};
use crate::backend::positions::Positions;
use crate::backend::segment::{CopyFrom, Segment};
use crate::grounding::CornerEstimate;

/// The rows of one pass of the decoder. Segments that do not fit into one pass are computed in several.
#[derive(Default)]
pub(super) struct Plan {
    pub(super) rows: Vec<NewRow>,
    /// Number of rows of sequences with one new token. These rows come first.
    pub(super) decode_rows: usize,
    /// For each row the row of an image embedding that replaces it.
    pub(super) image_rows: Vec<Option<(Buffer<f32>, usize)>>,
    /// Tiles of the other rows, by sequence.
    pub(super) tiles: Vec<Tile>,
    pub(super) copies: Vec<Copy>,
    /// Rows that have a logits request.
    pub(super) output_rows: Vec<u32>,
    /// Their requests.
    pub(super) requests: Vec<RowRequest>,
    /// The index of each request among those of all segments.
    pub(super) request_indices: Vec<usize>,
}

impl Plan {
    /// Plans the passes for these segments, each of at most `max_rows` rows unless a single segment has more. Segments
    /// that copy from others come after them.
    pub(super) fn of_segments(
        segments: &[Segment],
        requests: &[RowRequest],
        positions: &Positions,
        max_rows: usize,
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
            while end < order.len() && (end == first || rows + segments[order[end]].tokens.len() <= max_rows) {
                rows += segments[order[end]].tokens.len();
                end += 1;
            }
            let mut members = order[first..end].to_vec();
            members.sort_by_key(|&index| segments[index].tokens.len() > 1);
            let mut plan = Self::default();
            for index in members {
                let segment = &segments[index];
                plan.add(segment, &requests[starts[index]..][..segment.logits.len()], starts[index], positions);
            }
            plans.push(plan);
            first = end;
        }
        plans
    }

    fn add(&mut self, segment: &Segment, requests: &[RowRequest], first_request: usize, positions: &Positions) {
        let first = self.rows.len() as u32;
        let (slot, count) = (segment.slot as u32, segment.tokens.len());
        for ((&token, position), column) in
            segment.tokens.iter().zip(positions.of(segment.tokens, segment.preceding_non_pad)).zip(segment.cached..)
        {
            self.rows.push(NewRow { token, position: position as u32, slot, column: column as u32 });
        }
        match segment.image {
            Some(image) => {
                let values = image.embedding.as_cuda();
                let row = |row: Option<usize>| Some((values?.clone(), row?));
                self.image_rows.extend(image.rows(segment.cached, count).map(row));
            }
            None => self.image_rows.extend(std::iter::repeat_n(None, count)),
        }
        if let Some(CopyFrom { slot: from, columns }) = &segment.copy {
            let (first, count) = (columns.start as u32, columns.len() as u32);
            self.copies.push(Copy { from: *from as u32, to: slot, first, count });
        }
        if count == 1 {
            self.decode_rows += 1;
        } else {
            self.tiles.extend(Tile::cover(first, count as u32, slot, segment.cached as u32 + 1, true, first));
        }
        self.output_rows.extend(segment.logits.clone().map(|row| first + row as u32));
        self.requests.extend(requests);
        self.request_indices.extend((first_request..).take(requests.len()));
    }

    /// Whether every row is the newest token of a sequence with one logits request, so that the pass can be replayed.
    pub(super) fn is_decode_only(&self) -> bool {
        self.decode_rows == self.rows.len()
            && self.copies.is_empty()
            && self.output_rows.len() == self.rows.len()
            && self.image_rows.iter().all(Option::is_none)
    }

    /// Whether any row is replaced by one of an image embedding.
    pub(super) fn has_images(&self) -> bool {
        self.image_rows.iter().any(Option::is_some)
    }
}

/// Converts a request for the kernel, and returns whether the row of logits must be downloaded. `uploaded_codes` are
/// the token codes in GPU memory.
pub(super) fn row_request(
    request: &LogitsRequest,
    uploaded_codes: Option<&std::sync::Arc<[u16]>>,
) -> (RowRequest, bool) {
    let unused = RowRequest { target: Some(0), set: RowRequest::EVERYTHING, upper_left: 0, patches: (0, 0) };
    match request {
        LogitsRequest::Logits => (unused, true),
        LogitsRequest::Score(token) => (RowRequest { target: Some(*token), ..unused }, false),
        LogitsRequest::Best { mask: None, patches } => {
            (RowRequest { target: None, patches: (patches.start, patches.end), ..unused }, false)
        }
        LogitsRequest::Best { mask: Some(TokenMask { codes, kinds, upper_left }), patches } => {
            let is_uploaded = uploaded_codes.is_some_and(|uploaded| std::sync::Arc::ptr_eq(uploaded, codes));
            let patches = (patches.start, patches.end);
            let choice = RowRequest { target: None, set: *kinds, upper_left: *upper_left, patches };
            // Only one grammar's codes are uploaded: a decoding with another one gets the logits.
            if is_uploaded { (choice, false) } else { (unused, true) }
        }
    }
}

/// Converts the kernel's output for a request.
pub(super) fn chosen_token(raw: &RawChosen, request: &RowRequest) -> ChosenToken {
    let RawChosen { token, logprob, corner: (column, row) } = *raw;
    let (first, end) = request.patches;
    let corner = (first..end).contains(&token).then_some(CornerEstimate { column, row });
    ChosenToken { token, logprob, corner }
}
