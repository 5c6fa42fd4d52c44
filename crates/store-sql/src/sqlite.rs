//! SQLite's connections: one that writes, and some that read.
//!
//! Statements run on the thread that asks for them. Most take a few microseconds, less than a hop to another thread and back;
//! what waits for the disk, the commits, is done by the writer on a thread of its own.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use plimsoll_store::Fut;
use rusqlite::types::ToSqlOutput;
use rusqlite::{Connection, OpenFlags, ToSql, params_from_iter};
use tokio::sync::{OwnedMutexGuard, OwnedSemaphorePermit, Semaphore};

use crate::session::{DatabaseError, Found, Session, Value};

/// Connections that read at the same time.
const READERS: usize = 8;

/// How long a statement waits for a lock that a checkpoint holds.
const BUSY: Duration = Duration::from_secs(5);

/// Pages of SQLite's log before it is merged into the file, 16 MB: pages that are written often are merged once.
const CHECKPOINT: u32 = 4000;

/// Statements that a connection keeps prepared.
const PREPARED: usize = 256;

/// The connections to one file. Clones share them.
#[derive(Clone)]
pub(crate) struct Sqlite {
    file: Arc<PathBuf>,
    writer: Arc<tokio::sync::Mutex<Connection>>,
    idle: Arc<Mutex<Vec<Connection>>>,
    room: Arc<Semaphore>,
}

impl Sqlite {
    /// Opens a file that is there and has its schema.
    pub(crate) fn open(file: &Path) -> Result<Self, DatabaseError> {
        let writer = Connection::open_with_flags(
            file,
            OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX,
        )?;
        prepare(&writer)?;
        // On the disk before anybody is told that it is written.
        writer.pragma_update(None, "synchronous", "FULL")?;
        writer.pragma_update(None, "wal_autocheckpoint", CHECKPOINT)?;
        Ok(Self {
            file: Arc::new(file.to_owned()),
            writer: Arc::new(tokio::sync::Mutex::new(writer)),
            idle: Arc::default(),
            room: Arc::new(Semaphore::new(READERS)),
        })
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Connection>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A connection that reads; its queries all see the same moment if they are one transaction.
    pub(crate) async fn reader(&self, as_transaction: bool) -> Result<Reader, DatabaseError> {
        let closed = |_| DatabaseError::Data("the store is closed".into());
        let room = self.room.clone().acquire_owned().await.map_err(closed)?;
        let idle = self.lock().pop();
        let connection = if let Some(connection) = idle {
            connection
        } else {
            let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
            let connection = Connection::open_with_flags(&*self.file, flags)?;
            prepare(&connection)?;
            connection
        };
        if as_transaction {
            connection.execute_batch("begin")?;
        }
        Ok(Reader { connection: Some(connection), as_transaction, sqlite: self.clone(), _room: room })
    }

    /// The connection that writes, in a transaction of its own. One that became a writer only later could find that
    /// others wrote, and would fail.
    pub(crate) async fn writer(&self) -> Result<Writing, DatabaseError> {
        let connection = self.writer.clone().lock_owned().await;
        connection.execute_batch("begin immediate")?;
        Ok(Writing { connection, is_open: true })
    }

    /// Ends all connections that nobody uses; the last one merges SQLite's log into the file.
    pub(crate) fn close(&self) {
        self.room.close();
        self.lock().clear();
    }
}

fn prepare(connection: &Connection) -> Result<(), DatabaseError> {
    connection.busy_timeout(BUSY)?;
    connection.set_prepared_statement_cache_capacity(PREPARED);
    Ok(())
}

/// A connection that reads.
pub(crate) struct Reader {
    /// There until this is dropped.
    connection: Option<Connection>,
    as_transaction: bool,
    sqlite: Sqlite,
    _room: OwnedSemaphorePermit,
}

impl Drop for Reader {
    fn drop(&mut self) {
        let Some(connection) = self.connection.take() else { return };
        // One that cannot end its transaction is of no more use.
        if !self.as_transaction || connection.execute_batch("rollback").is_ok() {
            self.sqlite.lock().push(connection);
        }
    }
}

impl Session for Reader {
    fn run<'a>(
        &'a mut self,
        sql: &'a str,
        values: &'a [Value<'a>],
    ) -> Fut<'a, Result<Vec<Found>, DatabaseError>> {
        let closed = || DatabaseError::Data("the connection is closed".into());
        Box::pin(async move { run(self.connection.as_ref().ok_or_else(closed)?, sql, values) })
    }

    fn commit(self: Box<Self>) -> Fut<'static, Result<(), DatabaseError>> {
        // It wrote nothing.
        Box::pin(async { Ok(()) })
    }
}

/// A transaction that writes; it ends without a trace unless it is committed.
pub(crate) struct Writing {
    connection: OwnedMutexGuard<Connection>,
    is_open: bool,
}

impl Drop for Writing {
    fn drop(&mut self) {
        if self.is_open {
            // Without an answer the next `begin` fails, and says so.
            self.connection.execute_batch("rollback").ok();
        }
    }
}

impl Session for Writing {
    fn run<'a>(
        &'a mut self,
        sql: &'a str,
        values: &'a [Value<'a>],
    ) -> Fut<'a, Result<Vec<Found>, DatabaseError>> {
        Box::pin(async move { run(&self.connection, sql, values) })
    }

    fn commit(mut self: Box<Self>) -> Fut<'static, Result<(), DatabaseError>> {
        Box::pin(async move {
            self.connection.execute_batch("commit")?;
            self.is_open = false;
            Ok(())
        })
    }
}

fn run(connection: &Connection, sql: &str, values: &[Value<'_>]) -> Result<Vec<Found>, DatabaseError> {
    let mut statement = connection.prepare_cached(sql)?;
    let columns = statement.column_count();
    let mut rows = statement.query(params_from_iter(values))?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        let texts = (1..columns).map(|column| row.get(column)).collect::<Result<Vec<_>, _>>()?;
        found.push(Found::new(row.get(0)?, texts));
    }
    Ok(found)
}

impl ToSql for Value<'_> {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        match self {
            Self::Number(number) => number.to_sql(),
            Self::Text(text) => text.to_sql(),
            Self::Maybe(text) => text.to_sql(),
        }
    }
}
