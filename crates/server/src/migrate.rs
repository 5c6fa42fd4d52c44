//! Moving everything from the file to a PostgreSQL database, while it can be read.

use plimsoll_model::audit::Action;
use plimsoll_store::{Moment, StoreError};
use plimsoll_store_sql::{Filling, OpenError, Sql};
use serde::{Deserialize, Serialize};

use crate::Server;
use crate::access::Caller;
use crate::backup::{BackupError, End, Pages, Tally};
use crate::store::{self, StoreChoiceError};

/// Why writes are refused while everything moves.
const MOVING: &str = "everything moves to another store";

/// Why writes are refused after that.
const MOVED: &str = "everything has moved to a PostgreSQL database: start the server again with --store";

/// What was moved.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Migrated {
    /// Objects.
    pub objects: u64,
    /// Records of the audit log.
    pub records: u64,
    /// The digest of all of it, the same here and there.
    pub digest: plimsoll_model::id::Digest,
}

/// Why nothing was moved. Everything goes on in the file.
#[derive(Debug, thiserror::Error)]
pub enum MigrateError {
    /// A database has everything already, or the address is none.
    #[error(transparent)]
    Choice(#[from] StoreChoiceError),
    /// The database cannot be opened. Its address is not repeated: it may hold a password.
    #[error("the database cannot be used")]
    Open(#[from] OpenError),
    /// One of the two does not answer.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Something cannot be read.
    #[error(transparent)]
    Content(BackupError),
    /// The database does not hold what the file holds.
    #[error("the database does not hold what was written to it: nothing has moved")]
    Different,
    /// The data directory cannot be written.
    #[error("the data directory cannot be written")]
    Io(#[from] std::io::Error),
}

impl From<BackupError> for MigrateError {
    fn from(error: BackupError) -> Self {
        match error {
            BackupError::Store(error) => Self::Store(error),
            other => Self::Content(other),
        }
    }
}

impl Server {
    /// Moves everything to a database, which is then compared with the file. Meanwhile and afterwards everything can be
    /// read here and nothing written, until a server is started with the database.
    ///
    /// # Errors
    /// [`MigrateError`]; then writes go on here.
    pub async fn migrate(&self, caller: &Caller, url: &str) -> Result<Migrated, MigrateError> {
        // One at a time: the failure of another one would open the gate behind this one.
        let _alone = self.migrating.lock().await;
        store::may_migrate(self.data(), url)?;
        let filling = Filling::postgres(url, self.data().installation()).await?;
        self.note(caller, Action::Migrate).await?;
        self.gate().close(MOVING).await;
        let moved = self.copy(filling, url).await;
        match &moved {
            Ok(_) => self.gate().close(MOVED).await,
            Err(_) => self.gate().open().await,
        }
        moved
    }

    async fn copy(&self, mut filling: Filling, url: &str) -> Result<Migrated, MigrateError> {
        let moment = self.store().moment().await?;
        let revision = moment.revision();
        let here = read(moment, Some(&mut filling)).await?;
        filling.finish(revision).await?;
        let there = Sql::postgres(url, self.data().installation(), false).await?;
        let there = plimsoll_store::Store::new(there).moment().await?;
        if read(there, None).await? != here {
            return Err(MigrateError::Different);
        }
        store::has_moved(self.data())?;
        Ok(Migrated { objects: here.objects, records: here.records, digest: here.digest })
    }
}

/// Reads everything, fills a database with it if there is one, and says how much it was.
async fn read(moment: Box<dyn Moment>, mut filling: Option<&mut Filling>) -> Result<End, BackupError> {
    let (mut tally, mut pages) = (Tally::default(), Pages::of(moment));
    loop {
        let rows = pages.rows().await?;
        if rows.is_empty() {
            break;
        }
        if let Some(filling) = &mut filling {
            filling.rows(&rows).await?;
        }
        rows.iter().try_for_each(|(kind, row)| tally.row(*kind, row).map(drop))?;
    }
    loop {
        let records = pages.records().await?;
        if records.is_empty() {
            return Ok(tally.end(0));
        }
        if let Some(filling) = &mut filling {
            filling.audit(&records).await?;
        }
        records.iter().try_for_each(|record| tally.record(record).map(drop))?;
    }
}
