//! Writes log lines and messages to standard error, on a separate thread.
//!
//! A closed pipe, a full disk or a reader that does not read must not fail, block or end the program. Log lines that
//! cannot be written are dropped and counted; a warning reports their number as soon as a line can be written again.

use std::fmt::Arguments;
use std::io::{self, ErrorKind, Write};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::time::{Duration, Instant};

use tracing_subscriber::fmt::MakeWriter;

/// Capacity of the queue to the thread. Further log lines are dropped while the reader does not read.
const QUEUED_LINES: usize = 4096;
/// How long the end of the program waits for queued lines to be written.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(1);
/// How long writing a line is retried while a pipe that another process made non-blocking is full.
const FULL_PIPE_TIMEOUT: Duration = Duration::from_secs(1);
/// How often a full queue or a full non-blocking pipe is retried.
const POLL_INTERVAL: Duration = Duration::from_millis(10);

/// Lines dropped since the start.
static LOST: AtomicU64 = AtomicU64::new(0);

enum Message {
    Line(Vec<u8>),
    /// Dropped once everything sent before has been handled.
    Flush(#[expect(dead_code, reason = "its drop is the signal")] SyncSender<()>),
}

/// Writes a message for the user, such as `groundling: photo.jpg: not found`. Blocks while the queue is full.
macro_rules! message {
    ($($argument:tt)*) => { $crate::stderr::write_message(format_args!($($argument)*)) };
}
pub(crate) use message;

/// Writes one line, see [`message!`]. Control characters are escaped: a file name must not control the terminal or look
/// like another line.
pub(crate) fn write_message(text: Arguments<'_>) {
    if let Some(queue) = queue() {
        // Fails only if the thread has ended; then nothing can be written.
        let _ = queue.send(Message::Line(message_line(text)));
    }
}

/// Writes the last messages, and waits at most [`FLUSH_TIMEOUT`] until all lines are written.
pub(crate) fn finish(messages: &[String]) {
    let Some(queue) = queue() else { return };
    let deadline = Instant::now() + FLUSH_TIMEOUT;
    for text in messages {
        send_until(queue, Message::Line(message_line(format_args!("{text}"))), deadline);
    }
    let (flush, flushed) = sync_channel(0);
    if send_until(queue, Message::Flush(flush), deadline) {
        let _ = flushed.recv_timeout(deadline.saturating_duration_since(Instant::now()));
    }
}

/// The writer of log lines: one call of `write` for each event.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LogWriter;

impl Write for LogWriter {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let sent = queue().is_some_and(|queue| queue.try_send(Message::Line(line.to_vec())).is_ok());
        if !sent {
            LOST.fetch_add(1, Ordering::Relaxed);
        }
        // For an error, the caller would print a message of its own to standard error.
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl MakeWriter<'_> for LogWriter {
    type Writer = Self;

    fn make_writer(&self) -> Self {
        *self
    }
}

/// The text with control characters escaped as in a Rust string literal: `\n`, `\u{1b}`. Line separators and characters
/// that change the direction of text are escaped as well.
pub(crate) fn escape_control(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        let is_unsafe = character.is_control()
            || matches!(character, '\u{2028}' | '\u{2029}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
        if is_unsafe {
            escaped.extend(character.escape_default());
        } else {
            escaped.push(character);
        }
    }
    escaped
}

fn message_line(text: Arguments<'_>) -> Vec<u8> {
    format!("{}\n", escape_control(&text.to_string())).into_bytes()
}

/// The thread's queue; `None` if the thread cannot be started.
fn queue() -> Option<&'static SyncSender<Message>> {
    static QUEUE: OnceLock<Option<SyncSender<Message>>> = OnceLock::new();
    let start = || {
        let (sender, receiver) = sync_channel(QUEUED_LINES);
        let thread = std::thread::Builder::new().name("stderr".into());
        thread.spawn(move || write_lines(&receiver, io::stderr())).ok().map(|_| sender)
    };
    QUEUE.get_or_init(start).as_ref()
}

fn send_until(queue: &SyncSender<Message>, mut message: Message, deadline: Instant) -> bool {
    loop {
        match queue.try_send(message) {
            Ok(()) => return true,
            Err(TrySendError::Full(back)) if Instant::now() < deadline => message = back,
            Err(_) => return false,
        }
        std::thread::sleep(POLL_INTERVAL);
    }
}

fn write_lines(messages: &Receiver<Message>, mut stderr: impl Write) {
    let (mut reported, mut is_cut) = (0, false);
    for message in messages {
        let Message::Line(mut line) = message else { continue };
        if is_cut {
            line.insert(0, b'\n');
        }
        let written = write_all(&mut stderr, &line);
        if let Some(last) = line[..written].last() {
            is_cut = *last != b'\n';
        }
        if written < line.len() {
            LOST.fetch_add(1, Ordering::Relaxed);
            continue;
        }
        let lost = LOST.load(Ordering::Relaxed);
        if lost > reported {
            // This line passes through the queue like any other.
            tracing::warn!(lines = lost - reported, "log lines were lost: standard error was full, closed or not read");
            reported = lost;
        }
    }
}

/// The number of bytes that could be written.
fn write_all(stderr: &mut impl Write, line: &[u8]) -> usize {
    let (mut written, mut full_since) = (0, None);
    while written < line.len() {
        match stderr.write(&line[written..]) {
            Ok(0) => break,
            Ok(count) => (written, full_since) = (written + count, None),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                if full_since.get_or_insert_with(Instant::now).elapsed() > FULL_PIPE_TIMEOUT {
                    break;
                }
                std::thread::sleep(POLL_INTERVAL);
            }
            Err(_) => break,
        }
    }
    written
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Takes `room` bytes, then fails.
    struct FullDisk {
        room: usize,
        taken: Vec<u8>,
    }

    impl Write for FullDisk {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let count = bytes.len().min(self.room);
            if count == 0 {
                return Err(ErrorKind::StorageFull.into());
            }
            self.room -= count;
            self.taken.extend_from_slice(&bytes[..count]);
            Ok(count)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn control_characters_are_escaped_and_other_text_is_not() {
        assert_eq!(escape_control("a\nb\x1b[31m\u{9b}"), "a\\nb\\u{1b}[31m\\u{9b}");
        assert_eq!(escape_control("\u{202e}gpj.exe"), "\\u{202e}gpj.exe");
        assert_eq!(escape_control("Größe \\ 犬 \"x\""), "Größe \\ 犬 \"x\"");
    }

    #[test]
    fn a_write_that_fails_tells_how_much_was_written() {
        let mut disk = FullDisk { room: 3, taken: Vec::new() };
        assert_eq!((write_all(&mut disk, b"ab"), write_all(&mut disk, b"cd"), write_all(&mut disk, b"e")), (2, 1, 0));
        assert_eq!(disk.taken, b"abc");
    }

    #[test]
    fn a_line_after_one_that_was_cut_begins_on_a_line_of_its_own() {
        let (sender, receiver) = sync_channel(4);
        for line in ["one\n", "two\n", "three\n"] {
            sender.send(Message::Line(line.into())).unwrap();
        }
        drop(sender);
        struct OnceFull(Vec<u8>, usize);
        impl Write for OnceFull {
            fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
                self.1 += 1;
                let count = match self.1 {
                    2 => 1,
                    3 => return Err(ErrorKind::StorageFull.into()),
                    _ => bytes.len(),
                };
                self.0.extend_from_slice(&bytes[..count]);
                Ok(count)
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let mut written = OnceFull(Vec::new(), 0);
        write_lines(&receiver, &mut written);
        assert_eq!(String::from_utf8(written.0).unwrap(), "one\nt\nthree\n");
    }
}
