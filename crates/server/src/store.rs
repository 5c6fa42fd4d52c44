//! Which store an installation has, and how it is opened.

use std::io;
use std::path::{Path, PathBuf};

use plimsoll_shim::{read_whole, write_durably};
use plimsoll_store::Store;
use plimsoll_store_sql::{Filling, OpenError, Sql};
use serde::{Deserialize, Serialize};

use crate::data::DataDirectory;
use crate::gate::{Gate, Gated};

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
    /// A database keeps everything already.
    #[error("everything of this installation is kept in a PostgreSQL database already")]
    HasDatabase,
    /// What is only said of addresses of a known form.
    #[error("a store's address begins with postgres:// or postgresql://")]
    Address,
    /// The data directory cannot be read or written.
    #[error("the data directory cannot be used")]
    Io(#[from] io::Error),
}

/// Opens the store of an installation: the given database, or the file in its data directory.
pub(crate) async fn open(
    data: &DataDirectory,
    url: Option<&str>,
    gate: &Gate,
) -> Result<Store, StoreChoiceError> {
    let kept: Option<Kept> = read_whole(data.path(), CHOICE)?;
    let path = data.path().join(FILE);
    let Some(url) = url else {
        return match kept {
            Some(Kept::Postgres) => Err(StoreChoiceError::NotGiven),
            None => open_file(&path, gate).await,
        };
    };
    if !is_address(url) {
        return Err(StoreChoiceError::Address);
    }
    if kept.is_none() && path.exists() {
        return Err(StoreChoiceError::HasFile { path });
    }
    let store =
        Sql::postgres(url, data.installation(), kept.is_none()).await.map_err(StoreChoiceError::Database)?;
    write_durably(data.path(), CHOICE, &Kept::Postgres)?;
    if path.exists() {
        // It was moved to the database: whoever needs room may remove it.
        move_aside(&path, &data.path().join(format!("{FILE}.migrated")))?;
    }
    Ok(Store::new(Gated { inner: store, gate: gate.clone() }))
}

/// The file that is being filled; it takes the place of [`FILE`] when it is whole.
const RESTORING: &str = "plimsoll.db.restoring";

/// Whether an installation may be restored into the given store, judged by the one that it has.
pub(crate) fn may_restore(data: &Path, url: Option<&str>) -> Result<(), &'static str> {
    // What is damaged says nothing, and is what a restore is for.
    let kept: Option<Kept> = read_whole(data, CHOICE).unwrap_or_default();
    match (kept, url) {
        (Some(Kept::Postgres), None) => Err(
            "everything of this installation is kept in a PostgreSQL database: give its address with --store",
        ),
        (None, Some(_)) if data.join(FILE).exists() => Err(
            "everything of this installation is kept in a file: leave out --store, and migrate afterwards",
        ),
        (_, Some(url)) if !is_address(url) => {
            Err("a store's address begins with postgres:// or postgresql://")
        }
        _ => Ok(()),
    }
}

fn is_address(url: &str) -> bool {
    url.starts_with("postgres://") || url.starts_with("postgresql://")
}

/// Begins to fill the store of an installation that is being restored.
pub(crate) async fn fill(data: &DataDirectory, url: Option<&str>) -> Result<Filling, OpenError> {
    if let Some(url) = url {
        return Filling::postgres(url, data.installation()).await;
    }
    let file = data.path().join(RESTORING);
    remove(&file).map_err(OpenError::io)?;
    Filling::sqlite(&file).await
}

/// Puts the filled store in its place and says where the one before lies now.
pub(crate) fn take_restored(data: &DataDirectory, url: Option<&str>) -> io::Result<Option<PathBuf>> {
    let path = data.path();
    if url.is_some() {
        write_durably(path, CHOICE, &Kept::Postgres)?;
        return Ok(None);
    }
    let file = path.join(FILE);
    let before = path.join(format!("{FILE}.before-{}", data.epoch()));
    let was_there = file.exists();
    move_aside(&file, &before)?;
    // With its log, in case that was not merged into it.
    move_aside(&path.join(RESTORING), &file)?;
    std::fs::File::open(path)?.sync_all()?;
    Ok(was_there.then_some(before))
}

/// Whether everything may move to a database.
pub(crate) fn may_migrate(data: &DataDirectory, url: &str) -> Result<(), StoreChoiceError> {
    if !is_address(url) {
        return Err(StoreChoiceError::Address);
    }
    match read_whole::<Kept>(data.path(), CHOICE)? {
        Some(Kept::Postgres) => Err(StoreChoiceError::HasDatabase),
        None => Ok(()),
    }
}

/// From now on a database keeps everything.
pub(crate) fn has_moved(data: &DataDirectory) -> io::Result<()> {
    write_durably(data.path(), CHOICE, &Kept::Postgres)
}

/// Gives a database and the files beside it another name: the file itself last, so that a move that is cut off is begun
/// again as a whole.
fn move_aside(file: &Path, to: &Path) -> io::Result<()> {
    for suffix in ["-shm", "-wal", ""] {
        match std::fs::rename(with_suffix(file, suffix), with_suffix(to, suffix)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

/// Removes a database and the files beside it.
fn remove(file: &Path) -> io::Result<()> {
    for suffix in ["", "-wal", "-shm"] {
        match std::fs::remove_file(with_suffix(file, suffix)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

fn with_suffix(file: &Path, suffix: &str) -> PathBuf {
    let mut name = file.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

async fn open_file(path: &Path, gate: &Gate) -> Result<Store, StoreChoiceError> {
    let opened = Sql::sqlite(path).await;
    let failed = |source| StoreChoiceError::File { path: path.to_owned(), source };
    Ok(Store::new(Gated { inner: opened.map_err(failed)?, gate: gate.clone() }))
}
