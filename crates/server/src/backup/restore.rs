//! Verifying a backup, and putting everything back to what it holds.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};

use plimsoll_model::audit::{Action, Actor, AuditEntry, AuditRecord, AuditResult};
use plimsoll_model::id::{Digest, Epoch, InstallationId};
use plimsoll_model::kind::{
    AppRevisions, Build, Certificate, Claim, Image, Plans, Receipt, Rejection, Tombstone, Usage,
};
use plimsoll_model::object::Timestamp;
use plimsoll_model::{App, Kind, ObjectKey, Project, Revision, Secret, Target, Token};
use plimsoll_store::{KindName, Row, StoreError, decode};
use plimsoll_store_sql::Filling;
use serde::Serialize;
use tokio::runtime::Handle;

use super::BackupError;
use super::archive::{End, Head, Sink, read};
use super::create::content_of;
use crate::content::{listed, save_content};
use crate::data::{DataDirectory, Held};
use crate::keyring::DataKeys;
use crate::store;

/// Revisions that are left out after a restore, so that none which anybody saw before it is given a second time.
const GAP: u64 = 1 << 32;

/// A backup that was read to its end, and is right.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Verified {
    /// What it is of.
    #[serde(flatten)]
    pub head: Head,
    /// How much there is of it.
    #[serde(flatten)]
    pub end: End,
    /// Objects by kind.
    pub kinds: BTreeMap<&'static str, u64>,
    /// The hash of the audit log's last record.
    pub audit_head: Option<Digest>,
    /// Programs that are declared and were never uploaded: their Apps wait for them.
    pub missing: BTreeSet<Digest>,
}

/// What was restored.
#[derive(Debug)]
pub struct Restored {
    /// The backup.
    pub verified: Verified,
    /// The installation's epoch from now on.
    pub epoch: Epoch,
    /// Where the store before lies now, if there was a file.
    pub before: Option<PathBuf>,
}

/// Reads a backup to its end: it is whole, every object can be understood, every secret opened, every program is there
/// byte for byte, and the audit log is a chain.
///
/// # Errors
/// [`BackupError`], with what is wrong.
pub fn verify(backup: &Path, identity: &Path) -> Result<Verified, BackupError> {
    let mut check = Check::default();
    let (head, end) = read(open(backup)?, &identities(identity)?, &mut check)?;
    let missing = check.named.difference(&check.programs).copied().collect();
    let audit_head = check.last.map(|it| it.hash);
    Ok(Verified { head, end, kinds: check.kinds, audit_head, missing })
}

/// Restores a backup into a data directory, and into a database if one is given, and puts everything on hold. The secrets
/// are sealed with the key file that is given, or with the directory's own. To be called
/// on a thread of its own, within a runtime.
///
/// # Errors
/// [`BackupError`]. Nothing is changed by a backup that is not right; a restore that is cut off has to be run again, and
/// no server starts before that.
pub fn restore(
    backup: &Path,
    identity: &Path,
    data: &Path,
    url: Option<&str>,
    key_file: Option<&Path>,
    now: Timestamp,
) -> Result<Restored, BackupError> {
    let verified = verify(backup, identity)?;
    store::may_restore(data, url).map_err(BackupError::Elsewhere)?;
    let mut work = Restore { data: data.to_owned(), key_file, url, at: None, last: None };
    read(open(backup)?, &identities(identity)?, &mut work)?;
    let Restore { at: Some(At { mut directory, mut filling }), last, .. } = work else {
        return Err(BackupError::Damaged("it has no beginning".into()));
    };
    let held = Held { since: now, taken: verified.head.taken };
    let entry = restored(&verified.head.installation, now);
    let runtime = Handle::current();
    let before = runtime.block_on(async {
        filling.audit(&[AuditRecord::after(last.map(|it| (it.number, it.hash)), &entry)]).await?;
        filling.finish(Revision(verified.head.revision.0 + GAP)).await?;
        store::take_restored(&directory, url).map_err(BackupError::Io)
    })?;
    directory.restored(held)?;
    Ok(Restored { verified, epoch: directory.epoch(), before })
}

/// What the audit log says of it.
fn restored(installation: &InstallationId, at: Timestamp) -> AuditEntry {
    AuditEntry {
        at,
        actor: Actor { user: crate::ADMINISTRATOR.parse().expect("a valid user"), token: None, from: None },
        action: Action::Restore,
        kind: "installation".into(),
        object: installation_key(installation),
        result: AuditResult::Done,
    }
}

/// An installation as an object of the audit log.
pub(crate) fn installation_key(installation: &InstallationId) -> ObjectKey {
    ObjectKey::of_installation(installation.as_str().parse().expect("an installation's id is a name"))
}

fn open(backup: &Path) -> Result<BufReader<File>, BackupError> {
    Ok(BufReader::new(File::open(backup)?))
}

fn identities(file: &Path) -> Result<Vec<Box<dyn age::Identity>>, BackupError> {
    let text = BufReader::new(File::open(file)?);
    let found = age::IdentityFile::from_buffer(text)?.into_identities().map_err(BackupError::Identity)?;
    Ok(found.into_iter().map(|it| it as Box<dyn age::Identity>).collect())
}

/// Looks at everything and keeps nothing.
#[derive(Default)]
struct Check {
    keys: DataKeys,
    kinds: BTreeMap<&'static str, u64>,
    named: BTreeSet<Digest>,
    programs: BTreeSet<Digest>,
    last: Option<AuditRecord>,
}

impl Check {
    fn secret(&self, row: Row) -> Result<(), BackupError> {
        let secret = decode::<Secret>(row)?;
        let opens = |sealed| self.keys.open(sealed).is_some();
        if secret.spec.data.values().all(opens) {
            return Ok(());
        }
        Err(BackupError::Damaged(format!("its keys do not open secret {}", secret.meta.key)))
    }
}

impl Sink for Check {
    fn begin(&mut self, _: &Head, keys: &[u8]) -> Result<(), BackupError> {
        self.keys = keys_of(keys)?;
        Ok(())
    }

    fn rows(&mut self, rows: Vec<(KindName, Row)>) -> Result<(), BackupError> {
        for (kind, row) in rows {
            *self.kinds.entry(kind.0).or_default() += 1;
            if kind.0 == Secret::PLURAL {
                self.secret(row)?;
                continue;
            }
            understood(kind, row.clone())?;
            self.named.extend(content_of(kind, row)?);
        }
        Ok(())
    }

    fn audit(&mut self, records: Vec<AuditRecord>) -> Result<(), BackupError> {
        for record in records {
            if !record.follows(self.last.as_ref()) {
                let text =
                    format!("record {} of the audit log does not follow the one before", record.number);
                return Err(BackupError::Damaged(text));
            }
            self.last = Some(record);
        }
        Ok(())
    }

    fn content(&mut self, digest: Digest, bytes: &[u8]) -> Result<(), BackupError> {
        self.programs.insert(digest);
        if self.named.contains(&digest) {
            self.named.extend(listed(bytes));
        }
        Ok(())
    }
}

/// Whether a row can be understood as what it is.
fn understood(kind: KindName, row: Row) -> Result<(), StoreError> {
    fn of<K: Kind>(row: Row) -> Result<(), StoreError> {
        decode::<K>(row).map(drop)
    }
    match kind.0 {
        App::PLURAL => of::<App>(row),
        Project::PLURAL => of::<Project>(row),
        Target::PLURAL => of::<Target>(row),
        Secret::PLURAL => of::<Secret>(row),
        Token::PLURAL => of::<Token>(row),
        Usage::PLURAL => of::<Usage>(row),
        AppRevisions::PLURAL => of::<AppRevisions>(row),
        Rejection::PLURAL => of::<Rejection>(row),
        Plans::PLURAL => of::<Plans>(row),
        Claim::PLURAL => of::<Claim>(row),
        Receipt::PLURAL => of::<Receipt>(row),
        Tombstone::PLURAL => of::<Tombstone>(row),
        Image::PLURAL => of::<Image>(row),
        Build::PLURAL => of::<Build>(row),
        Certificate::PLURAL => of::<Certificate>(row),
        other => Err(StoreError::Unavailable(format!("nobody knows how {other} look").into())),
    }
}

/// The data keys of a backup.
fn keys_of(bytes: &[u8]) -> Result<DataKeys, BackupError> {
    DataKeys::from_plain(bytes).ok_or_else(|| BackupError::Damaged("its keys cannot be understood".into()))
}

/// Puts everything where it belongs.
struct Restore<'a> {
    data: PathBuf,
    key_file: Option<&'a Path>,
    url: Option<&'a str>,
    at: Option<At>,
    last: Option<AuditRecord>,
}

/// Where everything belongs.
struct At {
    directory: DataDirectory,
    filling: Filling,
}

impl Restore<'_> {
    fn at(&mut self) -> Result<&mut At, BackupError> {
        self.at.as_mut().ok_or_else(|| BackupError::Damaged("it has no beginning".into()))
    }
}

impl Sink for Restore<'_> {
    fn begin(&mut self, head: &Head, keys: &[u8]) -> Result<(), BackupError> {
        let directory = DataDirectory::take_over(
            &self.data,
            &head.installation,
            head.epoch,
            (keys_of(keys)?, self.key_file),
        )?;
        std::fs::create_dir_all(directory.content())?;
        let filling = Handle::current().block_on(store::fill(&directory, self.url))?;
        self.at = Some(At { directory, filling });
        Ok(())
    }

    fn rows(&mut self, rows: Vec<(KindName, Row)>) -> Result<(), BackupError> {
        Ok(Handle::current().block_on(self.at()?.filling.rows(&rows))?)
    }

    fn audit(&mut self, records: Vec<AuditRecord>) -> Result<(), BackupError> {
        self.last = records.last().cloned();
        Ok(Handle::current().block_on(self.at()?.filling.audit(&records))?)
    }

    fn content(&mut self, _: Digest, bytes: &[u8]) -> Result<(), BackupError> {
        save_content(&self.at()?.directory.content(), bytes)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use plimsoll_model::Attached;
    use plimsoll_model::kind::PLURALS;
    use plimsoll_model::object::{Generation, Metadata};

    use super::*;

    #[test]
    fn every_kind_is_understood() {
        for plural in PLURALS {
            let meta = Metadata {
                key: ObjectKey::of_installation("x".parse().unwrap()),
                uid: "x".parse().unwrap(),
                owner: None,
                attached: Attached::default(),
                created: Timestamp(1),
                deleting: None,
                generation: Generation(1),
                revision: Revision(1),
            };
            let row =
                Row { meta, spec: "\"no spec at all\"".into(), operations: "null".into(), status: None };
            let error = understood(KindName(plural), row).unwrap_err();
            assert!(matches!(error, StoreError::Corrupt { .. }), "{plural}: {error}");
        }
    }
}
