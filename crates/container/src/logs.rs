//! What a container said.

use bollard::container::LogOutput;
use bollard::query_parameters::LogsOptionsBuilder;
use futures::StreamExt as _;

use crate::engine::{Engine, millis};
use crate::error::EngineError;

/// One line that a container said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogLine {
    /// When, as the engine wrote it: lines of one container are told apart and in order by it.
    pub stamp: String,
    /// When, in milliseconds since 1970 UTC.
    pub at: u64,
    /// Whether it was said on standard error.
    pub is_error: bool,
    /// What.
    pub text: Vec<u8>,
}

impl Engine {
    /// Lines that a container said after a stamp, or all, or the last few; none if there is no such container.
    ///
    /// # Errors
    /// When the engine does not say.
    pub async fn logs(
        &self,
        name: &str,
        after: Option<&str>,
        tail: Option<usize>,
    ) -> Result<Vec<LogLine>, EngineError> {
        // Engines count in seconds here: what came before within the same second is left out below.
        let since = after.and_then(millis).and_then(|at| i32::try_from(at / 1000).ok()).unwrap_or(0);
        let tail = tail.map_or_else(|| "all".to_owned(), |tail| tail.to_string());
        let options =
            LogsOptionsBuilder::new().stdout(true).stderr(true).timestamps(true).since(since).tail(&tail);
        let mut pieces = std::pin::pin!(self.inner.docker.logs(name, Some(options.build())));
        let mut lines = Vec::new();
        while let Some(piece) = pieces.next().await {
            let piece = match piece.map_err(EngineError::from) {
                Ok(piece) => piece,
                Err(EngineError::NotFound(_)) => return Ok(Vec::new()),
                Err(error) => return Err(error),
            };
            let is_error = matches!(piece, LogOutput::StdErr { .. });
            let message = piece.into_bytes();
            for line in message.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
                lines.extend(read(line, is_error));
            }
        }
        lines.retain(|line| after.is_none_or(|after| later(&line.stamp, after)));
        Ok(lines)
    }
}

/// A line with its stamp.
fn read(line: &[u8], is_error: bool) -> Option<LogLine> {
    let end = line.iter().position(|byte| *byte == b' ').unwrap_or(line.len());
    let stamp = std::str::from_utf8(&line[..end]).ok()?.to_owned();
    let text = line.get(end + 1..).unwrap_or_default();
    let text = text.strip_suffix(b"\r").unwrap_or(text).to_owned();
    Some(LogLine { at: millis(&stamp)?, stamp, is_error, text })
}

/// Whether a stamp is later than another: to the nanosecond, whatever their time zones.
fn later(stamp: &str, than: &str) -> bool {
    match (stamp.parse::<jiff::Timestamp>(), than.parse::<jiff::Timestamp>()) {
        (Ok(stamp), Ok(than)) => stamp > than,
        _ => stamp > than,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_has_its_stamp_and_its_text() {
        let line = read(b"2026-11-22T01:00:00.123456789Z hello  world\r", true).unwrap();
        assert_eq!((line.text.as_slice(), line.is_error), (&b"hello  world"[..], true));
        assert_eq!(line.at % 1000, 123);
        assert!(later("2026-11-22T02:00:00.2+01:00", "2026-11-22T01:00:00.1Z"));
        assert_eq!(read(b"2026-11-22T01:00:00Z", false).unwrap().text, b"");
        assert_eq!(read(b"no stamp", false), None);
    }
}
