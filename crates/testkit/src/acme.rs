//! An ACME authority of a test's own.

use std::fs::{self, File};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rcgen::{CertificateParams, KeyPair};
use tempfile::TempDir;

/// How long the authority may take to start.
const PATIENCE: Duration = Duration::from_secs(30);

/// How long certificates are good.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Validity {
    /// Longer than any test.
    Years,
    /// So many seconds.
    Seconds(u64),
}

/// Debian's `pebble`, which believes that every name leads to this machine; it ends when this is dropped.
#[derive(Debug)]
pub struct Acme {
    directory: TempDir,
    running: Vec<Child>,
    port: u16,
    management: u16,
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("it is bound").port()
}

impl Acme {
    /// Starts an authority that looks for proofs at these ports.
    ///
    /// # Panics
    /// When that fails; `./test` installs the programs.
    pub fn start(http: u16, tls: u16, validity: Validity) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let at = |name: &str| directory.path().join(name).display().to_string();
        let key = KeyPair::generate().expect("a key");
        let names = CertificateParams::new(["localhost".to_owned()]).expect("a name");
        let own = names.self_signed(&key).expect("a certificate");
        fs::write(at("own.pem"), own.pem()).expect("a file");
        fs::write(at("own.key"), key.serialize_pem()).expect("a file");
        let (port, management) = (free_port(), free_port());
        let seconds = match validity {
            Validity::Years => 5 * 365 * 24 * 3600,
            Validity::Seconds(seconds) => seconds,
        };
        let config = format!(
            "{{\"pebble\": {{\"listenAddress\": \"127.0.0.1:{port}\", \"managementListenAddress\": \"127.0.0.1:{management}\",
               \"certificate\": \"{}\", \"privateKey\": \"{}\", \"httpPort\": {http}, \"tlsPort\": {tls},
               \"certificateValidityPeriod\": {seconds}}}}}",
            at("own.pem"),
            at("own.key"),
        );
        fs::write(at("config.json"), config).expect("a file");
        let names =
            UdpSocket::bind("127.0.0.1:0").expect("a port").local_addr().expect("it is bound").to_string();
        let log = || File::create(directory.path().join("log")).expect("a log");
        let mut resolver = Command::new("pebble-challtestsrv");
        resolver.args(["-defaultIPv4", "127.0.0.1", "-defaultIPv6", "", "-dns01", &names]);
        resolver.args(["-http01", "", "-https01", "", "-tlsalpn01", ""]);
        resolver.args(["-management", &format!("127.0.0.1:{}", free_port())]);
        resolver.stdin(Stdio::null()).stdout(log()).stderr(log());
        let mut pebble = Command::new("pebble");
        pebble.args(["-config", &at("config.json"), "-dnsserver", &names]).env("PEBBLE_VA_NOSLEEP", "1");
        pebble.stdin(Stdio::null()).stdout(log()).stderr(log());
        let running = [resolver, pebble].map(|mut it| it.spawn().expect("pebble, which ./test installs"));
        let until = Instant::now() + PATIENCE;
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(Instant::now() < until, "the authority does not answer");
            std::thread::park_timeout(Duration::from_millis(20));
        }
        Self { directory, running: running.into(), port, management }
    }

    /// Its directory.
    pub fn url(&self) -> String {
        format!("https://localhost:{}/dir", self.port)
    }

    /// What it is trusted by when it is asked for certificates.
    pub fn trust(&self) -> PathBuf {
        self.directory.path().join("own.pem")
    }

    /// Where it says by what the certificates are trusted that it has given.
    pub fn root(&self) -> String {
        format!("https://localhost:{}/roots/0", self.management)
    }
}

impl Drop for Acme {
    fn drop(&mut self) {
        for child in &mut self.running {
            child.kill().ok();
            child.wait().ok();
        }
    }
}
