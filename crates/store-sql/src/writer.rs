//! The one writer: batches that wait together are committed together.

use plimsoll_model::Revision;
use plimsoll_store::{
    Batch, Change, ChangeKind, Feed, KindName, Precondition, ResumeToken, Scope, StoreError, Write,
};
use sqlx::sqlite::SqliteConnection;
use sqlx::{Connection as _, Executor as _, Row as _};
use tokio::sync::{mpsc, oneshot};

use crate::sqlite::{project_of, unavailable};

/// Batches that share one commit at most.
const MOST_SHARED: usize = 128;

/// Batches that wait at most; then their senders wait.
const MOST_WAITING: usize = 1024;

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

/// A batch that was applied and is not yet on the disk.
type Applied = Vec<(KindName, Change)>;

struct Task {
    connection: SqliteConnection,
    feed: Feed,
    newest: u64,
}

impl Writer {
    /// Starts the writer on its connection. It ends when the last sender is gone.
    pub(crate) fn start(connection: SqliteConnection, feed: Feed, newest: ResumeToken) -> Self {
        let (queue, mut requests) = mpsc::channel(MOST_WAITING);
        let mut task = Task { connection, feed, newest: newest.0 };
        tokio::spawn(async move {
            let mut together = Vec::new();
            while requests.recv_many(&mut together, MOST_SHARED).await > 0 {
                task.write(&mut together).await;
            }
            // Merges the log into the file; if that fails, the next opening does it.
            task.connection.close().await.ok();
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
    /// Writes batches in one transaction and answers each.
    async fn write(&mut self, together: &mut Vec<Request>) {
        let before = self.newest;
        let mut answers = Vec::new();
        let mut committed = self.connection.execute("begin immediate").await.map(drop);
        if committed.is_ok() {
            for Request { scope, batch, reply } in together.drain(..) {
                let applied = self.apply(&scope, batch).await;
                answers.push((reply, applied));
            }
            committed = self.end(before).await;
        }
        if let Err(error) = &committed {
            self.newest = before;
            // The connection may be within a transaction that failed; if it is not, this does nothing.
            self.connection.execute("rollback").await.ok();
            let text = error.to_string();
            let lost = || StoreError::Unavailable(text.clone().into());
            for Request { reply, .. } in together.drain(..) {
                reply.send(Err(lost())).ok();
            }
            for (reply, applied) in answers {
                reply.send(applied.and_then(|_| Err(lost()))).ok();
            }
            return;
        }
        for (reply, applied) in answers {
            let answer = applied.map(|changes| {
                for (kind, change) in changes {
                    self.feed.add(kind, change);
                }
            });
            reply.send(answer).ok();
        }
    }

    async fn end(&mut self, before: u64) -> Result<(), sqlx::Error> {
        if self.newest == before {
            self.connection.execute("rollback").await?;
            return Ok(());
        }
        let newest = self.newest.cast_signed();
        sqlx::query("update newest set revision = ?").bind(newest).execute(&mut self.connection).await?;
        self.connection.execute("commit").await?;
        Ok(())
    }

    /// Applies one batch as a whole, or nothing of it.
    async fn apply(&mut self, scope: &Scope, batch: Batch) -> Result<Applied, StoreError> {
        let before = self.newest;
        self.connection.execute("savepoint batch").await.map_err(unavailable)?;
        let mut result = self.check(scope, &batch).await;
        let mut applied = Vec::new();
        if result.is_ok() {
            for write in batch.writes {
                match self.apply_one(write).await {
                    Ok(change) => applied.extend(change),
                    Err(error) => {
                        result = Err(unavailable(error));
                        break;
                    }
                }
            }
        }
        if let Err(error) = result {
            self.newest = before;
            self.connection.execute("rollback to batch").await.map_err(unavailable)?;
            self.connection.execute("release batch").await.map_err(unavailable)?;
            return Err(error);
        }
        self.connection.execute("release batch").await.map_err(unavailable)?;
        Ok(applied)
    }

    /// Every precondition speaks of the state before the batch.
    async fn check(&mut self, scope: &Scope, batch: &Batch) -> Result<(), StoreError> {
        for write in &batch.writes {
            let (kind, key, when) = match write {
                Write::Put { kind, row, when } => (*kind, &row.meta.key, *when),
                Write::Delete { kind, key, at } => (*kind, key, Precondition::At(*at)),
            };
            if !scope.admits(key) {
                return Err(StoreError::OutOfScope { kind, key: key.clone() });
            }
            let found = sqlx::query("select revision from rows where kind = ? and project = ? and name = ?")
                .bind(kind.0)
                .bind(project_of(key))
                .bind(key.name.as_str())
                .fetch_optional(&mut self.connection)
                .await
                .map_err(unavailable)?;
            let present = found.map(|row| row.try_get::<i64, _>(0)).transpose().map_err(unavailable)?;
            let present = present.map(|revision| Revision(revision.cast_unsigned()));
            let holds = match when {
                Precondition::Absent => present.is_none(),
                Precondition::At(revision) => present == Some(revision),
            };
            if !holds {
                return Err(StoreError::Conflict { kind, key: key.clone() });
            }
        }
        Ok(())
    }

    async fn apply_one(&mut self, write: Write) -> Result<Option<(KindName, Change)>, sqlx::Error> {
        self.newest += 1;
        let (revision, token) = (Revision(self.newest), ResumeToken(self.newest));
        match write {
            Write::Put { kind, mut row, .. } => {
                row.meta.revision = revision;
                let meta =
                    serde_json::to_string(&row.meta).map_err(|error| sqlx::Error::Encode(error.into()))?;
                sqlx::query(
                    "insert or replace into rows \
                     (kind, project, name, owner, revision, meta, spec, operations, status) \
                     values (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                )
                .bind(kind.0)
                .bind(project_of(&row.meta.key))
                .bind(row.meta.key.name.as_str())
                .bind(row.meta.owner.as_ref().map(plimsoll_model::id::Uid::as_str))
                .bind(self.newest.cast_signed())
                .bind(meta)
                .bind(&row.spec)
                .bind(&row.operations)
                .bind(&row.status)
                .execute(&mut self.connection)
                .await?;
                let (key, uid) = (row.meta.key.clone(), row.meta.uid.clone());
                Ok(Some((kind, Change { key, uid, kind: ChangeKind::Put(row), token })))
            }
            Write::Delete { kind, key, .. } => {
                let deleted = sqlx::query(
                    "delete from rows where kind = ? and project = ? and name = ? returning meta",
                )
                .bind(kind.0)
                .bind(project_of(&key))
                .bind(key.name.as_str())
                .fetch_optional(&mut self.connection)
                .await?;
                let Some(deleted) = deleted else { return Ok(None) };
                let meta: String = deleted.try_get(0)?;
                let meta: plimsoll_model::Metadata =
                    serde_json::from_str(&meta).map_err(|error| sqlx::Error::Decode(error.into()))?;
                let kind_of_change = ChangeKind::Deleted(revision);
                Ok(Some((kind, Change { key, uid: meta.uid, kind: kind_of_change, token })))
            }
        }
    }
}
