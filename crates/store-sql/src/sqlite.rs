//! One SQLite file as a backend.

use std::fs::{OpenOptions, Permissions};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;
use std::time::Duration;

use plimsoll_model::ObjectKey;
use plimsoll_model::id::Uid;
use plimsoll_store::{
    Backend, Batch, Feed, Fut, KindName, Page, Query, ResumeToken, Row, Scope, StoreError, Watch,
};
use sqlx::sqlite::{
    SqliteConnectOptions, SqliteConnection, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteRow,
    SqliteSynchronous,
};
use sqlx::{ConnectOptions as _, QueryBuilder, Row as _, Sqlite as Dialect};

use crate::writer::Writer;

/// Connections that read.
const READERS: u32 = 4;

/// How long a statement waits for a lock that a checkpoint holds.
const BUSY: Duration = Duration::from_secs(5);

/// A store in one SQLite file. Clones share it.
#[derive(Clone)]
pub struct Sqlite {
    readers: SqlitePool,
    writer: Writer,
    feed: Feed,
}

/// Why a file could not be opened as a store.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The file cannot be opened, created or read.
    #[error("the store cannot be opened")]
    Open(#[source] sqlx::Error),
    /// The file was written by a later version, or a migration failed.
    #[error("the store cannot be brought to this version")]
    Migrate(#[source] sqlx::migrate::MigrateError),
}

impl Sqlite {
    /// Opens a file, creating it if needed, and brings its schema to this version. Must be called within a tokio
    /// runtime, which carries the writer.
    ///
    /// # Errors
    /// [`OpenError`], which is never worth a retry without a change of the file or its disk.
    pub async fn open(file: &Path) -> Result<Self, OpenError> {
        keep_private(file).map_err(|error| OpenError::Open(sqlx::Error::Io(error)))?;
        let options = SqliteConnectOptions::new()
            .filename(file)
            .create_if_missing(true)
            .busy_timeout(BUSY)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .disable_statement_logging();
        let mut connection = options.connect().await.map_err(OpenError::Open)?;
        sqlx::migrate!("migrations/sqlite").run(&mut connection).await.map_err(OpenError::Migrate)?;
        let newest = newest(&mut connection).await.map_err(OpenError::Open)?;
        let feed = Feed::after(newest);
        let readers = SqlitePoolOptions::new()
            .max_connections(READERS)
            .connect_with(options.read_only(true).create_if_missing(false))
            .await
            .map_err(OpenError::Open)?;
        Ok(Self { readers, writer: Writer::start(connection, feed.clone(), newest), feed })
    }
}

/// Only its owner may read a store. SQLite gives the files beside it the same permissions.
fn keep_private(file: &Path) -> std::io::Result<()> {
    let made = OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(file)?;
    made.set_permissions(Permissions::from_mode(0o600))
}

/// The revision of the newest write.
async fn newest(connection: &mut SqliteConnection) -> Result<ResumeToken, sqlx::Error> {
    let revision: i64 = sqlx::query_scalar("select revision from newest").fetch_one(connection).await?;
    Ok(ResumeToken(revision.cast_unsigned()))
}

/// Any failure of the database itself: nothing was done, and the same call may succeed later.
pub(crate) fn unavailable(error: sqlx::Error) -> StoreError {
    StoreError::Unavailable(Box::new(error))
}

/// The project as it is stored.
pub(crate) fn project_of(key: &ObjectKey) -> &str {
    key.project.as_ref().map_or("", |project| project.as_str())
}

fn decode(kind: KindName, key: &ObjectKey, row: &SqliteRow) -> Result<Row, StoreError> {
    let corrupt = |source| StoreError::Corrupt { kind, key: key.clone(), source };
    let meta: String = row.try_get("meta").map_err(unavailable)?;
    Ok(Row {
        meta: serde_json::from_str(&meta).map_err(corrupt)?,
        spec: row.try_get("spec").map_err(unavailable)?,
        operations: row.try_get("operations").map_err(unavailable)?,
        status: row.try_get("status").map_err(unavailable)?,
    })
}

fn key_of(row: &SqliteRow) -> Result<ObjectKey, StoreError> {
    let text = |column| row.try_get::<String, _>(column).map_err(unavailable);
    let (project, name) = (text("project")?, text("name")?);
    let invalid = |error: plimsoll_model::id::InvalidName| StoreError::Unavailable(Box::new(error));
    let project = if project.is_empty() { None } else { Some(project.parse().map_err(invalid)?) };
    Ok(ObjectKey { project, name: name.parse().map_err(invalid)? })
}

const COLUMNS: &str = "select project, name, meta, spec, operations, status from rows where kind = ";

fn list_query(scope: &Scope, kind: KindName, query: &Query) -> QueryBuilder<Dialect> {
    let mut sql = QueryBuilder::new(COLUMNS);
    sql.push_bind(kind.0);
    if let Scope::Projects(projects) = scope {
        sql.push(" and project in (");
        let mut list = sql.separated(", ");
        for project in projects {
            list.push_bind(project.as_str().to_owned());
        }
        sql.push(")");
    }
    if let Some(owner) = &query.owner {
        sql.push(" and owner = ").push_bind(Uid::as_str(owner).to_owned());
    }
    if let Some(after) = &query.after {
        sql.push(" and (project, name) > (").push_bind(project_of(after).to_owned());
        sql.push(", ").push_bind(after.name.as_str().to_owned()).push(")");
    }
    sql.push(" order by project, name");
    // Labels are compared here and not by the database: then any number of rows may have to be read.
    if query.limit > 0 && query.labels.is_empty() {
        sql.push(" limit ")
            .push_bind(i64::try_from(query.limit).map_or(i64::MAX, |limit| limit.saturating_add(1)));
    }
    sql
}

impl Backend for Sqlite {
    fn get<'a>(
        &'a self,
        scope: &'a Scope,
        kind: KindName,
        key: &'a ObjectKey,
    ) -> Fut<'a, Result<Option<Row>, StoreError>> {
        Box::pin(async move {
            if !scope.admits(key) {
                return Ok(None);
            }
            let mut sql = QueryBuilder::<Dialect>::new(COLUMNS);
            sql.push_bind(kind.0).push(" and project = ").push_bind(project_of(key));
            sql.push(" and name = ").push_bind(key.name.as_str());
            let found = sql.build().fetch_optional(&self.readers).await.map_err(unavailable)?;
            found.map(|row| decode(kind, key, &row)).transpose()
        })
    }

    fn list<'a>(
        &'a self,
        scope: &'a Scope,
        kind: KindName,
        query: &'a Query,
    ) -> Fut<'a, Result<Page, StoreError>> {
        Box::pin(async move {
            // Rows and token come from one snapshot, so that a watch from the token misses nothing.
            let mut snapshot = self.readers.begin().await.map_err(unavailable)?;
            let token = newest(&mut snapshot).await.map_err(unavailable)?;
            let found = list_query(scope, kind, query)
                .build()
                .fetch_all(&mut *snapshot)
                .await
                .map_err(unavailable)?;
            snapshot.commit().await.map_err(unavailable)?;
            let mut rows = Vec::new();
            let limit = if query.limit == 0 { usize::MAX } else { query.limit };
            for row in &found {
                let row = decode(kind, &key_of(row)?, row)?;
                if !query.admits(&row.meta) {
                    continue;
                }
                if rows.len() == limit {
                    return Ok(Page { rows, more: true, token });
                }
                rows.push(row);
            }
            Ok(Page { rows, more: false, token })
        })
    }

    fn commit<'a>(&'a self, scope: &'a Scope, batch: Batch) -> Fut<'a, Result<(), StoreError>> {
        Box::pin(async move { self.writer.commit(scope.clone(), batch).await })
    }

    fn watch(&self, scope: &Scope, kind: KindName, from: Option<ResumeToken>) -> Result<Watch, StoreError> {
        self.feed.watch(scope, kind, from)
    }
}

#[cfg(test)]
mod tests {
    use plimsoll_store::Store;

    use super::*;

    #[tokio::test(flavor = "multi_thread")]
    async fn sqlite_keeps_the_contract() {
        let directory = tempfile::tempdir().unwrap();
        let number = std::sync::atomic::AtomicU32::new(0);
        let directory = directory.path();
        let make = async || {
            let number = number.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            let file = directory.join(format!("{number}.db"));
            Store::new(Sqlite::open(&file).await.unwrap())
        };
        plimsoll_store::contract::every(make).await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn what_was_committed_is_there_after_a_restart_and_older_tokens_have_expired() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("plimsoll.db");
        let apps = KindName("apps");
        {
            let store = Sqlite::open(&file).await.unwrap();
            let project = plimsoll_store::New::<plimsoll_model::Project> {
                uid: "u".parse().unwrap(),
                key: ObjectKey::of_installation("p".parse().unwrap()),
                owner: None,
                at: plimsoll_model::object::Timestamp(1),
                labels: std::collections::BTreeMap::new(),
                spec: plimsoll_model::kind::ProjectSpec::default(),
                operations: (),
            };
            store.commit(&Scope::All, Batch::new().create(project)).await.unwrap();
        }
        let store = Sqlite::open(&file).await.unwrap();
        let page = store.list(&Scope::All, KindName("projects"), &Query::default()).await.unwrap();
        assert_eq!((page.rows.len(), page.token), (1, ResumeToken(1)));
        assert!(matches!(store.watch(&Scope::All, apps, Some(ResumeToken::START)), Err(StoreError::Expired)));
        assert!(store.watch(&Scope::All, apps, Some(page.token)).is_ok());
    }
}
