//! Which store an installation has, and how it is opened.

use std::path::{Path, PathBuf};

use plimsoll_shim::{read, write_durably};
use plimsoll_store::Store;
use plimsoll_store_sql::{OpenError, Sql};
use serde::{Deserialize, Serialize};

use crate::data::DataDirectory;

/// The file of the data directory that keeps everything, unless a database does.
const FILE: &str = "plimsoll.db";

/// Says what keeps everything, if not [`FILE`]. An empty store in its place would make orphans of all that runs.
const CHOICE: &str = "store.json";

/// Where everything is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
enum Kept {
    Postgres,
}

/// Why the store cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum StoreChoiceError {
    /// The file cannot be opened.
    #[error("{} cannot be opened", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: OpenError,
    },
    /// The database cannot be opened. Its address is not repeated: it may hold a password.
    #[error("the database of --store cannot be used")]
    Database(#[source] OpenError),
    /// A database keeps everything, and none was given.
    #[error(
        "everything of this installation is kept in a PostgreSQL database: give its address with --store"
    )]
    NotGiven,
    /// A file keeps everything, and a database was given.
    #[error("everything of this installation is kept in {}: leave out --store", path.display())]
    HasFile {
        /// The file.
        path: PathBuf,
    },
    /// What is only said of addresses of a known form.
    #[error("a store's address begins with postgres:// or postgresql://")]
    Address,
    /// The data directory cannot be read or written.
    #[error("the data directory cannot be used")]
    Io(#[from] std::io::Error),
}

/// Opens the store of an installation: the given database, or the file in its data directory.
pub(crate) async fn open(data: &DataDirectory, url: Option<&str>) -> Result<Store, StoreChoiceError> {
    let kept: Option<Kept> = read(data.path(), CHOICE)?;
    let path = data.path().join(FILE);
    let Some(url) = url else {
        return match kept {
            Some(Kept::Postgres) => Err(StoreChoiceError::NotGiven),
            None => open_file(&path).await,
        };
    };
    if !url.starts_with("postgres://") && !url.starts_with("postgresql://") {
        return Err(StoreChoiceError::Address);
    }
    if kept.is_none() && path.exists() {
        return Err(StoreChoiceError::HasFile { path });
    }
    let store =
        Sql::postgres(url, data.installation(), kept.is_none()).await.map_err(StoreChoiceError::Database)?;
    write_durably(data.path(), CHOICE, &Kept::Postgres)?;
    Ok(Store::new(store))
}

async fn open_file(path: &Path) -> Result<Store, StoreChoiceError> {
    let opened = Sql::sqlite(path).await;
    let failed = |source| StoreChoiceError::File { path: path.to_owned(), source };
    Ok(Store::new(opened.map_err(failed)?))
}
