//! An image registry of a test's own.

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// How long a registry may take to start.
const PATIENCE: Duration = Duration::from_secs(30);

/// Debian's `docker-registry`; it ends when this is dropped.
#[derive(Debug)]
pub struct Registry {
    running: Option<Child>,
    directory: TempDir,
    port: u16,
}

impl Registry {
    /// Starts an empty registry.
    ///
    /// # Panics
    /// When that fails; `./test` installs the program.
    pub fn start() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("it is bound").port();
        drop(listener);
        let mut registry = Self { running: None, directory, port };
        registry.configure("");
        registry.resume();
        registry
    }

    fn configure(&self, more: &str) {
        let config = format!(
            "version: 0.1
log: {{level: error, accesslog: {{disabled: false}}}}
storage: {{filesystem: {{rootdirectory: {}}}, delete: {{enabled: true}}}}
http: {{addr: \"127.0.0.1:{}\"}}
{more}",
            self.directory.path().join("data").display(),
            self.port,
        );
        fs::write(self.directory.path().join("config.yml"), config).expect("a file");
    }

    /// Has it tell somebody with a token, from now on, what is pushed.
    pub fn notify(&mut self, url: &str, token: &str) {
        self.configure(&format!(
            "notifications:
  endpoints:
    - {{name: them, url: \"{url}\", timeout: 5s, threshold: 3, backoff: 1s, headers: {{Authorization: [Bearer {token}]}}}}
"
        ));
        self.stop();
        self.resume();
    }

    /// Has it tell nobody any more.
    pub fn forget_notifications(&mut self) {
        self.configure("");
        self.stop();
        self.resume();
    }

    /// Its name in references to images.
    pub fn host(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Starts it again after [`Registry::stop`].
    ///
    /// # Panics
    /// When it does not answer.
    pub fn resume(&mut self) {
        let log = self.directory.path().join("log");
        let log = fs::File::options().create(true).append(true).open(log).expect("a log");
        let mut command = Command::new("docker-registry");
        command.arg("serve").arg(self.directory.path().join("config.yml")).stdin(Stdio::null());
        command.stdout(log.try_clone().expect("a log")).stderr(log);
        self.running = Some(command.spawn().expect("docker-registry, which ./test installs"));
        let until = Instant::now() + PATIENCE;
        while TcpStream::connect(("127.0.0.1", self.port)).is_err() {
            assert!(Instant::now() < until, "the registry does not answer");
            std::thread::park_timeout(Duration::from_millis(20));
        }
    }

    /// Ends it; what it has stays.
    pub fn stop(&mut self) {
        if let Some(mut running) = self.running.take() {
            running.kill().ok();
            running.wait().ok();
        }
    }

    /// Requests for manifests so far, by method.
    ///
    /// # Panics
    /// When its log cannot be read.
    pub fn asked(&self, method: &str) -> usize {
        let log = fs::read_to_string(self.directory.path().join("log")).expect("a log");
        let wanted = format!("\"{method} /v2/");
        log.lines().filter(|line| line.contains(&wanted) && line.contains("/manifests/")).count()
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        self.stop();
    }
}
