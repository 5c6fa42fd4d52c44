//! The one writer: batches that wait together are committed together.

use std::time::Duration;

use plimsoll_model::audit::AuditRecord;
use plimsoll_model::id::{Digest, Uid};
use plimsoll_model::{ObjectKey, Revision};
use plimsoll_store::{
    Batch, Change, ChangeKind, KindName, Precondition, ResumeToken, Row, Scope, StoreError, Write,
};
use tokio::sync::{mpsc, oneshot};

use crate::database::Database;
use crate::follow::Followers;
use crate::session::{Found, Session, Value};
use crate::sql::project_of;

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
    Undone(sqlx::Error),
    /// At its commit: nobody knows.
    Unknown(sqlx::Error),
}

impl From<sqlx::Error> for Failure {
    fn from(error: sqlx::Error) -> Self {
        Self::Undone(error)
    }
}

struct Task {
    database: Database,
    followers: Followers,
}

impl Writer {
    /// Starts the writer. It ends when the last sender is gone.
    pub(crate) fn start(database: Database, followers: Followers) -> Self {
        let (queue, mut requests) = mpsc::channel(MOST_WAITING);
        let task = Task { database, followers };
        tokio::spawn(async move {
            let mut together = Vec::new();
            while requests.recv_many(&mut together, MOST_SHARED).await > 0 {
                task.write(std::mem::take(&mut together)).await;
            }
            task.database.close().await;
        });
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
            Err(Failure::Undone(sqlx::Error::Database(_) | sqlx::Error::Encode(_))) if !is_alone => {
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
        let mut work = Transaction { session: &mut *session, newest, applied: Vec::new(), audit: None };
        let mut results = Vec::new();
        for Request { scope, batch, .. } in together {
            let result = work.check(scope, batch).await?;
            if result.is_ok() {
                work.apply(batch).await?;
            }
            results.push(result);
        }
        let Transaction { newest: now, applied, audit, .. } = work;
        if now == newest && audit.is_none() {
            return Ok((results, applied));
        }
        let value = [Value::Number(now.cast_signed())];
        session.run("update newest set revision = $1", &value).await?;
        if now / TRIM_EVERY != newest / TRIM_EVERY {
            let value = [Value::Number(now.saturating_sub(CHANGES_KEPT).cast_signed())];
            session.run("delete from changes where revision <= $1", &value).await?;
        }
        session.commit().await.map_err(Failure::Unknown)?;
        Ok((results, applied))
    }
}

impl Failure {
    fn as_store_error(&self) -> StoreError {
        match self {
            Self::Undone(error) => StoreError::Unavailable(error.to_string().into()),
            // What the database refused to commit it did not commit; what it did not answer, it may have.
            Self::Unknown(error @ sqlx::Error::Database(_)) => {
                StoreError::Unavailable(error.to_string().into())
            }
            Self::Unknown(_) => StoreError::Lost,
        }
    }
}

/// Whether the database says that the same transaction can succeed if it is begun again: SQLSTATE 40001
/// (`serialization_failure`) and 40P01 (`deadlock_detected`).
fn is_serialization_failure(error: &sqlx::Error) -> bool {
    let code = error.as_database_error().and_then(sqlx::error::DatabaseError::code);
    code.is_some_and(|code| code == "40001" || code == "40P01")
}

fn number(found: &[Found]) -> u64 {
    found.first().map_or(0, |row| row.number.cast_unsigned())
}

/// What is being written.
struct Transaction<'a> {
    session: &'a mut dyn Session,
    newest: u64,
    applied: Applied,
    /// The end of the audit log, once something was added.
    audit: Option<(u64, Digest)>,
}

impl Transaction<'_> {
    /// Every precondition speaks of the state before the batch.
    async fn check(&mut self, scope: &Scope, batch: &Batch) -> Result<Result<(), StoreError>, sqlx::Error> {
        for write in &batch.writes {
            let (kind, key, when) = write.target();
            if !scope.admits(key) {
                return Ok(Err(StoreError::OutOfScope { kind, key: key.clone() }));
            }
            let sql = "select revision from rows where kind = $1 and project = $2 and name = $3";
            let found = self.session.run(sql, &key_values(kind, key)).await?;
            let present = found.first().map(|row| Revision(row.number.cast_unsigned()));
            let holds = match when {
                Precondition::Absent => present.is_none(),
                Precondition::At(revision) => present == Some(revision),
            };
            if !holds {
                return Ok(Err(StoreError::Conflict { kind, key: key.clone() }));
            }
        }
        Ok(Ok(()))
    }

    /// Writes a batch whose preconditions hold.
    async fn apply(&mut self, batch: &Batch) -> Result<(), sqlx::Error> {
        for write in &batch.writes {
            let (kind, key, _) = write.target();
            match write {
                Write::Require { .. } => {}
                Write::Put { row, when, .. } => self.put(kind, row, *when).await?,
                Write::Delete { .. } => self.delete(kind, key).await?,
            }
        }
        for entry in &batch.audit {
            let end = match self.audit {
                Some(end) => Some(end),
                None => self.end_of_audit().await?,
            };
            let record = AuditRecord::after(end, entry);
            let sql = "insert into audit (number, project, entry, hash) values ($1, $2, $3, $4)";
            let values = [
                Value::Number(record.number.cast_signed()),
                Value::Text(project_of(&entry.object)),
                Value::Text(&record.entry),
                Value::Text(&record.hash.to_string()),
            ];
            self.session.run(sql, &values).await?;
            self.audit = Some((record.number, record.hash));
        }
        Ok(())
    }

    async fn end_of_audit(&mut self) -> Result<Option<(u64, Digest)>, sqlx::Error> {
        let sql = "select number, hash from audit order by number desc limit 1";
        let Some(mut last) = self.session.run(sql, &[]).await?.into_iter().next() else { return Ok(None) };
        let hash = last.text().parse().map_err(|error| sqlx::Error::Decode(Box::new(error)))?;
        Ok(Some((last.number.cast_unsigned(), hash)))
    }

    async fn put(&mut self, kind: KindName, row: &Row, when: Precondition) -> Result<(), sqlx::Error> {
        self.newest += 1;
        let mut row = Box::new(row.clone());
        row.meta.revision = Revision(self.newest);
        let meta = serde_json::to_string(&row.meta).map_err(|error| sqlx::Error::Encode(error.into()))?;
        let values = [
            Value::Text(kind.0),
            Value::Text(project_of(&row.meta.key)),
            Value::Text(row.meta.key.name.as_str()),
            Value::Maybe(row.meta.owner.as_ref().map(Uid::as_str)),
            Value::Number(self.newest.cast_signed()),
            Value::Text(&meta),
            Value::Text(&row.spec),
            Value::Text(&row.operations),
            Value::Maybe(row.status.as_deref()),
        ];
        let sql = "insert into rows (kind, project, name, owner, revision, meta, spec, operations, status) \
                   values ($1, $2, $3, $4, $5, $6, $7, $8, $9) \
                   on conflict (kind, project, name) do update set \
                   owner = excluded.owner, revision = excluded.revision, meta = excluded.meta, \
                   spec = excluded.spec, operations = excluded.operations, status = excluded.status";
        self.session.run(sql, &values).await?;
        let (key, uid) = (row.meta.key.clone(), row.meta.uid.clone());
        self.changed(kind, key, uid, ChangeKind::put(row, when)).await
    }

    async fn delete(&mut self, kind: KindName, key: &ObjectKey) -> Result<(), sqlx::Error> {
        let sql = "delete from rows where kind = $1 and project = $2 and name = $3 returning revision, meta";
        let deleted = self.session.run(sql, &key_values(kind, key)).await?;
        let Some(mut deleted) = deleted.into_iter().next() else { return Ok(()) };
        let meta: plimsoll_model::Metadata =
            serde_json::from_str(&deleted.text()).map_err(|error| sqlx::Error::Decode(error.into()))?;
        self.newest += 1;
        self.changed(kind, key.clone(), meta.uid, ChangeKind::Deleted(Revision(self.newest))).await
    }

    /// Records the change that was just written.
    async fn changed(
        &mut self,
        kind: KindName,
        key: ObjectKey,
        uid: Uid,
        what: ChangeKind,
    ) -> Result<(), sqlx::Error> {
        let values = [
            Value::Number(self.newest.cast_signed()),
            Value::Text(kind.0),
            Value::Text(project_of(&key)),
            Value::Text(key.name.as_str()),
            Value::Text(uid.as_str()),
            Value::Number(match what {
                ChangeKind::Changed(_) => CHANGED,
                ChangeKind::Deleted(_) => DELETED,
                ChangeKind::Created(_) => CREATED,
            }),
        ];
        let sql = "insert into changes (revision, kind, project, name, uid, what) \
                   values ($1, $2, $3, $4, $5, $6)";
        self.session.run(sql, &values).await?;
        self.applied.push((kind, Change { key, uid, kind: what, token: ResumeToken(self.newest) }));
        Ok(())
    }
}

fn key_values(kind: KindName, key: &ObjectKey) -> [Value<'_>; 3] {
    [Value::Text(kind.0), Value::Text(project_of(key)), Value::Text(key.name.as_str())]
}
