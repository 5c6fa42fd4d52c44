//! The form of a backup: a tar file, encrypted as a whole.
//!
//! ```text
//! backup.json          which installation, when, of which version
//! keys.json            what opens the secrets
//! rows/000001.jsonl    every object, a page to a file and a line to an object
//! audit/000001.jsonl   the audit log, in the same way
//! content/DIGEST       programs, by digest
//! end.json             how much there is of each, and the digest of all lines: without it the backup is not whole
//! ```

use std::io::{self, Read, Write};
use std::sync::Arc;

use plimsoll_model::audit::AuditRecord;
use plimsoll_model::id::{Digest, Epoch, InstallationId};
use plimsoll_model::object::{Metadata, Timestamp};
use plimsoll_model::{ObjectKey, Revision};
use plimsoll_store::{KindName, Moment, Row, StoreError};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::BackupError;

/// The form described here. Form 1 had one key, in a file `key`.
const FORMAT: u32 = 2;

/// Lines of a page.
const PAGE: usize = 256;

/// Bytes of the largest page that is read: no object of the store comes near.
const LARGEST_PAGE: u64 = 1 << 30;

const HEAD: &str = "backup.json";
const KEYS: &str = "keys.json";
const KEY: &str = "key";
const ROWS: &str = "rows/";
const AUDIT: &str = "audit/";
const CONTENT: &str = "content/";
const END: &str = "end.json";

/// What a backup is of.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Head {
    format: u32,
    /// The version that made it.
    pub version: String,
    /// The installation.
    pub installation: InstallationId,
    /// Its epoch then.
    pub epoch: Epoch,
    /// When.
    pub taken: Timestamp,
    /// The newest revision of its store.
    pub revision: Revision,
}

impl Head {
    pub(super) fn new(
        installation: InstallationId,
        epoch: Epoch,
        taken: Timestamp,
        revision: Revision,
    ) -> Self {
        let version = env!("CARGO_PKG_VERSION").to_owned();
        Self { format: FORMAT, version, installation, epoch, taken, revision }
    }
}

/// How much there is in a backup.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct End {
    /// Objects.
    pub objects: u64,
    /// Records of the audit log.
    pub records: u64,
    /// Programs and listings.
    pub programs: u64,
    /// SHA-256 of all lines of objects and records.
    pub digest: Digest,
}

/// An object as a line.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Line {
    kind: String,
    metadata: Metadata,
    spec: Arc<str>,
    operations: Arc<str>,
    status: Option<Arc<str>>,
}

/// What has been seen of a store, object by object: two stores that hold the same come to the same end.
#[derive(Default)]
pub(crate) struct Tally {
    objects: u64,
    records: u64,
    hash: Sha256,
}

impl Tally {
    /// An object as a line, counted.
    pub(crate) fn row(&mut self, kind: KindName, row: &Row) -> Result<String, BackupError> {
        let line = Line {
            kind: kind.0.to_owned(),
            metadata: row.meta.clone(),
            spec: row.spec.clone(),
            operations: row.operations.clone(),
            status: row.status.clone(),
        };
        self.objects += 1;
        self.line(&line)
    }

    /// A record as a line, counted.
    pub(crate) fn record(&mut self, record: &AuditRecord) -> Result<String, BackupError> {
        self.records += 1;
        self.line(record)
    }

    fn line(&mut self, line: &impl Serialize) -> Result<String, BackupError> {
        let text = serde_json::to_string(line).map_err(io::Error::from)? + "\n";
        self.hash.update(text.as_bytes());
        Ok(text)
    }

    /// The sum of it.
    pub(crate) fn end(self, programs: u64) -> End {
        let digest = Digest::of_hash(self.hash.finalize().into());
        End { objects: self.objects, records: self.records, programs, digest }
    }
}

/// Every row and record of a moment, page by page.
pub(crate) struct Pages {
    moment: Box<dyn Moment>,
    row: Option<(KindName, ObjectKey)>,
    record: u64,
}

impl Pages {
    pub(crate) fn of(moment: Box<dyn Moment>) -> Self {
        Self { moment, row: None, record: 0 }
    }

    /// The next rows; none at the end.
    pub(crate) async fn rows(&mut self) -> Result<Vec<(KindName, Row)>, StoreError> {
        let rows = self.moment.rows(self.row.as_ref(), PAGE).await?;
        self.row = rows.last().map(|(kind, last)| (*kind, last.meta.key.clone()));
        Ok(rows)
    }

    /// The next records; none at the end.
    pub(crate) async fn records(&mut self) -> Result<Vec<AuditRecord>, StoreError> {
        let records = self.moment.audit(self.record, PAGE).await?;
        self.record = records.last().map_or(self.record, |last| last.number);
        Ok(records)
    }
}

/// Writes the parts of a backup.
pub(super) struct Writer<W: Write> {
    tar: tar::Builder<age::stream::StreamWriter<W>>,
    pages: u32,
}

impl<W: Write> Writer<W> {
    pub(super) fn begin(
        out: W,
        recipients: &[age::x25519::Recipient],
        head: &Head,
        keys: &[u8],
    ) -> Result<Self, BackupError> {
        let recipients = recipients.iter().map(|it| it as &dyn age::Recipient);
        let out = age::Encryptor::with_recipients(recipients)?.wrap_output(out)?;
        let mut writer = Self { tar: tar::Builder::new(out), pages: 0 };
        writer.file(HEAD, &serde_json::to_vec(head).map_err(io::Error::from)?)?;
        writer.file(KEYS, keys)?;
        Ok(writer)
    }

    pub(super) fn rows(&mut self, lines: &str) -> io::Result<()> {
        self.page(ROWS, lines)
    }

    pub(super) fn audit(&mut self, lines: &str) -> io::Result<()> {
        self.page(AUDIT, lines)
    }

    pub(super) fn content(&mut self, digest: Digest, file: &mut std::fs::File) -> io::Result<()> {
        let size = file.metadata()?.len();
        self.part(&format!("{CONTENT}{digest}"), size, file)
    }

    pub(super) fn finish(mut self, end: &End) -> Result<W, BackupError> {
        self.file(END, &serde_json::to_vec(end).map_err(io::Error::from)?)?;
        Ok(self.tar.into_inner()?.finish()?)
    }

    fn page(&mut self, folder: &str, lines: &str) -> io::Result<()> {
        self.pages += 1;
        self.file(&format!("{folder}{:06}.jsonl", self.pages), lines.as_bytes())
    }

    fn file(&mut self, name: &str, bytes: &[u8]) -> io::Result<()> {
        self.part(name, bytes.len() as u64, bytes)
    }

    fn part(&mut self, name: &str, size: u64, content: impl Read) -> io::Result<()> {
        let mut header = tar::Header::new_gnu();
        header.set_size(size);
        header.set_mode(0o600);
        self.tar.append_data(&mut header, name, content)
    }
}

/// Takes the parts of a backup, in the order in which they come. What it refuses ends the reading.
pub(super) trait Sink {
    fn begin(&mut self, head: &Head, keys: &[u8]) -> Result<(), BackupError>;
    fn rows(&mut self, rows: Vec<(KindName, Row)>) -> Result<(), BackupError>;
    fn audit(&mut self, records: Vec<AuditRecord>) -> Result<(), BackupError>;
    fn content(&mut self, digest: Digest, bytes: &[u8]) -> Result<(), BackupError>;
}

/// Reads a backup to its end, checks that it is whole, and says what it is of and how much there was.
pub(super) fn read(
    file: impl Read,
    identities: &[Box<dyn age::Identity>],
    sink: &mut dyn Sink,
) -> Result<(Head, End), BackupError> {
    let decryptor = age::Decryptor::new(file)?;
    let plain = decryptor.decrypt(identities.iter().map(|it| &**it))?;
    let mut tar = tar::Archive::new(plain);
    let damaged = |what: &str| BackupError::Damaged(what.to_owned());
    let (mut head, mut end, mut begun, mut programs) = (None::<Head>, None::<End>, false, 0);
    let mut tally = Tally::default();
    for entry in tar.entries()? {
        let mut entry = entry?;
        let name = entry.path()?.to_str().unwrap_or_default().to_owned();
        if end.is_some() || (!begun && ![HEAD, KEYS, KEY].contains(&&*name)) {
            return Err(BackupError::Damaged(format!("{name} is not where it belongs")));
        }
        let mut bytes = Vec::new();
        entry.by_ref().take(LARGEST_PAGE).read_to_end(&mut bytes)?;
        if entry.size() != bytes.len() as u64 {
            return Err(BackupError::Damaged(format!("{name} is too large")));
        }
        match (&*name, name.split_once('/').map(|(_, rest)| rest)) {
            (HEAD, _) if head.is_none() => head = Some(head_of(&bytes)?),
            (KEYS | KEY, _) if !begun => {
                sink.begin(head.as_ref().ok_or_else(|| damaged("the keys come first"))?, &bytes)?;
                begun = true;
            }
            (END, _) => end = Some(parsed(&bytes)?),
            (page, _) if page.starts_with(ROWS) => sink.rows(rows_of(&bytes, &mut tally)?)?,
            (page, _) if page.starts_with(AUDIT) => {
                let records: Vec<AuditRecord> = lines(&bytes)?;
                records.iter().try_for_each(|record| tally.record(record).map(drop))?;
                sink.audit(records)?;
            }
            (page, Some(digest)) if page.starts_with(CONTENT) => {
                let unnamed = |_| BackupError::Damaged(format!("content named {digest:?}"));
                let digest: Digest = digest.parse().map_err(unnamed)?;
                if Digest::of_bytes(&bytes) != digest {
                    return Err(BackupError::Damaged(format!("{name} has other bytes than its name says")));
                }
                programs += 1;
                sink.content(digest, &bytes)?;
            }
            _ => return Err(BackupError::Damaged(format!("nobody knows what {name} is"))),
        }
    }
    let (head, end) = head.zip(end).ok_or_else(|| damaged("it has no end"))?;
    let found = tally.end(programs);
    if found != end {
        return Err(BackupError::Damaged(format!("it should hold {end:?}, and holds {found:?}")));
    }
    Ok((head, end))
}

fn parsed<T: serde::de::DeserializeOwned>(bytes: &[u8]) -> Result<T, BackupError> {
    serde_json::from_slice(bytes).map_err(|error| BackupError::Damaged(error.to_string()))
}

/// What a backup is of, if this version knows its form.
fn head_of(bytes: &[u8]) -> Result<Head, BackupError> {
    #[derive(Deserialize)]
    struct Form {
        format: u32,
        version: String,
    }
    let Form { format, version } = parsed(bytes)?;
    if format > FORMAT { Err(BackupError::Later(version)) } else { parsed(bytes) }
}

fn lines<T: serde::de::DeserializeOwned>(bytes: &[u8]) -> Result<Vec<T>, BackupError> {
    bytes.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()).map(parsed).collect()
}

fn rows_of(bytes: &[u8], tally: &mut Tally) -> Result<Vec<(KindName, Row)>, BackupError> {
    let mut rows = Vec::new();
    for Line { kind, metadata, spec, operations, status } in lines(bytes)? {
        let known = KindName::known(&kind);
        let kind = known.ok_or_else(|| BackupError::Damaged(format!("there is no kind {kind}")))?;
        let row = Row { meta: metadata, spec, operations, status };
        tally.row(kind, &row)?;
        rows.push((kind, row));
    }
    Ok(rows)
}
