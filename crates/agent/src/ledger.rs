//! The ledger on disk: one line for each admitted effect, appended and synced before the effect.

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use plimsoll_driver::{Ledger, LedgerLine, Refusal};
use plimsoll_model::id::Uid;
use plimsoll_model::step::Fence;

/// Lines after which the file is written anew with one line for each App.
const LONGEST: usize = 10_000;

/// A ledger and the file that holds it.
pub(crate) struct LedgerFile {
    path: PathBuf,
    file: File,
    lines: usize,
    pub(crate) ledger: Ledger,
}

/// Why a step may not be carried out.
#[derive(Debug)]
pub(crate) enum NotAdmitted {
    Refused(Refusal),
    Disk(io::Error),
}

impl LedgerFile {
    /// Reads a ledger. A last line that was cut by a crash was never acted upon and is left out.
    pub(crate) fn open(path: PathBuf) -> io::Result<Self> {
        let mut ledger = Ledger::default();
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
            Err(error) => return Err(error),
        };
        let whole = text.rfind('\n').map_or("", |end| &text[..end]);
        for (number, line) in whole.lines().enumerate() {
            let line: LedgerLine = serde_json::from_str(line).map_err(|error| {
                let what = format!("{}:{}: {error}", path.display(), number + 1);
                io::Error::new(io::ErrorKind::InvalidData, what)
            })?;
            ledger.learn(line);
        }
        let file = rewrite(&path, &ledger)?;
        Ok(Self { path, file, lines: 0, ledger })
    }

    /// Admits a step and writes down what it is about to do, before it does it. If the effect then does not
    /// happen, plans made before are refused once and made anew; the other order could admit one too many.
    pub(crate) fn admit(&mut self, fence: &Fence, changes: bool, closes: bool) -> Result<(), NotAdmitted> {
        let mut next = self.ledger.clone();
        next.admit(fence).map_err(NotAdmitted::Refused)?;
        if changes {
            next.record(&fence.app);
        }
        if closes {
            next.close(&fence.app);
        }
        if next != self.ledger {
            self.append(&next, &fence.app).map_err(NotAdmitted::Disk)?;
            self.ledger = next;
        }
        Ok(())
    }

    fn append(&mut self, next: &Ledger, app: &Uid) -> io::Result<()> {
        if self.lines >= LONGEST {
            self.file = rewrite(&self.path, &self.ledger)?;
            self.lines = 0;
        }
        let Some(line) = next.line(app) else { return Ok(()) };
        let mut text = serde_json::to_vec(&line)?;
        text.push(b'\n');
        let written = self.file.write_all(&text).and_then(|()| self.file.sync_data());
        if written.is_err() {
            // Whatever part of the line is there must not become the beginning of the next one.
            self.file = rewrite(&self.path, &self.ledger)?;
        }
        self.lines += 1;
        written
    }
}

/// Writes one line for each App and returns the file, open for more.
fn rewrite(path: &Path, ledger: &Ledger) -> io::Result<File> {
    let draft = path.with_extension("new");
    let mut file = OpenOptions::new().create(true).write(true).truncate(true).mode(0o600).open(&draft)?;
    let mut text = Vec::new();
    for line in ledger.lines() {
        serde_json::to_writer(&mut text, &line)?;
        text.push(b'\n');
    }
    file.write_all(&text)?;
    file.sync_data()?;
    std::fs::rename(&draft, path)?;
    if let Some(directory) = path.parent() {
        File::open(directory)?.sync_data()?;
    }
    OpenOptions::new().append(true).open(path)
}

#[cfg(test)]
mod tests {
    use plimsoll_model::ObjectKey;
    use plimsoll_model::id::{Digest, Effects, Epoch, PlanHash, PlanNo};

    use super::*;

    fn fence(plan: u64, seen: u64) -> Fence {
        Fence {
            installation: "here".parse().unwrap(),
            epoch: Epoch(1),
            app: "u1".parse().unwrap(),
            key: ObjectKey::in_project("p".parse().unwrap(), "a".parse().unwrap()),
            plan: PlanNo(plan),
            hash: PlanHash(Digest::of_bytes(b"x")),
            seen: Effects(seen),
        }
    }

    #[test]
    fn what_was_admitted_is_known_after_a_restart() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("ledger");
        let mut ledger = LedgerFile::open(path.clone()).unwrap();
        ledger.admit(&fence(3, 0), true, false).unwrap();
        drop(ledger);
        // A crash in the middle of the next line.
        OpenOptions::new().append(true).open(&path).unwrap().write_all(b"{\"app\":").unwrap();
        let mut ledger = LedgerFile::open(path).unwrap();
        let app = "u1".parse().unwrap();
        assert_eq!((ledger.ledger.following(&app), ledger.ledger.effects(&app)), (PlanNo(3), Effects(1)));
        assert!(matches!(ledger.admit(&fence(2, 1), true, false), Err(NotAdmitted::Refused(_))));
        assert!(ledger.admit(&fence(4, 1), true, false).is_ok());
    }
}
