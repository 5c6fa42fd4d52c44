//! The listener: encrypted off loopback, limited, and ended without cutting anybody off.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::process::Command;

use serde_json::json;

use super::plane::{BASE, Plane};
use super::up::until;

impl Plane {
    fn with(options: &[&str]) -> Self {
        let mut plane = Self::new();
        plane.stop();
        plane.options = options.iter().map(|it| (*it).to_owned()).collect();
        plane.start();
        plane
    }
}

#[test]
fn whoever_listens_in_hears_nothing() {
    let directory = super::agent::scratch();
    let data = directory.path().join("data");
    let mut server = Command::new(env!("CARGO_BIN_EXE_plimsoll"));
    server.args(["server", "--http-port", "0", "--listen", "0.0.0.0:0"]).env("PLIMSOLL_DATA_DIR", &data);
    let mut server = server.stderr(std::process::Stdio::piped()).spawn().unwrap();
    let mut said = BufReader::new(server.stderr.take().unwrap()).lines().map(Result::unwrap);
    let listens = said.find(|line| line.contains("the API listens on https://127.0.0.1:")).unwrap();
    let url = listens.split_whitespace().last().unwrap().to_owned();
    let fingerprint = said.next().unwrap().split_whitespace().last().unwrap().to_owned();
    let run = |variables: &[(&str, &str)], arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_plimsoll"));
        command.args(arguments).env("PLIMSOLL_CONFIG", directory.path().join("config.toml"));
        command.env_remove("PLIMSOLL_DATA_DIR").envs(variables.iter().copied());
        let output = command.output().unwrap();
        let text = [output.stdout, output.stderr].concat();
        (output.status.code().unwrap(), String::from_utf8(text).unwrap())
    };
    // Who can read the data directory needs to be told nothing.
    until(
        "a command",
        || run(&[("PLIMSOLL_DATA_DIR", data.to_str().unwrap())], &["auth", "whoami"]),
        |it| it.0 == 0,
    );
    let token = data.join("admin.token").display().to_string();
    let with_token = [("PLIMSOLL_TOKEN_FILE", &*token)];
    let (code, text) = run(&with_token, &["auth", "whoami", "--server", &url]);
    assert!(code == 1 && text.contains("certificate"), "an unknown certificate: {text}");
    let set = ["config", "set-context", "there", "--server", &url, "--token-file", &token];
    assert_eq!(run(&[], &[&set[..], &["--fingerprint", &fingerprint]].concat()).0, 0);
    let (code, text) = run(&[], &["auth", "whoami"]);
    assert!(code == 0 && text.contains("admin"), "{text}");
    let other = format!("sha256:{}", "0".repeat(64));
    let (code, text) = run(&[("PLIMSOLL_FINGERPRINT", &other)], &["auth", "whoami"]);
    assert!(code == 1 && text.contains("somebody else answers there"), "{text}");
    let certificate = data.join("tls.crt").display().to_string();
    assert_eq!(run(&[], &["config", "set-context", "there", "--ca-file", &certificate]).0, 0);
    assert_eq!(run(&[], &["auth", "whoami"]).0, 0);
    // A token is not sent in the clear to another machine, and plain text gets no answer.
    let (code, text) = run(&with_token, &["auth", "whoami", "--server", "http://192.0.2.1:80"]);
    assert!(code == 1 && text.contains("not encrypted"), "{text}");
    let mut plain = TcpStream::connect(url.trim_start_matches("https://")).unwrap();
    plain.write_all(b"GET /livez HTTP/1.1\r\nhost: x\r\n\r\n").unwrap();
    let mut answer = Vec::new();
    plain.read_to_end(&mut answer).ok();
    assert!(!answer.starts_with(b"HTTP"), "{}", String::from_utf8_lossy(&answer));
    super::agent::signal(i32::try_from(server.id()).unwrap(), rustix::process::Signal::TERM);
    server.wait().unwrap();
    for pid in super::agent::processes_in(directory.path()) {
        super::agent::signal(pid, rustix::process::Signal::KILL);
    }
    super::agent::take_network_down(&data.join("node"));
}

#[test]
fn who_asks_too_often_waits_and_nobody_else_does() {
    let plane = Plane::with(&["--max-rate", "5"]);
    plane.project("a", &json!({"ada": "viewer"}));
    let token = plane.token("ada", "ada");
    let asked = |token: &str| plane.ask(token, "GET", &format!("{BASE}/whoami"), None);
    let many: Vec<u16> = (0..30).map(|_| asked(&token).status).collect();
    assert!(many.contains(&200) && many.contains(&429), "{many:?}");
    let refused = (0..30).map(|_| asked(&token)).find(|it| it.status == 429).unwrap();
    assert_eq!(refused.json()["type"], "https://plimsoll.dev/problems/too-many");
    assert_eq!(asked(&plane.admin).status, 200);
    let guesses: Vec<u16> = (0..30).map(|_| asked("plim_x").status).collect();
    assert!(guesses.contains(&401) && guesses.contains(&429), "{guesses:?}");
}

/// A request whose answer is read later.
fn begin(plane: &Plane, path: &str) -> BufReader<TcpStream> {
    let mut stream = TcpStream::connect(plane.url.trim_start_matches("http://")).unwrap();
    let head = format!("GET {path} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {}\r\n\r\n", plane.admin);
    stream.write_all(head.as_bytes()).unwrap();
    BufReader::new(stream)
}

#[test]
fn more_connections_than_allowed_wait_and_an_end_lets_everybody_finish() {
    let mut plane = Plane::with(&["--max-connections", "2"]);
    let first = begin(&plane, &format!("{BASE}/projects?watch=true"));
    let mut lines = first.lines().map(Result::unwrap);
    assert!(lines.any(|line| line.contains("BOOKMARK")));
    // Half of the connections are the most that one caller may keep for watches.
    let mut second = begin(&plane, &format!("{BASE}/projects?watch=true"));
    let mut status = String::new();
    second.read_line(&mut status).unwrap();
    assert!(status.starts_with("HTTP/1.1 429"), "{status}");
    let third = begin(&plane, "/livez");
    third.get_ref().set_read_timeout(Some(std::time::Duration::from_millis(200))).unwrap();
    let mut third = third;
    let mut status = String::new();
    assert!(third.read_line(&mut status).is_err(), "there is no room: {status}");
    drop(second);
    third.get_ref().set_read_timeout(None).unwrap();
    third.read_line(&mut status).unwrap();
    assert!(status.starts_with("HTTP/1.1 200"), "{status}");
    // An end tells watches, whose answers end as they should: with the last chunk.
    plane.stop();
    assert_eq!(lines.last().as_deref(), Some(""), "the answer has its end");
}

#[test]
fn a_service_manager_is_told_and_a_renewed_certificate_is_read() {
    let directory = super::agent::scratch();
    let (data, socket) = (directory.path().join("data"), directory.path().join("notify"));
    let manager = std::os::unix::net::UnixDatagram::bind(&socket).unwrap();
    manager.set_read_timeout(Some(std::time::Duration::from_secs(30))).unwrap();
    let hear = || {
        let mut bytes = [0; 100];
        let length = manager.recv(&mut bytes).unwrap();
        String::from_utf8_lossy(&bytes[..length]).trim().to_owned()
    };
    let mut server = Command::new(env!("CARGO_BIN_EXE_plimsoll"));
    server.args(["server", "--http-port", "0", "--listen", "0.0.0.0:0"]).env("PLIMSOLL_DATA_DIR", &data);
    server.env("NOTIFY_SOCKET", &socket).env("WATCHDOG_USEC", "200000");
    let mut server = server.stderr(std::process::Stdio::piped()).spawn().unwrap();
    let mut said = BufReader::new(server.stderr.take().unwrap()).lines().map(Result::unwrap);
    assert_eq!(hear(), "READY=1");
    assert_eq!((hear(), hear()), ("WATCHDOG=1".into(), "WATCHDOG=1".into()));

    let fingerprint = |line: &str| line.split_whitespace().last().unwrap().to_owned();
    let before = fingerprint(&said.find(|line| line.contains("fingerprint")).unwrap());
    let asks = || {
        Command::new(env!("CARGO_BIN_EXE_plimsoll"))
            .args(["auth", "whoami"])
            .env("PLIMSOLL_DATA_DIR", &data)
            .output()
    };
    assert!(asks().unwrap().status.success());
    let hang_up = || super::agent::signal(i32::try_from(server.id()).unwrap(), rustix::process::Signal::HUP);
    // One that cannot be used changes nothing.
    let key = std::fs::read(data.join("tls.key")).unwrap();
    std::fs::write(data.join("tls.key"), "no key").unwrap();
    hang_up();
    let kept = said.next().unwrap();
    assert!(kept.contains("stays as it was") && kept.contains("tls.key"), "{kept}");
    assert!(asks().unwrap().status.success());
    std::fs::write(data.join("tls.key"), key).unwrap();
    std::fs::remove_file(data.join("tls.crt")).unwrap();
    hang_up();
    let after = fingerprint(&said.next().unwrap());
    assert_ne!(before, after);
    assert!(asks().unwrap().status.success(), "the fingerprint is told to those on this machine");

    super::agent::signal(i32::try_from(server.id()).unwrap(), rustix::process::Signal::TERM);
    while hear() != "STOPPING=1" {}
    assert!(server.wait().unwrap().success());
    super::agent::end_all_in(directory.path());
}
