//! A reader that fails once the deadline has passed.

use std::io::{self, BufRead, Cursor, Read, Seek, SeekFrom};
use std::time::Instant;

/// Reads a file from memory, at most `step` bytes at a time, and fails with [`io::ErrorKind::TimedOut`] after the
/// deadline. Small steps make a decoder check the deadline often.
pub(super) struct DeadlineReader<'a> {
    file: Cursor<&'a [u8]>,
    step: usize,
    deadline: Option<Instant>,
}

impl<'a> DeadlineReader<'a> {
    pub(super) fn new(file: &'a [u8], step: usize, deadline: Option<Instant>) -> Self {
        Self { file: Cursor::new(file), step, deadline }
    }

    fn check(&self) -> io::Result<()> {
        if has_passed(self.deadline) { Err(io::ErrorKind::TimedOut.into()) } else { Ok(()) }
    }
}

/// Whether there is a deadline and it has passed.
pub(super) fn has_passed(deadline: Option<Instant>) -> bool {
    deadline.is_some_and(|deadline| Instant::now() >= deadline)
}

impl Read for DeadlineReader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.check()?;
        let length = buffer.len().min(self.step);
        self.file.read(&mut buffer[..length])
    }
}

impl BufRead for DeadlineReader<'_> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        self.check()?;
        let rest = self.file.fill_buf()?;
        Ok(&rest[..rest.len().min(self.step)])
    }

    fn consume(&mut self, amount: usize) {
        self.file.consume(amount);
    }
}

impl Seek for DeadlineReader<'_> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.file.seek(to)
    }
}
