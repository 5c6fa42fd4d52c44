//! The one writer: batches that wait together are committed together.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use plimsoll_model::audit::AuditRecord;
use plimsoll_model::id::{Digest, Uid};
use plimsoll_model::{ObjectKey, Revision};
use plimsoll_store::{
    Batch, Change, ChangeKind, KindName, Precondition, ResumeToken, Row, Scope, StoreError, Write,
};
use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot};

use crate::cache::{Cache, Looked};
use crate::database::Database;
use crate::follow::Followers;
use crate::session::{DatabaseError, Found, Insert, Session, Value, places};
use crate::sql::{AUDIT, ROW_COLUMNS, ROW_WIDTH, key_values, project_of, row_values};

/// Batches that share one commit at most.
const MOST_SHARED: usize = 128;

/// Batches that wait at most; then their senders wait.
const MOST_WAITING: usize = 1024;

/// Times a transaction is tried that others were in the way of.
const ATTEMPTS: u32 = 20;

/// Changes kept for watches that resume; the exact number does not matter.
const CHANGES_KEPT: u64 = 8192;

/// How often older changes are removed, in revisions.
const TRIM_EVERY: u64 = 1024;

/// How changes are told apart in their table.
pub(crate) const CHANGED: i64 = 0;
pub(crate) const DELETED: i64 = 1;
pub(crate) const CREATED: i64 = 2;

/// The sending end of the writer's queue.
#[derive(Clone)]
pub(crate) struct Writer {
    queue: mpsc::Sender<Request>,
}

struct Request {
    scope: Scope,
    batch: Batch,
    reply: oneshot::Sender<Result<(), StoreError>>,
}

/// Changes of one transaction.
pub(crate) type Applied = Vec<(KindName, Change)>;

/// Why a whole transaction failed.
enum Failure {
    /// Before its commit: nothing of it was done.
    Undone(DatabaseError),
    /// At its commit: nobody knows.
    Unknown(DatabaseError),
}

impl From<DatabaseError> for Failure {
    fn from(error: DatabaseError) -> Self {
        Self::Undone(error)
    }
}

struct Task {
    database: Database,
    followers: Followers,
    cache: Option<Cache>,
}

impl Writer {
    /// Starts the writer. It ends when the last sender is gone.
    pub(crate) fn start(database: Database, followers: Followers, cache: Option<Cache>) -> Self {
        let (queue, mut requests) = mpsc::channel(MOST_WAITING);
        let waits_for_disk = matches!(database, Database::Sqlite(_));
        let task = Task { database, followers, cache };
        let work = async move {
            let mut together = Vec::new();
            while requests.recv_many(&mut together, MOST_SHARED).await > 0 {
                task.write(std::mem::take(&mut together)).await;
            }
            task.database.close().await;
        };
        if waits_for_disk {
            // Its commits wait where nobody else does.
            let runtime = Handle::current();
            std::thread::spawn(move || {
                let _within = runtime.enter();
                futures::executor::block_on(work);
            });
        } else {
            tokio::spawn(work);
        }
        Self { queue }
    }

    pub(crate) async fn commit(&self, scope: Scope, batch: Batch) -> Result<(), StoreError> {
        let (reply, answer) = oneshot::channel();
        let stopped = || StoreError::Unavailable("the writer has ended".into());
        self.queue.send(Request { scope, batch, reply }).await.map_err(|_| stopped())?;
        // A caller that goes away here does not take its batch back.
        answer.await.map_err(|_| StoreError::Lost)?
    }
}

impl Task {
    /// Writes batches in one transaction and answers each. If that fails, each is tried alone: one of them may be what
    /// the database does not take.
    async fn write(&self, together: Vec<Request>) {
        let is_alone = together.len() == 1;
        match self.persist(&together).await {
            Ok((results, applied)) => {
                self.followers.committed(applied);
                for (request, result) in together.into_iter().zip(results) {
                    request.reply.send(result).ok();
                }
            }
            Err(Failure::Undone(error)) if !is_alone && is_about_content(&error) => {
                for request in together {
                    Box::pin(self.write(vec![request])).await;
                }
            }
            Err(failure) => {
                for request in together {
                    request.reply.send(Err(failure.as_store_error())).ok();
                }
            }
        }
    }

    /// One transaction, tried again as a whole when another one was in its way.
    async fn persist(&self, together: &[Request]) -> Result<(Vec<Result<(), StoreError>>, Applied), Failure> {
        let mut attempt = 1;
        loop {
            match self.attempt(together).await {
                Err(Failure::Undone(error) | Failure::Unknown(error))
                    if is_serialization_failure(&error) && attempt < ATTEMPTS =>
                {
                    // Others that were refused with this one must not all come back at once.
                    tokio::time::sleep(Duration::from_millis(fastrand::u64(0..=u64::from(attempt) * 5)))
                        .await;
                    attempt += 1;
                }
                result => return result,
            }
        }
    }

    async fn attempt(&self, together: &[Request]) -> Result<(Vec<Result<(), StoreError>>, Applied), Failure> {
        let mut session = self.database.write().await?;
        let newest = number(&session.run(self.database.lock_newest(), &[]).await?);
        let batches = together.iter().map(|it| &it.batch);
        let mut draft = Draft::of(&mut *session, self, newest, batches).await?;
        let results: Vec<_> = together.iter().map(|it| draft.take(&it.scope, &it.batch)).collect();
        if draft.applied.is_empty() && draft.records.is_empty() {
            return Ok((results, draft.applied));
        }
        draft.write(&mut *session, self.database.rows_at_once()).await?;
        let now = draft.newest;
        session.run("update newest set revision = $1", &[Value::Number(now.cast_signed())]).await?;
        if now / TRIM_EVERY != newest / TRIM_EVERY {
            let value = [Value::Number(now.saturating_sub(CHANGES_KEPT).cast_signed())];
            session.run("delete from changes where revision <= $1", &value).await?;
        }
        let Some(cache) = &self.cache else {
            session.commit().await.map_err(Failure::Unknown)?;
            return Ok((results, draft.applied));
        };
        cache.writing(draft.rows.keys().copied());
        let committed = session.commit().await;
        let rows = if committed.is_ok() { draft.rows } else { BTreeMap::new() };
        cache.written(rows.into_iter().map(|((kind, key), row)| (kind, key, row.map(Arc::from))));
        committed.map_err(Failure::Unknown)?;
        Ok((results, draft.applied))
    }
}

impl Failure {
    fn as_store_error(&self) -> StoreError {
        match self {
            Self::Undone(error) => StoreError::Unavailable(error.to_string().into()),
            // What the database refused to commit it did not commit; what it did not answer, it may have.
            Self::Unknown(
                error @ (DatabaseError::Postgres(sqlx::Error::Database(_)) | DatabaseError::Sqlite(_)),
            ) => StoreError::Unavailable(error.to_string().into()),
            Self::Unknown(_) => StoreError::Lost,
        }
    }
}

/// Whether a database may take the same of others.
fn is_about_content(error: &DatabaseError) -> bool {
    match error {
        DatabaseError::Postgres(error) => matches!(error, sqlx::Error::Database(_) | sqlx::Error::Encode(_)),
        DatabaseError::Sqlite(_) | DatabaseError::Data(_) => true,
        DatabaseError::Io(_) => false,
    }
}

/// Whether the database says that the same transaction can succeed if it is begun again: SQLSTATE 40001
/// (`serialization_failure`) and 40P01 (`deadlock_detected`).
fn is_serialization_failure(error: &DatabaseError) -> bool {
    let DatabaseError::Postgres(error) = error else { return false };
    let code = error.as_database_error().and_then(sqlx::error::DatabaseError::code);
    code.is_some_and(|code| code == "40001" || code == "40P01")
}

fn number(found: &[Found]) -> u64 {
    found.first().map_or(0, |row| row.number.cast_unsigned())
}

/// What a transaction does to the tables: worked out in memory from the revisions of the objects concerned, and then
/// written by a few statements, however many batches share them.
struct Draft<'a> {
    newest: u64,
    /// The objects concerned that are there.
    present: HashMap<Target<'a>, Present>,
    /// Objects as they are to be; none are to go.
    rows: BTreeMap<Target<'a>, Option<Box<Row>>>,
    applied: Applied,
    /// The end of the audit log, where something is added to it.
    audit: Option<(u64, Digest)>,
    records: Vec<(&'a ObjectKey, AuditRecord)>,
}

/// An object of some kind.
type Target<'a> = (KindName, &'a ObjectKey);

/// An object that is there.
struct Present {
    revision: Revision,
    /// Read only of those that may be deleted.
    uid: Option<Uid>,
}

impl<'a> Draft<'a> {
    /// Reads what batches depend on.
    async fn of(
        session: &mut dyn Session,
        Task { database, cache, .. }: &Task,
        newest: u64,
        batches: impl Iterator<Item = &'a Batch> + Clone,
    ) -> Result<Self, DatabaseError> {
        let mut targets: BTreeMap<Target<'a>, bool> = BTreeMap::new();
        for write in batches.clone().flat_map(|batch| &batch.writes) {
            let (kind, key, _) = write.target();
            *targets.entry((kind, key)).or_default() |= matches!(write, Write::Delete { .. });
        }
        let mut present = HashMap::new();
        let mut unknown = Vec::new();
        for (target, is_deleted) in targets {
            let (kind, key) = target;
            let Some(Looked::Known(row)) = cache.as_ref().map(|cache| cache.look(kind, key)) else {
                unknown.push((target, is_deleted));
                continue;
            };
            if let Some(row) = row {
                let (revision, uid) = (row.meta.revision, Some(row.meta.uid.clone()));
                present.insert(target, Present { revision, uid });
            }
        }
        for targets in unknown.chunks(database.rows_at_once()) {
            let values: Vec<Value<'_>> =
                targets.iter().flat_map(|(target, is_deleted)| wanted(*target, *is_deleted)).collect();
            let sql = format!(
                "select r.revision, r.kind, r.project, r.name, case when w.column4 = 'd' then r.meta end \
                 from (values {}) as w join rows r \
                 on r.kind = w.column1 and r.project = w.column2 and r.name = w.column3",
                places(targets.len(), 4)
            );
            let mut known: HashMap<(&str, &str, &str), Target<'a>> = HashMap::new();
            for (target @ (kind, key), _) in targets {
                known.insert((kind.0, project_of(key), key.name.as_str()), *target);
            }
            for mut found in session.run(&sql, &values).await? {
                let (kind, project, name) = (found.text(), found.text(), found.text());
                let Some(target) = known.get(&(&*kind, &*project, &*name)) else { continue };
                let uid = found.maybe().map(|meta| uid_of(&meta)).transpose()?;
                present.insert(*target, Present { revision: Revision(found.number.cast_unsigned()), uid });
            }
        }
        let is_audited = batches.clone().any(|batch| !batch.audit.is_empty());
        let audit = if is_audited { end_of_audit(session).await? } else { None };
        let rows = BTreeMap::new();
        Ok(Self { newest, present, rows, applied: Vec::new(), audit, records: Vec::new() })
    }

    /// Takes a batch, if its preconditions hold. Each speaks of the state before the batch, and after those before it.
    fn take(&mut self, scope: &Scope, batch: &'a Batch) -> Result<(), StoreError> {
        for write in &batch.writes {
            let (kind, key, when) = write.target();
            if !scope.admits(key) {
                return Err(StoreError::OutOfScope { kind, key: key.clone() });
            }
            let present = self.present.get(&(kind, key)).map(|it| it.revision);
            let holds = match when {
                Precondition::Absent => present.is_none(),
                Precondition::At(revision) => present == Some(revision),
            };
            if !holds {
                return Err(StoreError::Conflict { kind, key: key.clone() });
            }
        }
        for write in &batch.writes {
            let (kind, key, _) = write.target();
            match write {
                Write::Require { .. } => {}
                Write::Put { row, when, .. } => self.put((kind, key), row, *when),
                Write::Delete { .. } => self.delete((kind, key)),
            }
        }
        for entry in &batch.audit {
            let record = AuditRecord::after(self.audit, entry);
            self.audit = Some((record.number, record.hash));
            self.records.push((&entry.object, record));
        }
        Ok(())
    }

    fn put(&mut self, target: Target<'a>, row: &Row, when: Precondition) {
        self.newest += 1;
        let mut row = Box::new(row.clone());
        row.meta.revision = Revision(self.newest);
        let uid = row.meta.uid.clone();
        self.present.insert(target, Present { revision: row.meta.revision, uid: Some(uid.clone()) });
        self.rows.insert(target, Some(row.clone()));
        self.changed(target, uid, ChangeKind::put(row, when));
    }

    fn delete(&mut self, target: Target<'a>) {
        let Some(Present { uid: Some(uid), .. }) = self.present.remove(&target) else { return };
        self.newest += 1;
        self.rows.insert(target, None);
        self.changed(target, uid, ChangeKind::Deleted(Revision(self.newest)));
    }

    fn changed(&mut self, (kind, key): Target<'a>, uid: Uid, what: ChangeKind) {
        let token = ResumeToken(self.newest);
        self.applied.push((kind, Change { key: key.clone(), uid, kind: what, token }));
    }

    /// Writes all of it.
    async fn write(&self, session: &mut dyn Session, at_once: usize) -> Result<(), DatabaseError> {
        let mut puts = Vec::new();
        for (target, row) in &self.rows {
            if let Some(row) = row {
                let meta = serde_json::to_string(&row.meta);
                puts.push((target.0, row, meta.map_err(|error| DatabaseError::Data(error.into()))?));
            } else {
                let sql = "delete from rows where kind = $1 and project = $2 and name = $3";
                session.run(sql, &key_values(*target)).await?;
            }
        }
        let values = puts.iter().flat_map(|(kind, row, meta)| row_values(*kind, row, meta));
        let updated = " on conflict (kind, project, name) do update set \
                       owner = excluded.owner, revision = excluded.revision, meta = excluded.meta, \
                       spec = excluded.spec, operations = excluded.operations, status = excluded.status";
        let rows = Insert { into: "rows", columns: ROW_COLUMNS, width: ROW_WIDTH, and: updated };
        rows.run(session, &values.collect::<Vec<_>>(), at_once).await?;

        let values = self.applied.iter().flat_map(change_values);
        let columns = "revision, kind, project, name, uid, what";
        let changes = Insert { into: "changes", columns, width: 6, and: "" };
        changes.run(session, &values.collect::<Vec<_>>(), at_once).await?;

        let hashes: Vec<String> = self.records.iter().map(|(_, record)| record.hash.to_string()).collect();
        let values = self.records.iter().zip(&hashes).flat_map(|((key, record), hash)| {
            let number = Value::Number(record.number.cast_signed());
            [number, Value::Text(project_of(key)), Value::Text(&record.entry), Value::Text(hash)]
        });
        AUDIT.run(session, &values.collect::<Vec<_>>(), at_once).await
    }
}

async fn end_of_audit(session: &mut dyn Session) -> Result<Option<(u64, Digest)>, DatabaseError> {
    let sql = "select number, hash from audit order by number desc limit 1";
    let Some(mut last) = session.run(sql, &[]).await?.into_iter().next() else { return Ok(None) };
    let hash = last.text().parse().map_err(|error| DatabaseError::Data(Box::new(error)))?;
    Ok(Some((last.number.cast_unsigned(), hash)))
}

fn uid_of(meta: &str) -> Result<Uid, DatabaseError> {
    let meta: plimsoll_model::Metadata =
        serde_json::from_str(meta).map_err(|error| DatabaseError::Data(error.into()))?;
    Ok(meta.uid)
}

fn wanted(target: Target<'_>, is_deleted: bool) -> [Value<'_>; 4] {
    let [kind, project, name] = key_values(target);
    [kind, project, name, Value::Text(if is_deleted { "d" } else { "" })]
}

fn change_values((kind, change): &(KindName, Change)) -> [Value<'_>; 6] {
    let [kind, project, name] = key_values((*kind, &change.key));
    let what = Value::Number(match change.kind {
        ChangeKind::Changed(_) => CHANGED,
        ChangeKind::Deleted(_) => DELETED,
        ChangeKind::Created(_) => CREATED,
    });
    [Value::Number(change.token.0.cast_signed()), kind, project, name, Value::Text(change.uid.as_str()), what]
}
