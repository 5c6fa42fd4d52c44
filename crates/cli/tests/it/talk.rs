//! What the command says to people and shells while things change.

use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};
use std::sync::mpsc::channel;
use std::time::Duration;

use serde_json::{Value, json};

use super::plane::{Plane, sleeper};
use super::up::until;

/// What a shell is offered at the end of a command line.
fn offered(plane: &Plane, words: &[&str]) -> Vec<String> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_plimsoll"));
    command.env("PLIMSOLL_DATA_DIR", plane.data()).env("PLIMSOLL_COMPLETE", "bash");
    command.env("_CLAP_IFS", "\n").env("_CLAP_COMPLETE_INDEX", words.len().to_string());
    let output = command.arg("--").arg("plimsoll").args(words).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines().filter(|line| !line.starts_with('-')).map(str::to_owned).collect()
}

#[test]
fn a_shell_is_offered_what_there_is() {
    let mut plane = Plane::new();
    plane.must("PUT", "/projects/default/apps/web", &sleeper(0));
    plane.project("other", &json!({}));
    plane.must("PUT", "/projects/other/apps/wiki", &sleeper(0));
    plane.must("PUT", "/projects/default/secrets/keys", &json!({"spec": {"data": {"k": "v"}}}));
    assert_eq!(offered(&plane, &["logs", "w"]), ["web"]);
    assert_eq!(offered(&plane, &["logs", "--project", "other", "w"]), ["wiki"]);
    assert_eq!(offered(&plane, &["logs", "--project", "o"]), ["other"]);
    assert_eq!(offered(&plane, &["logs", "web", "--component", "m"]), ["main"]);
    assert_eq!(offered(&plane, &["get", "sec"]), ["secrets"]);
    assert_eq!(offered(&plane, &["get", "secrets", "k"]), ["keys"]);
    assert_eq!(offered(&plane, &["delete", "secret/"]), ["secret/keys"]);
    let script = plane.carry_out(&["completion", "bash"]);
    assert!(script.contains("PLIMSOLL_COMPLETE"), "{script}");
    plane.stop();
    assert!(offered(&plane, &["logs", "w"]).is_empty(), "without a control plane there is nothing to offer");
}

#[test]
fn whoever_watches_sees_each_change_once() {
    let mut plane = Plane::new();
    let put = plane.must("PUT", "/projects/default/apps/web", &sleeper(1));
    let ready = &put["status"]["conditions"][0];
    assert_eq!((&ready["type"], &ready["status"]), (&json!("Ready"), &json!("False")), "{put}");
    let app = |plane: &Plane| plane.must("GET", "/projects/default/apps/web", &Value::Null);
    until("settled", || app(&plane), |app| app["status"]["outcome"]["state"] == "settled");
    let ready = &app(&plane)["status"]["conditions"][0];
    assert_eq!((&ready["type"], &ready["status"]), (&json!("Ready"), &json!("True")), "{ready}");
    let mut command = Command::new(env!("CARGO_BIN_EXE_plimsoll"));
    command.env("PLIMSOLL_DATA_DIR", plane.data()).args(["get", "-w", "-o", "wide"]);
    let mut watching = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let (said, heard) = channel();
    let (told, errors) =
        (BufReader::new(watching.stdout.take().unwrap()), BufReader::new(watching.stderr.take().unwrap()));
    let talk = said.clone();
    std::thread::spawn(move || told.lines().map_while(Result::ok).all(|line| said.send(line).is_ok()));
    std::thread::spawn(move || errors.lines().map_while(Result::ok).all(|line| talk.send(line).is_ok()));
    let mut all: Vec<String> = Vec::new();
    let mut until_said = |wanted: &str| {
        while !all.last().is_some_and(|line| line.contains(wanted)) {
            all.push(
                heard.recv_timeout(Duration::from_secs(30)).unwrap_or_else(|_| panic!("{wanted}: {all:?}")),
            );
        }
        all.clone()
    };
    until_said("ROUTES");
    until_said("1/1");
    plane.carry_out(&["scale", "web", "main=2"]);
    until_said("2/2");
    // What is not selected, and what is not asked for, is nothing to speak of.
    plane.must("PUT", "/projects/default/secrets/keys", &json!({"spec": {"data": {"k": "v"}}}));
    // The server is started again: what changed meanwhile is told, and nothing else.
    plane.stop();
    plane.start();
    plane.carry_out(&["scale", "web", "main=3"]);
    until_said("3/3");
    plane.carry_out(&["delete", "web"]);
    let all = until_said("app web was deleted");
    assert_eq!(all.iter().filter(|line| line.contains("STATE")).count(), 1, "one heading: {all:?}");
    watching.kill().unwrap();
    watching.wait().unwrap();
    assert!(plane.carry_out(&["wait", "web", "--for", "delete"]).is_empty());
}
