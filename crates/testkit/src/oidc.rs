//! An OpenID Connect provider of a test's own.

use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// How long the provider may take to start.
const PATIENCE: Duration = Duration::from_secs(30);

/// A running provider; it ends when this is dropped. Every client and every redirect is fine with it, and everybody is who they
/// say.
#[derive(Debug)]
pub struct Oidc {
    running: Child,
    port: u16,
}

impl Oidc {
    /// Starts a provider that knows people by these claims, each a JSON object with `sub`. Its tokens live for some seconds.
    ///
    /// # Panics
    /// When that fails; `./test` installs the program.
    pub fn start(people: &[&str], lives: u32) -> Self {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let program = root.join("target/oidc/bin/oidc-provider-mock");
        assert!(program.exists(), "{} is installed by ./test", program.display());
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("it is bound").port();
        drop(listener);
        let mut command = Command::new(program);
        command.args(["--port", &port.to_string(), "--token-max-age", &lives.to_string()]);
        for claims in people {
            command.args(["--user-claims", claims]);
        }
        let running =
            command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("the provider starts");
        let until = Instant::now() + PATIENCE;
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(Instant::now() < until, "the provider does not answer");
            std::thread::park_timeout(Duration::from_millis(50));
        }
        Self { running, port }
    }

    /// Its address, as its tokens have it.
    pub fn issuer(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }
}

impl Drop for Oidc {
    fn drop(&mut self) {
        self.running.kill().ok();
        self.running.wait().ok();
    }
}
