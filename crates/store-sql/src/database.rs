//! The two databases: how each is opened, and where they differ.

use std::fs::{OpenOptions, Permissions};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;
use std::str::FromStr as _;
use std::time::Duration;

use plimsoll_model::id::InstallationId;
use plimsoll_store::Fut;
use sqlx::migrate::MigrateError;
use sqlx::postgres::{PgConnectOptions, PgPool, PgPoolOptions};
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqliteSynchronous};
use sqlx::{ConnectOptions as _, Connection as _};

use crate::session::{DatabaseError, Session, Value};
use crate::sqlite::Sqlite;

/// Connections to PostgreSQL.
const CONNECTIONS: u32 = 8;

/// How long a request waits for a connection.
const CONNECTED_WITHIN: Duration = Duration::from_secs(5);

/// Why a store could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// It cannot be reached, created or read.
    #[error("the store cannot be opened")]
    Open(#[source] DatabaseError),
    /// It was written by a later version.
    #[error(
        "the store was written by a later version of Plimsoll: start that one, or restore a backup of before"
    )]
    Later,
    /// A migration failed.
    #[error("the store cannot be brought to this version")]
    Migrate(#[source] MigrateError),
    /// The database is empty, and that of the installation is not.
    #[error("the database is empty, and the one of this installation is not: is that the right address?")]
    Empty,
    /// The database holds another installation.
    #[error(
        "the database belongs to installation {owner}, and this data directory to {own}: choose another database"
    )]
    Foreign {
        /// Whose it is.
        owner: String,
        /// Who wants it.
        own: InstallationId,
    },
}

impl From<MigrateError> for OpenError {
    fn from(error: MigrateError) -> Self {
        match error {
            MigrateError::VersionMissing(_) => Self::Later,
            error => Self::Migrate(error),
        }
    }
}

impl OpenError {
    /// A file that cannot be made or removed.
    pub fn io(error: std::io::Error) -> Self {
        Self::Open(error.into())
    }
}

/// A database, as sessions of both kinds are got from it.
#[derive(Clone)]
pub(crate) enum Database {
    Sqlite(Sqlite),
    Postgres(PgPool),
}

type Opened<'a> = Fut<'a, Result<Box<dyn Session>, DatabaseError>>;

impl Database {
    /// Opens a file, creating it if needed, and brings its schema to this version.
    pub(crate) async fn sqlite(file: &Path) -> Result<Self, OpenError> {
        keep_private(file).map_err(OpenError::io)?;
        let options = SqliteConnectOptions::new()
            .filename(file)
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .disable_statement_logging();
        let open = |error: sqlx::Error| OpenError::Open(error.into());
        let mut connection = options.connect().await.map_err(open)?;
        sqlx::migrate!("migrations/sqlite").run(&mut connection).await?;
        connection.close().await.map_err(open)?;
        Ok(Self::Sqlite(Sqlite::open(file).map_err(OpenError::Open)?))
    }

    /// Connects to a database, brings its schema to this version, and takes it for an installation.
    pub(crate) async fn postgres(
        url: &str,
        installation: &InstallationId,
        is_new: bool,
    ) -> Result<Self, OpenError> {
        let open = |error: sqlx::Error| OpenError::Open(error.into());
        let options = PgConnectOptions::from_str(url).map_err(open)?.disable_statement_logging();
        let options = options.application_name("plimsoll").options([("statement_timeout", "60s")]);
        let pool = PgPoolOptions::new()
            .max_connections(CONNECTIONS)
            .acquire_timeout(CONNECTED_WITHIN)
            .connect_with(options)
            .await
            .map_err(open)?;
        let mut migrator = sqlx::migrate!("migrations/postgres");
        // Its lock is one that CockroachDB lacks; there is one server for a database.
        migrator.set_locking(false).run(&pool).await?;
        let database = Self::Postgres(pool);
        let owner = database.owner(installation, is_new).await.map_err(OpenError::Open)?;
        if owner.is_empty() {
            return Err(OpenError::Empty);
        }
        if owner != installation.as_str() {
            return Err(OpenError::Foreign { owner, own: installation.clone() });
        }
        Ok(database)
    }

    /// Whose database this is; the installation's that asks, if it was nobody's and the installation has no other one.
    async fn owner(&self, installation: &InstallationId, is_new: bool) -> Result<String, DatabaseError> {
        let mut session = self.write().await?;
        let claim = "insert into installation (one, id) values (1, $1) on conflict (one) do nothing";
        if is_new {
            session.run(claim, &[Value::Text(installation.as_str())]).await?;
        }
        let found = session.run("select one, id from installation", &[]).await?;
        session.commit().await?;
        Ok(found.into_iter().next().map(|mut row| row.text()).unwrap_or_default())
    }

    /// A connection for a single query.
    pub(crate) fn read(&self) -> Opened<'_> {
        Box::pin(async move {
            Ok(match self {
                Self::Sqlite(sqlite) => Box::new(sqlite.reader(false).await?) as Box<dyn Session>,
                Self::Postgres(pool) => Box::new(pool.acquire().await?),
            })
        })
    }

    /// A transaction whose queries all see the same moment.
    pub(crate) fn snapshot(&self) -> Opened<'_> {
        Box::pin(async move {
            Ok(match self {
                Self::Sqlite(sqlite) => Box::new(sqlite.reader(true).await?) as Box<dyn Session>,
                Self::Postgres(pool) => {
                    Box::new(pool.begin_with("begin isolation level repeatable read read only").await?)
                }
            })
        })
    }

    /// A transaction that writes.
    pub(crate) fn write(&self) -> Opened<'_> {
        Box::pin(async move {
            Ok(match self {
                Self::Sqlite(sqlite) => Box::new(sqlite.writer().await?) as Box<dyn Session>,
                Self::Postgres(pool) => Box::new(pool.begin().await?),
            })
        })
    }

    /// Rows that one statement has values for at most. A statement of SQLite that is always the same costs nothing but its
    /// values; PostgreSQL is asked over a network, and takes 65,535 values.
    pub(crate) fn rows_at_once(&self) -> usize {
        match self {
            Self::Sqlite(_) => 1,
            Self::Postgres(_) => 256,
        }
    }

    /// Reads the newest revision within a transaction that writes; others that write wait until it has ended.
    pub(crate) fn lock_newest(&self) -> &'static str {
        match self {
            // Whoever writes to SQLite is alone already.
            Self::Sqlite(_) => "select revision from newest",
            Self::Postgres(_) => "select revision from newest for update",
        }
    }

    /// Ends all connections; SQLite merges its log into the file.
    pub(crate) async fn close(&self) {
        match self {
            Self::Sqlite(sqlite) => sqlite.close(),
            Self::Postgres(pool) => pool.close().await,
        }
    }
}

/// Only its owner may read a store. SQLite gives the files beside it the same permissions.
fn keep_private(file: &Path) -> std::io::Result<()> {
    let made = OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(file)?;
    made.set_permissions(Permissions::from_mode(0o600))
}
