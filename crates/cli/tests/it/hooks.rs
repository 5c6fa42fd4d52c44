//! Hooks: tasks that run once for each revision, as processes and as containers, and a server that is killed meanwhile.

use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;

use plimsoll_testkit::{BUSYBOX, Engine, Make};
use serde_json::{Value, json};

use super::plane::Plane;
use super::up::until;

/// A directory that programs of all users may write to.
fn shared(plane: &Plane) -> PathBuf {
    let directory = plane.directory.path().join("shared");
    std::fs::create_dir(&directory).unwrap();
    std::fs::set_permissions(&directory, std::fs::Permissions::from_mode(0o777)).unwrap();
    directory
}

/// A component that writes down when a copy of it starts.
fn component(directory: &std::path::Path, version: &str, hooks: &Value) -> Value {
    json!({
        "command": ["sh", "-c", "echo copy $VERSION >> $SHARED/told; exec sleep 1000"],
        "env": {"VERSION": version, "SHARED": directory},
        "hooks": hooks,
        "update": {"soak": "1ms"},
    })
}

fn declare(plane: &Plane, main: &Value) {
    plane.must("PUT", "/projects/default/apps/main", &json!({"spec": {"components": {"main": main}}}));
}

fn status(plane: &Plane) -> Value {
    plane.must("GET", "/projects/default/apps/main", &Value::Null)
}

fn settled(plane: &Plane) {
    let is_settled = |it: &Value| {
        let is_known = it["status"]["observedGeneration"] == it["metadata"]["generation"];
        is_known && it["status"]["outcome"]["state"] == "settled"
    };
    until("settled", || status(plane), is_settled);
}

fn told(directory: &std::path::Path) -> String {
    let text = std::fs::read_to_string(directory.join("told")).unwrap_or_default();
    text.lines().collect::<Vec<_>>().join(", ")
}

#[test]
fn each_task_runs_once_for_each_revision_and_in_its_place() {
    let plane = Plane::new();
    let directory = shared(&plane);
    plane.must("PUT", "/projects/default/secrets/db", &json!({"spec": {"data": {"password": "hush"}}}));
    let hooks = json!({
        "before": {
            "command": ["sh", "-c", "echo migrates with $PASSWORD; echo before $VERSION >> $SHARED/told"],
            "env": {"PASSWORD": {"secret": "db/password"}},
        },
        "after": {"command": ["sh", "-c", "echo after $VERSION >> $SHARED/told"]},
    });
    declare(&plane, &component(&directory, "a", &hooks));
    settled(&plane);
    assert_eq!(told(&directory), "before a, copy a, after a");
    let listed = plane.carry_out(&["get", "instances"]);
    assert!(listed.contains("before: done, exit code 0") && listed.contains("after: done"), "{listed}");
    assert!(plane.carry_out(&["logs", "main"]).contains("migrates with hush"));
    assert!(plane.carry_out(&["describe", "main"]).contains("before: done, exit code 0"));
    declare(&plane, &component(&directory, "b", &hooks));
    settled(&plane);
    assert_eq!(told(&directory), "before a, copy a, after a, before b, copy b, after b");
    // Back to what has had its tasks; a secret that only a task has is no reason to replace copies.
    declare(&plane, &component(&directory, "a", &hooks));
    settled(&plane);
    plane.must("PUT", "/projects/default/secrets/db", &json!({"spec": {"data": {"password": "hist"}}}));
    plane.carry_out(&["scale", "main", "main=2"]);
    settled(&plane);
    let all = "before a, copy a, after a, before b, copy b, after b, copy a, copy a";
    assert_eq!(told(&directory), all);
    // Nothing of it is left.
    plane.carry_out(&["delete", "app/main"]);
    assert!(!plane.carry_out(&["get", "instances"]).contains("main"));
}

#[test]
fn a_task_that_fails_takes_the_revision_back_with_its_last_words() {
    let plane = Plane::new();
    let directory = shared(&plane);
    let fails = json!({"before": {"command": ["sh", "-c", "echo no such table; exit 3"]}});
    // There is nothing to go back to.
    declare(&plane, &component(&directory, "a", &fails));
    until("stalled", || status(&plane), |it| it["status"]["outcome"]["state"] == "stalled");
    let why = plane.carry_out(&["why", "app/main"]);
    assert!(
        why.contains("hook `before` failed: exit code 3") && why.contains("plimsoll logs main-before-"),
        "{why}"
    );
    declare(&plane, &component(&directory, "a", &json!({})));
    settled(&plane);
    declare(&plane, &component(&directory, "b", &fails));
    until("rejected", || status(&plane), |it| it["status"]["rejected"] != json!({}));
    let rejections = plane.must("GET", "/projects/default/rejections", &Value::Null);
    let evidence = &rejections["items"][0]["spec"]["evidence"];
    assert_eq!(evidence["verdict"], "hook `before` failed: exit code 3");
    assert_eq!((&evidence["exit"], &evidence["log"]), (&json!({"code": 3}), &json!(["no such table"])));
    let described = plane.carry_out(&["describe", "main"]);
    assert!(described.contains("hook `before` failed: exit code 3") && described.contains("| no such table"));
    // One that takes too long is ended.
    let hangs = json!({"after": {"command": ["sleep", "1000"], "deadline": "2s"}});
    declare(&plane, &component(&directory, "c", &hangs));
    let verdict = |it: &Value| {
        let items = it["items"].as_array().cloned().unwrap_or_default();
        items.iter().any(|it| it["spec"]["evidence"]["verdict"] == "hook `after` did not end within 2s")
    };
    until("late", || plane.must("GET", "/projects/default/rejections", &Value::Null), verdict);
    let state = |it: &Value| {
        let copies = it["status"]["components"]["main"]["instances"].as_array().cloned().unwrap_or_default();
        copies.len() == 1 && copies[0]["state"] == "ready"
    };
    until("as it was", || status(&plane), state);
    assert_eq!(told(&directory), "copy a, copy c, copy a");
}

/// A server that is killed while a task runs, and one that is while a task ends.
#[test]
fn a_killed_server_runs_no_task_a_second_time() {
    let mut plane = Plane::new();
    let directory = shared(&plane);
    let waits = "echo begin $VERSION >> $SHARED/told; until [ -e $SHARED/$VERSION ]; do sleep 0.05; done; echo end $VERSION >> $SHARED/told";
    let hooks = json!({"before": {"command": ["sh", "-c", waits]}});
    let mut expected = Vec::new();
    for (version, ends_meanwhile) in [("a", false), ("b", true), ("c", false), ("d", true)] {
        declare(&plane, &component(&directory, version, &hooks));
        let begun = format!("begin {version}");
        until("begun", || told(&directory), |it| it.contains(&begun));
        plane.kill();
        let go = || std::fs::write(directory.join(version), "").unwrap();
        let ended = format!("end {version}");
        if ends_meanwhile {
            go();
            until("ended", || told(&directory), |it| it.contains(&ended));
            plane.start();
        } else {
            plane.start();
            go();
        }
        settled(&plane);
        expected.extend([begun, ended, format!("copy {version}")]);
        assert_eq!(told(&directory), expected.join(", "));
    }
}

fn tasks_run_in(engine: &Engine) {
    let mut plane = Plane::on(engine);
    let main = |version: &str, task: &str| {
        json!({
            "image": BUSYBOX,
            "command": ["sh", "-c", "echo copy $VERSION; exec sleep 1000"],
            "env": {"VERSION": version},
            "grace": "1s",
            "hooks": {"before": {"command": ["sh", "-c", task], "resources": {"memory": "64Mi"}}},
            "update": {"soak": "1ms"},
        })
    };
    let waits = "echo begin $VERSION; until [ -e /tmp/go ]; do sleep 0.05; done; echo end $VERSION";
    declare(&plane, &main("a", waits));
    let logs = |plane: &Plane| plane.carry_out(&["logs", "main"]);
    until("begun", || logs(&plane), |it| it.contains("begin a"));
    let task = engine.run(&["ps", "--quiet", "--no-trunc"]);
    assert_eq!(
        engine.run(&["inspect", "--format", "{{.HostConfig.Memory}}", task.trim()]).trim(),
        "67108864"
    );
    plane.kill();
    plane.start();
    engine.run(&["exec", task.trim(), "touch", "/tmp/go"]);
    settled(&plane);
    let said = until("its words", || logs(&plane), |it| it.contains("copy a"));
    assert_eq!((said.matches("begin a").count(), said.matches("end a").count()), (1, 1), "{said}");
    // It ends while nobody looks.
    declare(&plane, &main("b", waits));
    until("begun", || logs(&plane), |it| it.contains("begin b"));
    let running = engine.run(&["ps", "--no-trunc", "--format", "{{.Names}}"]);
    let task = running.lines().find(|name| name.contains("-before-")).unwrap();
    plane.kill();
    engine.run(&["exec", task, "touch", "/tmp/go"]);
    until("ended", || engine.run(&["ps", "--format", "{{.Names}}"]), |it| !it.contains("-before-"));
    plane.start();
    settled(&plane);
    let said = until("its words", || logs(&plane), |it| it.contains("copy b"));
    assert_eq!((said.matches("begin b").count(), said.matches("end b").count()), (1, 1), "{said}");
    declare(&plane, &main("c", "echo it breaks; exit 4"));
    until("rejected", || status(&plane), |it| it["status"]["rejected"] != json!({}));
    let rejections = plane.must("GET", "/projects/default/rejections", &Value::Null);
    let evidence = &rejections["items"][0]["spec"]["evidence"];
    assert_eq!(evidence["verdict"], "hook `before` failed: exit code 4");
    assert_eq!(evidence["log"].as_array().unwrap().last().unwrap(), "it breaks");
    plane.carry_out(&["delete", "app/main"]);
    assert_eq!(engine.run(&["ps", "--all", "--quiet"]), "");
}

#[test]
fn tasks_run_once_in_docker() {
    tasks_run_in(&Engine::start(Make::Docker));
}

#[test]
fn tasks_run_once_in_podman() {
    tasks_run_in(&Engine::start(Make::Podman));
}
