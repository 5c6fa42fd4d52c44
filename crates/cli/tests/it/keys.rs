//! Keys of secrets: another one is taken while everything goes on, and one from elsewhere is asked for.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::{Value, json};

use super::plane::{Plane, sleeper};
use super::up::until;

const SECRETS: &str = "/projects/default/secrets";

/// The ids of the data keys that there are.
fn data_keys(plane: &Plane) -> Vec<String> {
    let ring = std::fs::read(plane.data().join("keyring.json")).unwrap();
    let ring: Value = serde_json::from_slice(&ring).unwrap();
    ring["keys"].as_array().unwrap().iter().map(|key| key["id"].as_str().unwrap().to_owned()).collect()
}

/// What the store has of every secret's value: how it was sealed.
fn sealed_with(plane: &Plane) -> BTreeSet<String> {
    let dump = std::process::Command::new("python3")
        .args(["-c", "import sqlite3, sys; print('\\n'.join(r[0] for r in sqlite3.connect(sys.argv[1]).execute(sys.argv[2])))"])
        .arg(plane.data().join("plimsoll.db"))
        .arg("SELECT spec FROM rows WHERE kind = 'secrets'")
        .output()
        .unwrap();
    assert!(dump.status.success(), "{dump:?}");
    let text = String::from_utf8(dump.stdout).unwrap();
    text.split("gcm-siv:").skip(1).map(|it| it.split(':').next().unwrap().to_owned()).collect()
}

fn secret(plane: &Plane, name: &str, value: &str) {
    plane.must("PUT", &format!("{SECRETS}/{name}"), &json!({"spec": {"data": {"k": value}}}));
}

#[test]
fn another_key_is_taken_while_secrets_are_written_and_nothing_is_rolled() {
    let mut plane = Plane::new();
    for number in 0..20 {
        secret(&plane, &format!("s{number}"), "hunter2");
    }
    let mut app = sleeper(1);
    app["spec"]["components"]["main"]["env"] = json!({"SECRET": {"secret": "s0/k"}});
    plane.must("PUT", "/projects/default/apps/web", &app);
    let settled = |plane: &Plane| {
        let web = || plane.must("GET", "/projects/default/apps/web", &Value::Null);
        until("settled", web, |app| app["status"]["outcome"]["state"] == "settled");
    };
    settled(&plane);
    let copies = |plane: &Plane| plane.carry_out(&["get", "instances", "-o", "name"]);
    let (running, before) = (copies(&plane), data_keys(&plane));
    let version = |plane: &Plane| {
        plane.must("GET", &format!("{SECRETS}/s0"), &Value::Null)["metadata"]["generation"].clone()
    };
    let generation = version(&plane);

    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut number = 0;
            while !done.load(Ordering::Relaxed) {
                number += 1;
                secret(&plane, &format!("busy{}", number % 5), &format!("value {number}"));
            }
        });
        for _ in 0..5 {
            plane.carry_out(&["key", "rotate"]);
        }
        done.store(true, Ordering::Relaxed);
    });
    let after = data_keys(&plane);
    assert!(after.len() == 1 && after != before, "{before:?} {after:?}");
    assert_eq!(sealed_with(&plane), after.into_iter().collect(), "all of them, those written meanwhile too");
    assert_eq!(version(&plane), generation);
    assert_eq!(copies(&plane), running);
    assert!(plane.carry_out(&["audit"]).contains("rotate"));

    // The new key opens them after a restart, and for a copy that starts then.
    plane.stop();
    plane.start();
    plane.carry_out(&["rollout", "restart", "web"]);
    until("rolled", || copies(&plane), |now| *now != running && now.lines().count() == 1);
    settled(&plane);
}

#[test]
fn without_its_key_file_nothing_opens_an_installation() {
    let mut plane = Plane::new();
    secret(&plane, "keys", "hunter2");
    let path = |plane: &Plane, name: &str| plane.directory.path().join(name).display().to_string();
    let (file, other) = (path(&plane, "key"), path(&plane, "other"));
    plane.carry_out(&["key", "create", &file]);
    plane.carry_out(&["key", "create", &other]);
    assert!(plane.refused(&["key", "create", &file]).contains("exists"));
    let busy = plane.refused(&["key", "change", "--to", &file]);
    assert!(busy.contains("belongs to a running Plimsoll"), "{busy}");
    plane.stop();
    plane.carry_out(&["key", "change", "--to", &file]);
    let missing = plane.refused(&["server"]);
    assert!(missing.contains("--key-file"), "{missing}");
    let wrong = plane.refused(&["server", "--key-file", &other]);
    assert!(wrong.contains(&other) && wrong.contains("give that one"), "{wrong}");
    plane.options = vec!["--key-file".into(), file.clone()];
    plane.start();
    // What it says is what it was: the same values are no change.
    let put = plane.must("PUT", &format!("{SECRETS}/keys"), &json!({"spec": {"data": {"k": "hunter2"}}}));
    assert_eq!(put["metadata"]["generation"], 1, "{put}");

    // A backup needs its own key only, and what is restored is sealed with the key file of its new place.
    let (identity, backup, elsewhere) =
        (path(&plane, "identity"), path(&plane, "b.age"), path(&plane, "elsewhere"));
    let public = plane.carry_out(&["backup", "key", &identity]);
    plane.carry_out(&["backup", "create", &backup, "--recipient", public.trim()]);
    let restore = ["backup", "restore", &backup, "--identity", &identity, "--data-dir", &elsewhere];
    plane.carry_out(&[&restore[..], &["--key-file", &other]].concat());
    let ring = std::fs::read_to_string(format!("{elsewhere}/keyring.json")).unwrap();
    assert!(!std::path::Path::new(&elsewhere).join("key-file").exists(), "{ring}");
    let wrong = plane.refused(&["server", "--data-dir", &elsewhere, "--key-file", &file]);
    assert!(wrong.contains("give that one"), "{wrong}");

    // Over an installation whose key file lies elsewhere nothing is restored without it, and nothing is changed by the try.
    plane.stop();
    let before = std::fs::read(plane.data().join("installation.json")).unwrap();
    let here = ["backup", "restore", &backup, "--identity", &identity];
    let asked = plane.refused(&here);
    assert!(asked.contains("--key-file"), "{asked}");
    assert_eq!(std::fs::read(plane.data().join("installation.json")).unwrap(), before);
    plane.start();
    plane.stop();
    // With its key file lost another one does: that is what a backup is for.
    std::fs::remove_file(&file).unwrap();
    plane.carry_out(&[&here[..], &["--key-file", &other]].concat());
    plane.options = vec!["--key-file".into(), other];
    plane.start();
    let put = plane.must("PUT", &format!("{SECRETS}/keys"), &json!({"spec": {"data": {"k": "hunter2"}}}));
    assert_eq!(put["metadata"]["generation"], 1, "it opens, and is the same: {put}");
}
