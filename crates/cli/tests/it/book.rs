//! The book and whole sessions at the command line: every command in `docs/` is run, in order, and says what the book says.
//!
//! A session is a Markdown file. What begins with `$ ` in its `console` blocks is given to a shell; the lines below are what
//! it must print, where `…` stands for anything within a line, and a line of its own for any lines. A command without
//! lines below must succeed, and one that fails prints `(exit N)` at the end. In a block `console in another terminal` the
//! last command keeps running. Names and ports that belong to a machine are replaced by those of the test.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use plimsoll_testkit::{Engine, Make, Postgres, Registry};
use tempfile::TempDir;

use super::agent::{end_all_in, scratch, take_network_down};

/// How long a command may take.
const PATIENCE: Duration = Duration::from_mins(1);

/// Printed after each command, with its exit code.
const MARK: &str = "--- that was it: ";

/// What the book says of a service manager, for a machine that may have none: the server in the background, with the settings
/// of `server install`.
const SYSTEMCTL: &str = r#"#!/bin/bash
stop() { [ ! -f "$ROOM/pid" ] || { kill "$(cat "$ROOM/pid")"; while kill -0 "$(cat "$ROOM/pid")" 2>/dev/null; do sleep 0.05; done; rm "$ROOM/pid"; }; }
start() {
    sed "s|/var/lib/plimsoll/server|$ROOM/service|" "$ROOM/etc/server.toml" >"$ROOM/server.toml"
    setsid plimsoll server --config "$ROOM/server.toml" >>"$ROOM/server.log" 2>&1 </dev/null & echo $! >"$ROOM/pid"
    for _ in $(seq 200); do PLIMSOLL_DATA_DIR="$ROOM/service" plimsoll auth whoami >/dev/null 2>&1 && return; sleep 0.05; done
    cat "$ROOM/server.log"; exit 1
}
case $1 in start) start;; stop) stop;; restart) stop; start;; daemon-reload) ;; enable) start;; *) exit 64;; esac
"#;

/// One command, and what it must print; nothing if that is not said.
#[derive(Debug, Default)]
struct Step {
    line: usize,
    command: String,
    expected: Vec<String>,
    keeps_running: bool,
}

/// The commands of a document, in order.
fn steps(text: &str) -> Vec<Step> {
    // The words after the beginning of the block that a line is in.
    let (mut steps, mut block) = (Vec::<Step>::new(), None);
    for (number, line) in text.lines().enumerate() {
        if let Some(info) = line.strip_prefix("```") {
            block = if block.is_some() { None } else { Some(info) };
            continue;
        }
        let Some(info) = block.filter(|info| info.starts_with("console")) else { continue };
        let keeps_running = info.ends_with("in another terminal");
        if let Some(command) = line.strip_prefix("$ ") {
            steps.push(Step {
                line: number + 1,
                command: command.to_owned(),
                keeps_running,
                ..Step::default()
            });
        } else if let Some(step) = steps.last_mut() {
            match line.strip_prefix("> ") {
                Some(more) if step.expected.is_empty() => step.command = format!("{}\n{more}", step.command),
                _ => step.expected.push(line.trim_end().to_owned()),
            }
        }
    }
    for step in &mut steps {
        while step.expected.last().is_some_and(String::is_empty) {
            step.expected.pop();
        }
    }
    steps
}

/// Whether a line is what a pattern says.
fn is_like(pattern: &str, line: &str) -> bool {
    let mut parts = pattern.split('…');
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = line.strip_prefix(first) else { return false };
    let mut last = None;
    for part in parts {
        let Some(at) = rest.find(part) else { return false };
        rest = &rest[at + part.len()..];
        last = Some(part);
    }
    match last {
        None => rest.is_empty(),
        Some(part) => part.is_empty() || rest.is_empty() || line.ends_with(part),
    }
}

/// Whether lines are what patterns say.
fn are_like(patterns: &[String], lines: &[String]) -> bool {
    match patterns.split_first() {
        None => lines.is_empty(),
        Some((any, rest)) if any == "…" => (0..=lines.len()).any(|skip| are_like(rest, &lines[skip..])),
        Some((pattern, rest)) => match lines.split_first() {
            Some((line, others)) => is_like(pattern, line) && are_like(rest, others),
            None => false,
        },
    }
}

/// A shell in a room of its own.
struct Session {
    room: TempDir,
    shell: Child,
    input: ChildStdin,
    said: Receiver<String>,
    beside: Vec<Child>,
    /// What the document says, and what it is here.
    names: Vec<(String, String)>,
}

fn free_port() -> String {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port().to_string()
}

/// Lines of a process, as they come.
fn lines_of(from: impl std::io::Read + Send + 'static) -> Receiver<String> {
    let (said, heard) = channel();
    std::thread::spawn(move || {
        BufReader::new(from)
            .lines()
            .map_while(Result::ok)
            .all(|line| said.send(line.trim_end().to_owned()).is_ok())
    });
    heard
}

impl Session {
    fn begin(more: &[(&str, &str)]) -> Self {
        let room = scratch();
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let path = |name: &str| room.path().join(name);
        for directory in ["home", "bin", "etc"] {
            std::fs::create_dir(path(directory)).unwrap();
        }
        assert!(
            Command::new("cp")
                .arg("-r")
                .arg(root.join("examples"))
                .arg(path("examples"))
                .status()
                .unwrap()
                .success()
        );
        std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_plimsoll"), path("bin/plimsoll")).unwrap();
        std::fs::write(path("bin/systemctl"), SYSTEMCTL).unwrap();
        std::fs::set_permissions(path("bin/systemctl"), std::os::unix::fs::PermissionsExt::from_mode(0o755))
            .unwrap();
        let text = |path: PathBuf| path.display().to_string();
        let (routes, api, far) = (free_port(), free_port(), free_port());
        let mut names = vec![
            ("cargo run --release --".to_owned(), "plimsoll".to_owned()),
            ("/etc/plimsoll".to_owned(), text(path("etc"))),
            ("/var/lib/plimsoll/server".to_owned(), text(path("service"))),
            ("/usr/local/share/man/man1".to_owned(), text(path("man1"))),
            ("prod.example.org".to_owned(), "127.0.0.1".to_owned()),
            // Other tests run the same program.
            ("-f web.py".to_owned(), format!("-f {}.*web.py", room.path().display())),
            ("8080".to_owned(), routes.clone()),
            ("7878".to_owned(), api.clone()),
            ("8443".to_owned(), far),
        ];
        names.extend(more.iter().map(|(said, meant)| ((*said).to_owned(), (*meant).to_owned())));
        let search = std::env::var("PATH").unwrap();
        let mut shell = Command::new("bash");
        shell.current_dir(room.path()).env("HOME", path("home")).env("ROOM", room.path());
        shell.env("PATH", format!("{}:{search}", text(path("bin")))).env("PLIMSOLL_HTTP_PORT", routes);
        shell.env("PLIMSOLL_LISTEN", format!("127.0.0.1:{api}")).env("VISUAL", "true").env("NO_COLOR", "1");
        for variable in ["XDG_DATA_HOME", "XDG_CONFIG_HOME", "PLIMSOLL_DATA_DIR"] {
            shell.env_remove(variable);
        }
        let mut shell = shell.arg("--norc").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let (mut input, said) = (shell.stdin.take().unwrap(), lines_of(shell.stdout.take().unwrap()));
        writeln!(input, "exec 2>&1; umask 022").unwrap();
        Self { room, shell, input, said, beside: Vec::new(), names }
    }

    /// As it is said here.
    fn meant(&self, text: &str) -> String {
        self.names.iter().fold(text.to_owned(), |text, (said, meant)| text.replace(said, meant))
    }

    /// As the document says it.
    fn said(&self, text: &str) -> String {
        // Other words for the same thing do not lead back.
        let own = self.names.iter().filter(|(_, meant)| !["plimsoll", "127.0.0.1"].contains(&&**meant));
        own.fold(text.to_owned(), |text, (said, meant)| text.replace(meant, said))
    }

    fn run(&mut self, document: &str) {
        for step in steps(document) {
            // The tests themselves, which run this one.
            if step.command.starts_with("./test") {
                continue;
            }
            if step.keeps_running { self.keep(&step) } else { self.carry_out(&step) }
        }
    }

    fn carry_out(&mut self, step: &Step) {
        let Step { line, command, expected, .. } = step;
        // Its input is not the shell's.
        writeln!(self.input, "{{ {}\n}} </dev/null; echo \"{MARK}$?\"", self.meant(command)).unwrap();
        let mut said = Vec::new();
        loop {
            let next = self.said.recv_timeout(PATIENCE);
            let next = next.unwrap_or_else(|error| {
                panic!("line {line}: {command}: {error}; so far:\n{}", said.join("\n"))
            });
            // The last line of an output may have no end.
            match next.split_once(MARK) {
                Some((before, code)) => {
                    said.extend((!before.is_empty()).then(|| before.to_owned()));
                    said.extend((code != "0").then(|| format!("(exit {code})")));
                    break;
                }
                None => said.push(self.said(&next)),
            }
        }
        // A failure is never what "anything" stands for.
        let failure = |lines: &[String]| lines.last().filter(|line| line.starts_with("(exit ")).cloned();
        let is_right =
            failure(expected) == failure(&said) && (expected.is_empty() || are_like(expected, &said));
        assert!(
            is_right,
            "line {line}: {command}\nexpected:\n{}\nsaid:\n{}",
            expected.join("\n"),
            said.join("\n")
        );
    }

    /// Begins a command that keeps running, and waits for what it is to say first.
    fn keep(&mut self, step: &Step) {
        let mut command = Command::new("bash");
        command.arg("-c").arg(format!("exec 2>&1; exec {}", self.meant(&step.command)));
        command.current_dir(self.room.path()).env_clear();
        // What the shell has been told by now, this one knows too.
        writeln!(self.input, "env; echo \"{MARK}0\"").unwrap();
        while let Ok(line) = self.said.recv_timeout(PATIENCE) {
            match line.split_once('=') {
                _ if line.starts_with(MARK) => break,
                Some((name, value)) => drop(command.env(name, value)),
                None => {}
            }
        }
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
        let heard = lines_of(child.stdout.take().unwrap());
        self.beside.push(child);
        let mut said = Vec::new();
        while !are_like(&step.expected, &said) {
            let next = heard.recv_timeout(PATIENCE);
            let Ok(next) = next else {
                panic!(
                    "line {}: {}\nexpected:\n{}\nsaid:\n{}",
                    step.line,
                    step.command,
                    step.expected.join("\n"),
                    said.join("\n")
                )
            };
            said.push(self.said(&next));
        }
        // Whatever it says from here on must go somewhere.
        std::thread::spawn(move || while heard.recv().is_ok() {});
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        for child in &mut self.beside {
            child.kill().ok();
            child.wait().ok();
        }
        self.shell.kill().ok();
        self.shell.wait().ok();
        end_all_in(self.room.path());
        for data in ["home/.local/share/plimsoll", "service", "elsewhere"] {
            let node = self.room.path().join(data).join("node");
            if node.join("network.json").exists() {
                take_network_down(&node);
            }
        }
    }
}

/// A file of the repository.
fn file(name: &str) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(name)).unwrap()
}

#[test]
fn a_pattern_is_met_by_what_it_says_and_nothing_else() {
    let like = |patterns: &str, lines: &str| {
        let split = |text: &str| text.lines().map(str::to_owned).collect::<Vec<_>>();
        are_like(&split(patterns), &split(lines))
    };
    assert!(
        like("a…c\n…\nz", "abbc\nx\ny\nz") && like("…", "") && like("a…", "abc") && like("a…b…c", "a1b2c")
    );
    assert!(!like("a…c", "abd") && !like("a", "a\nb") && !like("a\n…\nz", "a\nb") && !like("ab", "abc"));
}

#[test]
fn the_readme() {
    Session::begin(&[]).run(&file("README.md"));
}

#[test]
fn the_first_hour() {
    Session::begin(&[]).run(&file("docs/first-hour.md"));
}

#[test]
fn the_concepts() {
    Session::begin(&[]).run(&file("docs/concepts.md"));
}

#[test]
fn the_rollouts() {
    Session::begin(&[]).run(&file("docs/rollouts.md"));
}

#[test]
fn the_scaling() {
    Session::begin(&[]).run(&file("docs/scaling.md"));
}

#[test]
fn the_containers() {
    let engine = Engine::start(Make::Docker);
    let mut session = Session::begin(&[("unix:///var/run/docker.sock", &engine.address())]);
    session.run(&file("docs/containers.md"));
}

#[test]
fn the_programs() {
    Session::begin(&[]).run(&file("docs/programs.md"));
}

#[test]
fn the_builds() {
    let engine = Engine::start(Make::Docker);
    let mut session = Session::begin(&[("unix:///var/run/docker.sock", &engine.address())]);
    session.run(&file("docs/builds.md"));
}

#[test]
fn the_pipelines() {
    let (engine, registry) = (Engine::start(Make::Docker), Registry::start());
    let names =
        [("unix:///var/run/docker.sock", engine.address()), ("registry.example.org", registry.host())];
    Session::begin(&names.each_ref().map(|(said, meant)| (*said, meant.as_str())))
        .run(&file("docs/pipelines.md"));
}

#[test]
fn the_https() {
    // The port that nobody names comes with a name here.
    let port = free_port();
    let mut session = Session::begin(&[]);
    session.names.retain(|(said, _)| said != "8443");
    session.names.push(("8443".to_owned(), port.clone()));
    writeln!(session.input, "export PLIMSOLL_HTTPS_PORT={port}").unwrap();
    session.run(&file("docs/https.md"));
}

#[test]
fn the_operations() {
    let postgres = Postgres::start();
    let url = postgres.database("book");
    let mut session = Session::begin(&[("postgres://plimsoll@db/plimsoll", &url)]);
    session.run(&file("docs/operations.md"));
}

#[test]
fn the_security() {
    Session::begin(&[]).run(&file("docs/security.md"));
}

#[test]
fn the_api() {
    Session::begin(&[]).run(&file("docs/api.md"));
}

/// What goes wrong for people, and what they are told.
#[test]
fn the_mistakes() {
    Session::begin(&[]).run(&file("crates/cli/tests/sessions/mistakes.md"));
}

/// Every document with commands is one of those above.
#[test]
fn no_document_is_left_out() {
    let run = [
        "first-hour",
        "concepts",
        "rollouts",
        "scaling",
        "containers",
        "builds",
        "programs",
        "pipelines",
        "https",
        "operations",
        "security",
        "api",
    ];
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs");
    for entry in std::fs::read_dir(docs).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
        if path.is_file() && !run.contains(&&*name) {
            assert!(
                steps(&std::fs::read_to_string(path).unwrap()).is_empty(),
                "{name} has commands that nobody runs"
            );
        }
    }
}
