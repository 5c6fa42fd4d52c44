//! Everything at once: reading a whole database as it is at one moment, and filling another one with it.

use std::path::Path;

use plimsoll_model::audit::{AuditEntry, AuditRecord};
use plimsoll_model::id::InstallationId;
use plimsoll_model::{ObjectKey, Revision};
use plimsoll_store::{Fut, KindName, Moment, Row, StoreError};

use crate::database::{Database, OpenError};
use crate::session::{DatabaseError, Insert, Session, Value};
use crate::sql::{AUDIT, ROW_COLUMNS, ROW_WIDTH, decode, project_of, record, row_values, unavailable};

/// A transaction that sees one moment.
pub(crate) struct Snapshot {
    session: Box<dyn Session>,
    revision: Revision,
}

impl Snapshot {
    pub(crate) async fn take(database: &Database) -> Result<Self, StoreError> {
        let mut session = database.snapshot().await.map_err(unavailable)?;
        let newest = session.run("select revision from newest", &[]).await.map_err(unavailable)?;
        let revision = Revision(newest.first().map_or(0, |row| row.number.cast_unsigned()));
        Ok(Self { session, revision })
    }
}

impl Moment for Snapshot {
    fn revision(&self) -> Revision {
        self.revision
    }

    fn rows<'a>(
        &'a mut self,
        after: Option<&'a (KindName, ObjectKey)>,
        limit: usize,
    ) -> Fut<'a, Result<Vec<(KindName, Row)>, StoreError>> {
        Box::pin(async move {
            let columns = "select revision, kind, project, name, meta, spec, operations, status from rows";
            let limit = Value::Number(i64::try_from(limit).unwrap_or(i64::MAX));
            let order = "order by kind, project, name limit";
            let (sql, values) = match after {
                None => (format!("{columns} {order} $1"), vec![limit]),
                Some((kind, key)) => (
                    format!("{columns} where (kind, project, name) > ($1, $2, $3) {order} $4"),
                    vec![
                        Value::Text(kind.0),
                        Value::Text(project_of(key)),
                        Value::Text(key.name.as_str()),
                        limit,
                    ],
                ),
            };
            let found = self.session.run(&sql, &values).await.map_err(unavailable)?;
            let rows = found.into_iter().map(|mut row| {
                let name = row.text();
                let unknown = || StoreError::Unavailable(format!("the kind {name} is unknown").into());
                let kind = KindName::known(&name).ok_or_else(unknown)?;
                Ok((kind, decode(kind, row)?))
            });
            rows.collect()
        })
    }

    fn audit(&mut self, after: u64, limit: usize) -> Fut<'_, Result<Vec<AuditRecord>, StoreError>> {
        Box::pin(async move {
            let sql = "select number, entry, hash from audit where number > $1 order by number limit $2";
            let limit = i64::try_from(limit).unwrap_or(i64::MAX);
            let values = [Value::Number(after.cast_signed()), Value::Number(limit)];
            let found = self.session.run(sql, &values).await.map_err(unavailable)?;
            found.into_iter().map(record).collect()
        })
    }
}

/// A database whose whole content is being replaced. Unless [`Filling::finish`] succeeds, it keeps what it had.
pub struct Filling {
    database: Database,
    session: Box<dyn Session>,
}

impl Filling {
    /// Begins to fill a SQLite file, making it if it is not there.
    ///
    /// # Errors
    /// [`OpenError`].
    pub async fn sqlite(file: &Path) -> Result<Self, OpenError> {
        Self::begin(Database::sqlite(file).await?).await
    }

    /// Begins to fill a PostgreSQL database, which must be empty or hold the same installation.
    ///
    /// # Errors
    /// [`OpenError`].
    pub async fn postgres(url: &str, installation: &InstallationId) -> Result<Self, OpenError> {
        Self::begin(Database::postgres(url, installation, true).await?).await
    }

    async fn begin(database: Database) -> Result<Self, OpenError> {
        let empty = async {
            let mut session = database.write().await?;
            for table in ["rows", "changes", "audit"] {
                session.run(&format!("delete from {table}"), &[]).await?;
            }
            Ok::<_, DatabaseError>(session)
        };
        let session = empty.await.map_err(OpenError::Open)?;
        Ok(Self { database, session })
    }

    /// Adds rows as they are, with their revisions.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn rows(&mut self, rows: &[(KindName, Row)]) -> Result<(), StoreError> {
        let metas: Vec<String> = rows
            .iter()
            .map(|(_, row)| serde_json::to_string(&row.meta))
            .collect::<Result<_, _>>()
            .map_err(|error| StoreError::Unavailable(Box::new(error)))?;
        let pairs = rows.iter().zip(&metas);
        let values: Vec<Value<'_>> =
            pairs.flat_map(|((kind, row), meta)| row_values(*kind, row, meta)).collect();
        let insert = Insert { into: "rows", columns: ROW_COLUMNS, width: ROW_WIDTH, and: "" };
        self.insert(&insert, &values).await
    }

    /// Adds records of the audit log as they are.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn audit(&mut self, records: &[AuditRecord]) -> Result<(), StoreError> {
        let texts = records.iter().map(|record| {
            let entry = serde_json::from_str::<AuditEntry>(&record.entry);
            let entry = entry.map_err(|error| StoreError::Unavailable(Box::new(error)))?;
            Ok((project_of(&entry.object).to_owned(), record.hash.to_string()))
        });
        let texts: Vec<(String, String)> = texts.collect::<Result<_, StoreError>>()?;
        let values = records.iter().zip(&texts).flat_map(|(record, (project, hash))| {
            let number = Value::Number(record.number.cast_signed());
            [number, Value::Text(project), Value::Text(&record.entry), Value::Text(hash)]
        });
        self.insert(&AUDIT, &values.collect::<Vec<_>>()).await
    }

    async fn insert(&mut self, insert: &Insert, values: &[Value<'_>]) -> Result<(), StoreError> {
        let at_once = self.database.rows_at_once();
        insert.run(&mut *self.session, values, at_once).await.map_err(unavailable)
    }

    /// Makes all of it the content of the database. The next write gets the revision after this one.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn finish(mut self, newest: Revision) -> Result<(), StoreError> {
        let value = [Value::Number(newest.0.cast_signed())];
        self.session.run("update newest set revision = $1", &value).await.map_err(unavailable)?;
        self.session.commit().await.map_err(unavailable)?;
        self.database.close().await;
        Ok(())
    }
}
