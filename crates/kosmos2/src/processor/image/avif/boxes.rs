//! Boxes of the ISO base media file format (ISO/IEC 14496-12, 4.2).

/// A box.
#[derive(Debug, Clone, Copy)]
pub(super) struct MediaBox<'a> {
    pub(super) box_type: [u8; 4],
    /// The content after the header.
    pub(super) body: &'a [u8],
}

/// The boxes in a body. A box that extends beyond the body is truncated.
pub(super) fn boxes(body: &[u8]) -> impl Iterator<Item = MediaBox<'_>> {
    let mut rest = body;
    std::iter::from_fn(move || {
        let mut reader = Reader::new(rest);
        let (length, box_type) = (reader.number(4)?, reader.box_type()?);
        let (header, length) = match length {
            0 => (8, rest.len()),
            1 => (16, usize::try_from(reader.number(8)?).unwrap_or(usize::MAX)),
            length => (8, length as usize),
        };
        let body = rest.get(header..length.min(rest.len()))?;
        rest = rest.get(length.min(rest.len())..)?;
        Some(MediaBox { box_type, body })
    })
}

/// The body of the first box of a type.
pub(super) fn find<'a>(body: &'a [u8], box_type: &[u8; 4]) -> Option<&'a [u8]> {
    boxes(body).find(|one| &one.box_type == box_type).map(|one| one.body)
}

/// The version, the flags and the rest of the body of a `FullBox`.
pub(super) fn full_box<'a>(body: &'a [u8]) -> Option<(u8, u32, Reader<'a>)> {
    let mut reader = Reader::new(body);
    let (version, flags) = (reader.number(1)? as u8, reader.number(3)? as u32);
    Some((version, flags, reader))
}

/// Reads big-endian fields.
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

    pub(super) fn box_type(&mut self) -> Option<[u8; 4]> {
        self.bytes(4)?.first_chunk().copied()
    }

    pub(super) fn bytes(&mut self, count: usize) -> Option<&'a [u8]> {
        let (bytes, rest) = self.rest.split_at_checked(count)?;
        self.rest = rest;
        Some(bytes)
    }

    /// The bytes up to the next NUL, which is skipped.
    pub(super) fn c_string(&mut self) -> &'a [u8] {
        let end = self.rest.iter().position(|byte| *byte == 0).unwrap_or(self.rest.len());
        let text = self.rest.get(..end).unwrap_or_default();
        self.rest = self.rest.get(end + 1..).unwrap_or_default();
        text
    }

    pub(super) fn rest(&self) -> &'a [u8] {
        self.rest
    }
}
