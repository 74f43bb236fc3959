//! ISO base media files: boxes within boxes, and the numbers within them.

/// A box: its kind and what it holds.
#[derive(Debug, Clone, Copy)]
pub(super) struct Part<'a> {
    pub(super) kind: [u8; 4],
    pub(super) body: &'a [u8],
}

/// The boxes of a body, one after the other. A box that reaches beyond the body is cut to it.
pub(super) fn parts(body: &[u8]) -> impl Iterator<Item = Part<'_>> {
    let mut rest = body;
    std::iter::from_fn(move || {
        let mut reader = Reader::new(rest);
        let (length, kind) = (reader.number(4)?, reader.kind()?);
        let (head, length) = match length {
            0 => (8, rest.len()),
            1 => (16, usize::try_from(reader.number(8)?).unwrap_or(usize::MAX)),
            length => (8, length as usize),
        };
        let body = rest.get(head..length.min(rest.len()))?;
        rest = rest.get(length.min(rest.len())..)?;
        Some(Part { kind, body })
    })
}

/// The body of the first box of a kind.
pub(super) fn first<'a>(body: &'a [u8], kind: &[u8; 4]) -> Option<&'a [u8]> {
    parts(body).find(|part| &part.kind == kind).map(|part| part.body)
}

/// The body of a box that begins with a version and flags, without them.
pub(super) fn full<'a>(body: &'a [u8]) -> Option<(u8, u32, Reader<'a>)> {
    let mut reader = Reader::new(body);
    let (version, flags) = (reader.number(1)? as u8, reader.number(3)? as u32);
    Some((version, flags, reader))
}

/// Numbers, high byte first.
#[derive(Debug, Clone, Copy)]
pub(super) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    /// A number of up to eight bytes.
    pub(super) fn number(&mut self, bytes: usize) -> Option<u64> {
        Some(self.bytes(bytes)?.iter().fold(0, |number, byte| number << 8 | u64::from(*byte)))
    }

    pub(super) fn kind(&mut self) -> Option<[u8; 4]> {
        self.bytes(4)?.first_chunk().copied()
    }

    pub(super) fn bytes(&mut self, count: usize) -> Option<&'a [u8]> {
        let (bytes, rest) = self.rest.split_at_checked(count)?;
        self.rest = rest;
        Some(bytes)
    }

    /// Bytes up to the next zero, which is passed over.
    pub(super) fn text(&mut self) -> &'a [u8] {
        let end = self.rest.iter().position(|byte| *byte == 0).unwrap_or(self.rest.len());
        let text = self.rest.get(..end).unwrap_or_default();
        self.rest = self.rest.get(end + 1..).unwrap_or_default();
        text
    }

    pub(super) fn rest(&self) -> &'a [u8] {
        self.rest
    }
}
