//! The steps of decoding a body, each of which writes into the next and is bounded.

use std::io::{self, Write};

use flate2::write::MultiGzDecoder;
use flate2::{Decompress, FlushDecompress, Status};

/// Bytes that one step of decompression makes.
const STEP: usize = 32 * 1024;

/// One step of decoding, and all after it.
pub(super) trait Layer: Write + Send {
    /// Checks that the data is complete, and gives the bytes that came out.
    fn end(self: Box<Self>) -> io::Result<Vec<u8>>;
}

/// More came out than allowed. It is the inner error of a layer's.
#[derive(Debug, thiserror::Error)]
#[error("more bytes than allowed")]
struct Overflow;

fn overflow() -> io::Error {
    io::Error::other(Overflow)
}

pub(super) fn is_overflow(error: &io::Error) -> bool {
    error.get_ref().is_some_and(|inner| inner.is::<Overflow>())
}

/// Where the decoded bytes go.
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

/// Counts what one step makes: without it, steps in between could work without end on a few stored bytes.
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
        let incomplete = |error: io::Error| if is_overflow(&error) { error } else { io::Error::other(CUT_SHORT) };
        self.finish().map_err(incomplete)?.next.end()
    }
}

const CUT_SHORT: &str = "it is cut short, or its checksum is wrong";

/// `deflate` as RFC 9110 means it (zlib), and as some servers send it (without zlib's header).
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
        let mut made = vec![0; STEP];
        // What follows the end is passed over, as browsers do.
        while !self.ended {
            let (in_before, out_before) = (inflate.total_in(), inflate.total_out());
            let status = inflate.decompress(bytes, &mut made, FlushDecompress::None)?;
            let taken = usize::try_from(inflate.total_in() - in_before).unwrap_or(usize::MAX);
            let given = usize::try_from(inflate.total_out() - out_before).unwrap_or(usize::MAX);
            bytes = bytes.get(taken..).unwrap_or_default();
            self.next.write_all(made.get(..given).unwrap_or_default())?;
            self.ended = status == Status::StreamEnd;
            if taken == 0 && given == 0 {
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
            // RFC 1950: method 8, and both bytes together a multiple of 31.
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
        if self.ended { self.next.next.end() } else { Err(io::Error::other(CUT_SHORT)) }
    }
}
