//! The little that both databases are asked to do, in one form: statements with values, answered by rows of one number
//! and some texts.

use plimsoll_store::Fut;
use sqlx::pool::PoolConnection;
use sqlx::{AssertSqlSafe, Postgres, Row as _, Transaction};

/// What kept a database from doing what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum DatabaseError {
    /// PostgreSQL, or the way to it.
    #[error(transparent)]
    Postgres(#[from] sqlx::Error),
    /// SQLite, or its disk.
    #[error(transparent)]
    Sqlite(#[from] rusqlite::Error),
    /// Something that is stored, or is to be, has not the form that it should have.
    #[error("what is stored cannot be understood")]
    Data(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The file cannot be made.
    #[error(transparent)]
    Io(#[from] std::io::Error),
}

/// A value of a statement.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Value<'a> {
    Number(i64),
    Text(&'a str),
    Maybe(Option<&'a str>),
}

/// A row of an answer: every query of this crate asks for one number, and for texts after it.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) number: i64,
    texts: std::vec::IntoIter<Option<String>>,
}

impl Found {
    pub(crate) fn new(number: i64, texts: Vec<Option<String>>) -> Self {
        Self { number, texts: texts.into_iter() }
    }

    /// The next text, which may be absent.
    pub(crate) fn maybe(&mut self) -> Option<String> {
        self.texts.next().flatten()
    }

    /// The next text; the empty one where there is none.
    pub(crate) fn text(&mut self) -> String {
        self.maybe().unwrap_or_default()
    }
}

/// A connection, or a transaction that ends without a trace unless it is committed.
pub(crate) trait Session: Send {
    /// Runs one statement; values are `$1`, `$2` and so on.
    fn run<'a>(
        &'a mut self,
        sql: &'a str,
        values: &'a [Value<'a>],
    ) -> Fut<'a, Result<Vec<Found>, DatabaseError>>;

    /// Commits, if it is a transaction.
    fn commit(self: Box<Self>) -> Fut<'static, Result<(), DatabaseError>>;
}

macro_rules! session {
    ($session:ty, |$ended:ident| $commit:expr) => {
        impl Session for $session {
            fn run<'a>(
                &'a mut self,
                sql: &'a str,
                values: &'a [Value<'a>],
            ) -> Fut<'a, Result<Vec<Found>, DatabaseError>> {
                Box::pin(async move {
                    let mut query = sqlx::query::<Postgres>(AssertSqlSafe(sql.to_owned()));
                    for value in values {
                        query = match *value {
                            Value::Number(number) => query.bind(number),
                            Value::Text(text) => query.bind(text),
                            Value::Maybe(text) => query.bind(text),
                        };
                    }
                    let rows = query.fetch_all(&mut **self).await?;
                    let found = rows.iter().map(|row| {
                        let texts = (1..row.len()).map(|column| row.try_get(column));
                        Ok(Found::new(row.try_get(0)?, texts.collect::<Result<Vec<_>, _>>()?))
                    });
                    found.collect()
                })
            }

            fn commit(self: Box<Self>) -> Fut<'static, Result<(), DatabaseError>> {
                let $ended = *self;
                Box::pin(async move { $commit })
            }
        }
    };
}

session!(PoolConnection<Postgres>, |connection| {
    drop(connection);
    Ok(())
});
session!(Transaction<'static, Postgres>, |transaction| Ok(transaction.commit().await?));

/// Rows that are added to a table.
pub(crate) struct Insert {
    pub(crate) into: &'static str,
    pub(crate) columns: &'static str,
    /// How many columns these are.
    pub(crate) width: usize,
    /// What becomes of a row that is there.
    pub(crate) and: &'static str,
}

impl Insert {
    /// Adds rows, by statements of so many rows each: see [`crate::database::Database::rows_at_once`].
    pub(crate) async fn run(
        &self,
        session: &mut dyn Session,
        values: &[Value<'_>],
        at_once: usize,
    ) -> Result<(), DatabaseError> {
        let Self { into, columns, width, and } = self;
        let (mut sql, mut rows) = (String::new(), 0);
        for values in values.chunks(at_once * width) {
            if rows != values.len() / width {
                rows = values.len() / width;
                sql = format!("insert into {into} ({columns}) values {}{and}", places(rows, *width));
            }
            session.run(&sql, values).await?;
        }
        Ok(())
    }
}

/// Places for the values of so many rows: `($1, $2), ($3, $4)`.
pub(crate) fn places(rows: usize, width: usize) -> String {
    use std::fmt::Write as _;
    let mut text = String::with_capacity(rows * width * 6);
    for place in 0..rows * width {
        let before = match place % width {
            0 if place == 0 => "(",
            0 => "), (",
            _ => ", ",
        };
        // Writing to a String cannot fail.
        write!(text, "{before}${}", place + 1).ok();
    }
    text.push(')');
    text
}
