//! A server of SSH of a test's own.

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// How long it may take to start.
const PATIENCE: Duration = Duration::from_secs(30);

/// OpenSSH's server, which lets root in by one key; it ends when this is dropped.
#[derive(Debug)]
pub struct Ssh {
    running: Child,
    port: u16,
    /// The private key that is let in.
    pub key: String,
    /// What `known_hosts` says of it.
    pub known_hosts: String,
    _directory: TempDir,
}

impl Ssh {
    /// Starts it.
    ///
    /// # Panics
    /// When that fails; `./test` installs the programs, and only root may run them.
    pub fn start() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let at = |name: &str| directory.path().join(name).display().to_string();
        for name in ["host", "user"] {
            let made =
                Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f", &at(name)]).status();
            assert!(made.is_ok_and(|status| status.success()), "ssh-keygen, which ./test installs, fails");
        }
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("it is bound").port();
        drop(listener);
        let config = format!(
            "ListenAddress 127.0.0.1:{port}\nHostKey {}\nPidFile none\nAuthorizedKeysFile {}\nStrictModes no\n\
             UsePAM no\nPasswordAuthentication no\nKbdInteractiveAuthentication no\nPermitRootLogin prohibit-password\n",
            at("host"),
            at("user.pub"),
        );
        fs::write(at("config"), config).expect("a file");
        // It wants an empty directory of this name, and does not make it.
        fs::create_dir_all("/run/sshd").expect("root's own directory");
        let log = fs::File::create(at("log")).expect("a log");
        let mut command = Command::new("/usr/sbin/sshd");
        command
            .args(["-D", "-e", "-f", &at("config")])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log);
        let running = command.spawn().expect("sshd, which ./test installs");
        let until = Instant::now() + PATIENCE;
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            let said = || fs::read_to_string(at("log")).unwrap_or_default();
            assert!(Instant::now() < until, "sshd does not answer: {}", said());
            std::thread::park_timeout(Duration::from_millis(20));
        }
        let text = |name: &str| fs::read_to_string(at(name)).expect("ssh-keygen wrote it");
        let known_hosts = format!("[127.0.0.1]:{port} {}", text("host.pub"));
        Self { running, port, key: text("user"), known_hosts, _directory: directory }
    }

    /// The address of a repository of this machine.
    pub fn address(&self, repository: &Path) -> String {
        format!("ssh://root@127.0.0.1:{}{}", self.port, repository.display())
    }
}

impl Drop for Ssh {
    fn drop(&mut self) {
        self.running.kill().ok();
        self.running.wait().ok();
    }
}
