//! Layers that decode a body: each writes into the next, and the bytes of each are limited.

use std::io::{self, Write};

use flate2::write::MultiGzDecoder;
use flate2::{Decompress, FlushDecompress, Status};

/// Size of the buffer for decompressed bytes.
const BUFFER: usize = 32 * 1024;

/// A layer, with all layers after it.
pub(super) trait Layer: Write + Send {
    /// Checks that the data is complete and returns the decoded bytes.
    fn end(self: Box<Self>) -> io::Result<Vec<u8>>;
}

/// A layer produced too many bytes. It is wrapped in an `io::Error`.
#[derive(Debug, thiserror::Error)]
#[error("more bytes than allowed")]
struct Overflow;

fn overflow() -> io::Error {
    io::Error::other(Overflow)
}

pub(super) fn is_overflow(error: &io::Error) -> bool {
    error.get_ref().is_some_and(|inner| inner.is::<Overflow>())
}

/// The last layer: collects the decoded bytes.
pub(super) struct Limited {
    bytes: Vec<u8>,
    most: u64,
}

impl Limited {
    pub(super) fn new(most: u64) -> Self {
        Self { bytes: Vec::new(), most }
    }
}

impl Write for Limited {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if (self.bytes.len() + bytes.len()) as u64 > self.most {
            return Err(overflow());
        }
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Layer for Limited {
    fn end(self: Box<Self>) -> io::Result<Vec<u8>> {
        Ok(self.bytes)
    }
}

/// Limits the bytes that one layer produces. Without it, a few stored bytes could keep layers in between busy without
/// end.
pub(super) struct Counted {
    next: Box<dyn Layer>,
    left: u64,
}

impl Counted {
    pub(super) fn new(next: Box<dyn Layer>, most: u64) -> Self {
        Self { next, left: most }
    }
}

impl Write for Counted {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.left = self.left.checked_sub(bytes.len() as u64).ok_or_else(overflow)?;
        self.next.write_all(bytes)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Layer for MultiGzDecoder<Counted> {
    fn end(self: Box<Self>) -> io::Result<Vec<u8>> {
        let incomplete = |error: io::Error| if is_overflow(&error) { error } else { io::Error::other(TRUNCATED) };
        self.finish().map_err(incomplete)?.next.end()
    }
}

const TRUNCATED: &str = "it is truncated or its checksum is wrong";

/// `deflate` as RFC 9110 defines it (zlib), and as some servers send it (without the zlib header).
pub(super) struct Inflate {
    next: Counted,
    head: Vec<u8>,
    inflate: Option<Decompress>,
    ended: bool,
}

impl Inflate {
    pub(super) fn new(next: Counted) -> Self {
        Self { next, head: Vec::new(), inflate: None, ended: false }
    }

    fn run(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        let Some(inflate) = &mut self.inflate else { return Ok(()) };
        let mut output = vec![0; BUFFER];
        // Bytes after the end are ignored, as browsers do.
        while !self.ended {
            let (in_before, out_before) = (inflate.total_in(), inflate.total_out());
            let status = inflate.decompress(bytes, &mut output, FlushDecompress::None)?;
            let consumed = usize::try_from(inflate.total_in() - in_before).unwrap_or(usize::MAX);
            let written = usize::try_from(inflate.total_out() - out_before).unwrap_or(usize::MAX);
            bytes = bytes.get(consumed..).unwrap_or_default();
            self.next.write_all(output.get(..written).unwrap_or_default())?;
            self.ended = status == Status::StreamEnd;
            if consumed == 0 && written == 0 {
                break;
            }
        }
        Ok(())
    }
}

impl Write for Inflate {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.inflate.is_some() {
            self.run(bytes)?;
            return Ok(bytes.len());
        }
        self.head.extend_from_slice(bytes);
        if let [first, second, ..] = self.head[..] {
            // RFC 1950: the method is 8, and both bytes together are a multiple of 31.
            let is_zlib = first & 0x0f == 8 && u16::from_be_bytes([first, second]).is_multiple_of(31);
            self.inflate = Some(Decompress::new(is_zlib));
            let head = std::mem::take(&mut self.head);
            self.run(&head)?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Layer for Inflate {
    fn end(self: Box<Self>) -> io::Result<Vec<u8>> {
        if self.ended { self.next.next.end() } else { Err(io::Error::other(TRUNCATED)) }
    }
}
