//! A PostgreSQL server of a test's own.

use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// How long a start or a stop may take.
const PATIENCE: Duration = Duration::from_mins(1);

/// Whom the server runs as where the tests run as root, whom it refuses.
const NOBODY: u32 = 65534;

/// A server that runs until this is dropped. It listens on a socket in a directory of its own.
pub struct Postgres {
    directory: TempDir,
    programs: PathBuf,
    running: Option<Child>,
}

impl Default for Postgres {
    fn default() -> Self {
        Self::start()
    }
}

impl Postgres {
    /// Makes a cluster and starts its server.
    ///
    /// # Panics
    /// When that fails; PostgreSQL 13 or later must be installed.
    pub fn start() -> Self {
        let programs =
            programs().expect("PostgreSQL is installed: `apt-get install postgresql`, or run ./test");
        let directory = tempfile::tempdir().expect("a temporary directory");
        if is_root() {
            std::os::unix::fs::chown(directory.path(), Some(NOBODY), Some(NOBODY)).expect("root may do that");
        }
        let mut server = Self { directory, programs, running: None };
        let data = server.data();
        let made = server
            .command("initdb")
            .arg("-D")
            .arg(&data)
            .args(["-U", "plimsoll", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync"])
            .output()
            .expect("initdb starts");
        assert!(made.status.success(), "initdb: {}", String::from_utf8_lossy(&made.stderr));
        server.resume();
        server
    }

    /// Starts the server again after [`Postgres::kill`].
    ///
    /// # Panics
    /// When it does not answer in time.
    pub fn resume(&mut self) {
        let (data, socket) = (self.data(), self.directory.path().to_owned());
        let log = std::fs::File::options().create(true).append(true).open(socket.join("log")).expect("a log");
        let child = self
            .command("postgres")
            .arg("-D")
            .arg(data)
            .arg("-k")
            .arg(socket)
            .args(["-c", "listen_addresses=", "-c", "fsync=off"])
            .stderr(log)
            .spawn();
        self.running = Some(child.expect("postgres starts"));
        let give_up = Instant::now() + PATIENCE;
        while !self
            .command("pg_isready")
            .arg("-h")
            .arg(self.directory.path())
            .status()
            .is_ok_and(|it| it.success())
        {
            let log = || std::fs::read_to_string(self.directory.path().join("log")).unwrap_or_default();
            assert!(Instant::now() < give_up, "postgres does not answer: {}", log());
            std::thread::park_timeout(Duration::from_millis(20));
        }
    }

    /// Ends the server at once, as a crash does.
    ///
    /// # Panics
    /// When it does not end.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.running.take() {
            // The main process takes its children with it on SIGQUIT; on SIGKILL it could not.
            let ended = Command::new("kill").args(["-QUIT", &child.id().to_string()]).status();
            assert!(ended.is_ok_and(|it| it.success()), "postgres is there to be ended");
            child.wait().expect("it is our child");
        }
    }

    /// Makes a database and says its address.
    ///
    /// # Panics
    /// When it cannot be made.
    pub fn database(&self, name: &str) -> String {
        let directory = self.directory.path();
        let made = self
            .command("createdb")
            .arg("-h")
            .arg(directory)
            .args(["-U", "plimsoll", name])
            .output()
            .expect("it starts");
        assert!(made.status.success(), "createdb: {}", String::from_utf8_lossy(&made.stderr));
        format!("postgres://plimsoll@localhost/{name}?host={}", directory.display())
    }

    /// Runs SQL in a database and returns what it answers.
    ///
    /// # Panics
    /// When it is refused.
    pub fn sql(&self, database: &str, sql: &str) -> String {
        let directory = self.directory.path();
        let mut psql = self.command("psql");
        psql.arg("-h").arg(directory).args(["-U", "plimsoll", "-d", database, "-Atqc", sql]);
        let ran = psql.output().expect("psql starts");
        assert!(ran.status.success(), "psql: {}", String::from_utf8_lossy(&ran.stderr));
        String::from_utf8_lossy(&ran.stdout).trim().to_owned()
    }

    fn data(&self) -> PathBuf {
        self.directory.path().join("data")
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(self.programs.join(program));
        command.current_dir("/").stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        if is_root() {
            command.uid(NOBODY).gid(NOBODY);
        }
        command
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        self.kill();
    }
}

fn is_root() -> bool {
    use std::os::unix::fs::MetadataExt as _;
    Path::new("/proc/self").metadata().is_ok_and(|it| it.uid() == 0)
}

/// Where the server's programs are: Debian keeps them out of the search path.
fn programs() -> Option<PathBuf> {
    let versions = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let debian = versions.map(|version| version.path().join("bin"));
    let path = std::env::var_os("PATH").unwrap_or_default();
    let searched = std::env::split_paths(&path).collect::<Vec<_>>();
    debian.chain(searched).find(|directory| directory.join("initdb").is_file())
}
