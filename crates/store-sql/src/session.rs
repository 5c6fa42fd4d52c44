//! The little that both databases are asked to do, in one form: statements with values, answered by rows of one number
//! and some texts.

use plimsoll_store::Fut;
use sqlx::pool::PoolConnection;
use sqlx::{AssertSqlSafe, Postgres, Row as _, Sqlite, Transaction};

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
    ) -> Fut<'a, Result<Vec<Found>, sqlx::Error>>;

    /// Commits, if it is a transaction.
    fn commit(self: Box<Self>) -> Fut<'static, Result<(), sqlx::Error>>;
}

macro_rules! session {
    ($session:ty, $database:ty, |$ended:ident| $commit:expr) => {
        impl Session for $session {
            fn run<'a>(
                &'a mut self,
                sql: &'a str,
                values: &'a [Value<'a>],
            ) -> Fut<'a, Result<Vec<Found>, sqlx::Error>> {
                Box::pin(async move {
                    let mut query = sqlx::query::<$database>(AssertSqlSafe(sql.to_owned()));
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
                        let texts = texts.collect::<Result<Vec<_>, _>>()?.into_iter();
                        Ok(Found { number: row.try_get(0)?, texts })
                    });
                    found.collect()
                })
            }

            fn commit(self: Box<Self>) -> Fut<'static, Result<(), sqlx::Error>> {
                let $ended = *self;
                Box::pin(async move { $commit })
            }
        }
    };
}

session!(PoolConnection<Sqlite>, Sqlite, |connection| {
    drop(connection);
    Ok(())
});
session!(PoolConnection<Postgres>, Postgres, |connection| {
    drop(connection);
    Ok(())
});
session!(Transaction<'static, Sqlite>, Sqlite, |transaction| transaction.commit().await);
session!(Transaction<'static, Postgres>, Postgres, |transaction| transaction.commit().await);
