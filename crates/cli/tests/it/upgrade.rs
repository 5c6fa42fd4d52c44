//! From the version before to this one: what runs does not notice, and there is no way back by accident.
//!
//! `tests/upgrade` builds the version before and says where it is; without it these tests are not run.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;

use super::agent::{end_all_in, scratch, signal, take_network_down};
use super::up::until;

/// Says where the version before is.
const BEFORE: &str = "PLIMSOLL_BEFORE";

/// A page that is counted out slowly, so that a connection outlives an upgrade, and a secret in its answers.
const PROGRAM: &str = r#"
import http.server, os, time
class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        slow = self.path == "/slow"
        body = (os.environ["SECRET"] + " " + os.environ["PLIMSOLL_SLOT"] + "\n").encode()
        parts = [b"."] * 60 if slow else [body]
        self.send_response(200)
        self.send_header("Content-Length", str(sum(map(len, parts))))
        self.end_headers()
        for part in parts:
            self.wfile.write(part)
            self.wfile.flush()
            if slow: time.sleep(0.05)
    def log_message(self, *_): pass
http.server.ThreadingHTTPServer(("127.0.0.1", int(os.environ["PORT"])), Handler).serve_forever()
"#;

const APP: &str = r"
apiVersion: plimsoll.dev/v1
kind: Secret
metadata: {name: keys}
data: {k: hunter2}
---
apiVersion: plimsoll.dev/v1
kind: App
metadata: {name: site}
spec:
  components:
    main:
      program: {file: site.py, runtime: python}
      replicas: 2
      ports: {http: 7000}
      env: {SECRET: {secret: keys/k}}
      health: {tcp: {port: http}, every: 1s}
      provides: {site: {interface: http}}
      routes: [{host: site.localhost, path: /, port: http}]
      update: {soak: 1ms, surge: 1, unavailable: 0}
";

struct Room {
    directory: TempDir,
    server: Option<Child>,
}

impl Room {
    fn new() -> Self {
        let directory = scratch();
        std::fs::write(directory.path().join("site.py"), PROGRAM).unwrap();
        std::fs::write(directory.path().join("app.yaml"), APP).unwrap();
        Self { directory, server: None }
    }

    fn data(&self) -> PathBuf {
        self.directory.path().join("data")
    }

    fn command(&self, program: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new(program);
        command.args(arguments).env("PLIMSOLL_DATA_DIR", self.data()).current_dir(self.directory.path());
        command.stdin(Stdio::null());
        command
    }

    fn run(&self, program: &str, arguments: &[&str]) -> Output {
        self.command(program, arguments).output().unwrap()
    }

    fn must(&self, program: &str, arguments: &[&str]) -> String {
        let output = self.run(program, arguments);
        assert!(output.status.success(), "{program} {arguments:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    fn start(&mut self, program: &str) {
        let mut command = self.command(program, &["server"]);
        if !self.data().exists() {
            command.args(["--http-port", "0"]);
        }
        self.server = Some(command.stderr(Stdio::null()).spawn().unwrap());
        until("the server", || self.run(program, &["auth", "whoami"]).status.success(), |is_up| *is_up);
    }

    fn stop(&mut self) {
        let mut server = self.server.take().unwrap();
        signal(i32::try_from(server.id()).unwrap(), rustix::process::Signal::TERM);
        server.wait().unwrap();
    }

    /// The copies and their processes.
    fn processes(&self) -> Vec<(String, Value)> {
        let mut found = Vec::new();
        for entry in std::fs::read_dir(self.data().join("node/instances")).unwrap().flatten() {
            let started = std::fs::read(entry.path().join("started.json")).unwrap_or_default();
            let started: Value = serde_json::from_slice(&started).unwrap_or_default();
            found.push((entry.file_name().into_string().unwrap(), started["program"]["pid"].clone()));
        }
        found.sort_by(|a, b| a.0.cmp(&b.0));
        found
    }

    fn address(&self) -> String {
        std::fs::read_to_string(self.data().join("router/listen.json")).unwrap().trim_matches('"').to_owned()
    }

    fn ask(&self, path: &str) -> std::io::Result<TcpStream> {
        let mut stream = TcpStream::connect(self.address())?;
        stream.set_read_timeout(Some(Duration::from_secs(20)))?;
        write!(stream, "GET {path} HTTP/1.1\r\nHost: site.localhost\r\nConnection: close\r\n\r\n")?;
        Ok(stream)
    }

    fn page(&self) -> String {
        let mut text = String::new();
        self.ask("/").and_then(|mut stream| stream.read_to_string(&mut text)).ok();
        text
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        if let Some(mut server) = self.server.take() {
            server.kill().ok();
            server.wait().ok();
        }
        end_all_in(self.directory.path());
        take_network_down(&self.data().join("node"));
    }
}

#[test]
#[ignore = "tests/upgrade builds the version before"]
fn what_the_version_before_started_runs_on_and_is_looked_after() {
    let before = std::env::var(BEFORE).expect("tests/upgrade says where the version before is");
    let now = env!("CARGO_BIN_EXE_plimsoll");
    let mut room = Room::new();
    let versions = [room.must(&before, &["version"]), room.must(now, &["version"])];
    assert!(
        versions[0] < versions[1]
            && versions[1].lines().next().is_some_and(|it| it.ends_with(env!("CARGO_PKG_VERSION"))),
        "{versions:?}"
    );
    room.start(&before);
    room.must(&before, &["apply", "-f", "app.yaml", "--wait"]);
    until("the page", || room.page(), |page| page.contains("hunter2"));
    let processes = room.processes();
    assert_eq!(processes.len(), 2, "{processes:?}");

    // Requests go on while one server ends and the other begins, and so does an answer that takes longer than that.
    let (mut slow, mut counted) = (room.ask("/slow").unwrap(), String::new());
    let (done, asked, failed) = (AtomicBool::new(false), AtomicUsize::new(0), AtomicUsize::new(0));
    let address = room.address();
    std::thread::scope(|scope| {
        let (done, asked, failed) = (&done, &asked, &failed);
        scope.spawn(move || {
            while !done.load(Ordering::Relaxed) {
                asked.fetch_add(1, Ordering::Relaxed);
                let mut text = String::new();
                let answer = TcpStream::connect(&address).and_then(|mut stream| {
                    stream
                        .write_all(b"GET / HTTP/1.1\r\nHost: site.localhost\r\nConnection: close\r\n\r\n")?;
                    stream.read_to_string(&mut text)
                });
                failed
                    .fetch_add(usize::from(answer.is_err() || !text.contains("hunter2")), Ordering::Relaxed);
            }
        });
        room.stop();
        room.start(now);
        slow.read_to_string(&mut counted).unwrap();
        done.store(true, Ordering::Relaxed);
    });
    assert!(asked.load(Ordering::Relaxed) > 10);
    assert_eq!(failed.load(Ordering::Relaxed), 0, "of {}", asked.load(Ordering::Relaxed));
    assert!(counted.ends_with(&".".repeat(60)), "{counted}");
    assert_eq!(room.processes(), processes);
    room.must(now, &["wait", "site"]);
    assert_eq!(room.processes(), processes, "nor was anything done later");

    // What the version before started is looked after: started again when it ends, run beside, replaced and stopped.
    let pid = processes[0].1.as_i64().unwrap();
    signal(i32::try_from(pid).unwrap(), rustix::process::Signal::KILL);
    until("another process", || room.processes(), |now| now[0].1 != processes[0].1 && now[0].1.is_i64());
    until("the page", || room.page(), |page| page.contains("hunter2"));
    assert!(room.must(now, &["exec", "site", "--", "env"]).contains("SECRET=hunter2"));
    // Its one key is a data key now, and opens the secret for copies that start here.
    assert!(!room.data().join("key").exists() && room.data().join("keyring.json").exists());
    room.must(now, &["key", "rotate"]);
    room.must(now, &["rollout", "restart", "site"]);
    let is_other = |now: &Vec<(String, Value)>| {
        now.len() == 2 && now.iter().all(|(name, _)| processes.iter().all(|(old, _)| old != name))
    };
    until("other copies", || room.processes(), is_other);
    until("the page", || room.page(), |page| page.contains("hunter2"));
    room.must(now, &["audit", "verify"]);

    // The version before does not know what is there now.
    room.stop();
    let ring = std::fs::read(room.data().join("keyring.json")).unwrap();
    let refused = room.run(&before, &["server"]);
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && said.contains("cannot be brought to this version"), "{said}");
    assert_eq!(std::fs::read(room.data().join("keyring.json")).unwrap(), ring);
    room.start(now);
    assert!(room.must(now, &["exec", "site", "--", "env"]).contains("SECRET=hunter2"));
    room.must(now, &["key", "rotate"]);
    room.must(now, &["rollout", "restart", "site"]);
    room.must(now, &["wait", "site"]);
    room.must(now, &["delete", "site"]);
    assert!(room.processes().is_empty());
}
