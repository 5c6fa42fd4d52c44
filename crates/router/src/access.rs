//! The access log: one line of JSON for each request, written by a thread of its own.

use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::{Duration, SystemTime};

use serde::Serialize;

/// Lines that wait at most; more than that are dropped rather than holding up requests.
const MOST_WAITING: usize = 8192;

/// How long lines are gathered before they are written: waking this thread for each would cost more than the request.
const GATHERED: Duration = Duration::from_millis(20);

/// Size in bytes at which the log is moved aside.
const LARGEST: u64 = 64 << 20;

/// What became of one request.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Line {
    /// Milliseconds since 1970 UTC.
    pub(crate) at: u128,
    pub(crate) id: String,
    pub(crate) client: String,
    pub(crate) method: String,
    pub(crate) host: String,
    pub(crate) path: String,
    pub(crate) status: u16,
    /// Milliseconds until the head of the answer.
    pub(crate) took: u128,
    /// Which copy answered.
    pub(crate) member: Option<String>,
}

/// Milliseconds since 1970 UTC.
#[expect(clippy::disallowed_methods, reason = "a log's times are for people")]
pub(crate) fn now() -> u128 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_millis()
}

/// Where lines go.
#[derive(Clone)]
pub(crate) struct AccessLog {
    lines: SyncSender<Line>,
}

impl AccessLog {
    pub(crate) fn open(directory: &Path) -> Self {
        let (lines, waiting) = sync_channel(MOST_WAITING);
        let path = directory.join("access.log");
        std::thread::spawn(move || write(&path, &waiting));
        Self { lines }
    }

    pub(crate) fn add(&self, line: Line) {
        self.lines.try_send(line).ok();
    }
}

fn open(path: &PathBuf) -> Option<File> {
    OpenOptions::new().create(true).append(true).mode(0o600).open(path).ok()
}

/// Writes until the last sender is gone. A disk that takes nothing costs lines.
fn write(path: &PathBuf, waiting: &Receiver<Line>) {
    let mut file = open(path);
    let mut size = file.as_ref().and_then(|file| file.metadata().ok()).map_or(0, |it| it.len());
    while let Ok(first) = waiting.recv() {
        std::thread::park_timeout(GATHERED);
        let mut text = Vec::new();
        for line in std::iter::once(first).chain(waiting.try_iter().take(MOST_WAITING)) {
            if serde_json::to_writer(&mut text, &line).is_ok() {
                text.push(b'\n');
            }
        }
        if size + text.len() as u64 > LARGEST {
            std::fs::rename(path, path.with_extension("log.1")).ok();
            (file, size) = (open(path), 0);
        }
        if let Some(file) = &mut file
            && file.write_all(&text).is_ok()
        {
            size += text.len() as u64;
        }
    }
}
