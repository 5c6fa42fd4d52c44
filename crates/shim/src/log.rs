//! What a program says, line by line, with stream and time; kept up to a limit.
//!
//! A line of the file is `MILLIS STREAM TEXT`: milliseconds since 1970 UTC, `o` or `e`, and the text as it came.

use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use crate::record::{LOG, LOG_BEFORE};

/// Size in bytes at which a log is moved aside; the one before it goes.
const LARGEST: u64 = 8 << 20;

/// Length in bytes after which a line is broken.
const LONGEST_LINE: usize = 16 << 10;

/// Which of its two outputs a program used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    /// Standard output.
    Out,
    /// Standard error.
    Err,
}

/// One line of a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogLine<'a> {
    /// When it was said, in milliseconds since 1970 UTC.
    pub millis: u64,
    /// Where.
    pub stream: Stream,
    /// What, without its line end.
    pub text: &'a [u8],
}

/// Adds a line of ours to the log of an instance that does not run.
pub fn note(directory: &Path, text: &str) {
    let mut log = Log::open(directory);
    log.take(Stream::Err, format!("plimsoll: {text}\n").as_bytes());
    log.finish();
}

/// Reads one line of a log file; `None` if it is not one.
pub fn read_line(line: &[u8]) -> Option<LogLine<'_>> {
    let mut parts = line.splitn(3, |byte| *byte == b' ');
    let millis = std::str::from_utf8(parts.next()?).ok()?.parse().ok()?;
    let stream = match parts.next()? {
        b"o" => Stream::Out,
        b"e" => Stream::Err,
        _ => return None,
    };
    Some(LogLine { millis, stream, text: parts.next()? })
}

/// The log of one run. A disk that takes nothing any more costs lines, never the program.
pub(crate) struct Log {
    directory: PathBuf,
    file: Option<File>,
    size: u64,
    pending: [Vec<u8>; 2],
}

impl Log {
    pub(crate) fn open(directory: &Path) -> Self {
        let mut log =
            Self { directory: directory.to_owned(), file: None, size: 0, pending: [Vec::new(), Vec::new()] };
        log.reopen();
        log
    }

    fn reopen(&mut self) {
        let path = self.directory.join(LOG);
        self.file = OpenOptions::new().create(true).append(true).mode(0o600).open(path).ok();
        self.size = self.file.as_ref().and_then(|file| file.metadata().ok()).map_or(0, |it| it.len());
    }

    /// Takes bytes as they came; whole lines are written.
    pub(crate) fn take(&mut self, stream: Stream, bytes: &[u8]) {
        for &byte in bytes {
            if byte != b'\n' {
                self.pending[stream as usize].push(byte);
            }
            if byte == b'\n' || self.pending[stream as usize].len() >= LONGEST_LINE {
                self.end_line(stream);
            }
        }
    }

    /// Writes what has no line end yet.
    pub(crate) fn finish(&mut self) {
        for stream in [Stream::Out, Stream::Err] {
            if !self.pending[stream as usize].is_empty() {
                self.end_line(stream);
            }
        }
    }

    #[expect(
        clippy::disallowed_methods,
        reason = "a log's times are for people, and there is no clock port in a supervisor"
    )]
    fn end_line(&mut self, stream: Stream) {
        let text = std::mem::take(&mut self.pending[stream as usize]);
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_millis();
        let name = match stream {
            Stream::Out => 'o',
            Stream::Err => 'e',
        };
        let mut line = format!("{now} {name} ").into_bytes();
        line.extend_from_slice(&text);
        line.push(b'\n');
        if self.size + line.len() as u64 > LARGEST {
            std::fs::rename(self.directory.join(LOG), self.directory.join(LOG_BEFORE)).ok();
            self.reopen();
        }
        if let Some(file) = &mut self.file
            && file.write_all(&line).is_ok()
        {
            self.size += line.len() as u64;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_kept_whole_and_old_ones_go() {
        let directory = tempfile::tempdir().unwrap();
        let mut log = Log::open(directory.path());
        log.take(Stream::Out, b"one\ntw");
        log.take(Stream::Err, b"bad\n");
        log.take(Stream::Out, b"o");
        log.finish();
        let text = std::fs::read(directory.path().join(LOG)).unwrap();
        let lines: Vec<_> = text.split(|byte| *byte == b'\n').filter_map(read_line).collect();
        let said: Vec<_> = lines.iter().map(|line| (line.stream, line.text)).collect();
        assert_eq!(
            said,
            [(Stream::Out, &b"one"[..]), (Stream::Err, &b"bad"[..]), (Stream::Out, &b"two"[..])]
        );
        let long = vec![b'x'; 1 << 20];
        for _ in 0..17 {
            log.take(Stream::Out, &long);
        }
        let size = |name| std::fs::metadata(directory.path().join(name)).unwrap().len();
        assert!(size(LOG) <= LARGEST && size(LOG_BEFORE) <= LARGEST);
    }
}
