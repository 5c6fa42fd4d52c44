//! The backend over either database.

use std::path::Path;
use std::sync::Arc;

use plimsoll_model::ObjectKey;
use plimsoll_model::audit::AuditRecord;
use plimsoll_model::id::{InstallationId, InvalidName, Uid};
use plimsoll_store::{
    Backend, Batch, Feed, Fut, KindName, Moment, Page, Query, ResumeToken, Row, Scope, StoreError, Watch,
};
use tokio::sync::Notify;

use crate::cache::{Cache, Looked};
use crate::database::{Database, OpenError};
use crate::follow::{self, Followers};
use crate::session::{DatabaseError, Found, Insert, Value};
use crate::whole::Snapshot;
use crate::writer::Writer;

/// A store in an SQL database. Clones share it.
#[derive(Clone)]
pub struct Sql {
    database: Database,
    writer: Writer,
    feed: Feed,
    /// Where nobody else writes.
    cache: Option<Cache>,
}

impl Sql {
    /// Opens a SQLite file, creating it if needed, and brings its schema to this version. Must be called within a tokio
    /// runtime, which carries the writer.
    ///
    /// # Errors
    /// [`OpenError`], which is never worth a retry without a change of the file or its disk.
    pub async fn sqlite(file: &Path) -> Result<Self, OpenError> {
        let database = Database::sqlite(file).await?;
        let (feed, _) = follow::prime(&database).await.map_err(OpenError::Open)?;
        let cache = Cache::default();
        let writer = Writer::start(database.clone(), Followers::Own(feed.clone()), Some(cache.clone()));
        Ok(Self { database, writer, feed, cache: Some(cache) })
    }

    /// Connects to a PostgreSQL database and brings its schema to this version. Must be called within a tokio runtime,
    /// which carries the writer and the watches. An empty database is taken only for an installation that is new.
    ///
    /// # Errors
    /// [`OpenError`]; a database that is not there yet may be there later.
    pub async fn postgres(url: &str, installation: &InstallationId, is_new: bool) -> Result<Self, OpenError> {
        let database = Database::postgres(url, installation, is_new).await?;
        let (feed, newest) = follow::prime(&database).await.map_err(OpenError::Open)?;
        let committed = Arc::new(Notify::new());
        tokio::spawn(follow::follow(database.clone(), feed.clone(), committed.clone(), newest));
        let writer = Writer::start(database.clone(), Followers::Shared(committed), None);
        Ok(Self { database, writer, feed, cache: None })
    }
}

impl Sql {
    /// A row as the database has it.
    async fn read(&self, kind: KindName, key: &ObjectKey) -> Result<Option<Row>, StoreError> {
        let sql = "select revision, project, name, meta, spec, operations, status from rows \
                   where kind = $1 and project = $2 and name = $3";
        let mut session = self.database.read().await.map_err(unavailable)?;
        let found = session.run(sql, &key_values((kind, key))).await.map_err(unavailable)?;
        found.into_iter().next().map(|row| decode(kind, row)).transpose()
    }
}

/// Values that find an object.
pub(crate) fn key_values((kind, key): (KindName, &ObjectKey)) -> [Value<'_>; 3] {
    [Value::Text(kind.0), Value::Text(project_of(key)), Value::Text(key.name.as_str())]
}

/// Any failure of the database itself: nothing was done, and the same call may succeed later.
pub(crate) fn unavailable(error: DatabaseError) -> StoreError {
    StoreError::Unavailable(Box::new(error))
}

/// The project as it is stored.
pub(crate) fn project_of(key: &ObjectKey) -> &str {
    key.project.as_ref().map_or("", |project| project.as_str())
}

/// A key as it is stored.
pub(crate) fn key_of(project: &str, name: &str) -> Result<ObjectKey, InvalidName> {
    let project = if project.is_empty() { None } else { Some(project.parse()?) };
    Ok(ObjectKey { project, name: name.parse()? })
}

/// Columns of a row, as [`row_values`] has them.
pub(crate) const ROW_COLUMNS: &str = "kind, project, name, owner, revision, meta, spec, operations, status";

/// How many these are.
pub(crate) const ROW_WIDTH: usize = 9;

/// Records of the audit log that are added to it.
pub(crate) const AUDIT: Insert =
    Insert { into: "audit", columns: "number, project, entry, hash", width: 4, and: "" };

/// The values of a row, with its metadata as text.
pub(crate) fn row_values<'a>(kind: KindName, row: &'a Row, meta: &'a str) -> [Value<'a>; ROW_WIDTH] {
    [
        Value::Text(kind.0),
        Value::Text(project_of(&row.meta.key)),
        Value::Text(row.meta.key.name.as_str()),
        Value::Maybe(row.meta.owner.as_ref().map(Uid::as_str)),
        Value::Number(row.meta.revision.0.cast_signed()),
        Value::Text(meta),
        Value::Text(&row.spec),
        Value::Text(&row.operations),
        Value::Maybe(row.status.as_deref()),
    ]
}

const COLUMNS: &str =
    "select revision, project, name, meta, spec, operations, status from rows where kind = $1";

pub(crate) fn decode(kind: KindName, mut found: Found) -> Result<Row, StoreError> {
    let key =
        key_of(&found.text(), &found.text()).map_err(|error| StoreError::Unavailable(Box::new(error)))?;
    let meta = serde_json::from_str(&found.text());
    Ok(Row {
        meta: meta.map_err(|source| StoreError::Corrupt { kind, key, source })?,
        spec: found.text().into(),
        operations: found.text().into(),
        status: found.maybe().map(Into::into),
    })
}

/// A statement that grows with its values.
struct Select<'a> {
    sql: String,
    values: Vec<Value<'a>>,
}

impl<'a> Select<'a> {
    fn rows_of(kind: KindName) -> Self {
        Self { sql: COLUMNS.to_owned(), values: vec![Value::Text(kind.0)] }
    }

    /// Adds a part whose `$` stands for the value.
    fn and(&mut self, part: &str, value: Value<'a>) {
        self.values.push(value);
        self.sql.push_str(&part.replace('$', &format!("${}", self.values.len())));
    }

    /// Restricts a column to the projects of a scope.
    fn within(&mut self, scope: &'a Scope) {
        if let Scope::Projects(projects) = scope {
            self.sql.push_str(" and project in (");
            for (number, project) in projects.iter().enumerate() {
                self.and(if number == 0 { "$" } else { ", $" }, Value::Text(project.as_str()));
            }
            self.sql.push(')');
        }
    }
}

fn listing<'a>(scope: &'a Scope, kind: KindName, query: &'a Query) -> Select<'a> {
    let mut select = Select::rows_of(kind);
    select.within(scope);
    if let Some(owner) = &query.owner {
        select.and(" and owner = $", Value::Text(Uid::as_str(owner)));
    }
    if let Some(after) = &query.after {
        select.and(" and (project, name) > ($", Value::Text(project_of(after)));
        select.and(", $)", Value::Text(after.name.as_str()));
    }
    select.sql.push_str(" order by project, name");
    // Labels are compared here and not by the database: then any number of rows may have to be read.
    if query.limit > 0 && query.labels.is_empty() {
        select.and(" limit $", Value::Number(one_more(query.limit)));
    }
    select
}

/// A record of the audit log.
pub(crate) fn record(mut row: Found) -> Result<AuditRecord, StoreError> {
    let (number, entry) = (row.number.cast_unsigned(), row.text());
    let hash = row.text().parse().map_err(|error| StoreError::Unavailable(Box::new(error)))?;
    Ok(AuditRecord { number, entry, hash })
}

/// One more than a limit tells whether there are more.
fn one_more(limit: usize) -> i64 {
    i64::try_from(limit).map_or(i64::MAX, |limit| limit.saturating_add(1))
}

/// An empty set of projects sees nothing, and `in ()` is no SQL.
fn sees_nothing(scope: &Scope) -> bool {
    matches!(scope, Scope::Projects(projects) if projects.is_empty())
}

impl Backend for Sql {
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
            let Some(cache) = &self.cache else { return self.read(kind, key).await };
            match cache.look(kind, key) {
                Looked::Known(row) => Ok(row.as_deref().cloned()),
                Looked::Unknown(reader) => {
                    let row = self.read(kind, key).await?;
                    cache.found(reader, kind, key, row.as_ref());
                    Ok(row)
                }
            }
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
            let mut session = self.database.snapshot().await.map_err(unavailable)?;
            let newest = session.run("select revision from newest", &[]).await.map_err(unavailable)?;
            let token = ResumeToken(newest.first().map_or(0, |row| row.number.cast_unsigned()));
            let found = if sees_nothing(scope) {
                Vec::new()
            } else {
                let select = listing(scope, kind, query);
                session.run(&select.sql, &select.values).await.map_err(unavailable)?
            };
            session.commit().await.map_err(unavailable)?;
            let mut rows = Vec::new();
            let limit = if query.limit == 0 { usize::MAX } else { query.limit };
            for row in found {
                let row = decode(kind, row)?;
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

    fn audit<'a>(
        &'a self,
        scope: &'a Scope,
        after: u64,
        limit: usize,
    ) -> Fut<'a, Result<Vec<AuditRecord>, StoreError>> {
        Box::pin(async move {
            if sees_nothing(scope) {
                return Ok(Vec::new());
            }
            let mut select = Select {
                sql: "select number, entry, hash from audit where number > $1".to_owned(),
                values: vec![Value::Number(after.cast_signed())],
            };
            select.within(scope);
            select.and(" order by number limit $", Value::Number(one_more(limit) - 1));
            let mut session = self.database.read().await.map_err(unavailable)?;
            let found = session.run(&select.sql, &select.values).await.map_err(unavailable)?;
            found.into_iter().map(record).collect()
        })
    }

    fn position(&self) -> ResumeToken {
        self.feed.position()
    }

    fn moment(&self) -> Fut<'_, Result<Box<dyn Moment>, StoreError>> {
        Box::pin(async move { Ok(Box::new(Snapshot::take(&self.database).await?) as Box<dyn Moment>) })
    }

    fn watch(&self, scope: &Scope, kind: KindName, from: Option<ResumeToken>) -> Result<Watch, StoreError> {
        self.feed.watch(scope, kind, from)
    }
}
