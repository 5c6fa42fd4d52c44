//! `plimsoll doctor` and `plimsoll support-bundle`: what keeps this machine from its work, and what somebody else needs to
//! find out why.

use std::fs::File;
use std::io::Write as _;
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context as _;
use clap::Args;
use plimsoll_api::{Origin, Resource};
use plimsoll_model::quantity::Bytes;
use plimsoll_model::{Kind as _, Secret, Token};
use rustix::fs::statvfs;
use rustix::process::{Resource as Limit, getrlimit};
use serde_json::{Value, json};

use crate::Ended;
use crate::client::Client;
use crate::follow::talk;
use crate::place::Where;
use crate::table::{now, table};

/// Room on a disk below which something is likely to fail soon.
const LITTLE_ROOM: u64 = 1 << 30;

/// Open files that a server with many connections needs.
const FEW_FILES: u64 = 4096;

/// What takes the place of what nobody else may see.
const REDACTED: &str = "(redacted)";

/// Look for what keeps this machine from its work; fails if something does
#[derive(Args)]
pub(crate) struct Doctor {
    #[command(flatten)]
    place: Where,
}

/// How one thing is.
struct Finding {
    what: &'static str,
    state: State,
    /// What was seen and, if that is not good, what to do about it.
    text: String,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Good,
    /// Something works less well, or not for everybody.
    Poor,
    Bad,
}

fn good(what: &'static str, text: impl Into<String>) -> Finding {
    Finding { what, state: State::Good, text: text.into() }
}

fn poor(what: &'static str, text: impl Into<String>) -> Finding {
    Finding { what, state: State::Poor, text: text.into() }
}

fn bad(what: &'static str, text: impl Into<String>) -> Finding {
    Finding { what, state: State::Bad, text: text.into() }
}

impl Doctor {
    #[expect(clippy::print_stdout, reason = "the findings are this command's data")]
    pub(crate) fn run(self) -> anyhow::Result<Ended> {
        let findings = examine(&self.place)?;
        print!("{}", report(&findings));
        Ok(if findings.iter().any(|it| it.state == State::Bad) { Ended::No } else { Ended::Done })
    }
}

fn report(findings: &[Finding]) -> String {
    let word = |state| match state {
        State::Good => "good",
        State::Poor => "poor",
        State::Bad => "BAD",
    };
    let row = |it: &Finding| vec![word(it.state).to_owned(), it.what.to_owned(), it.text.clone()];
    table(&["STATE", "WHAT", "SEEN"], &findings.iter().map(row).collect::<Vec<_>>())
}

fn examine(place: &Where) -> anyhow::Result<Vec<Finding>> {
    let data = place.clone().local().data()?;
    let mut findings = vec![directory(&data), room(&data)];
    findings.extend(secrets(&data));
    findings.push(files());
    findings.push(tools());
    findings.push(groups());
    findings.push(user());
    findings.push(match place.find_client()? {
        None => poor("control plane", "none answers: start one with `plimsoll server`"),
        Some(client) => answers(&client),
    });
    Ok(findings)
}

/// The nearest directory above that is there: what a first start would make, it makes below.
fn existing(path: &Path) -> &Path {
    path.ancestors().find(|it| it.exists()).unwrap_or(Path::new("/"))
}

fn directory(data: &Path) -> Finding {
    let (what, name) = ("data directory", data.display());
    let place = existing(data);
    match tempfile::tempfile_in(place) {
        Ok(_) if place == data => good(what, format!("{name} can be written")),
        Ok(_) => good(what, format!("{name} is made by the first start")),
        Err(error) => bad(what, format!("{name} cannot be written: {error}; choose another with --data-dir")),
    }
}

fn room(data: &Path) -> Finding {
    let what = "disk";
    let Ok(disk) = statvfs(existing(data)) else { return poor(what, "its room is not known") };
    let free = disk.f_bavail * disk.f_frsize;
    let text = format!("{} free, {} files", Bytes { bytes: free >> 20 << 20 }, disk.f_favail);
    if free < LITTLE_ROOM {
        bad(what, format!("{text}: make room, or nothing can be written soon"))
    } else {
        good(what, text)
    }
}

/// Files that nobody else may read.
fn secrets(data: &Path) -> Vec<Finding> {
    let one = |name: &str| {
        let path = data.join(name);
        let mode = path.metadata().ok()?.permissions().mode() & 0o777;
        let open = mode & 0o077 != 0;
        let fix =
            format!("{} may be read by others ({mode:03o}): chmod 600 it, and renew it", path.display());
        open.then(|| bad("secret files", fix))
    };
    let found: Vec<Finding> =
        ["admin.token", "key", "tls.key", "plimsoll.db"].iter().filter_map(|it| one(it)).collect();
    if found.is_empty() { vec![good("secret files", "only their owner may read them")] } else { found }
}

fn files() -> Finding {
    let limit = getrlimit(Limit::Nofile).current.unwrap_or(u64::MAX);
    let text = format!("{limit} at the same time");
    if limit < FEW_FILES {
        poor("open files", format!("{text}: raise `ulimit -n` for many connections"))
    } else {
        good("open files", text)
    }
}

fn tools() -> Finding {
    let is_there = |tool: &&str| {
        let found = Command::new(tool).arg("--version").output();
        found.is_ok_and(|it| it.status.success()) || Command::new(tool).arg("-V").output().is_ok()
    };
    let missing: Vec<&str> = ["ip", "nft"].into_iter().filter(|tool| !is_there(tool)).collect();
    if missing.is_empty() {
        good("tools", "ip and nft are there")
    } else {
        let text = format!(
            "{} not found: copies share the machine's network (apt install iproute2 nftables)",
            missing.join(" and ")
        );
        poor("tools", text)
    }
}

fn groups() -> Finding {
    let text = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let has = |kind: &str| text.lines().any(|line| line.contains(&format!(" - {kind} ")));
    match (has("cgroup"), has("cgroup2")) {
        (true, _) => good("control groups", "version 1: limits are enforced where a controller may be used"),
        (false, true) => {
            good("control groups", "version 2: limits are enforced where a controller may be used")
        }
        (false, false) => {
            poor("control groups", "none: limits of CPU, memory and processes are not enforced")
        }
    }
}

fn user() -> Finding {
    if rustix::process::geteuid().is_root() {
        return good("user", "root: each project's programs have a user and a network of their own");
    }
    poor(
        "user",
        "not root: all programs run as you, in the machine's network, and limits may not be enforced",
    )
}

fn answers(client: &Client) -> Finding {
    let what = "control plane";
    match client.get("version").map(|it| it["version"].as_str().unwrap_or_default().to_owned()) {
        Err(error) => bad(what, format!("{error:#}")),
        Ok(version) if version == env!("CARGO_PKG_VERSION") => {
            good(what, format!("version {version} answers"))
        }
        Ok(version) => poor(
            what,
            format!("version {version} answers, and this command is {}", env!("CARGO_PKG_VERSION")),
        ),
    }
}

/// Write what somebody else needs to find out what is wrong into one file, without anything secret
#[derive(Args)]
pub(crate) struct SupportBundle {
    /// The file, a tar archive
    #[arg(default_value = "plimsoll-support.tar")]
    file: PathBuf,
    #[command(flatten)]
    place: Where,
}

impl SupportBundle {
    pub(crate) fn run(self) -> anyhow::Result<Ended> {
        let failed = || format!("{} cannot be written", self.file.display());
        let mut options = File::options();
        let file = options
            .create(true)
            .truncate(true)
            .write(true)
            .mode(0o600)
            .open(&self.file)
            .with_context(failed)?;
        let mut tar = tar::Builder::new(file);
        let mut add = |name: &str, text: &str| {
            let mut header = tar::Header::new_gnu();
            header.set_size(text.len() as u64);
            header.set_mode(0o600);
            header.set_mtime(now() / 1000);
            tar.append_data(&mut header, format!("plimsoll-support/{name}"), text.as_bytes())
        };
        add("doctor.txt", &report(&examine(&self.place)?)).with_context(failed)?;
        add("version.txt", concat!(env!("CARGO_PKG_VERSION"), "\n")).with_context(failed)?;
        if let Some(client) = self.place.find_client()? {
            let metrics = client.read_text("metrics").unwrap_or_else(|error| format!("{error:#}\n"));
            add("metrics.txt", &metrics).with_context(failed)?;
            for resource in Resource::ALL.into_iter().filter(|it| !is_private(it)) {
                // What cannot be read is part of what is wrong.
                let found = client.list(None, resource.plural);
                let mut found = found.map_or_else(|error| json!(format!("{error:#}")), Value::Array);
                redact(&mut found);
                let text = serde_json::to_string_pretty(&found)? + "\n";
                add(&format!("{}.json", resource.plural), &text).with_context(failed)?;
            }
        }
        let mut file = tar.into_inner().with_context(failed)?;
        file.flush().and_then(|()| file.sync_all()).with_context(failed)?;
        talk(&format!(
            "{} written; look at it before you hand it on: tar -xOf {0} | less",
            self.file.display()
        ));
        Ok(Ended::Done)
    }
}

/// Whether even the names of a kind's objects stay here.
fn is_private(resource: &Resource) -> bool {
    matches!(resource.plural, Secret::PLURAL | Token::PLURAL) || resource.origin == Origin::Made
}

/// Takes away what people wrote and what may hold a secret: values of variables and files, command lines, texts of programs.
fn redact(value: &mut Value) {
    match value {
        Value::Array(items) => items.iter_mut().for_each(redact),
        Value::Object(map) => {
            for (key, value) in map {
                match (key.as_str(), &mut *value) {
                    ("env" | "files" | "data" | "annotations", Value::Object(values)) => {
                        values.values_mut().for_each(|value| *value = json!(REDACTED));
                    }
                    (
                        "command" | "args" | "argv" | "script" | "log" | "probe" | "content" | "members",
                        value,
                    ) if !value.is_null() => {
                        *value = json!(REDACTED);
                    }
                    _ => redact(value),
                }
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_may_be_secret_is_handed_on() {
        let mut app = json!([{"spec": {"components": {"web": {
            "command": ["run", "--password=x"], "replicas": 2, "env": {"KEY": "x"},
            "files": {"a": {"content": "x"}}, "health": {"exec": {"command": ["x"]}},
        }}}}]);
        redact(&mut app);
        let text = app.to_string();
        assert!(!text.contains("\"x\"") && !text.contains("password"), "{text}");
        assert!(text.contains("\"replicas\":2") && text.contains("\"KEY\""), "{text}");
    }
}
