//! From commits to watches. What this process commits to its own file it passes on itself; what is committed to a shared
//! database is read back from there, so that changes of whoever wrote them come in commit order.

use std::sync::Arc;
use std::time::Duration;

use plimsoll_model::{ObjectKey, Revision};
use plimsoll_store::{Change, ChangeKind, Feed, KindName, ResumeToken, Row};
use tokio::sync::Notify;

use crate::database::Database;
use crate::session::{DatabaseError, Session, Value};
use crate::sql::key_of;
use crate::writer::{Applied, CHANGED, CREATED, DELETED};

/// How often a shared database is asked for what others wrote.
const LOOK: Duration = Duration::from_secs(1);

/// Changes read at once.
const PAGE: i64 = 512;

/// Changes from before its start that a process still knows.
const PRIMED: i64 = 2048;

/// Who is told of commits.
#[derive(Clone)]
pub(crate) enum Followers {
    /// The watches of this process.
    Own(Feed),
    /// Whoever reads changes back from the database.
    Shared(Arc<Notify>),
}

impl Followers {
    pub(crate) fn committed(&self, applied: Applied) {
        match self {
            Self::Own(feed) => applied.into_iter().for_each(|(kind, change)| feed.add(kind, change)),
            Self::Shared(notify) => notify.notify_one(),
        }
    }
}

/// A feed of the latest changes, and its end.
pub(crate) async fn prime(database: &Database) -> Result<(Feed, u64), DatabaseError> {
    let mut session = database.snapshot().await?;
    let newest = session.run("select revision from newest", &[]).await?;
    let newest = newest.first().map_or(0, |row| row.number.cast_unsigned());
    let sql = "select revision from changes order by revision desc limit 1 offset $1";
    let start = match session.run(sql, &[Value::Number(PRIMED)]).await?.first() {
        Some(row) => row.number.cast_unsigned(),
        None => {
            match session.run("select revision from changes order by revision limit 1", &[]).await?.first() {
                Some(row) => row.number.cast_unsigned() - 1,
                None => newest,
            }
        }
    };
    let feed = Feed::after(ResumeToken(start));
    let mut position = start;
    while position < newest {
        let Some(now) = read(&mut *session, &feed, position).await? else { break };
        position = now;
    }
    Ok((feed, newest))
}

/// Carries changes from a shared database to a feed, until it is dropped.
pub(crate) async fn follow(database: Database, feed: Feed, committed: Arc<Notify>, mut position: u64) {
    loop {
        // Without an answer it is asked again at the next look.
        while let Ok(Some(now)) = look(&database, &feed, position).await {
            position = now;
        }
        tokio::time::timeout(LOOK, committed.notified()).await.ok();
    }
}

async fn look(database: &Database, feed: &Feed, position: u64) -> Result<Option<u64>, DatabaseError> {
    let mut session = database.snapshot().await?;
    read(&mut *session, feed, position).await
}

/// Adds a page of changes to a feed and says where it ends; `None` if there are none.
async fn read(session: &mut dyn Session, feed: &Feed, position: u64) -> Result<Option<u64>, DatabaseError> {
    let sql = "select c.revision, c.kind, c.project, c.name, c.uid, cast(c.what as text), \
               r.meta, r.spec, r.operations, r.status \
               from changes c left join rows r \
               on r.kind = c.kind and r.project = c.project and r.name = c.name and r.revision = c.revision \
               where c.revision > $1 order by c.revision limit $2";
    let found = session.run(sql, &[Value::Number(position.cast_signed()), Value::Number(PAGE)]).await?;
    let mut end = None;
    for mut row in found {
        let revision = row.number.cast_unsigned();
        // Every revision has a change; those that are missing were removed before they were read.
        if revision != end.unwrap_or(position) + 1 {
            feed.skip_to(ResumeToken(revision - 1));
        }
        end = Some(revision);
        let (kind, project, name, uid) = (row.text(), row.text(), row.text(), row.text());
        let what = row.text().parse().unwrap_or(CHANGED);
        // A kind of a later version: nobody here asks for it.
        let Some(kind) = KindName::known(&kind) else { continue };
        let decode = |error: Box<dyn std::error::Error + Send + Sync>| DatabaseError::Data(error);
        let key: ObjectKey = key_of(&project, &name).map_err(|error| decode(error.into()))?;
        let uid = uid.parse().map_err(|error| decode(Box::new(error)))?;
        let what = if what == DELETED {
            ChangeKind::Deleted(Revision(revision))
        } else {
            // It may have been overtaken by a later change, which follows.
            let Some(meta) = row.maybe() else { continue };
            let row = Box::new(Row {
                meta: serde_json::from_str(&meta).map_err(|error| decode(error.into()))?,
                spec: row.text().into(),
                operations: row.text().into(),
                status: row.maybe().map(Into::into),
            });
            if what == CREATED { ChangeKind::Created(row) } else { ChangeKind::Changed(row) }
        };
        feed.add(kind, Change { key, uid, kind: what, token: ResumeToken(revision) });
    }
    Ok(end)
}
