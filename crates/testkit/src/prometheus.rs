//! A Prometheus of a test's own.

use std::fs::{self, File};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// How long it may take to start.
const PATIENCE: Duration = Duration::from_secs(30);

/// Debian's `prometheus`, which looks at one address five times a second; it ends when this is dropped.
#[derive(Debug)]
pub struct Prometheus {
    _directory: TempDir,
    running: Child,
    port: u16,
}

impl Prometheus {
    /// Starts one that reads the metrics at `HOST:PORT`.
    ///
    /// # Panics
    /// When that fails; `./test` installs the program.
    pub fn start(metrics: &str) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let at = |name: &str| directory.path().join(name).display().to_string();
        let port =
            TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("it is bound").port();
        let config = format!(
            "global: {{scrape_interval: 200ms, scrape_timeout: 200ms}}\nscrape_configs:\n- job_name: test\n  static_configs: [{{targets: ['{metrics}']}}]\n"
        );
        fs::write(at("config.yaml"), config).expect("a file");
        let log = || File::create(directory.path().join("log")).expect("a log");
        let mut command = Command::new("prometheus");
        command.arg(format!("--config.file={}", at("config.yaml")));
        command.arg(format!("--storage.tsdb.path={}", at("data")));
        command.arg(format!("--web.listen-address=127.0.0.1:{port}"));
        command.stdin(Stdio::null()).stdout(log()).stderr(log());
        let running = command.spawn().expect("prometheus, which ./test installs");
        let until = Instant::now() + PATIENCE;
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(Instant::now() < until, "prometheus does not answer");
            std::thread::park_timeout(Duration::from_millis(20));
        }
        Self { _directory: directory, running, port }
    }

    /// Where it answers.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        self.running.kill().ok();
        self.running.wait().ok();
    }
}
