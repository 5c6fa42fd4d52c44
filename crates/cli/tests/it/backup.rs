//! Backups and moves: everything comes back, and nothing is done about it before somebody has seen what that would be.

use std::collections::{BTreeMap, BTreeSet};

use plimsoll_testkit::Postgres;
use serde_json::{Value, json};

use super::plane::{Plane, sleeper};
use super::up::until;

/// A sleeper that is told something.
fn saying(word: &str) -> Value {
    let mut app = sleeper(2);
    app["spec"]["components"]["main"]["env"] = json!({"WORD": word, "SECRET": {"secret": "keys/k"}});
    app
}

fn deploy(plane: &Plane, name: &str, app: &Value) {
    let place = format!("/projects/default/apps/{name}");
    let put = plane.must("PUT", &place, app);
    let settled = |app: &Value| {
        app["status"]["outcome"]["state"] == "settled"
            && app["status"]["observedGeneration"] == put["metadata"]["generation"]
    };
    until(name, || plane.must("GET", &place, &Value::Null), settled);
}

/// The copies that run, by name.
fn copies(plane: &Plane) -> BTreeSet<String> {
    let directory = plane.data().join("node/instances");
    std::fs::read_dir(directory).unwrap().map(|it| it.unwrap().file_name().into_string().unwrap()).collect()
}

/// The copies with the processes that they are.
fn processes(plane: &Plane) -> BTreeMap<String, Value> {
    let started = |copy: String| {
        let file = plane.data().join("node/instances").join(&copy).join("started.json");
        let started: Value = serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap();
        assert!(started["program"]["pid"].is_u64(), "{started}");
        (copy, started["program"].clone())
    };
    copies(plane).into_iter().map(started).collect()
}

/// A key pair: the file of its secret part, and its public part.
fn key(plane: &Plane) -> (String, String) {
    let file = plane.directory.path().join("key").display().to_string();
    let public = plane.carry_out(&["backup", "key", &file]).trim().to_owned();
    (file, public)
}

#[test]
fn a_restore_changes_nothing_until_it_is_released() {
    let mut plane = Plane::new();
    plane.must("PUT", "/projects/default/secrets/keys", &json!({"spec": {"data": {"k": "v"}}}));
    deploy(&plane, "web", &saying("first"));
    let (identity, public) = key(&plane);
    let file = plane.directory.path().join("b.age").display().to_string();
    plane.carry_out(&["backup", "create", &file, "--recipient", &public]);
    let report = plane.carry_out(&["backup", "verify", &file, "--identity", &identity]);
    assert!(report.contains("1 apps") && report.contains("1 secrets"), "{report}");
    assert!(report.ends_with("all of it is whole\n"), "{report}");
    let text = std::fs::read(&file).unwrap();
    assert!(!text.windows(9).any(|it| it == b"revisions"), "nothing of it can be read");

    for word in ["second", "third", "fourth"] {
        deploy(&plane, "web", &saying(word));
    }
    deploy(&plane, "later", &sleeper(1));
    let (running, before) = (copies(&plane), processes(&plane));
    assert_eq!(running.len(), 3, "{running:?}");
    let refused = plane.refused(&["backup", "restore", &file, "--identity", &identity]);
    assert!(refused.contains("belongs to a running Plimsoll"), "{refused}");
    plane.stop();
    plane.carry_out(&["backup", "restore", &file, "--identity", &identity]);
    plane.start();

    // It looks, says what it waits for, and does nothing, whatever is declared meanwhile.
    let place = "/projects/default/apps/web";
    let app = || plane.must("GET", place, &Value::Null);
    until("on hold", app, |app| app["status"]["outcome"]["state"] == "stalled");
    let why = plane.carry_out(&["why", "app/web"]);
    assert!(why.contains("on hold") && why.contains("plimsoll backup release"), "{why}");
    let put = plane.must("PUT", place, &saying("fifth"));
    let seen = |app: &Value| app["status"]["observedGeneration"] == put["metadata"]["generation"];
    until("looked at again", app, seen);
    assert_eq!(processes(&plane), before);
    let preview = plane.carry_out(&["backup", "release", "--dry-run"]);
    assert!(preview.contains("not known: ") && preview.contains("app default/later"), "{preview}");
    assert!(preview.contains("app web: "), "{preview}");
    let unasked = plane.refused(&["backup", "release"]);
    assert!(unasked.contains("--yes"), "{unasked}");
    assert_eq!(processes(&plane), before);

    plane.carry_out(&["backup", "release", "--yes"]);
    until("settled", app, |app| app["status"]["outcome"]["state"] == "settled");
    assert!(copies(&plane).is_disjoint(&running.iter().filter(|it| it.contains("web")).cloned().collect()));
    let log = plane.carry_out(&["audit"]);
    assert!(log.contains("restore") && log.contains("release") && log.contains("backup"), "{log}");
    plane.carry_out(&["audit", "verify"]);
    // Nothing is given twice: who saw a version before the restore sees no other object under it.
    let newest: u64 = app()["metadata"]["resourceVersion"].as_str().unwrap().parse().unwrap();
    assert!(newest > 1 << 32);
    plane.stop();
    plane.start();
    assert!(plane.carry_out(&["backup", "release", "--dry-run"]).is_empty(), "it stays released");
}

#[test]
fn what_is_no_whole_backup_changes_nothing() {
    let mut plane = Plane::new();
    let (identity, public) = key(&plane);
    let directory = plane.directory.path().to_owned();
    let path = |name: &str| directory.join(name).display().to_string();
    let (file, broken, other) = (path("b.age"), path("broken.age"), path("other"));
    let nobody = plane.refused(&["backup", "create", &file]);
    assert!(nobody.contains("--recipient") && nobody.contains("plimsoll backup key"), "{nobody}");
    let strange = plane.refused(&["backup", "create", &file, "--recipient", "ssh-rsa"]);
    assert!(strange.contains("ssh-rsa") && !std::fs::exists(&file).unwrap(), "{strange}");
    plane.carry_out(&["backup", "create", &file, "--recipient", &public]);
    plane.carry_out(&["backup", "key", &other]);
    let again = plane.refused(&["backup", "key", &other]);
    assert!(again.contains("exists"), "{again}");
    let closed = plane.refused(&["backup", "verify", &file, "--identity", &other]);
    assert!(closed.contains("cannot be opened"), "{closed}");

    plane.stop();
    let before = std::fs::read(plane.data().join("installation.json")).unwrap();
    let whole = std::fs::read(&file).unwrap();
    let mut altered = whole.clone();
    altered[whole.len() / 2] ^= 1;
    for bytes in [&whole[..whole.len() - 20], &whole[..whole.len() / 2], &altered, b"no backup"] {
        std::fs::write(&broken, bytes).unwrap();
        plane.refused(&["backup", "verify", &broken, "--identity", &identity]);
        plane.refused(&["backup", "restore", &broken, "--identity", &identity]);
        assert_eq!(std::fs::read(plane.data().join("installation.json")).unwrap(), before);
    }
    let elsewhere = path("elsewhere");
    plane.carry_out(&["backup", "restore", &file, "--identity", &identity, "--data-dir", &elsewhere]);
    let restored: Value =
        serde_json::from_slice(&std::fs::read(format!("{elsewhere}/installation.json")).unwrap()).unwrap();
    assert_eq!(restored["epoch"], 2);
    // The installation of another data directory is not overwritten.
    let mut foreign = Plane::new();
    foreign.stop();
    let refused = foreign.refused(&["backup", "restore", &file, "--identity", &identity]);
    assert!(refused.contains("choose another directory"), "{refused}");
    // A restore that was cut off is finished before anything starts.
    let half = String::from_utf8(before).unwrap();
    assert!(half.contains("\"live\""), "{half}");
    std::fs::write(plane.data().join("installation.json"), half.replace("live", "restoring")).unwrap();
    let refused = plane.refused(&["server"]);
    assert!(refused.contains("run it again"), "{refused}");
    plane.carry_out(&["backup", "restore", &file, "--identity", &identity]);
    plane.start();
}

#[test]
fn everything_moves_to_a_database_and_comes_back_from_a_backup_of_it() {
    let postgres = Postgres::start();
    let mut plane = Plane::new();
    plane.must("PUT", "/projects/default/secrets/keys", &json!({"spec": {"data": {"k": "v"}}}));
    deploy(&plane, "web", &saying("first"));
    let running = copies(&plane);
    let url = postgres.database("moved");
    let refused = plane.refused(&["migrate", "--to", "mysql://x"]);
    assert!(refused.contains("postgres://"), "{refused}");
    plane.refused(&["migrate", "--to", "postgres://nobody@127.0.0.1:1/x"]);
    plane.must("PUT", "/projects/default/secrets/still", &json!({"spec": {"data": {"k": "v"}}}));
    plane.carry_out(&["migrate", "--to", &url]);
    // What was read is read, and nothing is written that would be lost.
    let web = plane.must("GET", "/projects/default/apps/web", &Value::Null);
    let write = plane.run(&["stop", "web"]);
    let said = String::from_utf8(write.stderr).unwrap();
    assert!(!write.status.success() && said.contains("--store"), "{said}");
    plane.stop();
    let refused = plane.refused(&["server"]);
    assert!(refused.contains("--store"), "{refused}");
    plane.options = vec!["--store".into(), url.clone()];
    plane.start();
    assert_eq!(plane.must("GET", "/projects/default/apps/web", &Value::Null)["spec"], web["spec"]);
    assert_eq!(copies(&plane), running, "what runs did not notice");
    plane.carry_out(&["audit", "verify"]);
    assert!(plane.data().join("plimsoll.db.migrated").exists());

    let (identity, public) = key(&plane);
    let file = plane.directory.path().join("b.age").display().to_string();
    plane.carry_out(&["backup", "create", &file, "--recipient", &public]);
    deploy(&plane, "later", &sleeper(1));
    plane.stop();
    let restore = ["backup", "restore", &file, "--identity", &identity];
    let refused = plane.refused(&restore);
    assert!(refused.contains("--store"), "{refused}");
    plane.carry_out(&[&restore[..], &["--store", &url]].concat());
    plane.start();
    let apps = plane.must("GET", "/projects/default/apps", &Value::Null);
    assert_eq!(apps["items"].as_array().unwrap().len(), 1, "{apps}");
    let preview = plane.carry_out(&["backup", "release", "--dry-run"]);
    assert!(preview.contains("app default/later") && !preview.contains("app web:"), "{preview}");
    plane.carry_out(&["backup", "release", "--yes"]);
    assert!(copies(&plane).is_superset(&running));
}
